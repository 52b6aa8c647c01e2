"""Tick arithmetic over the wrap, and the counter that does not."""

from device.ticks import Counter, diff

PERIOD = 1 << 30


def test_diff_over_the_wrap():
    for start in (0, 1, PERIOD - 5, PERIOD // 2):
        for passed in (0, 1, 30, 100000, PERIOD // 2 - 1, -1, -PERIOD // 2):
            assert diff((start + passed) % PERIOD, start) == passed, (start, passed)


def test_counter_goes_on_over_the_wrap():
    ticks = PERIOD - 1000
    counter = Counter("0badc0de", ticks)
    assert counter.mark == "0badc0de" and counter.at_ms(ticks) == 0
    passed = 0
    for step in (1, 999, 1, 5000, 400000000, 400000000, 400000000):
        passed += step
        assert counter.at_ms((ticks + passed) % PERIOD) == passed


def test_counter_of_a_moment_in_the_past():
    counter = Counter("0badc0de", 100)
    assert counter.at_ms(5100) == 5000
    assert counter.at_ms(4100) == 4000
    assert counter.at_ms(5200) == 5100  # looking back did not turn it back
    assert counter.at_ms(0) == 0


def test_counter_taken_up_after_a_sleep():
    counter = Counter("0badc0de", 7, 100000, 60000)
    assert counter.at_ms(1007) == 101000 and counter.asleep_ms == 60000
    counter.dozed(400)
    assert counter.at_ms(1007) == 101000 and counter.asleep_ms == 60400
