"""The notes' sound in an object store: one contract for a folder of obstore and an S3, and the server over an S3."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from device_client import DeviceClient
from object_store import ObjectStore
from offbeat import notebook
from offbeat.settings import Settings
from offbeat.storage import ObjectStorage, digest_of
from offbeat.store import Store, notes
from server_process import ServerProcess, WebhookReceiver, until


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStorage]:
    if request.param == "file":
        yield ObjectStorage(f"file://{tmp_path}/objects")
        return
    with ObjectStore() as store:
        for key, value in store.environment.items():
            monkeypatch.setenv(key, value)
        yield ObjectStorage("s3://bucket/some/prefix")
        assert store.checked > 0, "uploads without a digest"
        assert all(key.startswith("/bucket/some/prefix/notes/") for key in store.objects)


def test_contract(storage: ObjectStorage, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert storage.digest("p-1") is None and storage.size("p-1") is None
    with pytest.raises(FileNotFoundError):
        storage.fetch("p-1", tmp_path / "b")
    storage.remove("p-1")
    for _ in range(2):
        storage.keep("p-1", tmp_path / "a")
    assert storage.digest("p-1") == (len(content), hashlib.sha256(content).hexdigest())
    assert storage.size("p-1") == len(content)
    storage.fetch("p-1", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content and digest_of(tmp_path / "b") == storage.digest("p-1")
    storage.check()
    storage.remove("p-1")
    assert storage.digest("p-1") is None
    assert {path.name for path in tmp_path.iterdir()} - {"objects"} == {"a", "b"}, "a part was left"


def test_a_store_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ObjectStore() as store:
        for key, value in {**store.environment, "AWS_SECRET_ACCESS_KEY": "hidden-secret"}.items():
            monkeypatch.setenv(key, value)
        store.fault = lambda _method, _path: 403
        (tmp_path / "a").write_bytes(b"x")
        one = ObjectStorage("s3://bucket")
        for call in (lambda: one.keep("p-1", tmp_path / "a"), lambda: one.digest("p-1"), one.check):
            with pytest.raises(OSError, match="s3://bucket") as raised:
                call()
            assert "hidden" not in str(raised.value)


def test_the_server_over_an_object_store(tmp_path: Path, spoken: bytes) -> None:
    """Confirmed only once the store has it; transcribed and played from it; gone from it when the note is deleted."""
    with (
        ObjectStore() as store,
        ServerProcess(tmp_path / "data", OFFBEAT_STORAGE="s3://bucket", **store.environment) as server,
        WebhookReceiver() as receiver,
    ):
        server.add_destination(receiver.url)
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        note_id = client.new_id()
        store.fault = lambda method, _path: 403 if method == "PUT" else None
        refused = client.patch(note_id, spoken)
        assert refused.status == 503, refused
        assert client.standing(note_id).headers["upload-complete"] == "?0" and receiver.received == []
        store.fault = lambda _method, _path: None
        assert client.patch(note_id, spoken, len(spoken)).status == 200
        assert store.objects[f"/bucket/notes/{note_id}"] == spoken
        receiver.wait()
        # The local file is only a cache.
        (server.data / "notes" / f"{note_id}.wav").unlink()
        assert server.get(f"/api/notes/{note_id}/original").content == spoken
        assert server._session is not None
        assert server._session.delete(f"{server.url}/api/notes/{note_id}", timeout=10).status_code == 204
        until(lambda: f"/bucket/notes/{note_id}" not in store.objects, 5, "its removal")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(data=tmp_path / "data", storage=f"file://{tmp_path}/objects"))
    yield made
    made.close()


def add_note(store: Store, note_id: str, content: bytes, state: str = "delivered", kept: bool = True) -> Path:
    """A note with its local file, two days old."""
    path = store.note_path(note_id)
    path.write_bytes(content)
    if kept:
        store.keep_sound(note_id)
    with store.write() as connection:
        values = {"id": note_id, "length_bytes": len(content), "sha256": "0", "state": state, "created_ms": 1}
        connection.execute(sa.insert(notes).values(values))
    os.utime(path, (time.time() - 2 * 86_400,) * 2)
    return path


def test_the_rest_of_an_upload_that_went_on_elsewhere_is_fetched(store: Store) -> None:
    path = add_note(store, "p1-0", b"0123456789")
    path.write_bytes(b"0123")
    assert store.sound_path("p1-0").read_bytes() == b"0123456789"


def test_local_copies_are_cleared_and_nothing_else(store: Store, tmp_path: Path) -> None:
    day_s = 86_400.0
    gone = [add_note(store, "p1-old", b"whole")]
    stays = [add_note(store, "p1-arriving", b"part", "receiving", kept=False)]
    stays.append(add_note(store, "p1-only", b"not in the object store", kept=False))
    stays.append(add_note(store, "p1-used", b"played a moment ago"))
    store.sound_path("p1-used")
    gone.append(add_note(store, "p1-deleted", b"deleted at another machine", "deleted", kept=False))
    os.utime(gone[-1])  # at once, however new it is
    for name, where, age_s in (("tmpold.part", gone, 2 * day_s), ("tmpnew.part", stays, 60)):
        part = store.settings.notes / name
        part.write_bytes(b"cut")
        os.utime(part, (time.time() - age_s,) * 2)
        where.append(part)
    assert notebook.clear_copies(store, day_s) == len(gone)
    assert sorted(store.settings.notes.iterdir()) == sorted(stays)
    assert store.sound_path("p1-old").read_bytes() == b"whole", "it is there again when it is wanted"
    plain = Store(Settings(data=tmp_path / "data"))
    assert notebook.clear_copies(plain, 0) == 0, "without an object store they are no copies"
    plain.close()
