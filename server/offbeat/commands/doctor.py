"""`offbeat doctor`: what is wrong, and what to do."""

import rich
import typer
from rich.markup import escape

from offbeat.commands import fail
from offbeat.settings import SettingsError, load

COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}


def doctor() -> None:
    """Looks at everything that usually goes wrong, and says what to do. Ends with 1 where something does not work."""
    from offbeat.doctor import look

    try:
        settings = load()
    except SettingsError as error:
        fail(error)
    bad = False
    for finding in look(settings):
        bad = bad or finding.level == "bad"
        line = f"[{COLOURS[finding.level]}]{finding.level:4}[/]  {finding.what}: {escape(finding.text)}"
        rich.get_console().print(line, soft_wrap=True, highlight=False)
    raise typer.Exit(1 if bad else 0)


def add_to(app: typer.Typer) -> None:
    app.command("doctor")(doctor)
