from clock.movement import AHEAD_MS, Movement

SETTINGS = {"pulse_us": 31_000, "duty_percent": 100, "gap_ms": 20, "catch_up_hz": 8}


class Counter:
    def __init__(self):
        self.now = (1 << 30) - 3_000_000  # wraps during the tests

    def __call__(self):
        return self.now % (1 << 30)


class Coil:
    """Stands for esp32.RMT, with its limits. Keeps the pulses as (begins, ends)."""

    def __init__(self, counter):
        self.counter = counter
        self.pulses = []

    def write_pulses(self, durations, levels):
        assert len(durations) == len(levels) <= 96  # 48 words of an ESP32-C3, two phases each
        assert all(1 <= duration <= 32_767 for duration in durations)
        assert all(level in (0, 1) for level in levels)
        ones = sum(levels)
        assert levels == [0] * (len(levels) - ones) + [1] * ones  # one pulse, at the end
        begins = self.counter.now + sum(durations[:-ones])
        self.pulses.append((begins, begins + sum(durations[-ones:])))


def make(**changes):
    settings = dict(SETTINGS)
    settings.update(changes)
    counter = Counter()
    coils = (Coil(counter), Coil(counter))
    return Movement(coils, settings, counter), coils, counter


def test_a_pulse_begins_when_asked_and_lasts_as_set():
    for pulse_us in (5000, 31_000, 32_768, 66_000):
        mover, coils, counter = make(pulse_us=pulse_us)
        for wait_us in (60, 61, 5000, 32_767, 500_001, 1000 * AHEAD_MS):
            counter.now += 200_000
            assert mover.rest_ms(counter()) == 0
            assert mover.arm(1, (counter() + wait_us) % (1 << 30)) == 0
            begins, ends = coils[1].pulses[-1]
            assert begins == counter.now + wait_us
            assert ends - begins == pulse_us
            counter.now = ends
        assert coils[0].pulses == []


def test_a_pulse_that_is_overdue_begins_at_once_and_says_how_late():
    mover, coils, counter = make()
    late_us = mover.arm(0, counter() - 70_000)
    assert late_us == 70_000 + coils[0].pulses[0][0] - counter.now
    assert coils[0].pulses[0][0] - counter.now < 1000


def test_polarity_chooses_the_pin():
    mover, coils, counter = make()
    for polarity in (0, 1, 0, 1):
        mover.arm(polarity, counter() + 100)
        counter.now += 200_000
    assert [len(coil.pulses) for coil in coils] == [2, 2]


def test_never_two_armed_and_never_faster_than_the_rate():
    mover, coils, counter = make()
    mover.arm(0, counter() + 1_000_000)
    for passed_us in (0, 500_000, 1_000_000, 1_030_999):
        counter.now += passed_us
        try:
            mover.arm(1, counter() + 2_000)
        except RuntimeError as error:
            assert "before the last one was over" in str(error)
        else:
            raise AssertionError(passed_us)
        counter.now -= passed_us
    counter.now += 1_031_000
    assert mover.rest_ms(counter()) == 94
    assert mover.arm(1, counter()) == 94_000
    assert coils[1].pulses[0][0] - coils[0].pulses[0][0] == 125_000


def test_rest_is_over_for_good():
    mover, _, counter = make()
    mover.arm(0, counter() + 100)
    counter.now += 60_000
    assert 0 < mover.rest_ms(counter()) <= 66
    for _ in range(8):  # over the wrap of the counter, where the pulse would seem to lie ahead again
        counter.now += 200_000_000
        assert mover.rest_ms(counter()) == 0


def test_it_knows_when_a_pulse_is_to_come_and_when_it_is_over():
    mover, _, counter = make()
    assert not mover.pending(counter()) and mover.over_ms(counter()) == 0
    mover.arm(0, counter() + 1_000_000)
    assert mover.pending(counter()) and mover.over_ms(counter()) == 1034
    counter.now += 1_000_100
    assert not mover.pending(counter()) and mover.over_ms(counter()) == 34
    counter.now += 100_000
    assert not mover.pending(counter()) and mover.over_ms(counter()) == 3
    mover.arm(1, counter())
    assert mover.over_ms(counter()) == 59  # 24.9 ms until it may, and 31, and 3


def test_too_far_ahead_is_refused():
    mover, coils, counter = make()
    try:
        mover.arm(0, counter() + 1000 * AHEAD_MS + 2000)
    except ValueError as error:
        assert "ahead" in str(error)
    else:
        raise AssertionError
    assert coils[0].pulses == []


def test_settings_that_cannot_be_are_refused_by_name():
    for changes, named in (
        ({"catch_up_hz": 1}, "catch_up_hz"),
        ({"catch_up_hz": 20}, "catch_up_hz"),
        ({"pulse_us": 140_000}, "pulse_us"),
        ({"pulse_us": 0}, "pulse_us"),
        ({"gap_ms": 100}, "gap_ms"),
    ):
        try:
            make(**changes)
        except ValueError as error:
            assert named in str(error), error
        else:
            raise AssertionError(changes)
