"""What only shows from inside the process: housekeeping, kills at a certain instant, failing disks, turns."""

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from offbeat.devices import Appender, Turns
from offbeat.transcriber import ModelError, Transcriber
from server_process import ROOT, WebhookReceiver

HOUSEKEEPING = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
import sqlalchemy as sa
from offbeat import pipeline, sound, store
from offbeat.settings import Settings
from offbeat.transcriber import ModelError, Transcript

class Transcriber:
    def transcribe(self, path, begin):
        begin()
        if path.stem == "p7-waits":
            raise ModelError("no model", 3600)
        return Transcript("text", "en", [])

opened = store.Store(Settings(data=Path(sys.argv[1])))
line = pipeline.Pipeline(opened, Transcriber())
now = store.now_ms()
with opened.write() as connection:
    device = dict(id="p7", name="p7", app="pendant", token_hash="0", created_ms=now)
    connection.execute(sa.insert(store.devices).values(**device))
    for name in ("p7-done", "p7-waits"):
        times = dict(created_ms=now, received_ms=now)
        values = dict(id=name, device_id="p7", length_bytes=1, sha256="0", state="received")
        opened.note_path(name).write_bytes(b"-")
        connection.execute(sa.insert(store.notes).values(**values, **times))
        line.enqueue_note(connection, name)

def workflows():
    return {one.workflow_id: one.status for one in line._client.list_workflows()}

deadline = time.monotonic() + 20
while workflows() != {"p7-done": "SUCCESS", "p7-waits": "SUCCESS", "p7-waits.1": "DELAYED"}:
    assert time.monotonic() < deadline, workflows()
    time.sleep(0.1)
line._delete_finished()
assert len(workflows()) == 3, "what has just finished is kept for a while"
pipeline.FINISHED_KEPT = timedelta(0)
line._delete_finished()
assert workflows() == {"p7-waits.1": "DELAYED"}, workflows()
assert line.reconcile() == 0, "a note that waits is somebody's"

young, old = opened.settings.cache / "young.wav", opened.settings.cache / "old.wav"
for path in (young, old):
    path.write_bytes(b"")
os.utime(old, (time.time() - 2 * 86400,) * 2)
line._clear_cache()
assert young.exists() and not old.exists()
assert line.close(), "nothing is in work"
print("passed", flush=True)
os._exit(0)
"""

# With a third argument it ends at once when that step has returned, before the engine keeps its result.
AFTER_A_COMMIT = """
import os, sys, time
from pathlib import Path
import sqlalchemy as sa
from offbeat import deliveries, pipeline, store
from offbeat.settings import Settings
from offbeat.transcriber import ModelError, Transcript

data, url, killed = sys.argv[1:]
pipeline.TRANSCRIPTION_BACKOFF_S = deliveries.BACKOFF_S = (3600,)

class Transcriber:
    def transcribe(self, path, begin):
        begin()
        if path.stem == "p7-waits":
            raise ModelError("no model", 3600)
        return Transcript("text", "en", [])

class Pipeline(pipeline.Pipeline):
    def _transcribe(self, *args):
        result = super()._transcribe(*args)
        if killed == "transcribe":
            os._exit(9)
        return result

real = deliveries.Deliveries.deliver

def deliver(self, *args):
    real(self, *args)
    if killed == "deliver":
        os._exit(9)

deliveries.Deliveries.deliver = deliver

opened = store.Store(Settings(data=Path(data)))
line = Pipeline(opened, Transcriber())
name = "p7-waits" if url == "none" else "p7-done"
if killed != "none":
    now = store.now_ms()
    with opened.write() as connection:
        device = dict(id="p7", name="p7", app="pendant", token_hash="0", created_ms=now)
        connection.execute(sa.insert(store.devices).values(**device))
        if url != "none":
            destination = dict(id="d", url=url, secret="whsec_AAAA", created_ms=now)
            connection.execute(sa.insert(store.destinations).values(**destination))
        note = dict(id=name, device_id="p7", length_bytes=1, sha256="0", state="received", created_ms=now)
        opened.note_path(name).write_bytes(b"-")
        connection.execute(sa.insert(store.notes).values(**note, received_ms=now))
        line.enqueue_note(connection, name)

def first():
    return [one.status for one in line._client.list_workflows(workflow_ids=[name])]

