"""What only shows from inside the process: housekeeping, a failing disk, the reading of a body."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from offbeat.devices import Appender
from offbeat.pipeline import DELIVERY_BACKOFF_S, _pause_s
from server_process import ROOT

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


def test_housekeeping(tmp_path: Path) -> None:
    """In a process of its own: the engine is one a process, and its threads do not end."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HOUSEKEEPING, str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "server")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.endswith("passed\n"), done.stderr


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


def test_pauses_grow_for_about_three_days() -> None:
    for failures, backoff_s in enumerate(DELIVERY_BACKOFF_S, start=1):
        pauses_s = {_pause_s(DELIVERY_BACKOFF_S, failures) for _ in range(50)}
        assert len(pauses_s) > 1, "no jitter"
        assert all(backoff_s <= pause_s <= 1.1 * backoff_s for pause_s in pauses_s)
    assert 3 <= sum(DELIVERY_BACKOFF_S) / 86_400 < 3.5
