"""The software clock against crystals that wander and networks that change, over weeks of virtual time."""

import math
import random

import pytest
from clock.timekeeper import DRIFT_PPM, MINUTE_US, WANDER_PPM, Timekeeper

WRAP = 1 << 30
READ_S = 20


def weather(rng, wander_ppm):
    """The crystal's parts in a million over time: an offset, a day's wave, and weather, within wander_ppm."""
    mean = rng.uniform(-(DRIFT_PPM - wander_ppm), DRIFT_PPM - wander_ppm)
    day, front = rng.uniform(0, wander_ppm / 2), rng.uniform(0, wander_ppm / 2)
    phase, period_s = rng.uniform(0, math.tau), rng.uniform(5_000, 500_000)
    return lambda t_s: (
        mean + day * math.sin(math.tau * t_s / 86_400 + phase) + front * math.sin(math.tau * t_s / period_s)
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_uncertainty_covers_the_error_whatever_comes(seed):
    rng = random.Random(seed)
    # The learned rate is a mean of the past, and the present another value: each within half the wander of the middle.
    ppm = weather(rng, WANDER_PPM / 2)
    least_ms, spread_ms = rng.uniform(0.2, 60), rng.uniform(0.1, 300)
    keeper = Timekeeper(0, 0, 0)
    counter_us = true_us = 0.0
    next_s, wait_s, asleep_until_s, worst_us = 5, 16, 0, 0
    for t_s in range(READ_S, 10 * 86_400, READ_S):
        true_us += READ_S * 1e6
        counter_us += READ_S * (1e6 + ppm(t_s))
        keeper.read(int(counter_us) % WRAP)
        if rng.random() < READ_S / 200_000:
            asleep_until_s = t_s + rng.expovariate(1 / 40_000)  # no network
        if t_s >= next_s and t_s >= asleep_until_s:
            next_s, wait_s = t_s + wait_s, min(1024, wait_s * 1.2)
            there_us, back_us = (1000 * (least_ms + rng.uniform(0, spread_ms)) for _ in range(2))
            half_us = round((there_us + back_us) / 2)
            minute, us = divmod(round(true_us) + half_us - round(back_us), MINUTE_US)
            keeper.hear(minute, us, half_us + 1, int(counter_us) % WRAP)
            assert not keeper.doubtful, t_s
        if keeper.known:
            error_us = keeper.minute * MINUTE_US + keeper.us - true_us
            assert abs(error_us) <= keeper.uncertainty_us(), (t_s, error_us)
            worst_us = max(worst_us, abs(error_us))
    assert keeper.known
    print(f"{ppm(0):+.1f} ppm, {least_ms:.0f} to {least_ms + spread_ms:.0f} ms: at worst {worst_us / 1000:.1f} ms off")
