"""The software clock: UTC from a free-running counter, and how far it may be off.

The counter is `time.ticks_us`, handed in as an argument; it wraps, so the clock must be read at least every 17 minutes
(the scheduler does so every second or two). Times are (minute since 1970-01-01 UTC, microseconds into the minute):
both fit the 31 bits of a small integer, and so does everything here while the clock is read as often as that.
"""

MINUTE_US = 60_000_000
_WRAP = 0x3FFFFFFF  # ticks_us counts modulo 2^30 on a chip; modulo a larger power of two elsewhere, which does no harm

# How fast the counter may run off, parts in a million: a module's crystal is specified to 10 at 25 degrees and to about
# 20 more over the temperatures of a room and the years [est].
DRIFT_PPM = 30
_DRIFT_US_PER_MINUTE = DRIFT_PPM * 60


class Timekeeper:
    """Begins with a time that is only assumed; knows the true time from the first `hear` on."""

    def __init__(self, minute: int, us: int, ticks_us) -> None:
        self.minute = minute
        self.us = us
        self._ticks_us = ticks_us
        self._error_us = 0
        self._heard_at = -1  # the minute of the last correction

    @property
    def known(self) -> bool:
        """Whether this is the true time, and not an assumption."""
        return self._heard_at >= 0

    def read(self, ticks_us) -> None:
        """Go forward to a later value of the counter; `minute` and `us` are then the time."""
        self.us += (ticks_us - self._ticks_us) & _WRAP
        self._ticks_us = ticks_us
        while self.us >= MINUTE_US:
            self.us -= MINUTE_US
            self.minute += 1

    def hear(self, minute: int, us: int, error_us: int, ticks_us) -> bool:
        """At ticks_us it was this time, give or take error_us. True if that is better than what is known already.

        So of several exchanges the best one counts, and it counts until its age has made it worse than a new one.
        """
        known_us = self.uncertainty_us()
        if known_us is not None and known_us < error_us:
            return False
        self.minute = self._heard_at = minute
        self.us = us
        self._error_us = error_us
        self._ticks_us = ticks_us
        return True

    def uncertainty_us(self):
        """How far the time last read may be off, in microseconds; None while it is only assumed."""
        if not self.known:
            return None
        return self._error_us + (self.minute - self._heard_at + 1) * _DRIFT_US_PER_MINUTE
