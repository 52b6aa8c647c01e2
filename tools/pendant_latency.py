"""From the press to the first sample kept, for each state of the pendant, and what is lost against what is said to be.

The unmodified firmware on the simulated board, with the chip's costs charged. The microphone hears noise of which no
two moments are alike, so each piece of a note tells when it was spoken; presses come at random moments of a state.
"""

from __future__ import annotations

import concurrent.futures
import io
import json
import multiprocessing
import os
import random
import struct
import sys
import tempfile
import wave
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from pendant_simulation import BOARD, TOKEN, Server
from sim.board import Board

#: The most milliseconds from the press to the first sample kept, at the 99th percentile.
LIMITS_MS = {"deep sleep": 700, "light sleep": 300, "idle": 50, "storing": 50, "sending": 50}
#: How far what is reported as lost may be from what is (pendant.microphone.Take).
MOST_OFF_MS = {"deep sleep": 24, "light sleep": 24, "idle": 24, "storing": 80, "sending": 24}
_RATE_HZ = 16_000
_PIECE = 100  # samples of a note that are looked for in what was spoken
_LIKE = 0.8  # correlation of a piece with what was spoken there; elsewhere it is 0.1, give or take
_USB = 5
_SAY_S = 8.0  # what is spoken before the press and while the button is held
_BEFORE_S = 1.0  # of it before the press, at the least: a note begins before its press
_TRIES = 20  # to meet a state


class Press(NamedTuple):
    """latency_ms: from the press to the first sample kept after it. lost_ms: what is missing in the note from its first
    sample on. reported_ms: what its metadata says is.
    """

    state: str
    latency_ms: float
    lost_ms: float
    reported_ms: float


def measure(presses: int, seed: int, processes: int | None = None) -> list[Press]:
    """So many presses in each state, at the least."""
    jobs = [(state, min(25, presses - done), seed + done) for state in LIMITS_MS for done in range(0, presses, 25)]
    context = multiprocessing.get_context("spawn")  # there are threads in each of them
    with concurrent.futures.ProcessPoolExecutor(processes or os.cpu_count(), context, _path, (sys.path,)) as pool:
        return [press for some in pool.map(_measure, *zip(*jobs, strict=True)) for press in some]


def _path(path: list[str]) -> None:
    sys.path[:] = path


def _measure(state: str, presses: int, seed: int) -> list[Press]:
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder), state, seed)
        try:
            return [bench.press() for _ in range(presses)]
        finally:
            bench.close()


