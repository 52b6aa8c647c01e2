"""`offbeat worker`: shares the server's work, on this machine or another one."""

import typer

from offbeat.commands import fail
from offbeat.settings import SettingsError, load
from offbeat.store import StoreError


def worker() -> None:
    """Transcribes and delivers beside the server, until SIGTERM or Ctrl-C. Needs PostgreSQL."""
    from offbeat import worker

    try:
        worker.run(load())
    except (SettingsError, StoreError) as error:
        fail(error)


def add_to(app: typer.Typer) -> None:
    app.command("worker")(worker)
