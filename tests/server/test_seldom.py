"""What seldom happens: broken files, revoked devices, a full database, a server that was set back to a backup."""

import errno
import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from inside_app import InsideApp
from offbeat import certificate, destinations, doctor, metrics, registry, store, twin, updates
from offbeat import devices as device_port
from offbeat.deliveries import Deliveries
from offbeat.notebook import Notebook, Refused
from offbeat.pipeline import Pipeline
from offbeat.protocol import Append
from offbeat.sound import SoundError
from offbeat.store import Store, notes, now_ms
from offbeat.transcriber import ModelError, Transcript
from offbeat.twin import Twins
from server_process import free_port

REPORT: dict[str, Any] = {"app": "clock", "version": "1", "mpy": 1}


class Inside(InsideApp):
    """Both ports in this process, with one clock."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder
        self.twins = Twins(self.store, emit=lambda *_: 0)
        self.devices = device_port.make_app(self.store, self.pipeline, self.twins)  # type: ignore[arg-type]

    def device(self, name: str) -> tuple[str, TestClient]:
        """Adds a clock: its id, and its way to the server."""
        added = registry.add(self.store, name, "clock")
        headers = {"Authorization": f"Bearer {added.token}"}
        return added.id, TestClient(self.devices, headers=headers, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    inside = Inside(tmp_path_factory.mktemp("inside") / "data")
    yield inside
    inside.store.close()


def test_a_revoked_device_counts_no_more(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    device_id, client = inside.device("lost")
    assert client.post("/api/device/check-in", json=REPORT).status_code == 200
    certificate.make_next(inside.store)
    settings = inside.store.settings.model_copy(update={"port": free_port(), "device_port": free_port()})
    monkeypatch.setattr(doctor, "_model", lambda _settings: iter(()))

    def seen() -> list[bool]:
        warned = any(one.what == "devices" for one in doctor.look(settings))
        return [
            device_id in certificate.not_told(inside.store),
            f'device="{device_id}"' in metrics.exposition(inside.store).decode(),
            warned,
        ]

    assert seen() == [True, True, True]
    with pytest.raises(updates.UpdateError, match="there is no clock"):
        updates.offer(inside.store, device_id, "2.0")
    registry.revoke(inside.store, device_id)
    assert seen() == [False, False, False]
    with pytest.raises(updates.UpdateError, match="there is no device"):
        updates.offer(inside.store, device_id, "2.0")
    (inside.store.settings.data / "certificate-next.pem").unlink()


def test_a_broken_next_certificate_keeps_no_device_from_its_time(inside: Inside) -> None:
    device_id, client = inside.device("punctual")
    path = inside.store.settings.data / "certificate-next.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nhalf of it")
    try:
        answer = client.post("/api/device/check-in", json=REPORT)
    finally:
        path.unlink()
        registry.revoke(inside.store, device_id)
    assert answer.status_code == 200 and abs(answer.json()["time_ms"] - now_ms()) < 60_000
    assert "next_certificate" not in answer.json()


def check_in(client: TestClient, **more: Any) -> dict[str, Any]:
    answer = client.post("/api/device/check-in", json={**REPORT, **more})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_zone_that_was_changed_at_the_device_stays_changed(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "RULE_KEPT_NS", 2**62)
    device_id, client = inside.device("traveller")
    inside.twins.desire(device_id, {"timezone": "Europe/Athens"})
    athens = {"timezone": "EET-2EEST,M3.5.0/3,M10.5.0/4"}
    assert check_in(client)["settings"] == athens
    told = check_in(client, revision=1, settings=athens, changed={"timezone": 0})
    assert told["settings"] == athens and zone_of(inside, device_id) == "Europe/Athens"
    own = {"timezone": "CET-1"}
    told = check_in(client, revision=told["revision"], settings=own, changed={"timezone": 0})
    assert told["settings"] == own and zone_of(inside, device_id) is None
    assert "settings" not in check_in(client, revision=told["revision"], settings=own)

    inside.twins.desire(device_id, {"timezone": "Europe/Athens"})
    check_in(client)
    monkeypatch.setattr(twin, "posix_tz", None)  # it is not read at each check-in
    check_in(client)


def zone_of(inside: Inside, device_id: str) -> str | None:
    with inside.store.read() as connection:
        return connection.scalar(sa.select(store.devices.c.zone).where(store.devices.c.id == device_id))


def test_a_server_that_was_set_back_to_a_backup_catches_up(inside: Inside) -> None:
    device_id, client = inside.device("ahead")
    inside.twins.desire(device_id, {"mode": "rush", "morse": "SOS"})
    inside.twins.desire(device_id, {"hands": "03:00:00"})
    told = check_in(client, revision=7)  # as the server that it talked to before had counted
    assert told["settings"] == {"mode": "rush", "morse": "SOS", "hands": "03:00:00"} and told["revision"] == 10
    assert "settings" not in check_in(client, revision=10)
    assert check_in(client, revision=0)["settings"] == {"mode": "rush", "morse": "SOS"}, "the order is done"
    assert inside.twins.desire(device_id, {"mode": "morse"}) == 11
    assert check_in(client, revision=10)["settings"] == {"mode": "morse"}
    highest = 2**30
    assert check_in(client, revision=highest)["revision"] == highest + 2
    assert client.post("/api/device/check-in", json={**REPORT, "revision": highest + 1}).status_code == 400


class Worker(Pipeline):
    """The steps of the pipeline without the engine, and what they would have enqueued."""

    def __init__(self, store: Store, transcriber: Any) -> None:
        self._store, self._transcriber = store, transcriber
        self._begun, self._state, self._postgresql = set(), threading.Lock(), False
        self.enqueued: list[tuple[str, int]] = []
        self._serving_since_ms = None
        self.silent: list[int | None] = []

    def _tell_silent(self) -> None:
        super()._tell_silent()  # a worker, which does not know, does not tell; nor has it the means to
        self.silent.append(self._serving_since_ms)

    def enqueue_note(self, _connection: Any, note_id: str, attempt: int = 0, delay_s: float = 0) -> None:
        self.enqueued.append((note_id, attempt))


def test_what_cannot_be_done_keeps_nothing_else_from_being_done(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, day_s, worker = inside.store.settings.cache, 86_400, Worker(inside.store, None)
    left, vanishing, old = cache / "backup-x1", cache / "gone.wav", cache / "old.wav"
    left.mkdir()
    for path in (left / "offbeat.sqlite", vanishing, old):
        path.write_bytes(b"-")
    for path in (left, vanishing, old):
        os.utime(path, (time.time() - 2 * day_s,) * 2)
    real = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".sound" and self.stem == stays:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        real(self, missing_ok)
        if self.name == "gone.wav":
            raise FileNotFoundError(errno.ENOENT, "as if another one had been quicker")

    stays, goes = (f"up_{letter * 32}" for letter in "ab")
    for note_id in (stays, goes):
        inside.store.note_path(note_id).write_bytes(b"-")
        values = {"id": note_id, "length_bytes": 1, "sha256": "0", "state": "deleted", "created_ms": 1, "deleted_ms": 2}
        with inside.store.write() as connection:
            connection.execute(sa.insert(notes).values(values))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        worker._do_chores()  # without the engine the first of them fail, too
    assert not left.exists() and not old.exists()
    assert inside.store.note_path(stays).exists() and not inside.store.note_path(goes).exists()
    assert worker.silent == [None]
    worker._do_chores()
    assert not inside.store.note_path(stays).exists()


class Interrupted:
    """A transcriber of one note at a time; while a note waits for its turn, or just after, something happens."""

    def __init__(self, meanwhile: Callable[[], None], error: Exception | None, begins: bool) -> None:
        self._meanwhile, self._error, self._begins = meanwhile, error, begins

    def transcribe(self, _path: Path, begin: Callable[[], None]) -> Transcript:
        self._meanwhile()
        if self._begins:
            begin()
        if self._error is not None:
            raise self._error
        return Transcript("text", "en", [])


@pytest.mark.parametrize(
    ("error", "begins"),
    [(None, True), (ModelError("no model", 10), False), (SoundError("no sound"), False), (ValueError("odd"), False)],
)
def test_what_is_tried_again_by_hand_is_not_undone(inside: Inside, error: Exception | None, begins: bool) -> None:
    note_id = f"up_{secrets.token_hex(16)}"
    inside.store.note_path(note_id).write_bytes(b"-")
    values = {"id": note_id, "length_bytes": 1, "sha256": "0", "state": "received", "created_ms": 1, "received_ms": 1}
    with inside.store.write() as connection:
        connection.execute(sa.insert(notes).values(values))
    by_hand = Interrupted(lambda: Notebook(inside.store).retry(note_id, worker), error, begins)
    worker = Worker(inside.store, by_hand)
    assert worker._transcribe_once(note_id, 0) == []
    with inside.store.read() as connection:
        note = connection.execute(sa.select(notes).where(notes.c.id == note_id)).one()
    assert worker.enqueued == [(note_id, 1)]
    assert (note.attempt, note.state, note.starts, note.set_aside, note.trouble) == (1, "received", 0, False, None)
    Notebook(inside.store).delete(note_id)


class Queue:
    """What would have been enqueued: delivery and pause."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, float]] = []

    def enqueue_in_transaction(self, _connection: Any, options: Any, delivery_id: str, _attempt: int) -> None:
        self.waiting.append((delivery_id, options.get("delay_seconds", 0.0)))


