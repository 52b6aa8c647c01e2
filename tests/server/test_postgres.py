"""Several processes on one PostgreSQL: shared work, and a dead process's notes taken over by the others."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from device_client import DeviceClient
from offbeat import pipeline
from offbeat.settings import Settings
from offbeat.store import Store, StoreError
from server_process import ROOT, Received, ServerProcess, WebhookReceiver, until
from standardwebhooks import Webhook, WebhookVerificationError

SENTENCE = "remind me to buy milk tomorrow"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Any]:
    """A real PostgreSQL on a socket in a folder of its own.

    Not one of pytest's: root's PostgreSQL runs as another user, to whom each pytest that starts closes those folders.
    """
    import warnings

    with tempfile.TemporaryDirectory(prefix="offbeat-postgresql-") as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the package that carries it
            import pgserver

            server = pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server
        finally:
            server.cleanup()


@pytest.fixture
def database_url(postgresql: Any) -> str:
    name = f"offbeat_{os.urandom(4).hex()}"
    postgresql.psql(f"CREATE DATABASE {name}")
    return str(postgresql.get_uri(database=name))


class Worker:
    """`offbeat worker` beside a server, with the server's settings."""

    def __init__(self, server: ServerProcess, name: str, **environment: str) -> None:
        self.log_path = server.data.parent / f"{name}.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "offbeat", "worker"],
                env={**server._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> "Worker":
        try:
            until(lambda: self.process.poll() is None and '"event": "working"' in self.log(), 30, "the worker")
        except TimeoutError:
            self.__exit__()
            raise AssertionError(self.log()) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def transcribed(self) -> int:
        return self.log().count('"event": "note transcribed"')


def signed(receiver: WebhookReceiver, secret: str) -> list[str]:
    """The ids of the webhooks whose signature is good, each verified as it comes: later it would be too old."""
    good: list[str] = []

    def answer(got: Received) -> int:
        with contextlib.suppress(WebhookVerificationError):
            Webhook(secret).verify(got.body, got.headers)
            good.append(got.headers["webhook-id"])
        return 204

    receiver.answers = answer
    return good


def check_bodies(receiver: WebhookReceiver, note_ids: set[str], good: list[str]) -> None:
    """All notes came; each with its one id, signed each time, and no id with two different bodies."""
    ids_of: dict[str, set[str]] = {}
    bodies_of: dict[str, set[bytes]] = {}
    for got in receiver.received:
        ids_of.setdefault(got.json["data"]["id"], set()).add(got.headers["webhook-id"])
        bodies_of.setdefault(got.headers["webhook-id"], set()).add(got.body)
    assert set(ids_of) == note_ids
    assert all(len(ids) == 1 for ids in ids_of.values())
    assert all(len(bodies) == 1 for bodies in bodies_of.values())
    until(lambda: len(good) == len(receiver.received), 5, "a good signature on every one")


# Whoever is slow has notes in work for seconds.
SLOW = """
import os, time
if os.environ.get("SLOW"):
    from offbeat import transcriber
    real = transcriber.Transcriber._transcribe
    def transcribe(self, model, path):
        time.sleep(0.5)
        return real(self, model, path)
    transcriber.Transcriber._transcribe = transcribe
"""


def test_shared_work_and_a_dead_worker(tmp_path: Path, spoken: bytes, database_url: str) -> None:
    """Two workers and the server; one worker is killed for good while it holds notes."""
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    settings = {"OFFBEAT_DATABASE_URL": database_url, "PYTHONPATH": f"{tmp_path}:{ROOT / 'server'}"}
    with (
        ServerProcess(tmp_path / "data", **settings) as server,
        WebhookReceiver() as receiver,
        Worker(server, "one", SLOW="1") as one,
        Worker(server, "two") as two,
    ):
        good = signed(receiver, server.add_destination(receiver.url))
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        note_ids = set()
        for _ in range(30):
            note_ids.add(client.new_id())
        for note_id in note_ids:
            assert client.patch(note_id, spoken).status == 200

        engine = sa.create_engine(sa.make_url(database_url).set(drivername="postgresql+psycopg"))

        def held_by(pid: int) -> set[str]:
            statement = "SELECT workflow_uuid FROM dbos.workflow_status WHERE status='PENDING' AND executor_id LIKE :of"
            with engine.connect() as connection:
                return set(connection.scalars(sa.text(statement), {"of": f"%-{pid}-%"}))

        until(lambda: one.transcribed() and held_by(one.process.pid), 30, "work of the first worker")
        one.process.send_signal(signal.SIGSTOP)  # so that what it holds cannot change between the look and the kill
        held = held_by(one.process.pid) & note_ids
        arrived = {got.json["data"]["id"] for got in receiver.received}
        one.process.kill()
        one.process.wait(10)
        killed_s = time.monotonic()
        left = held - arrived
        assert left, "it had nothing in work that nobody else had"
        until(lambda: {got.json["data"]["id"] for got in receiver.received} & left, 10, "the dead worker's first")
        print(f"the first note of the dead worker arrived {time.monotonic() - killed_s:.1f} s after the kill")
        until(lambda: {got.json["data"]["id"] for got in receiver.received} == note_ids, 60, "all notes")
        print(f"all arrived {time.monotonic() - killed_s:.1f} s after the kill; it held {len(left)}")
        check_bodies(receiver, note_ids, good)
        assert all(got.json["data"]["text"] == SENTENCE for got in receiver.received)
        assert two.transcribed() > 0
        taken = server.log() + two.log()
        assert '"event": "took over the work of a dead process"' in taken
        # The commands and the API work on it, too.
        assert "p7" in server.command("device", "list").stdout
        found = server.get("/api/notes", params={"search": "milk", "q": "milk"}).json()
        assert len(found["notes"]) == 30
        engine.dispose()
        two.process.terminate()
        assert two.process.wait(15) == 0


def test_the_dead_server_alone_is_taken_over_by_its_successor(tmp_path: Path, spoken: bytes, database_url: str) -> None:
    with ServerProcess(tmp_path / "data", OFFBEAT_DATABASE_URL=database_url) as server, WebhookReceiver() as receiver:
        good = signed(receiver, server.add_destination(receiver.url))
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        note_ids = {client.new_id() for _ in range(5)}
        for note_id in note_ids:
            assert client.patch(note_id, spoken).status == 200
        server.kill()
        server.start()
        began_s = time.monotonic()
        until(lambda: {got.json["data"]["id"] for got in receiver.received} == note_ids, 10, "all notes")
        print(f"all arrived {time.monotonic() - began_s:.1f} s after the start")
        check_bodies(receiver, note_ids, good)


def test_a_second_serve_on_the_same_database_is_refused(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another machine, with another data folder; workers are welcome, and its successor is, too."""
    monkeypatch.setattr(pipeline, "SERVER_GONE_S", 0.5)
    stores = [Store(Settings(data=tmp_path / name, database_url=database_url)) for name in ("one", "two")]

    def process(store: Store, *names: str) -> Any:
        made = object.__new__(pipeline.Pipeline)  # its locks alone: the engine is one a process
        made._store, made._names, made._alive = store, names, None
        return made

    one, two = process(stores[0], pipeline.SERVER, "one"), process(stores[1], pipeline.SERVER, "two")
    assert one._hold_names() and one._hold_names()
    assert not two._hold_names() and two._alive is None
    worker = process(stores[1], "worker")
    assert worker._hold_names()
    with pytest.raises(StoreError, match="offbeat worker"):
        pipeline.Pipeline(stores[1], None, is_server=True)  # type: ignore[arg-type]
    one._alive.invalidate()
    one._alive.close()  # as at its death
    until(two._hold_names, 5, "the successor's turn")
    # The first one comes back, and sees that it is not the one any more: it ends.
    ended: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _pid, number: ended.append(number))
    monkeypatch.setattr(pipeline, "TAKE_OVER_S", 0.1)
    one._alive, one._stop, one.take_over = None, threading.Event(), lambda: 0
    one._keep_watch()
    assert ended == [signal.SIGTERM]
    for held in (two, worker):
        held._alive.close()
    for store in stores:
        store.close()


def test_a_worker_that_would_be_of_no_use_says_why(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    done = server.command("worker", check=False)
    assert done.returncode == 1 and "OFFBEAT_DATABASE_URL=''" in done.stderr and "offbeat move" in done.stderr
    server = ServerProcess(tmp_path / "data", OFFBEAT_DATABASE_URL="postgresql://u:hidden@127.0.0.1:9/x")
    done = server.command("worker", check=False)
    assert done.returncode == 1 and "OFFBEAT_STORAGE=''" in done.stderr
    server = ServerProcess(
        tmp_path / "data", OFFBEAT_DATABASE_URL="postgresql://u:hidden@127.0.0.1:9/x", OFFBEAT_STORAGE="s3://x"
    )
    done = server.command("worker", check=False)
    assert done.returncode == 1 and "cannot be used" in done.stderr
    assert "hidden" not in done.stderr and "Traceback" not in done.stderr


def test_one_that_hangs_in_a_transaction_stops_the_others_for_a_while_only(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offbeat.store.BUSY_TIMEOUT_MS", 200)
    monkeypatch.setattr("offbeat.store.IDLE_TIMEOUT_MS", 900)
    opened = Store(Settings(data=tmp_path / "data", database_url=database_url))
    try:
        with pytest.raises(sa.exc.DBAPIError), opened.write() as hangs:
            with pytest.raises(sa.exc.OperationalError, match="lock timeout"), opened.write():
                pass
            with opened.write(patient=True) as connection:  # until the other one is thrown out
                time.sleep(1.0)
                assert connection.scalar(sa.text("SELECT 1")) == 1
            hangs.execute(sa.text("SELECT 1"))
    finally:
        opened.close()