deadline = time.monotonic() + 20
while first() != ["SUCCESS"]:
    assert time.monotonic() < deadline, first()
    time.sleep(0.1)
def others():
    return [one.status for one in line._client.list_workflows() if one.status != "SUCCESS"]

time.sleep(0.5)
while others() != ["DELAYED"]:  # what was recovered comes to its end
    assert time.monotonic() < deadline, others()
    time.sleep(0.1)
print("passed", flush=True)
os._exit(0)
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the engine is one a process, and its threads do not end."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "server")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_housekeeping(tmp_path: Path) -> None:
    done = run(HOUSEKEEPING, str(tmp_path / "data"))
    assert done.stdout.endswith("passed\n"), done.stderr


def test_killed_after_the_commit_of_a_try_it_is_not_tried_again_at_once(tmp_path: Path) -> None:
    with WebhookReceiver() as receiver:
        receiver.answers = lambda _: 503
        killed = run(AFTER_A_COMMIT, str(tmp_path / "data"), receiver.url, "deliver")
        assert (killed.returncode, len(receiver.received)) == (9, 1), killed.stderr
        again = run(AFTER_A_COMMIT, str(tmp_path / "data"), receiver.url, "none")
        assert again.stdout.endswith("passed\n"), again.stderr
        assert len(receiver.received) == 1


def test_killed_after_a_note_was_put_off_it_waits_once(tmp_path: Path) -> None:
    killed = run(AFTER_A_COMMIT, str(tmp_path / "data"), "none", "transcribe")
    assert killed.returncode == 9, killed.stderr
    again = run(AFTER_A_COMMIT, str(tmp_path / "data"), "none", "none")
    assert again.stdout.endswith("passed\n"), again.stderr


def test_of_three_uploads_of_a_note_the_newest_wins() -> None:
    """The second still waits for its turn when the third comes: it must give way as soon as it has its turn."""

    async def three() -> list[str]:
        turns, order = Turns(), []

        async def upload(name: str) -> None:
            async with turns.of("p1-0123456789abcdef") as taken_over:
                if name != "third":
                    await asyncio.wait_for(taken_over.wait(), 2)
                assert taken_over.is_set() == (name != "third")
                order.append(name)

        uploads = []
        for name in ("first", "second", "third"):
            uploads.append(asyncio.create_task(upload(name)))
            await asyncio.sleep(0)
        await asyncio.gather(*uploads)
        return order

    assert asyncio.run(three()) == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ["cannot be stored", "No space left", "Make room"]),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x.lock"), ["cannot be stored", "denied: 'x.lock'"]),
        (
            RuntimeError("IO Error: No space left on device (os error 28)"),
            ["cannot be stored", "RuntimeError: IO Error"],
        ),
        (ConnectionError("Name or service not known"), ["fetched from the model hub", "Name or service", "network"]),
        (ValueError("odd " * 1000), ["fetched from the model hub", "ValueError: odd"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_why_a_model_could_not_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, wanted: list[str]
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fails(*_args: object, local_files_only: bool = False, **_more: object) -> str:
        raise LocalEntryNotFoundError("not here") if local_files_only else error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(ModelError) as raised:
        Transcriber("base", "", tmp_path).transcribe(tmp_path / "x.wav", lambda: None)
    assert [part for part in wanted if part not in raised.value.reason] == []
    assert "OFFBEAT_MODEL=/path/to/folder" in raised.value.reason and len(raised.value.reason) < 600


def test_a_full_disk_leaves_no_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.wav"
    appender = Appender(path)
    appender.write(b"0123")
    real, written = os.write, 0

    def full_after_two_bytes(file: int, data: bytes) -> int:
        nonlocal written
        if written == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = 2
        return real(file, data[:2])

    monkeypatch.setattr(os, "write", full_after_two_bytes)
    with pytest.raises(OSError, match="No space"):
        appender.write(b"4567")
    monkeypatch.setattr(os, "write", real)
    appender.close(b"89")  # there is space again, but 67 is missing: what follows must not be appended
    assert path.read_bytes() == b"012345"


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:3]))
    appender = Appender(tmp_path / "note.wav")
    appender.write(b"0123456789")
    appender.close(b"abcd")
    assert (tmp_path / "note.wav").read_bytes() == b"0123456789abcd"
    appender.write(b"late")  # of a request that was given up: nothing happens
    assert (tmp_path / "note.wav").read_bytes() == b"0123456789abcd"
