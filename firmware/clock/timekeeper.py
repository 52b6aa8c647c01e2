"""The software clock: UTC from a free-running counter, how fast that counter runs, and how far the clock may be off.

What is known is an interval: the true time lies within `half` on either side of the *target*, which is where the clock
goes. The interval widens with age, as fast as the counter's rate may be wrong. An exchange with a time server is an
interval too: the true time lies within half the round trip, and what the server owns to, of what it said. Each exchange
cuts the clock's interval down to what both have in common. So of sixteen exchanges the quickest way there and the
quickest way back both count, even if no single one had both; and the time is in the interval as long as what it is cut
with is true, so that the uncertainty is never a guess.

An exchange that has nothing in common with the clock, or would move it by more than half a second, is set aside: the
clock is doubtful. Three such in a row that have something in common overrule it. The clock then follows, like after any
other correction: slewed at 500 parts in a million up to half a second, beyond that in one step, either way.

The rate is learned by the same arithmetic: between two intervals, hours apart, it lies between the slowest and the
fastest that leads from the one into the other, and all such pairs count. It is kept when the network goes away.

The counter is `time.ticks_us`, handed in as an argument; it wraps, so the clock must be read at least every 17 minutes
(the scheduler does so every second or two). Times are (minute since 1970-01-01 UTC, microseconds into the minute).
Integers only. In `read`, each stays below the 31 bits of a small integer while the clock is read every four seconds,
for a year and more (until the counter has lost or won a quarter of an hour); beyond that it is as right, only slower.
"""

MINUTE_US = 60_000_000
_WRAP = 0x3FFFFFFF  # ticks_us counts modulo 2^30 on a chip; modulo a larger power of two elsewhere, which does no harm
_HALF_WRAP = 0x20000000

# How far the counter's rate may be off while it is not learned: a module's crystal is specified to 10 parts in a
# million at 25 degrees and to about 20 more over the temperatures of a room and the years [est].
DRIFT_PPM = 30
# How far it may wander from its mean over some hours, with the temperature of a room [est].
WANDER_PPM = 2
STEP_US = 500_000  # a correction up to this is slewed; beyond it the time steps
AGREEING = 3  # so many exchanges in a row overrule the clock

_DRIFT_PPB = DRIFT_PPM * 1000
_WANDER_PPB = WANDER_PPM * 1000
_SLEW_TICK_US = 2000  # in each the clock is slewed by 1 us: 500 parts in a million
_HOUR_S = 3600
_HOURS = 8  # of which an interval each is kept, to learn the rate from


