from clock.timekeeper import DRIFT_PPM, Timekeeper

WRAP = 1 << 30


def test_it_goes_with_the_counter_over_minutes_and_its_wrap():
    keeper = Timekeeper(100, 59_000_000, WRAP - 2_000_000)
    keeper.read(WRAP - 1_500_000)
    assert (keeper.minute, keeper.us) == (100, 59_500_000)
    keeper.read(500_000)
    assert (keeper.minute, keeper.us) == (101, 1_500_000)
    keeper.read(500_000)
    assert (keeper.minute, keeper.us) == (101, 1_500_000)
    keeper.read(500_000 + 8 * 60_000_000)
    assert (keeper.minute, keeper.us) == (109, 1_500_000)


def test_a_counter_with_a_longer_period_does_as_well():
    keeper = Timekeeper(0, 0, WRAP - 1)
    keeper.read(WRAP + 9)  # as ticks_us of the 64-bit unix port
    assert keeper.us == 10


def test_an_assumed_time_is_not_known():
    keeper = Timekeeper(5, 0, 0)
    assert not keeper.known
    assert keeper.uncertainty_us() is None
    assert keeper.hear(29_736_000, 1_000_000, 20_000, 5_000_000)
    assert keeper.known
    keeper.read(6_000_000)
    assert (keeper.minute, keeper.us) == (29_736_000, 2_000_000)
    assert 20_000 <= keeper.uncertainty_us() <= 20_000 + DRIFT_PPM * 60


def test_of_several_exchanges_the_best_counts_until_it_is_old():
    keeper = Timekeeper(5, 0, 0)
    assert keeper.hear(1000, 0, 20_000, 0)
    assert keeper.hear(1000, 100, 5_000, 0)
    assert not keeper.hear(1000, 30_000, 20_000, 0)
    assert keeper.us == 100
    minutes = ticks = 0
    while keeper.uncertainty_us() < 20_000:
        ticks = (ticks + 60_000_000) % WRAP
        keeper.read(ticks)
        minutes += 1
    assert 7 <= minutes <= 9  # 15 ms at 30 in a million are 8.3 minutes
    assert keeper.hear(keeper.minute, keeper.us + 3000, 20_000, ticks)


def test_uncertainty_grows_with_the_drift_and_covers_it():
    keeper = Timekeeper(0, 0, 0)
    keeper.hear(1000, 0, 1000, 0)
    ticks = 0
    for minute in range(1, 500):
        ticks = (ticks + 60_000_000) % WRAP
        keeper.read(ticks)
        assert keeper.uncertainty_us() >= 1000 + minute * 60 * DRIFT_PPM
