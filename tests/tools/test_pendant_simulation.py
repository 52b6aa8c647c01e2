"""Random sequences of presses, outages, server faults and power cuts: nothing is lost, and the ledger would tell."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pendant_simulation
import pytest
from pendant_simulation import FAULTS, FIRMWARE, simulate, sound

ROOT = Path(__file__).resolve().parents[2]
OWN = '                return {"id": note_id, "length": length, "sha256": binascii.hexlify(digest).decode()}'


def test_fifty_sequences() -> None:
    ledger = simulate(50, 1)
    print(ledger)
    assert sound(ledger), ledger
    assert ledger["holds"] > 60 and ledger["delivered"] > 60 and ledger["marked"] >= 1 and ledger["lost_to_cut"] >= 1
    assert set(ledger["faults"]) >= {*FAULTS, "hang", "cut"} - {"dropped", "taken"}  # which are rare


@pytest.mark.soak
def test_a_thousand_sequences() -> None:
    ledger = simulate(1000, 2)
    print(ledger)
    assert sound(ledger), ledger


@pytest.mark.parametrize(
    ("count", "sequences", "module", "line", "instead"),
    [
        # deletes what the server refused
        ("lost", 8, "upload", "                raise _failure(status, body)\n", OWN + "\n"),
        # sends once more, under another id, what is confirmed already
        ("doubled", 8, "upload", OWN[4:], "            return None"),
        # does not hear the button while it sends
        ("unheard", 4, "control", "            if down:\n", "            if down and self.state != 'sending':\n"),
    ],
)
def test_the_ledger_tells(tmp_path: Path, count: str, sequences: int, module: str, line: str, instead: str) -> None:
    firmware = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, firmware)
    path = firmware / "pendant" / f"{module}.py"
    text = path.read_text()
    assert text.count(line) == 1
    path.write_text(text.replace(line, instead))
    ledger = simulate(sequences, 5, firmware=firmware)
    assert ledger[count] > 0 and not sound(ledger), ledger


def test_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "tools/pendant.py", "simulate", "--sequences", "1", "--faults", "3"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    ledger = json.loads(done.stdout)
    assert sound(ledger) and set(pendant_simulation.COUNTS) < set(ledger)
