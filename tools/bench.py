#!/usr/bin/env python3
"""Figures that do not depend on how fast this machine is: ratios and counts, never bare seconds.

    python tools/bench.py            all
    python tools/bench.py codec      one

A figure is a function in FIGURES that returns the lines to print.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import debian
import host_programs

ROOT = Path(__file__).resolve().parents[1]
BLOCK_SAMPLES = 505
BLOCKS = 24
PRESSES = 100  # in each state
SPEECH = ROOT / "tests/speech/remind-me-to-call-mum-tomorrow.wav"

# What MicroPython runs: reads the blocks in any case, and works on them or not.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from array import array
from pendant import adpcm
work = sys.argv[3]
state = adpcm.new_state(2)
out, result = bytearray(256), array("h", [0] * 505)
with open(sys.argv[2], "rb") as file:
    for block in range(int(sys.argv[4])):
        samples, frames = array("h", file.read(1010)), bytearray(file.read(2020))
        if work == "encode":
            adpcm.encode(samples, out, state)
        elif work == "condition":
            adpcm.condition(frames, result, state)
"""


def _count(program: Path, blocks: Path, work: str) -> int:
    """Instructions that one run of MicroPython takes."""
    command = [
        *host_programs.valgrind(), "--tool=callgrind", "--callgrind-out-file=/dev/null", *host_programs.micropython(64),
        str(program), str(ROOT / "firmware"), str(blocks), work, str(BLOCKS),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None or "Traceback" in done.stderr:
        raise RuntimeError(f"callgrind failed: {done.stderr[-1000:]}")
    return int(found[1])


def instructions_a_sample() -> dict[str, float]:
    """Machine instructions a sample of speech on MicroPython's unix port (64-bit): `encode` and `condition`.

    Callgrind's count of a run that does it over some blocks, less one that only reads them. Raises debian.Unavailable.
    """
    from sim.board import _samples, write_microphone_words

    with tempfile.TemporaryDirectory() as folder:
        program, blocks, words = Path(folder, "count.py"), Path(folder, "blocks"), Path(folder, "words")
        program.write_text(_PROGRAM)
        samples = _samples(SPEECH).astype("<i2").tobytes()
        write_microphone_words(SPEECH, words)
        frames = words.read_bytes()
        with blocks.open("wb") as file:
            for block in range(16, 16 + BLOCKS):  # speech, not the pause before it
                file.write(samples[block * 1010 : (block + 1) * 1010] + frames[block * 2020 : (block + 1) * 2020])
        nothing = _count(program, blocks, "nothing")
        return {
            work: (_count(program, blocks, work) - nothing) / (BLOCKS * BLOCK_SAMPLES)
            for work in ("encode", "condition")
        }


def codec() -> list[str]:
    counts = instructions_a_sample()
    return [
        f"encoder: {counts['encode']:.1f} instructions a sample (limit 100)",
        f"offset and gain: {counts['condition']:.1f} instructions a sample",
    ]


def press() -> list[str]:
    """From the press to the first sample kept, by state of the pendant. Imported here, for it takes a while."""
    import pendant_latency

    return pendant_latency.table(pendant_latency.measure(PRESSES, 1))


def server() -> list[str]:
    import bench_server

    return bench_server.server()


FIGURES: dict[str, Callable[[], list[str]]] = {"codec": codec, "press": press, "server": server}


def main(names: list[str]) -> int:
    unknown = set(names) - set(FIGURES)
    if unknown:
        print(f"bench.py: no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}", file=sys.stderr)
        return 2
    for name in names or FIGURES:
        try:
            for line in FIGURES[name]():
                print(f"{name}: {line}", flush=True)
        except debian.Unavailable as error:
            print(f"bench.py: {name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OFFBEAT_CACHE", str(ROOT / ".cache"))
    sys.path[:0] = [str(ROOT / "boards"), str(ROOT / "tools")]
    sys.exit(main(sys.argv[1:]))
