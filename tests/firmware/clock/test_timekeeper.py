from clock.timekeeper import AGREEING, DRIFT_PPM, MINUTE_US, STEP_US, WANDER_PPM, Timekeeper

WRAP = 1 << 30
MINUTE = 29_736_000


class World:
    """True time, a counter whose rate is off, and a keeper that is read every second of the counter."""

    def __init__(self, ppb=0, seed=1, known=True):
        self.ppb = ppb  # how fast the counter runs, in parts in 10^9
        self.true_us = 0  # since MINUTE
        self.wrong_us = 0  # of the server
        self._odd = 0
        self._ticks = 1_073_000_000  # soon to wrap
        self._random = seed
        self.keeper = Timekeeper(100, 0, self._ticks)
        self.worst_us = 0
        if known:
            self.hear(0)

    def below(self, n):
        self._random = (self._random * 1103515245 + 12345) & 0x7FFFFFFF
        return (self._random >> 8) % n

    def ticks(self, ahead_us=0):
        return (self._ticks + ahead_us) % WRAP

    def true(self, us=0):
        minutes, rest = divmod(self.true_us + self.wrong_us + us, MINUTE_US)
        return MINUTE + minutes, rest

    def error_us(self):
        """The keeper's time less the true one."""
        return (self.keeper.minute - MINUTE) * MINUTE_US + self.keeper.us - self.true_us

    def run(self, seconds, checked=True):
        for _ in range(seconds):
            passed, self._odd = divmod(self._odd + 1_000_000 * self.ppb, 1_000_000_000)
            self._ticks = self.ticks(1_000_000 + passed)
            self.true_us += 1_000_000
            self.keeper.read(self._ticks)
        if checked:
            self.check()

    def check(self):
        error_us = abs(self.error_us())
        assert error_us <= self.keeper.uncertainty_us(), (error_us, self.keeper.uncertainty_us())
        self.worst_us = max(error_us, self.worst_us)

    def hear(self, error_us, wrong_us=0):
        return self.keeper.hear(*self.true(wrong_us), error_us, self._ticks)

    def exchange(self, least_ms=20, most_ms=80):
        """One with random delays each way, as `sntp.answer` would tell it. Returns (stepped, delay_us)."""
        there_us = least_ms * 1000 + self.below((most_ms - least_ms) * 1000 + 1)
        back_us = least_ms * 1000 + self.below((most_ms - least_ms) * 1000 + 1)
        half_us = (there_us + back_us) >> 1
        return self.hear(half_us, half_us - back_us), there_us + back_us


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


def test_an_assumed_time_is_not_known_and_the_first_exchange_steps():
    keeper = Timekeeper(5, 0, 0)
    assert not keeper.known and keeper.uncertainty_us() is None
    assert keeper.hear(MINUTE, 1_000_000, 20_000, 5_000_000)
    assert keeper.known and not keeper.doubtful
    assert (keeper.minute, keeper.us) == (MINUTE, 1_000_000)
    keeper.read(6_000_000)
    assert (keeper.minute, keeper.us) == (MINUTE, 2_000_000)
    assert 20_000 <= keeper.uncertainty_us() <= 20_100
    near = Timekeeper(MINUTE, 900_000, 0)  # not slewed, even if what was assumed was nearly right
    assert near.hear(MINUTE, 1_000_000, 20_000, 0)
    assert near.us == 1_000_000


def test_an_exchange_may_have_ended_before_or_after_the_last_reading():
    for heard_at in (WRAP - 3_000_000, 2_000_000):
        keeper = Timekeeper(5, 0, WRAP - 4_000_000)
        keeper.read(WRAP - 1_000_000)
        keeper.hear(MINUTE, 10_000_000, 0, heard_at)
        keeper.read(4_000_000)
        assert (keeper.minute, keeper.us) == (MINUTE, 10_000_000 + (4_000_000 - heard_at) % WRAP)


def test_quick_ways_there_and_back_count_even_if_no_exchange_had_both():
    world = World()
    keeper = world.keeper
    world.hear(40_000, 30_000)  # 10 ms there, 70 ms back
    world.hear(40_000, -30_000)
    assert keeper.uncertainty_us() <= 50_000 + 100
    world.run(200)
    assert abs(world.error_us()) <= 10
    assert keeper.uncertainty_us() <= 10_000 + 201 * DRIFT_PPM + 10


def test_the_best_of_sixteen():
    # Each way 50 +- 30 ms: the error is half the difference of the two quickest ways.
    worst_us = 0
    for seed in range(1, 201):
        world = World(seed=seed, known=False)
        for _ in range(16):
            world.exchange()
            world.check()
        target_us = world.error_us() + world.keeper._slew_us
        worst_us = max(worst_us, abs(target_us))
        assert world.keeper.uncertainty_us() <= 60_000 + 1000 + abs(world.keeper._slew_us)
    assert 3_000 < worst_us < 16_000, worst_us


