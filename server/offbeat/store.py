"""What is kept: one SQLite database and one file for each note, in one data folder.

Times are integers, milliseconds since 1970-01-01 UTC (`_ms`). The notes' and deliveries' tables are the truth
about what is still to be done; the engine's own tables, in the same file, only say who is doing it.
"""

import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import event

from offbeat.settings import Settings

BUSY_TIMEOUT_MS = 30_000

metadata = sa.MetaData()

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("app", sa.String(16), nullable=False),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("contact_ms", sa.BigInteger),
    sa.Column("report", sa.JSON),
    sa.Column("reported_ms", sa.BigInteger),
    # Of the last report that had any: a device forgets what the server has.
    sa.Column("errors", sa.JSON),
    sa.Column("errors_ms", sa.BigInteger),
    # Of the newest desired setting.
    sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
    # The version of the firmware that it is offered.
    sa.Column("update_version", sa.String(64)),
)

updates = sa.Table(
    "updates",
    metadata,
    sa.Column("app", sa.String(16), primary_key=True),
    # The `.mpy` files that a device can load, a number (docs/protocol.md).
    sa.Column("mpy", sa.Integer, primary_key=True),
    sa.Column("version", sa.String(64), primary_key=True),
    # The exact bytes: their HMAC is what a device trusts.
    sa.Column("manifest", sa.LargeBinary, nullable=False),
    sa.Column("added_ms", sa.BigInteger, nullable=False),
)

update_files = sa.Table(
    "update_files",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

desired = sa.Table(
    "desired",
    metadata,
    sa.Column("device_id", sa.String(32), sa.ForeignKey("devices.id"), primary_key=True),
    sa.Column("setting", sa.String(32), primary_key=True),
    sa.Column("value", sa.JSON),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
)

notes = sa.Table(
    "notes",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(49), nullable=False, unique=True),
    sa.Column("device_id", sa.String(32), sa.ForeignKey("devices.id"), nullable=False),
    sa.Column("length_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("received_ms", sa.BigInteger),
    # The device's counter at `created_ms`, the first `PATCH`: mark, ms, part of that asleep.
    sa.Column("first_counter", sa.JSON),
    sa.Column("recorded_ms", sa.BigInteger),
    sa.Column("recorded_from_ms", sa.BigInteger),
    sa.Column("recorded_to_ms", sa.BigInteger),
    sa.Column("duration_ms", sa.BigInteger),
    sa.Column("lost_samples", sa.BigInteger),
    sa.Column("transcribed_ms", sa.BigInteger),
    sa.Column("text", sa.Text),
    sa.Column("language", sa.String(8)),
    sa.Column("words", sa.JSON),
    sa.Column("trouble", sa.Text),
    # Attempts that were enqueued after the first one; part of the workflow's id.
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    # Transcriptions that were begun and did not come to an end.
    sa.Column("starts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("set_aside", sa.Boolean, nullable=False, server_default=sa.false()),
)

destinations = sa.Table(
    "destinations",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("ended_ms", sa.BigInteger),
    sa.Column("ended_reason", sa.Text),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    # The webhook id: one for each (note, destination), the same for all tries.
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("note_id", sa.String(49), sa.ForeignKey("notes.id"), nullable=False),
    sa.Column("destination_id", sa.String(32), sa.ForeignKey("destinations.id"), nullable=False),
    # The exact body, kept so that an id can never go out with two different ones.
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    # Tries that got an answer or an error, which is what the backoff counts.
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("next_ms", sa.BigInteger),
    sa.Column("trouble", sa.Text),
    sa.UniqueConstraint("note_id", "destination_id"),
)

tries = sa.Table(
    "tries",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("delivery_id", sa.String(40), sa.ForeignKey("deliveries.id"), nullable=False, index=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("took_ms", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("answer", sa.Text),
    sa.Column("error", sa.Text),
)

sign_ins = sa.Table(
    "sign_ins",
    metadata,
    sa.Column("token_hash", sa.String(64), primary_key=True),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token_hash", sa.String(64), primary_key=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
)


class StoreError(Exception):
    """The data folder or the database cannot be used; the text says why and what to do."""


def now_ms() -> int:
    """Milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


def iso(time_ms: int | None) -> str | None:
    """ISO 8601 with milliseconds and `Z`; None stays None."""
    if time_ms is None:
        return None
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def connect(database: Path) -> sa.Engine:
    """An engine on the database, durable at every commit: WAL, synchronous=FULL, busy time-out.

    Its errors do not show the values, which may be secrets."""
    engine = sa.create_engine(f"sqlite:///{database}", hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


class Store:
    """The open data folder."""

    def __init__(self, settings: Settings) -> None:
        """Makes the folder and the database where they are missing and migrates the database.

        Raises StoreError. Safe beside a running server."""
        if sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42):
            raise StoreError(
                f"Python {sys.version_info.major}.{sys.version_info.minor} here uses SQLite "
                f"{sqlite3.sqlite_version}, and the workflow engine needs 3.42 or later with Python 3.12 or "
                "later. Use Python 3.11, or a Python with a newer SQLite."
            )
        self.settings = settings
        try:
            settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (settings.notes, settings.cache, settings.models):
                folder.mkdir(mode=0o700, exist_ok=True)
            self.is_new = not settings.database.exists()
            # Made here so that it is readable to its owner only; SQLite gives its other files the same mode.
            os.close(os.open(settings.database, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StoreError(f"OFFBEAT_DATA={str(settings.data)!r} cannot be used: {error}") from error
        self.engine = connect(settings.database)
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        try:
            with self.write() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(f"{settings.database} was made by a newer version of Offbeat: {error}") from error
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"{settings.database} cannot be used: {error}") from error

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection to read with."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its beginning, so what it reads stays so until it commits."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def note_path(self, note_id: str) -> Path:
        """Where the sound of a note is stored."""
        return self.settings.notes / f"{note_id}.wav"

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def only_server(settings: Settings) -> Iterator[None]:
    """Holds the data folder's lock. Raises StoreError when another server has it."""
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open(settings.data / "lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise StoreError(f"OFFBEAT_DATA={str(settings.data)!r} cannot be used: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise StoreError(
                f"OFFBEAT_DATA={str(settings.data)!r} is in use by another `offbeat serve` (process {holder}). "
                "Stop that one first, or choose another folder."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def sync_file(path: Path) -> None:
    """Returns when the file's bytes and its length are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Returns when the folder's entries are on the disk."""
    sync_file(path)
