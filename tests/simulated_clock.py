"""The clock's whole firmware on the simulated board, and a wall that looks at its coil and its hands."""

from __future__ import annotations

import datetime
import json
import shutil
import textwrap
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any

from clock import dial, modes
from clock.dice import Dice
from clock.timezone import Zone
from sim.board import FIRMWARE, PARTITIONS, Board

BOARD: dict[str, Any] = json.loads(
    Path(__file__).parents[1].joinpath("boards/esp32c3-supermini/board.json").read_text()
)
COIL = BOARD["pins"]["coil"]
LIGHT = BOARD["pins"]["light"]
PULSE_US = BOARD["movement"]["pulse_us"]
ATHENS = "EET-2EEST,M3.5.0/3,M10.5.0/4"
MINUTE_US = 60_000_000
NOON = datetime.datetime(2026, 7, 16, 9, 0, tzinfo=datetime.UTC)  # 12:00 in Athens
SEED = 5
STOCK = tuple(row for row in PARTITIONS if row[4] != "ticks")  # a table without the journal's partition


def config(**changes: Any) -> dict[str, Any]:
    """config.json of a clock whose hands show 12:00:00; None leaves a key out."""
    return {
        key: value
        for key, value in {
            "app": "clock",
            "device": "clock1",
            "wifi": [{"ssid": "home", "password": "secret-password"}],
            "ntp": ["ntp.sim"],
            "timezone": ATHENS,
            "mode": "steady",
            "seed": SEED,
            "hands": "12:00:00",
            **changes,
        }.items()
        if value is not None
    }


class Clock:
    """A simulated board with the clock on it, in jump time. `options` are the Board's.

    before: a program that main.py runs first; then the board lives on for five seconds when main.py has ended.
    """

    def __init__(
        self,
        folder: Path,
        start_utc: datetime.datetime = NOON,
        files: dict[str, bytes] | None = None,
        bits: int = 64,
        options: dict[str, Any] | None = None,
        before: str = "",
        **changes: Any,
    ) -> None:
        self.config = config(**changes)
        options = dict(options or {})
        if before:
            options["firmware"] = folder / "firmware"
            shutil.copytree(FIRMWARE, folder / "firmware", ignore=shutil.ignore_patterns("__pycache__"))
            main = folder / "firmware" / "main.py"
            whole = textwrap.indent(main.read_text(), "    ")
            main.write_text(f"{before}\ntry:\n{whole}\nfinally:\n    import time\n    time.sleep(5)\n")
        self.board = Board(
            folder,
            board=BOARD,
            config=self.config,
            files=files,
            start_utc=start_utc,
            bits=bits,
            **options,
        )
        self.board.start()

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *error: object) -> None:
        self.board.close()

    def press(self, seconds: float = 0.2) -> None:
        self.board.press()
        self.board.run(seconds)
        self.board.release()
        self.board.run(0.2)

    def run_to_minute(self, minutes: int, past_s: float = 0) -> None:
        """To so many whole minutes after the start of the simulation, and past_s."""
        self.board.run((minutes * MINUTE_US - self.board.now_us) / 1e6 + past_s)

    def pulses(self) -> list[tuple[int, int, int]]:
        """(pin, begin_us, end_us) of each pulse; checks that never two pins are high and none longer than a pulse.

        A pulse is shorter only if a cut or a reset ended it.
        """
        pulses = []
        up = None
        for edge in self.board.edges:
            if edge.pin not in COIL:
                continue
            if edge.level:
                assert up is None, (up, edge)
                up = edge
            else:
                assert up is not None and up.pin == edge.pin
                assert edge.t_us - up.t_us <= PULSE_US
                pulses.append((edge.pin, up.t_us, edge.t_us))
                up = None
        return pulses

    def ticks_us(self) -> list[int]:
        """When the hands moved: the rotor turns at a whole pulse of the other polarity; the first counts as one."""
        whole = [pulse for pulse in self.pulses() if pulse[2] - pulse[1] == PULSE_US]
        return [whole[0][1]] + [after[1] for before, after in pairwise(whole) if after[0] != before[0]]

    def hands(self, t_us: int, first: str | None = None) -> int:
        """Where the hands stand at a moment of the simulation."""
        first = self.config["hands"] if first is None else first
        return (dial.parse(first) + sum(tick <= t_us for tick in self.ticks_us())) % dial.STEPS

    def right(self, t_us: int) -> int:
        """Where they should be at the minute nearest to that moment."""
        minute = (self.board.utc_us(t_us) + MINUTE_US // 2) // MINUTE_US
        return dial.showing(minute, Zone(self.config["timezone"]).utc_offset_s(minute))

    def check_minutes(self, first: int, last: int, mode: str, shown: str | None = None, off_us: int = 20_000) -> None:
        """Minutes first .. last - 1 after the start have 60 pulses each, of strictly alternating polarity, each within
        off_us of the plan, so the sixtieth within that of the minute; and the hands are right.
        """
        pulses = self.pulses()
        times_ms, dice = array("H", bytes(120)), Dice()
        for number in range(first, last):
            begin_us = number * MINUTE_US
            minute = self.board.utc_us(begin_us) // MINUTE_US
            dice.seed(SEED, minute)
            modes.load(mode).plan(times_ms, dice)
            margin_us = 100_000  # the sixtieth may be a little late
            within = [pulse for pulse in pulses if begin_us < pulse[1] - margin_us <= begin_us + MINUTE_US]
            assert len(within) == 60, (number, len(within))
            assert all(before[0] != after[0] for before, after in pairwise(within)), number
            for pulse, time_ms in zip(within, times_ms, strict=True):
                assert abs(pulse[1] - begin_us - time_ms * 1000) <= off_us, (number, time_ms, pulse)
            end_us = begin_us + MINUTE_US + margin_us
            assert self.hands(end_us, shown) == self.right(end_us), number
