"""Causes that come and go: a full disk, a locked database, a note that kills the process. Each leaves a clear state,
the others go on, and nothing is lost when the cause is gone.

The pitfalls of the workflow engine that were met before it was chosen, and where each one is tested:
- jobs of another application version stay stuck: pinned; `test_the_version_of_the_engine_s_jobs_is_pinned` here
- Python 3.12 with an old SQLite: refused with words; `test_an_old_sqlite_is_refused` here
- no WAL by itself: `test_the_database_is_durable` here
- one process a SQLite file: test_command.py, `test_a_second_serve_is_refused`
- tables are the truth, jobs may be lost: test_pipeline.py, `test_lost_jobs_and_repeated_crashes`
- a row and its job: `test_a_note_whose_job_was_never_written_is_taken_up` here
- an existing workflow id does not run again: attempts have ids of their own; test_inside.py
- the step between its commit and the engine's knowing of it: test_inside.py, `test_killed_after_…`
- long retries hold no slot: the next attempt is enqueued with a delay; test_inside.py, `test_housekeeping` (DELAYED)
- a note that kills the process: `test_a_note_that_kills_the_process_is_set_aside` here
- pickle in the database: `test_the_version_of_the_engine_s_jobs_is_pinned` here
- finished workflows pile up: test_inside.py, `test_housekeeping`
- PostgreSQL does not resume a dead worker's jobs: test_postgres.py
- an upload that appends where its own record says, not where the file ends: test_upload.py, test_kill.py
"""

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from device_client import DeviceClient
from offbeat import store
from offbeat.settings import Settings
from server_process import DEMO_MODEL, ROOT, ServerProcess, WebhookReceiver, until

SENTENCE = "remind me to buy milk tomorrow"


def limit_files(server: ServerProcess, size_bytes: int) -> None:
    """From now on the process cannot make a file longer than that: what a full disk does to it, without a full disk."""
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


def test_a_full_disk(tmp_path: Path, spoken: bytes) -> None:
    with ServerProcess(tmp_path / "data") as server, WebhookReceiver() as receiver:
        server.add_destination(receiver.url)
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        first, second = client.new_id(), client.new_id()
        assert client.patch(first, spoken).status == 200
        receiver.wait(1)
        limit_files(server, 10_000)
        refused = client.patch(second, spoken)
        assert refused.status in (503, 507), refused
        assert len(receiver.received) == 1
        limit_files(server, resource.RLIM_INFINITY)
        # Nothing needs to be done: the device goes on from what is stored.
        offset = int(client.standing(second).headers.get("upload-offset", 0))
        assert offset <= 10_000
        assert client.patch(second, spoken, offset).status == 200
        assert receiver.wait(2)[1].json["data"] == {
            **receiver.received[1].json["data"],
            "id": second,
            "text": SENTENCE,
        }


def test_a_locked_database(tmp_path: Path, spoken: bytes) -> None:
    with ServerProcess(tmp_path / "data") as server, WebhookReceiver() as receiver:
        server.add_destination(receiver.url)
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        first, second = client.new_id(), client.new_id()
        assert client.patch(first, spoken).status == 200
        with contextlib.closing(sqlite3.connect(server.data / "offbeat.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # of a program that somebody runs by hand
            with pytest.raises(TimeoutError), server.connect(timeout_s=2) as connection:
                headers = client.append_headers(spoken, 0, spoken)
                connection.sendall(client.head("PATCH", f"/api/device/notes/{second}", headers) + spoken)
                connection.recv(1)  # it waits: that is no error yet
            other.execute("ROLLBACK")
        until(lambda: len(receiver.received) >= 1, 20, "the first note")
        offset = int(client.standing(second).headers.get("upload-offset", 0))
        assert client.patch(second, spoken, offset).status == 200
        until(lambda: {got.json["data"]["id"] for got in receiver.received} == {first, second}, 20, "both notes")


# In the server: short patience, a transcriber that waits while the file `gate` is there, and, while `full` is there, a
# disk on which nothing can be written.
CAUSES = """
import errno, os, sys, time
from pathlib import Path
if "serve" in sys.orig_argv:
    import sqlite3
    from contextlib import contextmanager
    import sqlalchemy as sa
    from offbeat import devices, pipeline, store, transcriber
    store.BUSY_TIMEOUT_MS = 200
    pipeline.HOUSEKEEPING_S = 0.7
    folder = Path(__file__).parent

    real_transcribe = transcriber.Transcriber._transcribe
    def transcribe(self, model, path):
        until_s = time.monotonic() + 20
        while (folder / "gate").exists() and time.monotonic() < until_s:
            (folder / "waits").touch()
            time.sleep(0.02)
        return real_transcribe(self, model, path)
    transcriber.Transcriber._transcribe = transcribe

    real_append = devices.Appender.write
    def append(self, data):
        if data and (folder / "full").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_append(self, data)
    devices.Appender.write = append

    real_write = store.Store.write
    @contextmanager
    def write(self):
        with real_write(self) as connection:
            yield connection
            if (folder / "full").exists():
                raise sa.exc.OperationalError("COMMIT", {}, sqlite3.OperationalError("database or disk is full"))
    store.Store.write = write
"""


class Cause:
    """A database that another program has locked, or a full disk: there between `begin` and `end`."""

    def __init__(self, kind: str, server: ServerProcess, folder: Path) -> None:
        self.kind, self.full = kind, folder / "full"
        path = server.data / "offbeat.sqlite"
        self.other = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)

    def begin(self) -> None:
        if self.kind == "locked":
            self.other.execute("BEGIN IMMEDIATE")
        else:
            self.full.touch()

    def end(self) -> None:
        if self.kind == "locked":
            self.other.execute("ROLLBACK")
        else:
            self.full.unlink()


def test_nothing_can_be_written_at_each_step(tmp_path: Path, spoken: bytes) -> None:
    """For longer than the server waits, while a note is uploaded, transcribed and delivered."""
    folder = tmp_path / "causes"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CAUSES)
    with (
        ServerProcess(tmp_path / "data", PYTHONPATH=f"{folder}:{ROOT / 'server'}") as server,
        WebhookReceiver() as receiver,
    ):
        server.add_destination(receiver.url)
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        server.get("/api/notes")  # signed in, before that cannot be written down
        for kind, status in (("locked", 503), ("full", 507)):
            cause = Cause(kind, server, folder)
            at_each_step(cause, status, server, client, receiver, spoken, folder)
            cause.other.close()
        third = client.new_id()
        assert client.patch(third, spoken).status == 200
        until(lambda: third in {got.json["data"]["id"] for got in receiver.received}, 20, "another note")


