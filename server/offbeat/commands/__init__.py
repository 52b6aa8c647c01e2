"""The commands of `offbeat`, one file a command or group. `offbeat.cli` takes all files of this folder.

A file has `add_to(app)`, which adds what it brings:

    group = typer.Typer(no_args_is_help=True, help="The things.")

    @group.command("list")
    def list_things() -> None:
        "Lists the things."
        with opened() as store: ...

    def add_to(app: typer.Typer) -> None:
        app.add_typer(group, name="thing")          # or, for one command: app.command("thing")(thing)

A command works with the server running or stopped. What scripts read is one JSON line on standard output; errors go
through `fail`. docs/server.md names each command, or a test fails. Heavy modules are imported in the function that
needs them, so that every command starts at once.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from offbeat.settings import SettingsError, load
from offbeat.store import Store, StoreError


def fail(text: object) -> NoReturn:
    """Ends the command with an error."""
    print(f"offbeat: {text}", file=sys.stderr)
    raise SystemExit(1)


def print_table(columns: list[str], rows: Iterable[Iterable[str]]) -> None:
    """A table for people, as wide as their window. Nothing in it is cut off, and no id is broken: others ask for it."""
    import rich
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in columns:
        table.add_column(name, no_wrap=name == "id", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # not as rich's markup, which a name in brackets would be
    rich.print(table)


@contextmanager
def opened() -> Iterator[Store]:
    """The data folder of the settings."""
    try:
        store = Store(load())
    except (SettingsError, StoreError) as error:
        fail(error)
    try:
        yield store
    finally:
        store.close()
