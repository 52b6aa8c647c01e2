"""main.py's end of a trial by its time. On CPython alone: `machine` is put in."""

import sys
import types
from typing import Any

import main
import pytest


class Timer:
    """Stands for machine.Timer. Class attributes: the only timer's callback, and how long it was armed in all."""

    ONE_SHOT = 0
    callback: Any = None
    passed_ms = 0

    def __init__(self, number: int, **options: Any) -> None:
        self.init(**options)

    def init(self, *, mode: int, period: int, callback: Any) -> None:
        assert mode == self.ONE_SHOT
        Timer.callback = lambda: callback(self)
        Timer.passed_ms += period


class Reset(Exception):
    pass


@pytest.mark.parametrize(
    ("busy", "more_s"),
    [(lambda times: times < 9, 40), (lambda times: True, 660), (lambda times: False, 0), (lambda times: 1 / 0, 0)],
)
def test_a_trial_does_not_end_in_the_middle_of_a_recording(
    monkeypatch: pytest.MonkeyPatch, busy: Any, more_s: int
) -> None:
    """But eleven minutes later at last, and at once where the application says nothing that can be understood."""
    asked: list[int] = []

    def says() -> Any:
        asked.append(1)
        return busy(len(asked))

    def reset() -> None:
        raise Reset

    names = {"WDT_RESET": 3, "reset_cause": lambda: 1, "WDT": lambda timeout: None, "Timer": Timer, "reset": reset}
    monkeypatch.setitem(sys.modules, "machine", types.SimpleNamespace(**names))
    monkeypatch.setattr(main, "choose", lambda root, by_watchdog: ("", True))
    monkeypatch.setattr(main, "give_up", lambda root: True)
    monkeypatch.setattr(main, "start", lambda: None)
    monkeypatch.setattr(main, "_app", types.SimpleNamespace(busy=says))
    monkeypatch.setattr(Timer, "passed_ms", 0)
    main.run()
    with pytest.raises(Reset):
        while True:
            Timer.callback()
    assert Timer.passed_ms == 1000 * (600 + more_s)


def test_an_application_without_a_say_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for app in (None, types.SimpleNamespace()):
        monkeypatch.setattr(main, "_app", app)
        assert not main.busy()
