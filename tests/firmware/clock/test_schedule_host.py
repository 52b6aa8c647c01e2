"""The scheduler from every state, by random ones and by all there are of the switches between modes."""

from bisect import bisect_right

import pytest
from clock import dial, modes
from clock.schedule import CATCH_UP, HOLD, TICK, WAIT, Schedule
from hypothesis import given, settings
from hypothesis import strategies as st

MINUTE_MS = 60_000
FIRST = 29_736_000  # 2026-07-16 00:00 UTC
PULSE_MS = 31
NAMES = modes.names()
MODULES = [modes.load(name) for name in NAMES]

moments = st.builds(
    dict,
    module=st.sampled_from(MODULES),
    seed=st.integers(0, (1 << 30) - 1),
    minute=st.integers(0, (1 << 30) - 1),
    ms=st.integers(0, MINUTE_MS - 1),
    offset_s=st.integers(-90_000, 90_000),
    hz=st.integers(2, 16),
    rest_ms=st.integers(0, 500),
)


def times_of(at):
    return list(Schedule(at["seed"], at["hz"]).plan(at["module"], at["minute"]))


def decide(at, position):
    plans = Schedule(at["seed"], at["hz"])
    return plans.decide(position, at["module"], at["minute"], at["ms"], at["offset_s"], at["rest_ms"])


@settings(max_examples=1000, deadline=None)
@given(at=moments, position=st.integers(0, dial.STEPS - 1))
def test_the_decision_is_the_definition(at, position):
    """Counted anew, by another way: target, distance both ways round, and the shorter of them by time."""
    times_ms = times_of(at)
    due = bisect_right(times_ms, at["ms"])
    target = (at["minute"] * 60 + at["offset_s"] + due) % dial.STEPS
    behind, ahead = (target - position) % dial.STEPS, (position - target) % dial.STEPS
    action, wait_ms = decide(at, position)
    if behind and behind <= ahead * (at["hz"] - 1):  # behind / (hz - 1) s, or ahead s
        assert (action, wait_ms) == (CATCH_UP, at["rest_ms"])
    elif due + ahead < 60:
        assert (action, wait_ms) == (TICK, max(at["rest_ms"], times_ms[due + ahead] - at["ms"]))
        assert wait_ms > 0
    else:
        assert (action, wait_ms) == (WAIT, MINUTE_MS - at["ms"])


@settings(max_examples=200, deadline=None)
@given(at=moments, ahead=st.integers(0, 59))
def test_hands_on_target_tick_as_planned(at, ahead):
    times_ms = times_of(at)
    due = bisect_right(times_ms, at["ms"])
    at["rest_ms"] = 0
    right = (at["minute"] * 60 + at["offset_s"] + due) % dial.STEPS
    assert decide(at, right) == (TICK, times_ms[due] - at["ms"])
    plans = Schedule(at["seed"], at["hz"])
    plans.plan(at["module"], at["minute"])
    assert plans.following_ms(at["ms"]) == times_ms[due]
    assert decide(at, None) == (HOLD, MINUTE_MS - at["ms"])