@pytest.mark.parametrize(("ask", "state"), [(False, "pending"), (True, "in_doubt")])
def test_a_try_that_breaks_is_a_try(inside: Inside, monkeypatch: pytest.MonkeyPatch, ask: bool, state: str) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("https://hook.example/secret")

    monkeypatch.setattr(destinations, "send", breaks)
    queue, number = Queue(), secrets.token_hex(4)
    with inside.store.write() as connection:
        values = {"id": number, "url": "https://hook.example/secret", "secret": "", "created_ms": 1, "ask": ask}
        connection.execute(sa.insert(store.destinations).values(values))
        values = {"id": f"msg_{number}", "destination_id": number, "body": "{}", "state": "pending", "created_ms": 1}
        connection.execute(sa.insert(store.deliveries).values(values))
    Deliveries(inside.store, queue, "1").deliver(f"msg_{number}", 0)  # type: ignore[arg-type]
    with inside.store.read() as connection:
        of_it = store.deliveries.c.id == f"msg_{number}"
        delivery = connection.execute(sa.select(store.deliveries).where(of_it)).one()
        logged = connection.execute(sa.select(store.tries.c.error).where(store.tries.c.delivery_id == delivery.id))
        (error,) = logged.scalars()
    assert (delivery.state, delivery.tries) == (state, 1)
    assert [pause_s >= 5 for _, pause_s in queue.waiting] == ([] if ask else [True])
    assert "RuntimeError" in error and "secret" not in f"{error} {delivery.trouble}"


