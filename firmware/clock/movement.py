"""The coil of a Lavet movement: one pulse a tick, its polarity the opposite of the last one's.

The coil lies between two pins that are both low at rest; a pulse puts one of them high. The RMT peripheral times it: it
is given, once and beforehand, the idle time until the pulse and the pulse, and ends it whatever Python does meanwhile.
So the coil cannot stay energised, and a tick is on time though the interpreter is busy. Never is more than one pulse
armed, over both pins.

A train always has 64 phases, 32 of RMT's words: it fits the memory of one channel (48 words on an ESP32-C3), so nothing
has to be refilled while it runs. Its levels are always the same, 60 times low and 4 times high; only durations change.
"""

from device.ticks import diff

CLOCK_DIV = 80  # of the 80 MHz source: RMT counts microseconds
CHOP_HZ = 20_000  # of the chopped drive: above hearing, far below what the coil's inductance would swallow [est]

_PHASE_US = 32_767  # RMT's longest
_IDLE = 60
_HIGH = 4
AHEAD_MS = _IDLE * _PHASE_US // 1000 - 1  # the farthest that a pulse can be armed ahead: 1,965
_SOONEST_US = _IDLE  # each idle phase lasts at least a microsecond


class Movement:
    """One movement at two RMT channels, made for its pins with CLOCK_DIV, idle low.

    settings: `movement` of board.json, {"pulse_us", "duty_percent", "gap_ms", "catch_up_hz"}; ticks_us: the counter.
    """

    def __init__(self, coils, settings: dict, ticks_us) -> None:
        self.pulse_us = settings["pulse_us"]
        self.catch_up_hz = settings["catch_up_hz"]
        if self.catch_up_hz < 2:
            raise ValueError("movement.catch_up_hz is 1, but must be 2 or more: at 1 the hands can never catch up")
        if not 1 <= self.pulse_us <= _HIGH * _PHASE_US:
            raise ValueError("movement.pulse_us is %d, but RMT takes 1 to %d" % (self.pulse_us, _HIGH * _PHASE_US))
        self._spacing_us = 1_000_000 // self.catch_up_hz  # from one pulse's beginning to the next
        least_us = self.pulse_us + 1000 * settings["gap_ms"]
        if least_us > self._spacing_us:
            raise ValueError(
                "movement: pulse_us and gap_ms are %d us together, too long for %d ticks a second (catch_up_hz)"
                % (least_us, self.catch_up_hz)
            )
        self._coils = coils
        self._ticks_us = ticks_us
        self._durations = [1] * (_IDLE + _HIGH)
        self._levels = [0] * _IDLE + [1] * _HIGH
        _share(self._durations, _IDLE, _HIGH, self.pulse_us)
        self._last = 0  # when the last pulse began, or will begin; counts while _resting
        self._resting = False

    def rest_ms(self, now) -> int:
        """From `now` until the next pulse may begin, rounded up. To be called at least every eight minutes."""
        left_us = self._spacing_us - diff(now, self._last)
        if not self._resting or left_us <= 0:
            self._resting = False
            return 0
        return (left_us + 999) // 1000

    def pending(self, now) -> bool:
        """Whether a pulse is armed and has not begun."""
        return self._resting and diff(now, self._last) < 0

    def over_ms(self, now) -> int:
        """Until the pulse armed last is over for certain, 3 ms for the arming itself included."""
        return max(0, diff(self._last, now) + self.pulse_us + 999) // 1000 + 3 if self._resting else 0

    def arm(self, polarity: int, at) -> int:
        """Hand a pulse of polarity 0 or 1 to the hardware, to begin when the counter is at `at`, or as soon as it may.

        `at` is at most AHEAD_MS from now. Returns by how many microseconds the pulse will be later than asked.
        RuntimeError if the last one is not over: the caller has to wait for it.
        """
        now = self._ticks_us()
        wait_us = begins_us = max(diff(at, now), _SOONEST_US)
        if self._resting:
            since_us = diff(now, self._last)
            if since_us < self.pulse_us:
                raise RuntimeError("a coil pulse was asked for before the last one was over")
            begins_us = max(wait_us, self._spacing_us - since_us)
        if begins_us > _IDLE * _PHASE_US:
            raise ValueError("a coil pulse cannot be armed %d us ahead" % begins_us)
        _share(self._durations, 0, _IDLE, begins_us)
        self._coils[polarity].write_pulses(self._durations, self._levels)
        self._last = (now + begins_us) & 0x3FFFFFFF
        self._resting = True
        return begins_us - diff(at, now)


def _share(durations: list, first: int, count: int, total_us: int) -> None:
    """Spread a time over phases that then differ by at most a microsecond."""
    for index in range(count):
        durations[first + index] = (total_us + index) // count
