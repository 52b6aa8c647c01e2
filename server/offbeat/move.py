"""Copies an installation to another database or object store: `offbeat move`, and PostgreSQL into a backup.

Every step may be repeated: what is there already is compared and left, so a copy that was cut off is gone on with. In
the end counts and SHA-256 digests of every table and every file are compared. The engine's own tables are not copied:
the notes' and deliveries' tables are the truth, and the next start takes up what is unfinished.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import sqlalchemy as sa

from offbeat.storage import digest_of
from offbeat.store import Store, StoreError, metadata, notes, storable

BATCH = 500
Say = Callable[[str], None]


class Readable(Protocol):
    """What a copy is taken from."""

    def read(self) -> AbstractContextManager[sa.Connection]:
        """A connection to read with."""


def has_sound() -> sa.Select[Any]:
    """The notes whose whole sound is stored: id, length and SHA-256."""
    return (
        sa.select(notes.c.id, notes.c.length_bytes, notes.c.sha256)
        .where(notes.c.state != "receiving", notes.c.has_file.is_(True), notes.c.deleted_ms.is_(None))
        .order_by(notes.c.number)
    )


def _rows(connection: sa.Connection, table: sa.Table) -> Iterator[dict[str, Any]]:
    """All rows in the order of the primary key, not all in memory."""
    chosen = sa.select(table).order_by(*table.primary_key.columns).execution_options(yield_per=BATCH)
    for row in connection.execute(chosen).mappings():
        yield {key: storable(value) if isinstance(value, str) else value for key, value in row.items()}


def _key(table: sa.Table, row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in table.primary_key.columns)


def digest_of_table(connection: sa.Connection, table: sa.Table) -> tuple[int, str]:
    """Number of rows, and SHA-256 over them; the same on every database.

    An exclusive or of the rows' digests, since databases order texts differently."""
    count, sum_of_all = 0, 0
    for row in _rows(connection, table):
        line = json.dumps(row, sort_keys=True, separators=(",", ":"), default=bytes.hex).encode()
        sum_of_all ^= int.from_bytes(hashlib.sha256(line).digest(), "big")
        count += 1
    return count, f"{sum_of_all:064x}"


def copy_tables(source: Readable, target: Store, say: Say) -> None:
    """Copies all rows. Nobody else may write to the target. Raises StoreError where they differ in the end."""
    for table in metadata.sorted_tables:
        with target.read() as connection:
            there = {_key(table, row): row for row in _rows(connection, table)} if _any(connection, table) else {}
        waiting: list[dict[str, Any]] = []
        seen = 0
        with source.read() as connection:
            for row in _rows(connection, table):
                old = there.pop(_key(table, row), None)
                if old == row:
                    seen += 1
                    continue
                waiting.append(row)
                if len(waiting) >= BATCH:
                    seen += _put(target, table, waiting)
                    waiting = []
        seen += _put(target, table, waiting)
        if there:
            raise StoreError(
                f"the target's table {table.name} has {len(there)} rows that are not from here: it belongs to another "
                "installation. Choose an empty database."
            )
        say(f"{table.name}: {seen} rows")
    _set_sequences(target)
    for table in metadata.sorted_tables:
        with source.read() as here, target.read() as elsewhere:
            if (one := digest_of_table(here, table)) != (other := digest_of_table(elsewhere, table)):
                raise StoreError(
                    f"the copy of the table {table.name} differs ({one[0]} rows here, {other[0]} there). Is a server "
                    "still running? Stop it and run this again."
                )
    say("tables: counts and digests are the same")


def _any(connection: sa.Connection, table: sa.Table) -> bool:
    return connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None


def _put(target: Store, table: sa.Table, rows: list[dict[str, Any]]) -> int:
    with target.write() as connection:
        for row in rows:
            same = sa.and_(*(column == row[column.name] for column in table.primary_key.columns))
            # SQL's null: a JSON column would turn None into a null of JSON.
            values = {key: sa.null() if value is None else value for key, value in row.items()}
            if not connection.execute(sa.update(table).where(same).values(values)).rowcount:
                connection.execute(sa.insert(table).values(values))
    return len(rows)


def _set_sequences(target: Store) -> None:
    """Lets PostgreSQL count on from the highest number."""
    if target.engine.dialect.name != "postgresql":
        return
    with target.write() as connection:
        for table in metadata.sorted_tables:
            column = table.autoincrement_column
            if column is None:
                continue
            name = connection.scalar(
                sa.text("SELECT pg_get_serial_sequence(:table, :column)"),
                {"table": table.name, "column": column.name},
            )
            highest = connection.scalar(sa.select(sa.func.max(column)))
            if name is not None and highest is not None:
                connection.execute(sa.text("SELECT setval(:name, :highest)"), {"name": name, "highest": highest})


def copy_sound(source: Store, target: Store, say: Say) -> None:
    """Copies every note's sound into the target's object store. Raises StoreError and OSError."""
    assert target.storage is not None
    with source.read() as connection:
        wanted = connection.execute(has_sound()).all()
    copied = 0
    for row in wanted:
        want = (row.length_bytes, row.sha256)
        if target.storage.digest(row.id) == want:
            continue
        try:
            path = source.sound_path(row.id)
        except FileNotFoundError:
            raise StoreError(f"the sound of the note {row.id} is missing here; delete the note, and go on") from None
        if digest_of(path) != want:
            raise StoreError(f"{path} is damaged: it does not have the digest of its upload")
        target.storage.keep(row.id, path)
        if target.storage.digest(row.id) != want:
            raise StoreError(f"{target.storage.url} gives the sound of the note {row.id} back with other bytes")
        copied += 1
    say(f"sound: {len(wanted)} files, {copied} of them copied now; lengths and digests are the same")
