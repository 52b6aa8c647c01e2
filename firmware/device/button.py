"""A push button: debounced changes as events, each with the time of its first edge.

While nobody waits, up to 8 changes are kept; of more, the oldest are dropped in pairs (so that down and up go on
alternating) and counted; `Button` logs it as an error.
"""

import asyncio

from device import log
from device.ticks import diff

DEBOUNCE_MS = 30
QUEUE = 8


class Debounce:
    """From edges to changes. Pure: times are ticks_ms, handed in; a level is True when the button is down.

    An edge opens a burst; when the level has been quiet for 30 ms it counts, with the time of the burst's first edge.
    """

    def __init__(self):
        self.down = False  # the level that counts
        self.dropped = 0  # changes that nobody had in time
        self._changes = []
        self._bursting = False
        self._first = self._last = 0  # ticks of the burst's first and last edge
        self._level = False  # after the last edge

    def edge(self, now, down: bool):
        """The pin changed. Called from the interrupt handler, so it must be short."""
        if self._bursting and diff(now, self._last) >= DEBOUNCE_MS:
            self._settle(self._level)
        if not self._bursting:
            self._bursting = True
            self._first = now
        self._last = now
        self._level = down

    def quiet_in_ms(self, now, down: bool):
        """Milliseconds until the burst may be over; None when there is none (any more). `down`: the level now."""
        if not self._bursting:
            return None
        left_ms = DEBOUNCE_MS - diff(now, self._last)
        if left_ms > 0:
            return left_ms
        self._settle(down)
        return None

    def busy(self) -> bool:
        """A burst is not over yet, or nobody has had a change."""
        return self._bursting or bool(self._changes)

    def pop(self):
        """The oldest change that nobody has had, (down, first edge's ticks_ms), or None."""
        return self._changes.pop(0) if self._changes else None

    def woken(self, down: bool):
        """After a sleep, in which edges are not seen: this level counts, and is no change."""
        self._bursting = False
        self._changes.clear()
        self.down = down

    def _settle(self, down):
        self._bursting = False
        if down != self.down:
            self.down = down
            self._changes.append((down, self._first))
            if len(self._changes) > QUEUE:
                del self._changes[:2]
                self.dropped += 2


class Button:
    """`pin`: a machine.Pin, input with pull-up; down is low. A press shorter than 30 ms is not one."""

    def __init__(self, pin):
        from time import ticks_ms

        self._ticks_ms = ticks_ms
        self._pin = pin
        self._flag = asyncio.ThreadSafeFlag()
        self._debounce = Debounce()
        pin.irq(self._edge, pin.IRQ_FALLING | pin.IRQ_RISING)
        if not pin.value():
            self._edge(pin)  # held already at the start: its press is reported too

    @property
    def down(self) -> bool:
        """The debounced level, as of the last `change`."""
        return self._debounce.down

    def settled(self) -> bool:
        """Whether no change is under way, and all were taken: to be asked before a sleep. One that no interrupt told
        of, because of the sleep before, is taken up here.
        """
        down = not self._pin.value()
        if down != self._debounce.down and not self._debounce.busy():
            self._edge(self._pin)
        return not self._debounce.busy()

    def woken(self) -> bool:
        """To be called after a sleep that this button ended: whether it is still down. Of the press itself `change`
        does not tell; the next change is its release, or, if it was let go already, another press.
        """
        down = not self._pin.value()
        self._debounce.woken(down)
        return down

    def _edge(self, pin):
        self._debounce.edge(self._ticks_ms(), not pin.value())
        self._flag.set()

    async def change(self):
        """Wait for the next debounced change, for as long as it takes: (down, at_ms), at_ms being the ticks_ms of its
        first edge (of the moment its handler ran, which a blocking call can delay). For one waiting task.
        """
        while True:
            left_ms = self._debounce.quiet_in_ms(self._ticks_ms(), not self._pin.value())
            change = self._debounce.pop()
            if self._debounce.dropped:
                dropped, self._debounce.dropped = self._debounce.dropped, 0
                log.error("the button: %d changes came faster than they were taken, and were dropped" % dropped)
            if change is not None:
                return change
            if left_ms is None:
                await self._flag.wait()
            else:
                await asyncio.sleep_ms(left_ms)