def refused(kind: type[Exception], cause: Exception) -> Exception:
    return kind("SELECT 1", {}, cause)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (refused(sa.exc.OperationalError, sqlite3.OperationalError("database is locked")), 503),
        (refused(sa.exc.OperationalError, sqlite3.OperationalError("database or disk is full")), 507),
        (refused(sa.exc.OperationalError, psycopg.errors.DiskFull("could not extend file")), 507),
        (refused(sa.exc.OperationalError, psycopg.errors.IoError("write: No space left on device")), 507),
        (refused(sa.exc.OperationalError, psycopg.errors.LockNotAvailable("lock timeout; the table is full")), 503),
        (sa.exc.TimeoutError("QueuePool limit of size 20 overflow 10 reached"), 503),
        (OSError(errno.ENOSPC, "x"), 507),
        (OSError(errno.EIO, "x"), 503),
        (RuntimeError("odd"), 500),
    ],
)
def test_what_is_answered_when_the_storage_refuses(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def refuses() -> None:
        raise error

    page = inside.client("read")
    device = TestClient(inside.devices, headers={"Authorization": f"Bearer {'x' * 43}"}, raise_server_exceptions=False)
    with monkeypatch.context() as patched:
        patched.setattr(inside.store, "read", refuses)
        answers = [page.get("/api/notes"), device.post("/api/device/check-in", json=REPORT)]
    assert [(one.status_code, "detail" in one.json()) for one in answers] == [(status, True)] * 2
    assert answers[0].json() == answers[1].json()


def test_on_a_workers_machine_no_other_certificate_is_made(inside: Inside, tmp_path: Path) -> None:
    inside.device("first")
    elsewhere = inside.store.settings.model_copy(update={"data": tmp_path, "database_url": "postgresql://elsewhere"})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(inside.store, "settings", elsewhere)
        with pytest.raises(store.StoreError, match="where `offbeat serve` runs"):
            registry.add(inside.store, "far", "clock")
        with pytest.raises(store.StoreError, match="where `offbeat serve` runs"):
            certificate.make_next(inside.store)
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "certificate.pem").write_bytes((inside.path / "certificate.pem").read_bytes())
        assert registry.add(inside.store, "near", "clock").id == "near"


def test_a_note_that_never_comes_to_its_end_can_be_deleted(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    device_id, client = inside.device("dying")
    uploads = device_port.Uploads(inside.store, SimpleNamespace(expect=lambda: None))  # type: ignore[arg-type]
    append = Append(0, False, 4, hashlib.sha256(b"note").hexdigest(), "0" * 8, 0, 0, 2)
    ids = [f"{device_id}-{number:016x}" for number in range(5)]
    book = Notebook(inside.store)

    def begin(note_id: str, ago_s: int) -> Path:
        assert uploads.begin(note_id, device_id, append, now_ms() - ago_s * 1000) is None
        path = inside.store.note_path(note_id)
        path.write_bytes(b"no")
        os.utime(path, (time.time() - ago_s,) * 2)
        return path

    monkeypatch.setattr(device_port, "MAX_RECEIVING", 3)
    fresh, old, _ = begin(ids[0], 3600), begin(ids[1], 90_000), begin(ids[2], 3600)
    assert begin(ids[0], 3600) == fresh, "the same one once more is no other"
    with pytest.raises(device_port.Refused) as too_many:
        begin(ids[3], 0)
    assert too_many.value.status == 507
    for note_id in (ids[0], ids[2]):
        with pytest.raises(Refused, match="still arriving"):
            book.delete(note_id)
    book.delete(ids[1])
    assert not old.exists()
    assert client.head(f"/api/device/notes/{ids[1]}").status_code == 404  # its device can begin anew
    last = begin(ids[3], 0)
    registry.revoke(inside.store, device_id)
    book.delete(ids[3])
    assert not last.exists()
    last.write_bytes(b"note")  # its last piece came while it was deleted
    with pytest.raises(device_port.Refused) as gone:
        uploads.finish(ids[3], append)
    assert gone.value.status == 503 and not last.exists() and uploads.row(ids[3]) is None
