"""Guided calibration of a clock's movement: how wide, strong and fast its pulses may be, asked of the hands themselves.

The test of all tests is the return: sixty ticks must bring the seconds hand once round, exactly to where it was. It
fails if a single pulse is missed or makes the rotor turn back, wherever on the dial that is. Each sweep halves the
range between settings that work and settings that do not; what is chosen lies the same factor away from both ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from device import config

TICKS = 60
TEST_HZ = 4  # of the tests of width and duty: a quarter of a minute each
LAST_ROUNDS = 3  # how often what was chosen has to return

WIDTH_US = (4_000, 100_000)  # swept, in steps of a millisecond
DUTY_PERCENT = (10, 100)
HZ = (2, 30)
LEAST_GAP_MS = 1

FIRST_TRIES_US = (31_000, 47_000, 23_000, 62_000, 15_000, 90_000)  # 31 ms is what most quartz clocks use

Ask = Callable[[str], bool]
Tell = Callable[[str], None]


class CalibrationError(RuntimeError):
    """What went wrong and what to do."""


class Pulse(NamedTuple):
    """Settings of a tick: its width, its share of the time in which the drive is on, and ticks a second."""

    width_us: int
    duty_percent: int
    hz: int


class Drive(Protocol):
    """What gives pulses to a movement. The real one is `Mpremote`."""

    def tick(self, count: int, polarity: int, pulse: Pulse) -> None:
        """So many pulses, alternating, the first of this polarity; returns when they are over."""


# On the board

PROGRAM = """\
import esp32, machine, time
machine.WDT(timeout=3600000)
if hasattr(esp32.RMT, "bitstream_channel"):
    esp32.RMT.bitstream_channel(None)
pins = [machine.Pin(number, machine.Pin.OUT, value=0) for number in {coil}]
coils = [esp32.RMT(channel, pin=pin, clock_div=80, tx_carrier={chop}) for channel, pin in enumerate(pins)]
begins = time.ticks_us()
for number in range({count}):
    while time.ticks_diff(begins, time.ticks_us()) > 0:
        time.sleep_us(200)
    coils[{polarity} + number & 1].write_pulses({durations}, {levels})
    begins = time.ticks_add(begins, {period_us})
time.sleep_ms({rest_ms})
for coil in coils:
    coil.deinit()
"""


def program(coil: list[int], count: int, polarity: int, pulse: Pulse) -> str:
    """The MicroPython that gives these pulses. It needs nothing of the firmware.

    A watchdog that the clock had started cannot be stopped; it gets an hour, so that it does not end the calibration.
    The pulse is four phases of RMT, as one lasts 32 ms at most; its end is the hardware's.
    """
    return PROGRAM.format(
        coil=coil,
        chop=None if pulse.duty_percent == 100 else (20_000, pulse.duty_percent, True),
        count=count,
        polarity=polarity,
        durations=[(pulse.width_us + part) // 4 for part in range(4)],
        levels=[1] * 4,
        period_us=1_000_000 // pulse.hz,
        rest_ms=pulse.width_us // 1000 + 300,
    )


class Mpremote:
    """A board on USB, by `mpremote exec`. port: as mpremote's `connect` takes it, or None for the first found."""

    def __init__(self, coil: list[int], port: str | None = None) -> None:
        self._coil = coil
        self._connect = ["connect", port] if port else []

    def tick(self, count: int, polarity: int, pulse: Pulse) -> None:
        text = program(self._coil, count, polarity, pulse)
        limit_s = count / pulse.hz + 30
        try:
            done = subprocess.run(
                [sys.executable, "-m", "mpremote", *self._connect, "exec", text],
                capture_output=True, text=True, timeout=limit_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise CalibrationError(f"the board did not finish {count} ticks within {limit_s:.0f} s") from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-500:]
            if "No module named mpremote" in said:
                raise CalibrationError("mpremote is missing: run `make setup`, and take .venv/bin/python")
            raise CalibrationError(f"mpremote ended with {done.returncode}; is the board connected? It said: {said}")


# The measurement


class Margins(NamedTuple):
    """The ends of what worked, both inclusive. A rate has no lower end."""

    width_us: tuple[int, int]
    duty_percent: tuple[int, int]
    most_hz: int


