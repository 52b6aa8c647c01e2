"""Databases of all versions, with rows in every table, brought to this one; and the indexes of the queries."""

import os
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from offbeat import metrics, notebook
from offbeat.settings import Settings
from offbeat.store import Store, alembic_config, connect, metadata
from test_postgres import database_url, postgresql

__all__ = ["database_url", "postgresql"]  # fixtures

IDS = {"devices": "p1", "notes": "p1-0123456789abcdef", "destinations": "d1", "deliveries": "msg_1"}
OF = {"device_id": "devices", "note_id": "notes", "destination_id": "destinations", "delivery_id": "deliveries"}
Rows = dict[str, list[dict[str, Any]]]


def reflected(connection: sa.Connection) -> dict[str, sa.Table]:
    """The tables as they are now, without the engine's and the index's."""
    there = sa.MetaData()
    names = set(sa.inspect(connection).get_table_names()) & metadata.tables.keys()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # of the search's index, which has no columns
        there.reflect(connection, only=sorted(names))
    return dict(there.tables)


def row_for(table: sa.Table) -> dict[str, Any]:
    """A row with something in every column."""
    row: dict[str, Any] = {}
    for column in table.columns:
        kind = column.type
        if column.name == "id":
            row["id"] = IDS.get(table.name, "some")
        elif column.name in OF:
            row[column.name] = IDS[OF[column.name]]
        elif column.name == "state":
            row["state"] = "pending" if table.name == "deliveries" else "transcribed"
        elif isinstance(kind, sa.JSON):
            row[column.name] = {"a": ["\u00e9", None, 1.5]}
        elif isinstance(kind, sa.Boolean):
            row[column.name] = True
        elif isinstance(kind, sa.LargeBinary):
            row[column.name] = b"\0\xff"
        elif isinstance(kind, sa.BigInteger):
            row[column.name] = 1_700_000_000_123
        elif isinstance(kind, sa.Integer):
            row[column.name] = 1 if column.primary_key else 3
        else:
            row[column.name] = f"buy \u00e9 '{{}}\n {column.name}"[: getattr(kind, "length", None)]
    return row


def all_rows(connection: sa.Connection) -> Rows:
    return {
        name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
        for name, table in reflected(connection).items()
    }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_rows_of_every_version_are_kept(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("database_url") if kind == "postgresql" else ""
    settings = Settings(data=tmp_path / "data", database_url=url)
    settings.data.mkdir()
    engine, config = connect(settings), alembic_config()
    revisions = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    put: Rows = {}
    for revision in revisions[:-1]:
        with engine.connect() as connection:
            if kind == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
                connection.commit()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.commit()
            tables = reflected(connection)
            new = [metadata.tables[name] for name in tables if name not in put]
            for table in sorted(new, key=metadata.sorted_tables.index):
                put[table.name] = [row_for(tables[table.name])]
                connection.execute(sa.insert(tables[table.name]).values(put[table.name]))
            connection.commit()
    with engine.connect() as connection:
        before = all_rows(connection)
    assert put.keys() == metadata.tables.keys() and all(len(rows) == 1 for rows in before.values())
    engine.dispose()

    store = Store(settings)
    with store.read() as connection:
        after = all_rows(connection)
    # What the migrations mean to change: see there.
    wanted = {name: dict(rows[0]) for name, rows in put.items()}
    wanted["deliveries"]["attempt"] += 1
    for name, row in wanted.items():
        (now,) = after[name]
        assert {key: now[key] for key in row if key in now} == row, name
    assert after["notes"][0]["recorded_from_ms"] == after["notes"][0]["recorded_ms"]
    assert after["destinations"][0]["empty_texts"] is True
    found = notebook.Notebook(store).page(None, 10, "buy")["notes"]
    assert [note["id"] for note in found] == [IDS["notes"]], "it is searched, too"
    store.close()

    # What was there before lies in backups/, as a database that the version before could use, and this one can.
    (copy,) = (settings.data / "backups").iterdir()
    assert copy.stat().st_mode & 0o077 == 0 and f"-of-{revisions[-2]}-" in copy.name
    with closing(sqlite3.connect(copy)) as plain:
        assert plain.execute("SELECT version_num FROM alembic_version").fetchall() == [(revisions[-2],)]
    kept = Settings(data=tmp_path / "kept")
    kept.data.mkdir()
    os.rename(copy, kept.database)
    copied = connect(kept)
    with copied.connect() as connection:
        assert all_rows(connection) == before
    copied.dispose()
    store = Store(kept)
    with store.read() as connection:
        assert all_rows(connection) == after
    store.close()


def test_what_is_asked_each_minute_reads_no_whole_table(tmp_path: Path) -> None:
    store = Store(Settings(data=tmp_path))
    asked: list[tuple[str, Any]] = []

    def keep(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "UPDATE", "WITH")):
            asked.append((statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", keep)
    metrics.exposition(store)
    notebook.sweep(store)
    notebook.sweep(store, "p1-0")
    notebook.Notebook(store).page(None, 50)
    sa.event.remove(store.engine, "before_cursor_execute", keep)
    assert sum("FROM notes" in statement for statement, _ in asked) >= 7
    with store.read() as connection:
        for statement, parameters in asked:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            for step in plan:
                # A scan of an index reads the few rows in that, or counts by state without the rows themselves. The
                # newest notes are the end of the table.
                newest = "ORDER BY notes.number DESC" in statement and "LIMIT" in statement
                assert step not in ("SCAN notes", "SCAN deliveries") or newest, statement
    store.close()
