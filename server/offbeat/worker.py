"""`offbeat worker`: transcribes and delivers beside other processes, on PostgreSQL."""

import os
import signal
import sys
import threading
from typing import NoReturn

from offbeat import __version__, log
from offbeat.settings import Settings, SettingsError
from offbeat.store import Store


def check(settings: Settings) -> None:
    """Raises SettingsError where a worker of its own would be of no use, or would not find the notes' sound."""
    if not settings.database_url:
        raise SettingsError(
            "OFFBEAT_DATABASE_URL='': one process uses a SQLite database, and `offbeat serve` is that one. Set it to "
            "postgresql://… for both, and see `offbeat move`."
        )
    if not settings.storage and not (settings.data / "certificate.pem").is_file():
        raise SettingsError(
            f"OFFBEAT_STORAGE='' and OFFBEAT_DATA={str(settings.data)!r}, which is not the server's data folder: the "
            "notes' sound could not be found. Set OFFBEAT_STORAGE=s3://… for the server and the workers, or use the "
            "server's own folder."
        )


def run(settings: Settings) -> NoReturn:
    """Works until SIGTERM or SIGINT. Raises SettingsError and StoreError before it begins."""
    from offbeat.pipeline import Pipeline
    from offbeat.transcriber import make_transcriber

    check(settings)
    log.configure()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    pipeline = Pipeline(Store(settings), make_transcriber(settings))
    log.get().info("working", version=__version__, name=pipeline.name)
    while not stop.wait(60):
        pass
    all_done = pipeline.close()
    log.get().info("stopped", left_in_work=not all_done)
    # The engine's threads do not end by themselves. What was in work is taken over by the others.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
