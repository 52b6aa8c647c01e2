"""500 notes that wait: what the start costs, and the memory that it takes to send them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import host_programs
import pytest
from pendant import wav
from pendant_bench import changed
from sim.board import Board

HERE = Path(__file__).parent


@pytest.mark.parametrize("bits", [64, 32])
def test_500_notes_drain_with_flat_memory_in_256_kb(tmp_path: Path, bits: int) -> None:
    done = subprocess.run(
        [*host_programs.micropython(bits), "-X", "heapsize=256k", str(HERE / "five_hundred.py"),
         str(HERE.parents[2] / "firmware"), str(tmp_path / "flash.img")],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    took = json.loads(done.stdout)
    print(took)
    assert took["reads at the start"] < 1000
    assert took["reads of the list"] < 60 * took["notes"] and took["steps of the list"] >= took["notes"] / 16
    assert took["most bytes"] - took["least bytes"] < 8000  # the list alone is 6,000 at first


#: What the simulator itself takes of the board's heap on 32 bits (52 kB before main.py, and its sockets), and the rest.
SIMULATOR_KB, HEAP_KB = 64, 256


@pytest.mark.soak
def test_500_notes_drain_on_the_whole_board(pendant: Any, server: Any, tmp_path: Path) -> None:
    """With its microphone, its TLS and all."""
    notes = {}
    for number in range(500):
        note_id = f"p7-{number * 7919:016x}"
        stamp = {"counter": "0badc0de", "start_ms": number, "asleep_ms": 0}
        notes[f"/notes/{number:06d}-{note_id[-16:]}.wav"] = wav.header(note_id, stamp, 0, 1) + bytes(256)
    with pendant(files=notes, heap_kb=4096) as full:
        full.start()
        full.run_until(lambda: "ready:" in full.console, timeout_s=2)
        assert not server.requests
    used = "import gc\ngc.collect()\nprint('USED', gc.mem_alloc())"
    firmware = changed(tmp_path, ("pendant/upload.py", "        if not self._spool.confirm(", used))
    with Board(
        full.folder, board=full.board, config={"wifi": [{"ssid": "home", "password": "secret-password"}]},
        firmware=firmware, bits=32, heap_kb=HEAP_KB + SIMULATOR_KB,
    ) as board:  # fmt: skip
        board.start()
        board.run_until(lambda: board.console.count("ready:") == 2, timeout_s=2)
        board.run_until(lambda: len(server.complete) == 500, timeout_s=300, step_s=1)
        board.run_until(lambda: server.check_ins, timeout_s=10)
        assert "rror" not in board.console and server.refused == []
        used_bytes = [int(text) for text in re.findall(r"^USED (\d+)$", board.console, re.MULTILINE)]
        assert len(used_bytes) == 500
        # The list of them, 6,000 bytes, becomes shorter; objects come and go.
        assert max(used_bytes[50:]) - min(used_bytes[50:]) < 10_000, (min(used_bytes[50:]), max(used_bytes[50:]))
    sent = [line.split("/")[-1] for line in server.requests if line.startswith("PATCH")]
    assert sent == [f"p7-{number * 7919:016x}" for number in range(500)]