class Timekeeper:
    """Begins with a time that is only assumed; knows the true time from the first `hear` on."""

    def __init__(self, minute: int, us: int, ticks_us) -> None:
        self.minute = minute
        self.us = us
        self.known = False  # whether this is the true time, and not an assumption
        self.rate_ppb = 0  # what the counter lacks, in parts in 10^9 of its own time
        self.rate_error_ppb = _DRIFT_PPB  # and how far that may be off
        self._slowest_ppb, self._fastest_ppb = -_DRIFT_PPB, _DRIFT_PPB  # taken for granted while the past is short
        self._ticks_us = ticks_us
        self._age_s = self._age_us = 0  # how long the counter has run
        self._odd_us = 0  # of the counter's time, what is no whole slew tick yet
        self._odd_ps = 0  # of the rate's correction, what is no whole microsecond yet
        self._slew_us = 0  # from the time that is shown to the target
        self._shift_us = 0  # what has been added to the counter, since it was last known or overruled
        self._heard_s = 0  # when the interval was last cut
        self._half_us = 0  # its half width then
        self._rivals = 0  # exchanges set aside in a row that agree, and what they have in common: when, middle, half
        self._rival_s = self._rival_us = self._rival_half_us = 0
        self._past: list = []  # of each of the last hours the narrowest interval: (when, target less counter, half)

    @property
    def doubtful(self) -> bool:
        """Whether the last exchange was set aside, so that others are wanted soon."""
        return self._rivals > 0

    def read(self, ticks_us) -> None:
        """Go forward to a later value of the counter; `minute` and `us` are then the time.

        It never goes back, whatever is corrected, except in a step (which only `hear` makes).
        """
        passed_us = (ticks_us - self._ticks_us) & _WRAP
        self._ticks_us = ticks_us
        seconds, self._age_us = divmod(self._age_us + passed_us, 1_000_000)
        self._age_s += seconds
        slew_ticks, self._odd_us = divmod(self._odd_us + passed_us, _SLEW_TICK_US)
        # Slew ticks of 2 ms times parts in 10^9 are units of 2 ps; 5 s at 100 in a million are 2.5 * 10^8 of them.
        learned_us, self._odd_ps = divmod(self._odd_ps + slew_ticks * self.rate_ppb, 500_000)
        slewed_us = max(-slew_ticks, min(slew_ticks, self._slew_us))
        self._slew_us -= slewed_us
        added_us = max(-passed_us, learned_us + slewed_us)
        self._shift_us += added_us
        self.us += passed_us + added_us
        while self.us >= MINUTE_US:
            self.us -= MINUTE_US
            self.minute += 1

    def hear(self, minute: int, us: int, error_us: int, ticks_us) -> bool:
        """At ticks_us it was this time, give or take error_us. True if the time that is shown stepped.

        ticks_us: not more than 8 minutes from what was last read, before or after.
        """
        since_us = (self._ticks_us - ticks_us) & _WRAP
        if since_us >= _HALF_WRAP:
            self.read(ticks_us)
            since_us = 0
        ahead_us = (minute - self.minute) * MINUTE_US + us + since_us - self.us  # of what is shown
        if not self.known:
            self.known = True
            return self._overrule(ahead_us, error_us, True)
        middle_us = ahead_us - self._slew_us  # from the target
        half_us = self._grown_us(self._half_us, self._heard_s)
        common = _common(0, half_us, middle_us, error_us)
        if common and -STEP_US <= self._slew_us + common[0] <= STEP_US:
            self._rivals = 0
            self._slew_us += common[0]
            self._half_us = common[1]
            self._heard_s = self._age_s
            self._learn()
            return False
        return self._set_aside(middle_us, error_us)

    def uncertainty_us(self):
        """How far the time last read may be off, in microseconds; None while it is only assumed."""
        if not self.known:
            return None
        return self._grown_us(self._half_us, self._heard_s) + abs(self._slew_us)

    def _grown_us(self, half_us: int, since_s: int) -> int:
        """What has become of half an interval. The second more is for the parts of seconds that ages leave out."""
        return half_us + (self._age_s - since_s + 1) * self.rate_error_ppb // 1000 + 1

    def _set_aside(self, middle_us: int, half_us: int) -> bool:
        common = None
        if self._rivals:
            rival_half_us = self._grown_us(self._rival_half_us, self._rival_s)
            common = _common(self._rival_us, rival_half_us, middle_us, half_us)
        self._rivals = self._rivals + 1 if common else 1
        self._rival_us, self._rival_half_us = common or (middle_us, half_us)
        self._rival_s = self._age_s
        if self._rivals < AGREEING:
            return False
        # It may be that the crystal is worse than was thought.
        self.rate_error_ppb *= 2
        self._slowest_ppb = self.rate_ppb - self.rate_error_ppb
        self._fastest_ppb = self.rate_ppb + self.rate_error_ppb
        ahead_us = self._slew_us + self._rival_us
        return self._overrule(ahead_us, self._rival_half_us, not -STEP_US <= ahead_us <= STEP_US)

    def _overrule(self, ahead_us: int, half_us: int, steps: bool) -> bool:
        """Begin anew with an interval whose middle is that much ahead of the time shown. Returns `steps`."""
        self._rivals = 0
        if steps:
            minutes, self.us = divmod(self.us + ahead_us, MINUTE_US)
            self.minute += minutes
            self._shift_us = ahead_us = 0
        self._slew_us = ahead_us
        self._half_us = half_us
        self._heard_s = self._age_s
        self._past = [(self._age_s, self._shift_us + ahead_us, half_us)]
        return steps

    def _learn(self) -> None:
        """Narrow the rate to what each pair of a past interval and the present one allows."""
        target_us = self._shift_us + self._slew_us
        low_ppb, high_ppb = -_DRIFT_PPB, _DRIFT_PPB
        if len(self._past) < _HOURS:
            low_ppb, high_ppb = self._slowest_ppb, self._fastest_ppb
        for heard_s, past_us, past_half_us in self._past:
            apart_s = self._age_s - heard_s
            if apart_s < 60:
                continue
            change_us, halves_us = target_us - past_us, self._half_us + past_half_us
            slowest_ppb = (change_us - halves_us) * 1000 // apart_s - _WANDER_PPB
            fastest_ppb = -((-change_us - halves_us) * 1000 // apart_s) + _WANDER_PPB
            if slowest_ppb > high_ppb or fastest_ppb < low_ppb:  # not the crystal that was thought of: believe the pair
                low_ppb, high_ppb = slowest_ppb, fastest_ppb
            low_ppb, high_ppb = max(low_ppb, slowest_ppb), min(high_ppb, fastest_ppb)
        self.rate_ppb = (low_ppb + high_ppb) // 2
        self.rate_error_ppb = (high_ppb - low_ppb + 1) // 2
        latest = self._past[-1]
        if latest[0] // _HOUR_S != self._age_s // _HOUR_S:
            self._past.append((self._age_s, target_us, self._half_us))
            del self._past[:-_HOURS]
        elif self._half_us <= latest[2]:
            self._past[-1] = (self._age_s, target_us, self._half_us)


def _common(one_us: int, one_half_us: int, other_us: int, other_half_us: int):
    """(middle, half) of what two intervals have in common; None if that is nothing."""
    low_us = max(one_us - one_half_us, other_us - other_half_us)
    high_us = min(one_us + one_half_us, other_us + other_half_us)
    return None if low_us > high_us else ((low_us + high_us) >> 1, (high_us - low_us + 1) >> 1)
