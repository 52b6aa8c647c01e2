"""The scheduler: where the hands stand, where they should, and so what to do next. Time in, decision out.

In every minute the hands have sixty steps before them, and the mode's plan says when each is due. So

    target = the position that the minute begins with + the number of its ticks that are due,

and everything that can happen to a clock (a mode change, a stalled loop, a correction of the time, daylight saving, a
week without power, hands set by the owner) is one comparison of position and target, on a dial of 43,200 positions:

    equal    the next tick of the plan is the next tick of the hands;
    behind   tick at the movement's catch-up rate;
    ahead    wait until the plan has come to where the hands are, or go round, whichever takes less real time.

Nothing is remembered from one decision to the next but the plan of the minute, and that could be made again at any time
from (mode, seed, minute). Catching up `behind` steps at `hz` ticks a second takes behind / (hz - 1) seconds, since the
target goes on at one; waiting takes `ahead` seconds, and behind + ahead = 43,200. Catching up makes the first smaller
and the second larger, waiting the reverse: a decision, once right, stays right, and the hands cannot swing.

Pure: integers of 31 bits only, and no float; a minute is planned into the same array each time, without the heap.
"""

from array import array

from clock import dial
from clock.dice import Dice
from clock.modes import MINUTE_MS, TICKS

HOLD = 0  # the hands stand until told otherwise; ask again at any time
WAIT = 1  # no tick in this minute, or none that is near; ask again after wait_ms
TICK = 2  # the next planned tick, wait_ms from now
CATCH_UP = 3  # a tick that is overdue, as soon as the movement may: wait_ms from now


class Schedule:
    """Decides for one movement. catch_up_hz: its fastest rate, at least 2 ticks a second; seed: 0 .. 2^30 - 1."""

    def __init__(self, seed: int, catch_up_hz: int) -> None:
        self.seed = seed
        self.catch_up_hz = catch_up_hz
        self.times_ms = array("H", bytes(2 * TICKS))  # the planned minute
        self._dice = Dice()
        self._mode = None
        self._minute = -1

    def plan(self, mode, minute: int):
        """This minute's tick times in ms, an array of 60 that is valid until the next call."""
        if mode is not self._mode or minute != self._minute:
            self._dice.seed(self.seed, minute)
            mode.plan(self.times_ms, self._dice)
            self._mode = mode
            self._minute = minute
        return self.times_ms

    def decide(self, position, mode, minute: int, ms: int, utc_offset_s: int, rest_ms: int):
        """(HOLD, WAIT, TICK or CATCH_UP; wait_ms): what to do with hands at `position` at a moment.

        position: 0 .. 43,199, or None if unknown or held; mode: what `modes.load` gives; minute: since 1970-01-01 UTC;
        ms: into the minute, 0 .. 59,999; utc_offset_s: local time less UTC; rest_ms: until the movement may tick again.
        """
        if position is None:
            return HOLD, MINUTE_MS - ms
        times_ms = self.plan(mode, minute)
        due = _due(times_ms, ms)
        ahead = dial.steps(dial.showing(minute, utc_offset_s) + due, position)
        behind = dial.STEPS - ahead
        if ahead and behind <= ahead * (self.catch_up_hz - 1):
            return CATCH_UP, rest_ms
        if due + ahead < TICKS:
            return TICK, max(rest_ms, times_ms[due + ahead] - ms)
        return WAIT, MINUTE_MS - ms

    def following_ms(self, ms: int) -> int:
        """When the first tick later than `ms` is due in the minute last planned; its end if there is none."""
        return self.times_ms[_due(self.times_ms, ms)]

    def moment(self, position: int, mode):
        """(minute, ms) with an offset of 0 at which hands at `position` are right: how the time is assumed to go on
        from where the hands stand when it is not known. The minute is 0 .. 719.
        """
        minute, due = position // TICKS, position % TICKS
        return minute, self.plan(mode, minute)[due - 1] if due else 0


def _due(times_ms, ms: int) -> int:
    """How many of a minute's ticks are due at a moment within it, 0 .. 59: the sixtieth never is. By halving."""
    due, later = 0, TICKS - 1
    while due < later:
        middle = (due + later) // 2
        if times_ms[middle] <= ms:
            due = middle + 1
        else:
            later = middle
    return due
