"""Every test of the firmware that needs no CPython, on the 64-bit and on the 32-bit MicroPython."""

import subprocess
from pathlib import Path

import host_programs
import pytest

HERE = Path(__file__).parent
FIRMWARE = HERE.parents[1] / "firmware"
FILES = sorted(path for path in HERE.glob("*/test_*.py") if not path.stem.endswith("_host"))


def test_there_are_tests() -> None:
    assert FILES


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_on_micropython(path: Path, bits: int) -> None:
    command = [*host_programs.micropython(bits), "-X", "heapsize=2m"]
    done = subprocess.run(
        [*command, str(HERE / "everywhere.py"), str(path), str(FIRMWARE)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
