"""500 notes that wait: what the start costs, and the memory that it takes to send them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import host_programs
import pytest

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