def percentile_ms(presses: list[Press], state: str) -> float:
    """The least latency that at most one in a hundred of the presses in this state exceeds."""
    latencies = sorted(press.latency_ms for press in presses if press.state == state)
    return latencies[len(latencies) - 1 - len(latencies) // 100]


def off_ms(presses: list[Press], state: str) -> float:
    """How far what is reported as lost is from what is, at the most, in this state."""
    return max(abs(press.lost_ms - press.reported_ms) for press in presses if press.state == state)


def table(presses: list[Press]) -> list[str]:
    """Lines to print: each state's latencies, and how far what is reported as lost is from what is."""
    lines = [f"{'':12}{'presses':>8}{'median':>10}{'99 %':>10}{'most':>10}{'limit':>10}{'lost':>10}{'said +-':>10}"]
    for state, limit_ms in LIMITS_MS.items():
        some = [press for press in presses if press.state == state]
        latencies = sorted(press.latency_ms for press in some)
        figures = (latencies[len(some) // 2], percentile_ms(some, state), latencies[-1], limit_ms)
        lost_ms = max(press.lost_ms for press in some)
        cells = "".join(f"{figure:>7.0f} ms" for figure in (*figures, lost_ms, off_ms(presses, state)))
        lines.append(f"{state:12}{len(some):>8}{cells}")
    return lines


class _Bench:
    """One board beside its server, kept in one state from press to press."""

    def __init__(self, folder: Path, state: str, seed: int) -> None:
        self._state = state
        self._chance = random.Random(f"{state} {seed}")
        self._sound = folder / "noise.wav"
        self._spoken = np.random.default_rng(seed).integers(-9000, 9000, round(_RATE_HZ * _SAY_S)).astype("<i2")
        with wave.open(str(self._sound), "wb") as file:
            file.setparams((1, 2, _RATE_HZ, 0, "NONE", ""))
            file.writeframes(self._spoken.tobytes())
        self._server = Server(folder, random.Random(seed), lambda: None)
        description = json.loads(BOARD.read_text())
        description["pins"]["usb"] = _USB
        config = {
            "app": "pendant", "device": "p7", "token": TOKEN,
            "server": {"host": "127.0.0.1", "port": self._server.port},
            "wifi": [{"ssid": "home", "password": "secret-password"}],
            "sleep_after_s": 0 if state == "deep sleep" else 3600,
        }  # fmt: skip
        self._board = Board(
            folder, board=description, config=config, files={"server.der": self._server.der}, seed=seed, heap_kb=4096
        )
        self._awake_on_the_cable = state in ("idle", "storing")
        self._board.touch(_USB, int(self._awake_on_the_cable))
        self._board.start()
        self._board.run_until(lambda: "ready:" in self._board.console, timeout_s=10)
        self._rest()

    def close(self) -> None:
        self._board.close()
        self._server.close()

    def press(self) -> Press:
        """One press at a random moment of the state."""
        for _ in range(_TRIES):
            seen = len(self._board.console)
            if self._enter():
                break
            self._rest()
        else:
            raise RuntimeError(f"the state {self._state} was not met in {_TRIES} tries")
        return self._say(seen)

    def _rest(self) -> None:
        """All has arrived; then idle, or asleep."""
        board = self._board
        board.run_until(self._all_delivered, timeout_s=60)
        if self._state == "deep sleep":
            board.run_until(lambda: board.is_asleep, timeout_s=150, step_s=1.0)
        elif not self._awake_on_the_cable:
            power = board.board["pins"]["microphone_power"]
            board.run_until(lambda: board.level(power) == 0, timeout_s=150, step_s=1.0)
        else:
            board.run(2.0)

    def _all_delivered(self) -> bool:
        return self._board.console.count("\nrecorded ") == len(self._server.model.confirmed())

    def _enter(self) -> bool:
        """Into the state, up to a random moment of it."""
        board, chance = self._board, self._chance
        if self._state not in ("storing", "sending"):
            board.run(chance.random() * 2)
            self._speak()
            board.run(_BEFORE_S if board.is_on else 0.0)
            return True
        done = "\nstored " if self._state == "storing" else "\ndelivered "
        before = board.console.count(done)
        board.press()
        board.run(9.0 if self._state == "storing" else 2.0)
        board.release()
        self._speak()
        if self._state == "storing":
            board.run(0.05 + chance.random() * 0.9)
        else:
            stored = board.console.count("\nstored ")
            board.run_until(lambda: board.console.count("\nstored ") > stored, timeout_s=10, step_s=0.01)
            self._speak()
            board.run(chance.random() * 3.0)
        return board.console.count(done) == before

    def _speak(self) -> None:
        self._board.speak(self._sound)
        self._spoken_us = self._board.now_us

    def _say(self, seen: int) -> Press:
        board = self._board
        pressed_us = board.now_us
        board.press(bounces=6)  # the handlers of its edges come before the microphone's
        board.run(1.2 + self._chance.random())
        board.release()
        board.run(0.1)
        self._rest()
        note_id = [line.split()[1] for line in board.console[seen:].splitlines() if line.startswith("stored ")][-1]
        pressed = (pressed_us - self._spoken_us) * _RATE_HZ // 1_000_000
        return self._judge(self._server.model.confirmed()[note_id], pressed)

    def _judge(self, note: bytes, pressed: int) -> Press:
        """pressed: the sample of what was spoken at which the press was."""
        meta = json.loads(note[72 : 72 + struct.unpack("<I", note[68:72])[0]])
        with av.open(io.BytesIO(note), mode="r") as container:
            heard = np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])
        found = _places(heard.astype(float), self._spoken.astype(float))
        latency = min(max(0, place - pressed) for _, place in found if place + _PIECE > pressed)
        (first, begins), (last, ends) = found[0], found[-1]
        lost = ends - begins - (last - first) * _PIECE
        return Press(self._state, *(n * 1000 / _RATE_HZ for n in (latency, lost, meta["lost"])))


def _places(heard: Any, spoken: Any) -> list[tuple[int, int]]:
    """Of pieces of a note: (number, with which sample of what was spoken it began); none with a gap in it."""
    found: list[tuple[int, int]] = []
    for number in range(len(heard) // _PIECE):
        piece = heard[number * _PIECE : (number + 1) * _PIECE]
        place = found[-1][1] + (number - found[-1][0]) * _PIECE if found else 0
        if not found or _likeness(piece, spoken, place) < _LIKE:  # not where it is if nothing is missing: anywhere
            size = len(spoken) + _PIECE
            product = np.fft.irfft(np.fft.rfft(spoken, size) * np.conj(np.fft.rfft(piece, size)), size)
            place = int(product[: len(spoken) - _PIECE].argmax())
        if _likeness(piece, spoken, place) > _LIKE:
            while found and found[-1][1] >= place:
                found.pop()  # it was like that by chance: of the time before the noise began
            found.append((number, place))
    return found


def _likeness(piece: Any, spoken: Any, place: int) -> float:
    """Correlation of a piece of a note with what was spoken at a place, -1 to 1; 0 where there is silence."""
    other = spoken[place : place + len(piece)]
    if len(other) < len(piece) or not piece.std():
        return 0.0
    return float(np.corrcoef(piece, other)[0, 1])
