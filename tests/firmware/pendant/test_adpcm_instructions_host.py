"""How many machine instructions the encoder takes, on the unix port."""

from __future__ import annotations

import bench
from programs import needed


def test_the_encoder_takes_fewer_than_100_instructions_a_sample() -> None:
    counts = needed(bench.instructions_a_sample)
    print(counts)
    assert 20 < counts["encode"] < 100  # so few as 20 would mean that it did not run
    assert 20 < counts["condition"] < 100
