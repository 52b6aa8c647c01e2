"""What is kept: one SQLite database and one file for each note, in one data folder.

Times are integers, milliseconds since 1970-01-01 UTC (`_ms`). The notes' and deliveries' tables are the truth
about what is still to be done; the engine's own tables, in the same file, only say who is doing it.
"""

import contextlib
import errno
import fcntl
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, overload
from urllib.parse import quote

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import event

from offbeat.settings import Settings
from offbeat.storage import ObjectStorage

BUSY_TIMEOUT_MS = 30_000
# Of a transaction in PostgreSQL in which nothing happens.
IDLE_TIMEOUT_MS = 60_000
# The advisory lock that stands in PostgreSQL for SQLite's write lock.
WRITE_LOCK = 0x0FFBEA7
# Databases kept from before a migration, the newest ones.
KEPT_BEFORE_MIGRATION = 3

metadata = sa.MetaData()


def storable(text: str) -> str:
    """The text with U+FFFD for what some database refuses: half a surrogate pair, and PostgreSQL a zero byte."""
    return re.sub("[\ud800-\udfff\0]", "\ufffd", text)


class Words(sa.TypeDecorator[str]):
    """Text that others wrote: receivers of webhooks, transcribers, people."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else storable(value)


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
    # Its token was ended; its notes name it still.
    sa.Column("revoked_ms", sa.BigInteger),
    # Of a clock: the name of the zone whose rule is desired as its `timezone`; null: that was given as a rule.
    sa.Column("zone", sa.String(64)),
    # When it was told that nothing was heard of it.
    sa.Column("silent_ms", sa.BigInteger),
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
    # Null for a note that was not sent by a device: then `source` says who did.
    sa.Column("device_id", sa.String(32), sa.ForeignKey("devices.id")),
    sa.Column("source", sa.Text),
    sa.Column("title", Words),
    sa.Column("length_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    # Null: WAV, as all devices send it.
    sa.Column("media_type", sa.String(64)),
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
    sa.Column("text", Words),
    sa.Column("language", sa.String(8)),
    sa.Column("words", sa.JSON),
    # What the transcriber wrote, once the text was corrected by hand.
    sa.Column("transcript", Words),
    sa.Column("edited_ms", sa.BigInteger),
    sa.Column("trouble", Words),
    # Attempts that were enqueued after the first one; part of the workflow's id.
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    # Transcriptions that were begun and did not come to an end.
    sa.Column("starts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("set_aside", sa.Boolean, nullable=False, server_default=sa.false()),
    # A deleted note is a tombstone: state `deleted`, id, length and digest, nothing that was said.
    sa.Column("deleted_ms", sa.BigInteger),
    # False once the file of a deleted note is gone, which comes after the tombstone.
    sa.Column("has_file", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Index("ix_notes_transcribed_ms", "transcribed_ms"),
)
# Of deleted notes whose file is still there: usually none, looked for each minute.
sa.Index(
    "ix_notes_to_sweep",
    notes.c.id,
    sqlite_where=notes.c.deleted_ms.is_not(None) & notes.c.has_file.is_(True),
    postgresql_where=notes.c.deleted_ms.is_not(None) & notes.c.has_file.is_(True),
)

destinations = sa.Table(
    "destinations",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("ended_ms", sa.BigInteger),
    sa.Column("ended_reason", Words),
    sa.Column("name", sa.Text),
    sa.Column("recipe", sa.String(32), nullable=False, server_default="webhook"),
    # The body's shape (offbeat/template.py); null: the webhook's own.
    sa.Column("template", sa.JSON),
    # What was filled in for the template; header lines; a whole Authorization header. None of it is ever shown.
    sa.Column("fields", sa.JSON),
    sa.Column("headers", sa.JSON),
    sa.Column("authorization", sa.Text),
    # What it asks for, of `EVENTS` in offbeat/destinations.py; null: notes.
    sa.Column("events", sa.JSON),
    sa.Column("empty_texts", sa.Boolean, nullable=False, server_default=sa.false()),
    # A try that may have arrived is not repeated: somebody is asked.
    sa.Column("ask", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("timeout_s", sa.Integer, nullable=False, server_default="20"),
    sa.Column("per_minute", sa.Integer),
    # Where in a JSON answer the assistant's words are, keys with dots between; null: the answer is not kept.
    sa.Column("answer_path", sa.Text),
    # The next place in its rate that nobody has.
    sa.Column("free_ms", sa.BigInteger, nullable=False, server_default="0"),
    # Nothing is sent before this, reserved or not: it asked for that with a Retry-After.
    sa.Column("held_ms", sa.BigInteger, nullable=False, server_default="0"),
    # A removed one keeps its row, without its secrets, for the deliveries that name it.
    sa.Column("removed_ms", sa.BigInteger),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    # The webhook id: one for each body, the same for all its tries.
    sa.Column("id", sa.String(40), primary_key=True),
    # Null where it is not a note that is delivered, but an event of a device.
    sa.Column("note_id", sa.String(49), sa.ForeignKey("notes.id"), index=True),
    sa.Column("event", sa.String(32), nullable=False, server_default="note"),
    sa.Column("destination_id", sa.String(32), sa.ForeignKey("destinations.id"), nullable=False),
    # The exact body, kept so that an id can never go out with two different ones.
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    # Tries that got an answer or an error, which is what the backoff counts.
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("next_ms", sa.BigInteger),
    sa.Column("trouble", Words),
    # The next try has its place in the destination's rate.
    sa.Column("reserved", sa.Boolean, nullable=False, server_default=sa.false()),
    # When a try began whose end is not known yet; kept for destinations that want to be asked.
    sa.Column("begun_ms", sa.BigInteger),
    # What the assistant answered.
    sa.Column("answer", Words),
    sa.Index("ix_deliveries_of", "destination_id", "state"),
)

tries = sa.Table(
    "tries",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("delivery_id", sa.String(40), sa.ForeignKey("deliveries.id"), nullable=False, index=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("took_ms", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("answer", Words),
    sa.Column("error", Words),
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
    # The browser, as it calls itself.
    sa.Column("name", sa.Text),
    # Whether it began with a link, and not with the password.
    sa.Column("by_link", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("seen_ms", sa.BigInteger),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("used_ms", sa.BigInteger),
)

# One row, with the number 1, or none.
password = sa.Table(
    "password",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
)


class StoreError(Exception):
    """The data folder or the database cannot be used; the text says why and what to do."""


def now_ms() -> int:
    """Milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


