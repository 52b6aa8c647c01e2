"""How many machine instructions the encoder takes, on the unix port."""

from __future__ import annotations

import os

import bench
import debian
import pytest


def test_the_encoder_takes_fewer_than_100_instructions_a_sample() -> None:
    try:
        counts = bench.instructions_a_sample()
    except debian.Unavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    print(counts)
    assert 20 < counts["encode"] < 100  # so few as 20 would mean that it did not run
    assert 20 < counts["condition"] < 100
