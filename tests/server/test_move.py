"""`offbeat move` from SQLite and a folder to PostgreSQL and an S3, cut off and gone on with; and back into a backup."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from device_client import DeviceClient, silence
from object_store import ObjectStore
from offbeat import move
from offbeat.settings import Settings
from offbeat.store import Store, StoreError, metadata
from server_process import ServerProcess, WebhookReceiver, until
from test_postgres import database_url, postgresql

__all__ = ["database_url", "postgresql"]  # fixtures


def test_there_and_back(tmp_path: Path, spoken: bytes, database_url: str) -> None:
    with ObjectStore() as store, WebhookReceiver() as receiver:
        here = ServerProcess(tmp_path / "data", **store.environment)
        with here:
            secret = here.add_destination(receiver.url)
            device = here.add_device("p7", "pendant")
            client = DeviceClient(here, device)
            note_ids = [client.new_id() for _ in range(3)]
            for note_id, note in zip(note_ids, (spoken, silence(1), spoken), strict=True):
                assert client.patch(note_id, note).status == 200
            receiver.wait(3)
            until(lambda: here.get(f"/api/notes/{note_ids[-1]}").json()["state"] == "delivered", 10, "delivered")
            running = here.command("move", "--database-url", database_url, check=False)
            assert running.returncode == 1 and "in use by another `offbeat serve`" in running.stderr
        words = ("move", "--database-url", database_url, "--storage", "s3://bucket")
        # Cut off in the middle: the store refuses from the second file on.
        store.fault = lambda method, path: 403 if method == "PUT" and len(store.objects) else None
        cut = here.command(*words, check=False)
        assert cut.returncode == 1 and "s3://bucket" in cut.stderr and len(store.objects) == 1
        store.fault = lambda _method, _path: None
        done = here.command(*words)
        assert "sound: 3 files, 2 of them copied now" in done.stdout and "notes: 3 rows" in done.stdout
        assert "OFFBEAT_DATABASE_URL and OFFBEAT_STORAGE" in done.stdout and "postgresql://" not in done.stdout
        again = here.command(*words)
        assert "sound: 3 files, 0 of them" in again.stdout

        settings = {"OFFBEAT_DATABASE_URL": database_url, "OFFBEAT_STORAGE": "s3://bucket", **store.environment}
        there = ServerProcess(tmp_path / "data", **settings)
        for path in (tmp_path / "data" / "notes").iterdir():
            path.unlink()
        with there:
            assert there.get(f"/api/notes/{note_ids[0]}/original").content == spoken
            client = DeviceClient(there, device)
            assert client.standing(note_ids[1]).headers["upload-complete"] == "?1"
            new = client.new_id()
            assert client.patch(new, spoken).status == 200  # the numbers count on
            until(lambda: new in {got.json["data"]["id"] for got in receiver.received}, 20, "a new note")
            assert secret not in there.command("doctor", check=False).stdout
            told = json.loads(there.command("backup", str(tmp_path / "offbeat.tar")).stdout)
            assert told["notes"] == 4
        back = ServerProcess(tmp_path / "back")
        back.command("restore", str(tmp_path / "offbeat.tar"))
        with back:
            assert back.get(f"/api/notes/{new}").json()["text"] == "remind me to buy milk tomorrow"
            assert back.get(f"/api/notes/{new}/original").content == spoken


def stores(tmp_path: Path) -> tuple[Store, Store]:
    return Store(Settings(data=tmp_path / "one")), Store(Settings(data=tmp_path / "two"))


def test_another_installation_is_refused_and_a_changed_row_is_brought_up_to_date(tmp_path: Path) -> None:
    one, two = stores(tmp_path)
    devices = metadata.tables["devices"]
    row = {"id": "p1", "name": "a\0b", "app": "pendant", "token_hash": "0", "created_ms": 1}
    with one.write() as connection:
        connection.execute(sa.insert(devices).values(row))
        connection.execute(sa.insert(metadata.tables["update_files"]).values(sha256="0" * 64, content=b"\x00\xff"))
    said: list[str] = []
    move.copy_tables(one, two, said.append)
    with one.write() as connection:
        connection.execute(sa.update(devices).values(name="changed", report=None))
    move.copy_tables(one, two, said.append)
    with two.read() as connection:
        assert connection.scalar(sa.select(metadata.tables["update_files"].c.content)) == b"\x00\xff"
        assert connection.scalar(sa.select(devices.c.name)) == "changed"
        # Null stays SQL's null: a JSON column would make a null of JSON of it.
        assert connection.exec_driver_sql("SELECT errors IS NULL FROM devices").scalar() == 1
    with two.write() as connection:
        connection.execute(sa.insert(devices).values({**row, "id": "p2", "token_hash": "1"}))
    with pytest.raises(StoreError, match="another installation"):
        move.copy_tables(one, two, said.append)
    one.close()
    two.close()


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    for words, wanted in (
        ((), "nothing to move to"),
        (("--database-url", "mysql://x"), "--database-url: Value error, should be postgresql"),
        (("--storage", "elsewhere"), "--storage: Value error, should be s3"),
        (("--storage", "s3://bucket"), "holds nothing to move"),
    ):
        done = server.command("move", *words, check=False)
        assert done.returncode == 1 and wanted in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not os.path.exists(tmp_path / "data")


def test_a_damaged_file_stops_the_move(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    Store(settings).close()
    with closing(sqlite3.connect(settings.database)) as connection:
        connection.execute(
            "INSERT INTO notes (id, length_bytes, sha256, state, created_ms) VALUES ('up_1', 3, 'x', 'delivered', 1)"
        )
        connection.commit()
    source = Store(settings)
    target = Store(settings.model_copy(update={"storage": f"file://{tmp_path}/objects"}))
    with pytest.raises(StoreError, match="is missing here"):
        move.copy_sound(source, target, print)
    (settings.notes / "up_1.sound").write_bytes(b"abc")
    with pytest.raises(StoreError, match="is damaged"):
        move.copy_sound(source, target, print)
    source.close()
    target.close()
