"""When a note was recorded: the cases of the protocol, and a day of a pendant with a bad clock."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from offbeat.recording_time import Reading, Stamp, recording_time

CASES = json.loads((Path(__file__).parent.parent / "vectors" / "times.json").read_text())["cases"]
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
START_MS = 1_767_225_600_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["what"])
def test_vectors(case: dict[str, Any]) -> None:
    mark, ms, asleep_ms = case["counter"].split()
    found = recording_time(Stamp.of(case["metadata"]), mark, Reading(int(ms), int(asleep_ms)), case["arrived_ms"])
    assert (found.ms, found.from_ms, found.to_ms) == (case["recorded_ms"], case["from_ms"], case["to_ms"])


@pytest.mark.parametrize(
    "metadata",
    [{}, {"counter": 5, "start_ms": 1, "asleep_ms": 0}, {"counter": "89abcdef", "start_ms": True, "asleep_ms": 0},
     {"counter": "89abcdef", "start_ms": 5}, {"counter": "89abcdef", "start_ms": 2**53, "asleep_ms": 0}],
)  # fmt: skip
def test_a_note_that_does_not_tell(metadata: dict[str, Any]) -> None:
    found = recording_time(Stamp.of(metadata), "89abcdef", Reading(10, 0), START_MS)
    assert (found.ms, found.from_ms, found.to_ms) == (None, None, START_MS)


@pytest.mark.parametrize(
    "anchor", [None, [], [1, 2], [1, 2, "3"], [1, 2, -3], "x", [START_MS + 9000, 0, 0], [1, 100, 0]]
)
def test_an_anchor_that_is_none(anchor: Any) -> None:
    metadata = {"counter": "89abcdef", "start_ms": 50, "asleep_ms": 0, "anchor": anchor, "after_ms": START_MS + 10}
    found = recording_time(Stamp.of(metadata), "89abcdef", Reading(1050, 0), START_MS)
    assert (found.ms, found.from_ms, found.to_ms) == (START_MS - 1000, START_MS - 3000, START_MS)


class Pendant:
    """A device whose RTC is fast in deep sleep, by a rate that wanders; `at_ms` is the truth."""

    def __init__(self, seed: int, fast: float = 0.03) -> None:
        self.random = random.Random(seed)
        self.fast = fast
        self.at_ms = START_MS
        self.mark, self.ms, self.asleep_ms = "89abcdef", 0.0, 0.0

    def awake(self, ms: float) -> None:
        self.at_ms += round(ms)
        self.ms += ms * (1 + 10e-6)

    def sleep(self, ms: float) -> None:
        self.rate = 1 + self.fast + self.random.uniform(-0.005, 0.005)  # another place, another temperature
        for _ in range(round(ms / MINUTE_MS)):  # and it wanders from minute to minute, within half a percent
            self.rate += self.random.gauss(0, 0.0002)
            self.rate = min(max(self.rate, 1 + self.fast - 0.005), 1 + self.fast + 0.005)
            self.at_ms += MINUTE_MS
            self.ms += MINUTE_MS * self.rate
            self.asleep_ms += MINUTE_MS * self.rate

    def lose_power(self) -> None:
        self.at_ms += round(self.random.uniform(1, HOUR_MS))
        self.mark, self.ms, self.asleep_ms = "00000000", 0.0, 0.0

    def reading(self) -> Reading:
        return Reading(round(self.ms), round(self.asleep_ms))


def a_day(seed: int, power_lost: bool, anchored: bool = True) -> tuple[int, Any]:
    """(the true time of a note, what the server makes of it): a day without network, and three deep sleeps."""
    pendant = Pendant(seed, fast=0.03 if seed % 2 else -0.03)
    pendant.awake(MINUTE_MS)
    anchor = [pendant.at_ms, *vars(pendant.reading()).values()]
    told_ms = pendant.at_ms
    if not anchored:
        pendant.lose_power()
        anchor = []
    cuts = sorted(pendant.random.uniform(0.1, 23) for _ in range(2))
    sleeps = [cuts[0], cuts[1] - cuts[0], 23 - cuts[1]]
    note_in = pendant.random.randrange(3)
    for number, hours in enumerate(sleeps):
        pendant.sleep(hours * HOUR_MS)
        pendant.awake(20 * MINUTE_MS)
        if number == note_in:
            start, truth_ms = pendant.reading(), pendant.at_ms
            metadata = {"counter": pendant.mark, "start_ms": start.ms, "asleep_ms": start.asleep_ms}
            metadata |= {"anchor": anchor, "after_ms": told_ms}
    if power_lost:
        pendant.lose_power()
        pendant.mark = "11111111"
        pendant.awake(5000)
    now, mark = pendant.reading(), pendant.mark
    arrived_ms = pendant.at_ms + round(pendant.random.uniform(20, 1500))
    return truth_ms, recording_time(Stamp.of(metadata), mark, now, arrived_ms)


def test_a_day_without_network_and_three_deep_sleeps() -> None:
    worst_error_ms = worst_uncertainty_ms = 0
    for seed in range(100):
        truth_ms, found = a_day(seed, power_lost=False)
        assert found.from_ms <= truth_ms <= found.to_ms, seed
        worst_error_ms = max(worst_error_ms, abs(found.ms - truth_ms))
        worst_uncertainty_ms = max(worst_uncertainty_ms, found.to_ms - found.ms, found.ms - found.from_ms)
    print(
        f"off by {worst_error_ms / 1000:.0f} s, uncertain by {worst_uncertainty_ms / 1000:.0f} s, at the worst of 100"
    )
    assert worst_error_ms <= 10 * MINUTE_MS
    assert worst_uncertainty_ms <= 15 * MINUTE_MS


@pytest.mark.parametrize("anchored", [True, False])
def test_after_a_loss_of_power_the_interval_covers_the_truth(anchored: bool) -> None:
    for seed in range(100):
        truth_ms, found = a_day(seed, power_lost=True, anchored=anchored)
        assert found.from_ms <= truth_ms <= found.to_ms, seed
        assert (found.ms is None) == (not anchored)
        if anchored:
            assert found.to_ms - found.from_ms <= 2 * 0.051 * 24 * HOUR_MS
