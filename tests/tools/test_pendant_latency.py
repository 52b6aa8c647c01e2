"""From the press to the first sample kept, and what is lost against what the note says is."""

from __future__ import annotations

import numpy as np
import pendant_latency
import pytest
from pendant_latency import LIMITS_MS, MOST_OFF_MS, Press, measure, off_ms, percentile_ms, table


@pytest.mark.parametrize("presses", [8, pytest.param(200, marks=pytest.mark.soak)])
def test_press_to_first_sample(presses: int) -> None:
    found = measure(presses, 7)
    print("\n".join(table(found)))
    for state, limit_ms in LIMITS_MS.items():
        assert sum(press.state == state for press in found) == presses
        assert percentile_ms(found, state) <= limit_ms, state
        assert off_ms(found, state) <= MOST_OFF_MS[state], state
    assert percentile_ms(found, "deep sleep") > 600 and percentile_ms(found, "light sleep") > 256, "costs not charged"
    assert any(press.lost_ms for press in found if press.state == "storing"), "none met the flash at work"


def test_the_percentile() -> None:
    presses = [Press("idle", float(ms), 5.0, ms / 10) for ms in range(200)]
    assert percentile_ms(presses, "idle") == 197 and percentile_ms(presses[:50], "idle") == 49
    assert off_ms(presses, "idle") == pytest.approx(14.9)


def test_gaps_are_found() -> None:
    chance = np.random.default_rng(1)
    spoken = chance.integers(-9000, 9000, 40_000).astype(float)
    heard = np.concatenate([spoken[5000:9050], spoken[9500:16_000]])
    found = pendant_latency._places(heard, spoken)
    assert found[0] == (0, 5000) and found[-1] == (104, 15_850)
    assert [number for number in range(105) if number not in dict(found)] == [40]
    by_chance = np.concatenate([spoken[9000:9100], np.zeros(300), heard])
    assert pendant_latency._places(by_chance, spoken) == [(number + 4, place) for number, place in found]