def at_each_step(
    cause: Cause,
    status: int,
    server: ServerProcess,
    client: DeviceClient,
    receiver: WebhookReceiver,
    spoken: bytes,
    folder: Path,
) -> None:
    first, second = client.new_id(), client.new_id()

    def note(note_id: str) -> Any:
        return server.get(f"/api/notes/{note_id}").json()

    def delivered(note_id: str) -> list[tuple[str, bytes]]:
        got = [one for one in receiver.received if one.json["data"]["id"] == note_id]
        return [(one.headers["webhook-id"], one.body) for one in got]

    # While it is uploaded: the device hears that it must keep it.
    cause.begin()
    refused = client.patch(first, spoken)
    assert refused.status == status, refused
    assert client.standing(first).headers.get("upload-complete") != "?1"
    cause.end()

    # While it is transcribed: its state says so, and its text is not lost for good.
    (folder / "waits").unlink(missing_ok=True)
    (folder / "gate").touch()
    offset = int(client.standing(first).headers.get("upload-offset", 0))
    assert client.patch(first, spoken, offset).status == 200
    until((folder / "waits").exists, 20, "the transcription")
    cause.begin()
    (folder / "gate").unlink()
    assert client.patch(second, spoken).status == status
    time.sleep(1.5)  # the end of the transcription cannot be written down
    one = note(first)
    assert (one["state"], one["text"], delivered(first)) == ("transcribing", None, []), one
    cause.end()
    until(lambda: delivered(first), 30, "the first note")
    until(lambda: note(first)["state"] == "delivered", 10, "its state")

    # While it is delivered: it came, and this cannot be written down. It comes again under its id.
    def answer(_got: Any) -> int:
        receiver.answers = lambda _got: 204
        cause.begin()
        return 204

    receiver.answers = answer
    offset = int(client.standing(second).headers.get("upload-offset", 0))
    assert client.patch(second, spoken, offset).status == 200
    until(lambda: delivered(second), 30, "the second note")
    time.sleep(1.5)
    one = note(second)
    assert (one["state"], one["deliveries"][0]["state"]) == ("transcribed", "pending"), one
    cause.end()
    until(lambda: note(second)["state"] == "delivered", 30, "its state")
    print(f"{cause.kind}: delivered {len(delivered(first))} and {len(delivered(second))} times")
    for note_id in (first, second):
        assert len(set(delivered(note_id))) == 1, "one id, one body"
        assert (note(note_id)["text"], note(note_id)["trouble"]) == (SENTENCE, None)


DEADLY = """
import os, sys
from pathlib import Path
from offbeat import cli, pipeline, transcriber

pipeline.MAX_STARTS = 2  # of 5: each start takes seconds
real = transcriber.Transcriber._transcribe
def deadly(self, model, path):
    if path.stem == Path(os.environ["DEADLY"]).read_text():
        os._exit(11)
    return real(self, model, path)
transcriber.Transcriber._transcribe = deadly
cli.app(["serve"])
"""


