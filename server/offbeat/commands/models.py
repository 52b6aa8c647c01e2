"""`offbeat models`: which Whisper models are on this machine, and how to bring one here."""

from typing import Annotated

import typer

from offbeat import log, models
from offbeat.commands import fail, print_table
from offbeat.settings import SettingsError, load

group = typer.Typer(no_args_is_help=True, help="The Whisper models on this machine.")


@group.command("list")
def list_models() -> None:
    """Lists the models by name, and which of them are on this machine."""
    try:
        settings = load()
    except SettingsError as error:
        fail(error)
    known = models.names()
    fetched = {path.name.removeprefix("models--").replace("--", "/", 1) for path in settings.models.glob("models--*")}
    rows = []
    for name in [*known, *sorted(fetched - set(known.values()))]:
        folder = models.here(name, settings.models)
        size_bytes = sum(path.stat().st_size for path in folder.iterdir()) if folder else 0
        used = " (used)" if settings.model in (name, known.get(name)) else ""
        rows.append((name + used, known.get(name, name), f"{size_bytes / 1e6:.1f} MB" if folder else ""))
    if models.is_folder(settings.model):
        rows.append((f"{settings.model} (used)", "", "a folder"))
    print_table(["name", "on the model hub", "on this machine"], rows)


@group.command("get")
def get(name: Annotated[str, typer.Argument(help="A name, or owner/name of the model hub.")]) -> None:
    """Fetches a model, with a progress bar, so that the first note need not wait for it. Prints its folder."""
    log.configure()  # to standard error: what is printed here is the folder
    try:
        settings = load()
        settings.models.mkdir(mode=0o700, parents=True, exist_ok=True)
        print(models.folder_of(name, settings.models))
    except SettingsError as error:
        fail(error)
    except models.ModelError as error:
        fail(error.reason)
    except OSError as error:
        fail(f"OFFBEAT_DATA={str(settings.data)!r} cannot be used: {error}")


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="models")
