"""The power is cut at every operation of the flash, and nothing is lost. What is done is in power_cuts.py."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import host_programs
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def start(bits: int, scenario: str, seed: int, *mutation: str) -> subprocess.Popen[str]:
    program = [str(HERE / "power_cuts.py"), str(ROOT / "firmware"), str(ROOT / "tools"), scenario, str(seed)]
    return subprocess.Popen(
        [*host_programs.micropython(bits), "-X", "heapsize=8m", *program, *mutation],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        said = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    return process.returncode, said


@pytest.mark.parametrize("scenario", ["notes", "update", "failure"])
def test_a_cut_at_every_operation_of_the_flash(scenario: str) -> None:
    least_operations = {"notes": 1000, "update": 80, "failure": 80}[scenario]
    both = [start(64, scenario, 1), start(32, scenario, 2)]
    for status, said in [outcome(process) for process in both]:
        assert status == 0, said[-4000:]
        counts = json.loads(said)
        print(scenario, counts)
        assert counts["operations"] > least_operations and counts["cuts"] == 3 * counts["operations"]
        assert counts["cuts after a cut"] > counts["cuts"] / 4
        assert scenario != "notes" or counts["cut notes kept"] > 500


def test_mistakes_are_found() -> None:
    mistakes = (
        ("notes", "delete before the confirmation", "is lost"),
        ("notes", "copy in place of the rename", "arrived twice"),
        ("update", "mark before the files", "neither the old nor the new"),
    )
    for scenario, mutation, finding in mistakes:
        status, said = outcome(start(64, scenario, 1, mutation))
        assert status == 1 and finding in said.splitlines()[-1], (mutation, said[-2000:])


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3, 23))
def test_cuts_with_other_bits(seed: int) -> None:
    for scenario in ("notes", "update", "failure"):
        status, said = outcome(start(64, scenario, seed))
        assert status == 0, said[-4000:]