class Hands:
    """Follows the decisions, as a loop that needs no time does, with a movement that rests as long as it must."""

    def __init__(self, position, hz, seed):
        self.position = position
        self.now = 0  # ms since FIRST
        self.rest_until = 0
        self.plans = Schedule(seed, hz)
        self.spacing_ms = -(-1000 // hz)

    def until(self, end_ms, module):
        """Up to a moment, with one mode. A tick is made where it is due, though the moment comes while it is armed."""
        while self.now < end_ms:
            minute, ms = FIRST + self.now // MINUTE_MS, self.now % MINUTE_MS
            rest_ms = max(0, self.rest_until - self.now)
            action, wait_ms = self.plans.decide(self.position, module, minute, ms, 0, rest_ms)
            if action in (TICK, CATCH_UP) and self.now + wait_ms <= end_ms:
                self.position = (self.position + 1) % dial.STEPS
                self.rest_until = self.now + wait_ms + self.spacing_ms
                self.now += wait_ms + PULSE_MS + 1
            else:
                self.now = min(end_ms, self.now + wait_ms)


def possible(position, rest_ms, at_ms, spacing_ms):
    """Whether arithmetic allows hands at `position` of a minute (0 .. 60) to be right at its end: the first tick after
    the rest, the others each a spacing later, the last at the end or before.
    """
    left = 60 - position
    return left == 0 or at_ms + rest_ms + (left - 1) * spacing_ms <= MINUTE_MS


def switched(first, second, at_ms, hz=8, seed=1):
    """(right at the minute's end, whether that was possible, right at the next one's end)."""
    hands = Hands(0, hz, seed)
    hands.until(at_ms, first)
    rest_ms = max(0, hands.rest_until - at_ms)
    could = possible(hands.position, rest_ms, max(at_ms, hands.now), hands.spacing_ms)
    hands.until(MINUTE_MS, second)
    at_end = hands.position == 60
    hands.until(2 * MINUTE_MS, second)
    return at_end, could, hands.position == 120


@pytest.mark.parametrize("first", NAMES)
def test_each_pair_of_modes_switched_at_each_second(first, capsys):
    """Exact at the next minute unless the arithmetic forbids it, and then at the one after."""
    forbidden = []
    before = MODULES[NAMES.index(first)]
    for second, after in zip(NAMES, MODULES):
        if second == first:
            continue
        for second_of_minute in range(60):
            for ms in (0, 437):
                at_ms = second_of_minute * 1000 + ms
                exact, could, later = switched(before, after, at_ms, seed=second_of_minute)
                assert exact == could, (first, second, at_ms)
                assert later, (first, second, at_ms)
                if not could:
                    forbidden.append((second, at_ms))
    if forbidden:
        with capsys.disabled():
            print(f"\nfrom {first}, too late for the minute: " + ", ".join(f"{n} at {t} ms" for n, t in forbidden))


class Late:
    """A plan of no mode: nothing for 49 seconds, then all sixty ticks, as fast as can be."""

    @staticmethod
    def plan(out, dice):
        for tick in range(60):
            out[tick] = MINUTE_MS - 180 * (59 - tick)


def test_what_the_arithmetic_forbids():
    """From hands that are up to sixty steps behind; near the end of the minute that is too much, and only there."""
    for hz in (6, 8, 16):
        for after in MODULES:
            for at_ms in range(400, MINUTE_MS, 1000):
                exact, could, _ = switched(Late, after, at_ms, hz=hz)
                assert exact == could, (hz, after, at_ms)
                left = sum(MINUTE_MS - 180 * tick > at_ms for tick in range(60))  # ticks not made yet
                if left * 1000 // hz < MINUTE_MS - at_ms - 1000:
                    assert could, (hz, after, at_ms)
                elif left > 1 and (left - 1) * 1000 // hz > MINUTE_MS - at_ms:
                    assert not could, (hz, after, at_ms)
    assert possible(59, 0, 59_999, 125) and possible(60, 500, 59_999, 125)
    assert possible(58, 0, 59_875, 125) and not possible(58, 1, 59_875, 125)


@pytest.mark.parametrize("hz", [2, 3, 8, 10, 16])
def test_from_anywhere_within_the_theory_of_the_shortest_way(hz):
    """From hands anywhere, each mode: right in min(behind / (hz - 1), ahead) seconds, and what the plan is uneven."""
    from clock_simulation import swing, theory_s

    for number, (name, module) in enumerate(modes.able(None, -(-1000 // hz))):
        for start in range(number * 977, dial.STEPS, 6007):
            behind = dial.steps(start, 0)
            hands = Hands(start, hz, 1)
            last_minute = FIRST + 43_200 // 60 + 1
            uneven = swing(Schedule(1, hz), module, FIRST, last_minute)
            # The spacing is whole ms here, rounded up: a little slower than hz.
            limit_s = theory_s(behind, hz, uneven) * 1.01
            end_minute = int(limit_s // 60) + 1
            hands.until(end_minute * MINUTE_MS, module)
            assert hands.position == end_minute * 60 % dial.STEPS, (hz, name, start)
