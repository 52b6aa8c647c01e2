"""The calibration against a rotor that knows its limits, and its program on the simulated board."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import clock_calibration
import pytest
from clock.movement import Movement
from clock_calibration import Calibration, CalibrationError, Pulse
from device import config

BOARD = Path(__file__).parents[2] / "boards/esp32c3-supermini/board.json"


class Rotor:
    """A movement with its limits, and somebody who looks at its hand. Also the `Drive`."""

    def __init__(
        self,
        width_us: tuple[int, int] = (18_000, 64_000),
        duty_percent: tuple[int, int] = (43, 100),
        most_hz: int = 16,
        polarity: int = 0,
        climbs: bool = True,
    ) -> None:
        self.width_us, self.duty_percent, self.most_hz = width_us, duty_percent, most_hz
        self.polarity = polarity
        self.climbs = climbs
        self.hand = 7
        self.stood = self.moved = 0
        self.ticks = 0

    def tick(self, count: int, polarity: int, pulse: Pulse) -> None:
        self.stood, self.moved = self.hand, 0
        for number in range(count):
            self.ticks += 1
            given = polarity + number & 1
            if given == self.polarity:
                continue
            if pulse.width_us < self.width_us[0] or pulse.hz > self.most_hz:
                continue
            if pulse.duty_percent < self.duty_percent[0] and (self.climbs or self.hand % 60 >= 45):
                continue  # a weak pulse fails everywhere, or only where it has to lift the hand
            too_much = pulse.width_us > self.width_us[1] or pulse.duty_percent > self.duty_percent[1]
            self.polarity = given
            step = -1 if too_much else 1
            self.hand += step
            self.moved += step

    def ask(self, question: str) -> bool:
        return question == "Ready?" or (self.hand % 60 == self.stood % 60 and self.moved == 60)


def quiet(text: str) -> None:
    assert text


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"width_us": (4_000, 31_000), "duty_percent": (90, 100), "most_hz": 8},
        {"width_us": (31_000, 100_000), "duty_percent": (10, 100), "most_hz": 4},
        {"width_us": (29_000, 34_000), "duty_percent": (55, 100), "most_hz": 30},
        {"duty_percent": (60, 100), "climbs": False, "polarity": 1},
        {"width_us": (8_000, 12_000 + 4_000), "duty_percent": (43, 100), "most_hz": 5},  # 31 ms does not work
    ],
)
def test_the_margins_found_are_the_rotors(limits: dict[str, Any]) -> None:
    rotor = Rotor(**limits)
    calibration = Calibration(rotor, rotor.ask, quiet, Pulse(31_000, 100, 4))
    chosen, margins = calibration.measure()
    assert margins.width_us == rotor.width_us
    assert margins.duty_percent == rotor.duty_percent
    assert margins.most_hz == min(rotor.most_hz, 1_000_000 // (chosen.width_us + 1000))
    assert rotor.width_us[0] <= chosen.width_us <= rotor.width_us[1]
    assert rotor.duty_percent[0] <= chosen.duty_percent <= rotor.duty_percent[1]
    assert 2 <= chosen.hz <= max(2, rotor.most_hz * 3 // 4)
    assert calibration.tests < 45
    if rotor.width_us == (18_000, 64_000):
        assert chosen.width_us == 34_000  # 1.88 times 18 ms, and 64 ms is 1.88 times it
    settings = clock_calibration.movement(chosen, margins)
    Movement([], settings, lambda: 0)  # which refuses what cannot be


def test_a_drive_that_is_too_strong_is_found_too() -> None:
    rotor = Rotor(duty_percent=(20, 60))
    chosen, margins = Calibration(rotor, rotor.ask, quiet, Pulse(31_000, 50, 4)).measure()
    assert margins.duty_percent == (20, 60)
    assert chosen.duty_percent == 35


def test_one_missed_pulse_is_two_steps_short_and_fails_the_test() -> None:
    rotor = Rotor(duty_percent=(50, 100), climbs=False)
    calibration = Calibration(rotor, rotor.ask, quiet, Pulse(31_000, 100, 4))
    assert calibration.returns(Pulse(31_000, 100, 4))
    assert not calibration.returns(Pulse(31_000, 49, 4))
    assert calibration.returns(Pulse(31_000, 100, 4))  # whatever polarity the failure left


def test_a_coil_that_does_nothing_ends_with_advice() -> None:
    rotor = Rotor(most_hz=0)
    with pytest.raises(CalibrationError, match="coil between the two pins"):
        Calibration(rotor, rotor.ask, quiet, Pulse(31_000, 100, 4)).measure()


class Arguments(argparse.Namespace):
    def __init__(self, board: Path) -> None:
        parser = argparse.ArgumentParser()
        clock_calibration.add_arguments(parser)
        parser.parse_args([str(board)], self)


def test_what_is_chosen_is_written_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "board.json"
    path.write_text(BOARD.read_text())
    rotor = Rotor()
    assert clock_calibration.run(Arguments(path), rotor, rotor.ask) == 0
    before, after = json.loads(BOARD.read_text()), config.load_board(str(path))
    assert after.pop("movement") == {
        "pulse_us": 34_000,
        "duty_percent": 66,
        "gap_ms": 29,
        "catch_up_hz": 12,
        "margins": {"pulse_us": [18_000, 64_000], "duty_percent": [43, 100], "catch_up_hz": 16},
    }
    before.pop("movement")
    assert after == before
    assert "set the hands" in capsys.readouterr().out


def test_stopped_it_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "board.json"
    path.write_text(BOARD.read_text())
    assert clock_calibration.run(Arguments(path), Rotor(), lambda question: False) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert path.read_text() == BOARD.read_text()


def test_mpremote_of_this_python_is_called_with_the_port_and_its_failure_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = iter([(1, "no device"), (1, "No module named mpremote"), (0, "")])
    called: list[list[str]] = []

    def run(words: list[str], **_options: Any) -> Any:
        called.append(words)
        status, text = next(said)
        return subprocess.CompletedProcess(words, status, "", text)

    monkeypatch.setattr(subprocess, "run", run)
    drive = clock_calibration.Mpremote([3, 10], "/dev/ttyACM0")
    for why in ("no device", "make setup"):
        with pytest.raises(CalibrationError, match=why):
            drive.tick(1, 0, Pulse(31_000, 100, 4))
    drive.tick(1, 0, Pulse(31_000, 100, 4))
    assert called[0][:-1] == [sys.executable, "-m", "mpremote", "connect", "/dev/ttyACM0", "exec"]


@pytest.mark.parametrize("pulse", [Pulse(31_000, 100, 4), Pulse(90_001, 60, 8), Pulse(4_000, 43, 30)])
def test_the_program_on_the_simulated_board(snippet: Any, pulse: Pulse) -> None:
    text = clock_calibration.program([3, 10], 60, 1, pulse)
    board = snippet(text + "\nwhile True:\n    time.sleep(1)\n")
    board.start()
    board.run(1 + 61 / pulse.hz + 1)
    edges = [edge for edge in board.edges if edge.pin in (3, 10)]
    assert len(edges) == 120
    ups, downs = edges[::2], edges[1::2]
    assert [edge.pin for edge in ups] == [10, 3] * 30
    assert all(down.t_us - up.t_us == pulse.width_us for up, down in zip(ups, downs, strict=True))
    period_us = 1_000_000 // pulse.hz
    assert all(abs(after.t_us - before.t_us - period_us) <= 10_500 for before, after in pairwise(ups))
