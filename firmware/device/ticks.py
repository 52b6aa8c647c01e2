"""Arithmetic on `time.ticks_ms()`, and a counter that does not wrap. Pure.

The ESP32's ticks wrap at 2^30 ms (12.4 days). `time.ticks_diff` does the same as `diff`, but CPython lacks it.
"""

_PERIOD = 1 << 30
_HALF = 1 << 29


def diff(later, earlier) -> int:
    """Milliseconds from `earlier` to `later`, both of ticks_ms; right while they are less than 6.2 days apart."""
    return ((later - earlier + _HALF) & (_PERIOD - 1)) - _HALF


class Counter:
    """Milliseconds of this run of the device, never wrapping: from 0 at power-on, on through sleep.

    `mark`: 8 hexadecimal digits drawn at power-on, which name the run in a note and in each upload (docs/protocol.md).
    `asleep_ms`: the part of it that was spent asleep.
    Something must call `at_ms` at least every 6 days: the pendant's watch does, and the clock's check-in.
    """

    def __init__(self, mark: str, now, ms: int = 0, asleep_ms: int = 0):
        """now: ticks_ms at which the counter is at `ms`."""
        self.mark = mark
        self.asleep_ms = asleep_ms
        self._ticks = now
        self._ms = ms

    def at_ms(self, ticks) -> int:
        """The counter at a value of ticks_ms, which may be a little in the past (an edge, a sample)."""
        passed_ms = diff(ticks, self._ticks)
        if passed_ms > 0:
            self._ticks = ticks
            self._ms += passed_ms
            return self._ms
        return max(0, self._ms + passed_ms)

    def dozed(self, ms: int):
        """So many of the ms that ticks_ms has counted went by in light sleep, which is timed as badly as deep sleep."""
        self.asleep_ms += ms
