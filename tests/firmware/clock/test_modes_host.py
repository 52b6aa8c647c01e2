"""The modes against the boards, and with patterns and texts of all kinds. As a program: writes the vectors of plans."""

from __future__ import annotations

import json
import sys
from array import array
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "firmware"))

from clock import modes  # noqa: E402
from clock.dice import Dice  # noqa: E402
from clock.movement import Movement  # noqa: E402
from clock.schedule import Schedule  # noqa: E402
from device import config  # noqa: E402
from hypothesis import example, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

VECTORS = ROOT / "tests" / "vectors" / "plans.json"
BOARDS = {path.parent.name: json.loads(path.read_text()) for path in (ROOT / "boards").glob("*/board.json")}
CLOCKS = {name: board["movement"] for name, board in BOARDS.items() if board["app"] == "clock"}
OTHERWISE = {"morse": ["Make haste slowly, 1.5 times a day"], "pattern": [[1], [5, 3, 3, 2, 7]]}


def plan(mode, seed, minute):
    out, dice = array("H", bytes(120)), Dice()
    dice.seed(seed, minute)
    mode.plan(out, dice)
    return list(out)


def vectors():
    for name in modes.files():
        for settings in [{}] + [{name: value} for value in OTHERWISE.get(name, [])]:
            mode = modes.load(name, settings)
            for seed, minute in ((1, 0), (42, 29_736_061), (0x3FFFFFFF, 0x3FFFFFFF)):
                yield {
                    "mode": name, "settings": settings, "seed": seed, "minute": minute, "plan": plan(mode, seed, minute)
                }  # fmt: skip


def test_the_vectors_are_of_these_modes():
    """The plans themselves are compared on every interpreter, in test_modes.py."""
    kept = [
        {key: vector[key] for key in ("mode", "settings", "seed", "minute")}
        for vector in json.loads(VECTORS.read_text())
    ]
    wanted = [{key: vector[key] for key in ("mode", "settings", "seed", "minute")} for vector in vectors()]
    assert kept == wanted, f"run: python {Path(__file__).relative_to(ROOT)}"


@pytest.mark.parametrize("board", CLOCKS)
def test_every_mode_can_run_on_every_board(board):
    hz = Movement((None, None), CLOCKS[board], lambda: 0).catch_up_hz
    assert modes.names({}, -(-1000 // hz)) == modes.files()
    assert 1000 // hz >= 125


def test_the_scheduler_plans_as_the_mode_does():
    plans = Schedule(7, 8)
    for name in modes.names():
        mode = modes.load(name)
        for minute in (29_736_000, 29_736_001):
            assert list(plans.plan(mode, minute)) == plan(mode, 7, minute)


@given(weights=st.lists(st.integers(1, 10_000), min_size=1, max_size=60), least_ms=st.integers(34, 500))
@example(weights=[1, 10_000], least_ms=34)
@example(weights=[10_000] * 60, least_ms=500)
def test_any_pattern_is_followed_or_refused(weights, least_ms):
    settings = config.check_some({"pattern": weights})
    sixty = [weights[tick % len(weights)] for tick in range(60)]
    try:
        mode = modes.load("pattern", settings, least_ms)
    except ValueError as error:
        # Rounded down to a millisecond, the shortest may be one short of its share.
        assert str(error).startswith("pattern: ") and min(sixty) * 60_000 / sum(sixty) < least_ms + 1
        return
    times_ms = plan(mode, 1, 1)
    assert times_ms == [sum(sixty[: tick + 1]) * 60_000 // sum(sixty) for tick in range(60)]
    assert min(b - a for a, b in zip([0, *times_ms], times_ms)) >= least_ms


@given(text=st.text(alphabet="aet05 .q@", min_size=1, max_size=40), minute=st.integers(0, 0x3FFFFFFF))
@example(text="t t t t", minute=0)
@example(text="e e", minute=1)
def test_any_text_is_spelt_or_refused(text, minute):
    settings = config.check_some({"morse": text})
    try:
        mode = modes.load("morse", settings)
    except ValueError as error:
        assert "no letter" in str(error) and not text.strip()
        return
    times_ms = plan(mode, 1, minute)
    assert times_ms[-1] == 60_000
    assert min(b - a for a, b in zip([0, *times_ms], times_ms)) >= mode.LEAST_MS >= 133


def test_a_new_mode_is_a_new_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "polka.py").write_text(
        '"""One, two."""\n\nORDER = 85\nLEAST_MS = 1000\n\n\ndef plan(out, dice):\n'
        "    for tick in range(60):\n        out[tick] = 1000 * tick + 1000\n"
    )
    folder = Path(modes.__file__).parent
    monkeypatch.setattr(modes, "__path__", [str(folder), str(tmp_path)])
    real = modes.os.listdir
    monkeypatch.setattr(modes, "os", type("Os", (), {"listdir": lambda path: real(folder) + real(tmp_path)}))
    assert modes.names()[-3:] == ["pattern", "polka", "surprise"]
    assert len(modes.load("surprise").others) == len(modes.files()) - 1
    monkeypatch.undo()
    assert "polka" not in modes.names()
    del sys.modules["clock.modes.polka"], modes.polka


if __name__ == "__main__":
    VECTORS.write_text("[\n" + ",\n".join(json.dumps(vector) for vector in vectors()) + "\n]\n")
    print(f"wrote {VECTORS.relative_to(ROOT)}")