def test_a_small_correction_is_slewed_and_time_never_goes_back():
    for ahead_us in (300_000, -300_000):
        world = World()
        keeper = world.keeper
        for n in range(AGREEING):
            assert keeper.doubtful == (n > 0)
            assert not world.hear(5_000, ahead_us)
        assert not keeper.doubtful
        ticks = world.ticks()
        before = (keeper.minute, keeper.us)
        shown_us = world.error_us()
        waited_us = 0
        while keeper._slew_us:
            step_us = 1 + world.below(40_000)
            ticks = (ticks + step_us) % WRAP
            waited_us += step_us
            keeper.read(ticks)
            assert (keeper.minute, keeper.us) >= before
            assert 0 <= keeper.us < MINUTE_US
            before = (keeper.minute, keeper.us)
            moved_us = (keeper.minute - MINUTE) * MINUTE_US + keeper.us - waited_us - shown_us
            assert abs(moved_us) * 2000 <= waited_us + 4000
            assert waited_us < 700_000_000
        assert waited_us >= 598_000_000  # 300 ms at 500 in a million
        assert abs(moved_us - ahead_us) <= 10


def test_a_large_correction_steps_after_three_exchanges_that_agree():
    for ahead_us in (-864_000_000_000, -10_000_000, -STEP_US - 20_000, STEP_US + 20_000, 10_000_000, 10_000_000_000):
        world = World()
        world.run(100)
        assert not world.hear(10_000, ahead_us)
        world.run(16)
        assert not world.hear(10_000, ahead_us + 15_000)
        assert world.keeper.doubtful
        world.run(16)
        assert world.hear(10_000, ahead_us + 5_000)
        assert not world.keeper.doubtful
        assert abs(world.error_us() - ahead_us - 7_500) <= 2_500 + 100, world.error_us()


def test_exchanges_that_do_not_agree_or_do_not_follow_each_other_overrule_nothing():
    world = World()
    for ahead_us in (10_000_000, 11_000_000, 10_000_000, 11_000_000, 0, 10_000_000, 10_000_000, 0, 10_000_000) * 5:
        assert not world.hear(10_000, ahead_us)
        world.run(16)
    assert world.error_us() == 0


def test_the_rate_is_learned_and_held_over_a_day_without_exchanges():
    for ppb in (-20_000, 20_000, 0, 28_000):
        world = World(ppb, seed=7, known=False)
        waits = [16] * 4 + [32] * 4 + [64] * 4 + [128] * 4 + [256] * 4 + [512] * 4 + [1024] * 18
        for wait_s in waits:
            world.exchange()
            world.run(wait_s)
        error_ppb = world.keeper.rate_ppb + ppb
        assert abs(error_ppb) <= 1_500, error_ppb
        assert WANDER_PPM * 1000 <= world.keeper.rate_error_ppb <= 6_000
        before_us = world.keeper.uncertainty_us()
        assert before_us <= 60_000
        for _ in range(24):
            world.run(3600)
        assert abs(world.error_us()) <= 150_000, world.error_us()
        assert before_us < world.keeper.uncertainty_us() <= 600_000


def test_a_step_of_the_server_does_not_unlearn_the_rate():
    world = World(20_000)
    for _ in range(60):
        world.hear(10_000)
        world.run(512)
    assert abs(world.keeper.rate_ppb + 20_000) <= 500
    world.wrong_us = -10_000_000
    for _ in range(10):
        world.hear(10_000)
        world.run(512, checked=False)
    assert abs(world.error_us() + 10_000_000) <= 10_000
    assert abs(world.keeper.rate_ppb + 20_000) <= 1_000, world.keeper.rate_ppb


def test_a_crystal_far_outside_its_specification_is_followed_too():
    world = World(60_000, known=False)
    for _ in range(170):
        world.exchange()
        world.run(512, checked=False)
    assert abs(world.keeper.rate_ppb + 60_000) <= 10_000, world.keeper.rate_ppb
    assert abs(world.error_us()) <= 100_000, world.error_us()


def test_long_silences_between_readings():
    world = World(20_000)
    keeper = Timekeeper(0, 0, 0)
    keeper.hear(*world.true(), 1000, 0)
    keeper.rate_ppb = -20_000
    ticks = 0
    for n in range(1, 11):
        ticks = (ticks + 1_000_020_000) % WRAP
        keeper.read(ticks)
        shown_us = (keeper.minute - MINUTE) * MINUTE_US + keeper.us
        assert -2 <= shown_us - n * 1_000_000_000 + n * 4 // 10 <= 2, shown_us
