"""`offbeat backup`, `offbeat restore` and `offbeat move`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from offbeat.commands import fail, opened
from offbeat.settings import Settings, SettingsError, load
from offbeat.store import Store, StoreError, only_server


def backup(archive: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")]) -> None:
    """Writes everything that is kept into one archive (tar). The server may be running. Prints one JSON line."""
    from offbeat import backup

    with opened() as store:
        try:
            print(json.dumps(backup.backup(store, archive)))
        except (StoreError, OSError) as error:
            fail(error)


def restore(archive: Annotated[Path, typer.Argument(help="What `offbeat backup` wrote.")]) -> None:
    """Unpacks and verifies a backup into an OFFBEAT_DATA without a database. Prints one JSON line."""
    from offbeat import backup

    try:
        print(json.dumps(backup.restore(load(), archive)))
    except (SettingsError, StoreError, OSError) as error:
        fail(error)


def move(
    database_url: Annotated[str, typer.Option(help="postgresql://…, an empty database.")] = "",
    storage: Annotated[str, typer.Option(help="s3://BUCKET/PREFIX for the notes' sound.")] = "",
) -> None:
    """Takes a stopped installation to PostgreSQL, an object store, or both. May be repeated after a break."""
    from offbeat import move

    if not database_url and not storage:
        fail("nothing to move to: give --database-url, --storage, or both")
    try:
        settings = load()
        to = Settings.model_validate(
            {
                **settings.model_dump(),
                "database_url": database_url or settings.database_url,
                "storage": storage or settings.storage,
            }
        )
        if not settings.database_url and not settings.database.exists():
            fail(f"OFFBEAT_DATA={str(settings.data)!r} holds nothing to move")
        with only_server(settings):
            source, target = Store(settings), Store(to)
            try:
                if storage:
                    move.copy_sound(source, target, print)
                if database_url:
                    move.copy_tables(source, target, print)
            finally:
                source.close()
                target.close()
    except ValidationError as error:
        fail("; ".join(f"--{str(item['loc'][0]).replace('_', '-')}: {item['msg']}" for item in error.errors()))
    except (SettingsError, StoreError, OSError) as error:
        fail(error)
    keys = [f"OFFBEAT_{key}" for key, value in (("DATABASE_URL", database_url), ("STORAGE", storage)) if value]
    print(f"Done. Set {' and '.join(keys)} to what you gave here, and start the server. The old data is untouched.")


def add_to(app: typer.Typer) -> None:
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.command("move")(move)