@overload
def iso(time_ms: int) -> str: ...
@overload
def iso(time_ms: None) -> None: ...
def iso(time_ms: int | None) -> str | None:
    """ISO 8601 with milliseconds and `Z`; None stays None."""
    if time_ms is None:
        return None
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def connect(settings: Settings) -> sa.Engine:
    """An engine on the database of the settings, durable at every commit.

    Its errors do not show the values, which may be secrets."""
    if settings.database_url:
        url = sa.make_url(settings.database_url).set(drivername="postgresql+psycopg")
        # A process whose machine is gone must be known as dead within seconds (offbeat/pipeline.py, take_over).
        # One that hangs in a transaction, with the write lock, must not stop all the others for ever.
        options = (
            "-c tcp_keepalives_idle=3 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3 -c tcp_user_timeout=8000"
            f" -c lock_timeout={BUSY_TIMEOUT_MS} -c idle_in_transaction_session_timeout={IDLE_TIMEOUT_MS}"
        )
        return sa.create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=20,
            connect_args={"connect_timeout": 10, "options": options, "keepalives_idle": 10},
        )
    engine = sa.create_engine(f"sqlite:///{settings.database}", hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def alembic_config() -> Config:
    """Of the migrations; its `attributes["connection"]` is what they run on."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def copy_database(database: Path, copy: Path) -> None:
    """Copies a SQLite database that may be in use, consistently; the copy is synced and readable to its owner only.

    Raises sqlite3.Error and OSError."""
    os.close(os.open(copy, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600))
    source = sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_MS / 1000)
    with contextlib.closing(source), contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # one file, not three
    sync_file(copy)
    sync_folder(copy.parent)


def keep_before_migration(
    settings: Settings, revision: str, config: Config, postgresql: sa.Connection | None = None
) -> None:
    """Copies the database as it is to `backups/` before it is changed. Raises OSError and sqlalchemy's errors."""
    folder = settings.data / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    copy = folder / f"before-migration-of-{revision}-{now_ms()}.sqlite"
    try:
        if postgresql is None:
            copy_database(settings.database, copy)
        else:
            _copy_postgresql(postgresql, revision, config, copy)
    except sqlite3.Error as error:
        raise OSError(errno.EIO, f"{copy} cannot be written: {error}") from error
    for old in sorted(folder.glob("before-migration-of-*.sqlite"), key=lambda path: path.stat().st_mtime)[
        :-KEPT_BEFORE_MIGRATION
    ]:
        old.unlink()


def _copy_postgresql(source: sa.Connection, revision: str, config: Config, copy: Path) -> None:
    """A SQLite database of the same revision with the same rows, as the version of Offbeat before this one knows it."""
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    engine = sa.create_engine(f"sqlite:///{copy}", hide_parameters=True)
    try:
        with engine.begin() as target:
            config.attributes["connection"] = target
            command.upgrade(config, revision)
            names = set(sa.inspect(source).get_table_names()) - {"alembic_version"}
            tables = sa.MetaData()
            tables.reflect(target, only=sorted(names))
            for name in sorted(names):
                rows = source.execute(sa.text(f'SELECT * FROM "{name}"'), execution_options={"yield_per": 500})
                for row in rows.mappings():
                    # SQL's null: a JSON column would turn None into a null of JSON.
                    values = {key: sa.null() if value is None else value for key, value in row.items()}
                    target.execute(sa.insert(tables.tables[name]).values(values))
    finally:
        engine.dispose()
    sync_file(copy)
    sync_folder(copy.parent)


class Store:
    """The open data folder."""

    def __init__(self, settings: Settings) -> None:
        """Makes the folder and the database where they are missing and migrates the database.

        Raises StoreError. Safe beside a running server."""
        on_sqlite = not settings.database_url
        if on_sqlite and sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42):
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
            if on_sqlite:
                # Made here so that it is readable to its owner only; SQLite gives its other files the same mode.
                os.close(os.open(settings.database, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StoreError(f"OFFBEAT_DATA={str(settings.data)!r} cannot be used: {error}") from error
        try:
            self.storage = ObjectStorage(settings.storage) if settings.storage else None
        except ValueError as error:
            raise StoreError(str(error)) from error
        self.engine = connect(settings)
        shown = settings.database if on_sqlite else f"OFFBEAT_DATABASE_URL ({self.engine.url.render_as_string()})"
        try:
            self._migrate(alembic_config())
        except CommandError as error:
            raise StoreError(f"{shown} was made by a newer version of Offbeat: {error}") from error
        except (sa.exc.SQLAlchemyError, OSError) as error:
            raise StoreError(f"{shown} cannot be used: {error}") from error

    def _migrate(self, config: Config) -> None:
        """To the newest revision, in one transaction."""
        if self.engine.dialect.name == "postgresql":
            with self.write(patient=True) as connection:  # another process may be at it, and copies all of it before
                before = MigrationContext.configure(connection).get_current_revision()
                if before not in (None, ScriptDirectory.from_config(config).get_current_head()):
                    keep_before_migration(self.settings, str(before), config, connection)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            return
        with self.engine.connect() as connection:
            before = MigrationContext.configure(connection).get_current_revision()
            connection.rollback()
            if before not in (None, ScriptDirectory.from_config(config).get_current_head()):
                keep_before_migration(self.settings, str(before), config)
            # As SQLite wants it of who builds a table anew; the setting is without effect within a transaction.
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.rollback()
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            revision = MigrationContext.configure(connection)
            before = revision.get_current_revision()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            if before != revision.get_current_revision():
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken is not None:
                    raise StoreError(f"{self.settings.database} is damaged: a row of {broken[0]} lacks what it is of")
            connection.commit()
            connection.exec_driver_sql("PRAGMA foreign_keys=ON")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection to read with."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, patient: bool = False) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its beginning, so what it reads stays so until it commits.

        `patient`: with PostgreSQL it waits for the lock, and may do something else meanwhile, for as long as it takes.
        Raises sqlalchemy's OperationalError where the lock is not to be had within BUSY_TIMEOUT_MS."""
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                if patient:
                    connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
                    connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITE_LOCK})
            else:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def note_path(self, note_id: str) -> Path:
        """Where the sound of a note is stored: `.wav` of a device, `.sound` of whatever format was uploaded."""
        return self.settings.notes / (f"{note_id}.sound" if note_id.startswith("up_") else f"{note_id}.wav")

    def keep_sound(self, note_id: str) -> None:
        """Puts the whole, synced file of a note where all processes can read it. Before its row says so.

        Raises OSError."""
        if self.storage is not None:
            self.storage.keep(note_id, self.note_path(note_id))

    def sound_path(self, note_id: str) -> Path:
        """A file to read the sound of a whole note from. Raises OSError, FileNotFoundError where there is none."""
        path = self.note_path(note_id)
        if self.storage is None:
            if not path.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            return path
        with self.read() as connection:
            length_bytes = connection.scalar(sa.select(notes.c.length_bytes).where(notes.c.id == note_id))
        # A shorter one is of an upload that went on at another machine.
        if path.exists() and path.stat().st_size == length_bytes:
            os.utime(path)  # old ones are removed by their time
        else:
            self.storage.fetch(note_id, path)
        return path

    def remove_sound(self, note_id: str) -> None:
        """Removes the sound of a note; no harm if it is not there. Raises OSError."""
        self.note_path(note_id).unlink(missing_ok=True)
        if self.storage is not None:
            self.storage.remove(note_id)

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