class Calibration:
    """Asks for what cannot be seen from here, and finds the margins.

    start: settings to begin with, of a width that is whole milliseconds.
    """

    def __init__(self, drive: Drive, ask: Ask, tell: Tell, start: Pulse) -> None:
        self._drive = drive
        self._ask = ask
        self._tell = tell
        self._works = start._replace(hz=TEST_HZ)  # settings known to work, once the first test has passed
        self.tests = 0

    def returns(self, pulse: Pulse) -> bool:
        """The return test. Before it, the rotor is brought to a known polarity with settings that work."""
        self.tests += 1
        self._drive.tick(1, 0, self._works)
        self._tell(
            f"test {self.tests}: {pulse.width_us / 1000:g} ms, {pulse.duty_percent} %, {pulse.hz} ticks a second. "
            "Remember where the seconds hand stands."
        )
        if not self._ask("Ready?"):
            raise CalibrationError("stopped; nothing was written")
        self._drive.tick(TICKS, 1, pulse)
        return self._ask("Did the seconds hand go once all the way round, and stop exactly where it had stood?")

    def measure(self) -> tuple[Pulse, Margins]:
        """The settings chosen, and the margins in which they lie. CalibrationError if nothing works."""
        self._tell(
            "Sixty ticks must bring the seconds hand once round to where it stood. Look at it exactly: two steps short "
            "is one missed pulse, and climbing from 9 to 12 is where weak pulses fail."
        )
        self._find_any()
        base = self._works
        duty = self._range(base.duty_percent, DUTY_PERCENT, 1, lambda value: base._replace(duty_percent=value))
        base = base._replace(duty_percent=_middle(duty, 1))
        self._works = base
        width = self._range(base.width_us, WIDTH_US, 1000, lambda value: base._replace(width_us=value))
        base = base._replace(width_us=_middle(width, 1000))
        self._works = base
        fastest = min(HZ[1], 1_000_000 // (base.width_us + 1000 * LEAST_GAP_MS))
        most_hz = self._last(base.hz, fastest, 1, lambda value: base._replace(hz=value))
        chosen = base._replace(hz=max(HZ[0], most_hz * 3 // 4))
        self._tell(f"What is chosen has to return {LAST_ROUNDS} times.")
        for _ in range(LAST_ROUNDS):
            if not self.returns(chosen):
                raise CalibrationError("the settings chosen do not work every time; nothing was written. Begin again")
        return chosen, Margins(width, duty, most_hz)

    def _find_any(self) -> None:
        tries = [self._works, *(Pulse(width_us, 100, TEST_HZ) for width_us in FIRST_TRIES_US)]
        for pulse in tries:
            self._works = pulse
            if self.returns(pulse):
                return
        raise CalibrationError(
            "no setting brought the hand back. Is the coil between the two pins, with its resistor; is the movement's "
            "own circuit cut off; do other clocks of this type tick once a second?"
        )

    def _range(self, works: int, limits: tuple[int, int], step: int, pulse: Callable[[int], Pulse]) -> tuple[int, int]:
        return self._last(works, limits[0], step, pulse), self._last(works, limits[1], step, pulse)

    def _last(self, works: int, limit: int, step: int, pulse: Callable[[int], Pulse]) -> int:
        """From what works towards a limit: the last that works, to a step. The limit itself is tried first."""
        if works == limit or self.returns(pulse(limit)):
            return limit
        fails = limit
        while abs(works - fails) > step:
            half = abs(works - fails) // (2 * step) * step
            middle = works + half if fails > works else works - half
            if self.returns(pulse(middle)):
                works = middle
            else:
                fails = middle
        return works


def _middle(ends: tuple[int, int], step: int) -> int:
    """As many times larger than the lower end as the upper one is larger than it; a multiple of `step`."""
    root: int = round((ends[0] * ends[1]) ** 0.5 / step) * step
    return max(ends[0], min(ends[1], root))


def movement(chosen: Pulse, margins: Margins) -> dict[str, Any]:
    """`movement` of board.json."""
    proven_gap_us = 1_000_000 // margins.most_hz - chosen.width_us
    return {
        "pulse_us": chosen.width_us,
        "duty_percent": chosen.duty_percent,
        "gap_ms": max(LEAST_GAP_MS, -(-proven_gap_us // 1000)),
        "catch_up_hz": chosen.hz,
        "margins": {
            "pulse_us": list(margins.width_us),
            "duty_percent": list(margins.duty_percent),
            "catch_up_hz": margins.most_hz,
        },
    }


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("board", type=Path, help="the board.json whose movement is to be calibrated")
    parser.add_argument("--port", help="the board's serial port, as mpremote takes it (default: the first found)")


def run(arguments: argparse.Namespace, drive: Drive | None = None, ask: Ask | None = None) -> int:
    """0 if calibrated and written, 1 with the reason if not. drive, ask: for the tests."""
    try:
        board = config.load_board(str(arguments.board))
        if board["app"] != "clock":
            raise CalibrationError(f"{arguments.board} describes a {board['app']}, which has no movement")
        now = board["movement"]
        start = Pulse(max(WIDTH_US[0], round(now["pulse_us"], -3)), now["duty_percent"], TEST_HZ)
        calibration = Calibration(drive or Mpremote(board["pins"]["coil"], arguments.port), ask or _ask, print, start)
        chosen, margins = calibration.measure()
    except (CalibrationError, config.ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    board["movement"] = movement(chosen, margins)
    config.check_board(board)
    arguments.board.write_text(json.dumps(board, indent=2) + "\n")
    print(f"written to {arguments.board}: {json.dumps(board['movement'])}")
    print("The clock does not know of these ticks. Copy the file to the board, start it, and set the hands.")
    return 0


def _ask(question: str) -> bool:
    while True:
        answer = input(question + " [y/n] ").strip().lower()
        if answer in ("y", "yes", "n", "no"):
            return answer[0] == "y"