class DeadlyServer(ServerProcess):
    """A server that one of its notes kills."""

    def run(self, deadly: Path) -> "subprocess.Popen[bytes]":
        with open(self.log_path, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", DEADLY],
                env={**self._environment, "DEADLY": str(deadly)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


def test_a_note_that_kills_the_process_is_set_aside(tmp_path: Path, spoken: bytes) -> None:
    folder = tmp_path / "model"  # not there yet, so that the notes wait
    with ServerProcess(tmp_path / "data", model=folder) as server, WebhookReceiver() as receiver:
        server.add_destination(receiver.url)
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        note_ids = [client.new_id() for _ in range(3)]
        for note_id in note_ids:
            assert client.patch(note_id, spoken).status == 200
    bad = note_ids[1]
    (tmp_path / "deadly").write_text(bad)
    with WebhookReceiver(receiver.port) as again:
        deadly = DeadlyServer(tmp_path / "data", model=DEMO_MODEL)
        starts = 0
        process: Any = None
        try:
            while starts < 6:  # as systemd does
                process = deadly.run(tmp_path / "deadly")
                starts += 1
                try:
                    assert process.wait(8) == 11
                except subprocess.TimeoutExpired:
                    break  # it lives
            assert starts <= 3
            until(lambda: {got.json["data"]["id"] for got in again.received} == set(note_ids) - {bad}, 60, "the others")
            row = until(lambda: (row := deadly.get(f"/api/notes/{bad}").json())["set_aside"] and row, 10, "set aside")
            assert "2 times" in row["trouble"] and "The sound is kept" in row["trouble"]
            # The cause is gone, and somebody asks for it again.
            (tmp_path / "deadly").write_text("none")
            assert deadly._session is not None
            answer = deadly._session.post(f"{deadly.url}/api/notes/{bad}/retry", timeout=10)
            assert answer.status_code in (200, 202, 204), answer.text
            until(lambda: bad in {got.json["data"]["id"] for got in again.received}, 20, "the note")
        finally:
            if deadly._session is not None:
                deadly._session.close()
            process.kill()
            process.wait(10)


def test_a_note_whose_job_was_never_written_is_taken_up(tmp_path: Path, spoken: bytes) -> None:
    """A kill between the commit of a note's row and the beginning of its workflow."""
    program = """
import os, sys
from offbeat import cli, pipeline
pipeline.Pipeline.begin_note = lambda self, note_id: os._exit(9)
cli.app(["serve"])
"""
    with ServerProcess(tmp_path / "data") as server, WebhookReceiver() as receiver:
        server.add_destination(receiver.url)
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        server.stop()
        with open(server.log_path, "ab") as log:
            process = subprocess.Popen([sys.executable, "-c", program], env=server._environment, stdout=log, stderr=log)
        note_id = client.new_id()
        until(lambda: "serving" in server.log()[-2000:] and _listens(server), 20, "the server")
        with pytest.raises((OSError, ConnectionError)):
            client.patch(note_id, spoken)
        assert process.wait(10) == 9
        server.start()
        assert client.patch(note_id, spoken).status == 200  # the device did not hear of it, and asks again
        assert receiver.wait(1)[0].json["data"]["id"] == note_id
        time.sleep(0.5)
        assert len(receiver.received) == 1


def _listens(server: ServerProcess) -> bool:
    try:
        server.connect(1).close()
    except OSError:
        return False
    return True


def test_the_version_of_the_engine_s_jobs_is_pinned(tmp_path: Path, spoken: bytes) -> None:
    with ServerProcess(tmp_path / "data", model=tmp_path / "none") as server:
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        assert client.patch(client.new_id(), spoken).status == 200
        until(lambda: '"note waits"' in server.log(), 20, "the first attempt")
    with contextlib.closing(sqlite3.connect(server.data / "offbeat.sqlite")) as connection:
        rows = connection.execute("SELECT application_version, serialization FROM workflow_status").fetchall()
    assert rows and {version for version, _ in rows} == {"1"}
    assert all("json" in kind.lower() for _, kind in rows), "pickle in the database"


def test_the_database_is_durable(tmp_path: Path) -> None:
    opened = store.Store(Settings(data=tmp_path))
    try:
        with opened.read() as connection:
            values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
        assert values == ["wal", 2]  # 2: FULL
    finally:
        opened.close()


def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offbeat.store.sqlite3.sqlite_version_info", (3, 40, 1))
    newer = namedtuple("newer", "major minor")(3, 12)
    monkeypatch.setattr("offbeat.store.sys", SimpleNamespace(version_info=newer))
    with pytest.raises(store.StoreError, match=r"needs 3\.42 or later"):
        store.Store(Settings(data=tmp_path))


def test_the_idle_server_is_small(tmp_path: Path, spoken: bytes) -> None:
    """Without a model: before its first note."""
    with ServerProcess(tmp_path / "data") as server:
        server.add_device("p7", "pendant")
        server.get("/api/notes")
        time.sleep(1)
        megabytes = _memory_mb(server.pid)
        print(f"idle, before the first note: {megabytes:.0f} MB")
        assert megabytes < 150


def _memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
