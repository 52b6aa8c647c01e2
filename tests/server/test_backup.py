"""Backup with the server running, restore, and all that may be wrong with an archive; migrations with a copy before."""

import json
import random
import sqlite3
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
from device_client import DeviceClient
from offbeat import backup
from offbeat.settings import Settings
from offbeat.store import Store, StoreError
from server_process import ServerProcess, WebhookReceiver, until


def test_backup_of_a_running_server_and_restore(tmp_path: Path, spoken: bytes) -> None:
    with ServerProcess(tmp_path / "data") as server, WebhookReceiver() as receiver:
        server.add_destination(receiver.url)
        device = server.add_device("p7", "pendant")
        client = DeviceClient(server, device)
        note_ids = [client.new_id() for _ in range(4)]
        for note_id in note_ids:
            assert client.patch(note_id, spoken).status == 200
        receiver.wait(4)
        until(lambda: server.get(f"/api/notes/{note_ids[-1]}").json()["state"] == "delivered", 10, "delivered")
        stop = threading.Event()
        more: list[str] = []

        def go_on() -> None:
            while not stop.is_set():
                note_id = client.new_id()
                if client.patch(note_id, spoken).status == 200:
                    more.append(note_id)

        uploading = threading.Thread(target=go_on)
        uploading.start()
        try:
            told = json.loads(server.command("backup", str(tmp_path / "offbeat.tar")).stdout)
        finally:
            stop.set()
            uploading.join(20)
        assert told["notes"] >= 4 and (tmp_path / "offbeat.tar").stat().st_mode & 0o077 == 0
        again = server.command("backup", str(tmp_path / "offbeat.tar"), check=False)
        assert again.returncode == 1 and "exists already" in again.stderr
        over = server.command("restore", str(tmp_path / "offbeat.tar"), check=False)
        assert over.returncode == 1 and "another, empty folder" in over.stderr
    restored = ServerProcess(tmp_path / "restored")
    assert json.loads(restored.command("restore", str(tmp_path / "offbeat.tar")).stdout)["notes"] == told["notes"]
    with restored:
        for note_id in note_ids:
            assert restored.get(f"/api/notes/{note_id}").json()["text"] == "remind me to buy milk tomorrow"
            assert restored.get(f"/api/notes/{note_id}/original").content == spoken
        # The devices know it by its certificate and their tokens.
        assert restored.certificate == device.certificate
        assert DeviceClient(restored, device).standing(note_ids[0]).headers["upload-complete"] == "?1"
    assert not list((tmp_path / "restored").glob(".restore-*"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    store = Store(Settings(data=tmp_path / "first"))
    (tmp_path / "first" / "certificate.pem").write_bytes(b"a certificate")
    (tmp_path / "first" / "fullchain_2026.pem").write_bytes(b"somebody else's, which no archive may hold")
    backup.backup(store, tmp_path / "archive.tar")
    store.close()
    return tmp_path / "archive.tar"


def test_damaged_archives_are_refused(tmp_path: Path, archive: Path) -> None:
    whole = archive.read_bytes()
    chance = random.Random(3)
    wrong = {
        "cut.tar": whole[: len(whole) // 2],
        "empty.tar": b"",
        "junk.tar": chance.randbytes(5000),
        "certificate.tar": whole.replace(b"a certificate", b"b certificate"),
    }
    with tarfile.open(archive) as tar:
        inside = tar.getmember("offbeat.sqlite").offset_data
    changed = bytearray(whole)
    changed[inside + 5000] ^= 1
    wrong["changed.tar"] = bytes(changed)
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
        settings = Settings(data=tmp_path / f"to-{name}")
        with pytest.raises(StoreError, match=name.replace(".", r"\.")):
            backup.restore(settings, tmp_path / name)
        assert not settings.database.exists(), name
        # And then the whole one fits in all the same.
        backup.restore(settings, archive)
        assert (settings.data / "certificate.pem").read_bytes() == b"a certificate"


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
def test_what_is_left_of_another_database_is_not_mixed_with_it(tmp_path: Path, archive: Path, end: str) -> None:
    settings = Settings(data=tmp_path / "to")
    settings.data.mkdir()
    left = settings.data / f"offbeat.sqlite{end}"
    left.write_bytes(b"of another one")
    with pytest.raises(StoreError, match=rf"holds {left.name}: "):
        backup.restore(settings, archive)
    assert left.read_bytes() == b"of another one"


@pytest.mark.parametrize("name", ["../out", "notes/../../out", "/tmp/out", "notes/x/y.wav", "lock"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        entry = tarfile.TarInfo(name)
        tar.addfile(entry)
    with pytest.raises(StoreError, match="is no backup of Offbeat"):
        backup.restore(Settings(data=tmp_path / "to"), tmp_path / "evil.tar")
    assert not (tmp_path / "out").exists()


def test_a_backup_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Settings(data=tmp_path / "data"))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("offbeat.backup.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        backup.backup(store, tmp_path / "archive.tar")
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_before_a_migration_the_database_is_copied(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    Store(settings).close()
    assert not (tmp_path / "backups").exists(), "a new database needs no copy"
    with closing(sqlite3.connect(settings.database)) as connection:
        connection.executescript("DROP TABLE tokens; UPDATE alembic_version SET version_num = '0000'")
    # A revision that nobody knows: nothing is changed, and the copy is there.
    with pytest.raises(StoreError, match="newer version"):
        Store(settings)
    (copy,) = (tmp_path / "backups").iterdir()
    assert copy.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0000",)]
