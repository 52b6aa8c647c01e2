"""The one light of a gadget: steady on or off, and short patterns over it."""

import asyncio

# name: (on_ms, off_ms, times). 0 times: until the next `set`, `pattern` or `flash`.
PATTERNS = {
    "stored": (60, 120, 1),
    "delivered": (60, 120, 2),
    "refused": (250, 250, 3),  # no room: nothing is being recorded
    "no network": (60, 400, 4),
    "trouble": (400, 200, 5),  # see the log
    "low battery": (30, 90, 8),
    "waiting": (500, 500, 0),
    "held": (60, 1940, 0),  # the clock's hands, on request
    "unset": (60, 240, 0),  # the clock does not know where its hands stand
}


class Light:
    """`pin`: a machine.Pin, output. `run` must be running as a task for patterns to play."""

    def __init__(self, pin, active_low: bool):
        self._pin = pin
        self._active_low = active_low
        self._on = False
        self._playing = None
        self._changed = asyncio.Event()
        self._show(False)

    def set(self, on: bool):
        """Steady, at once, instead of any pattern."""
        if on == self._on and self._playing is None:
            return
        self._on = on
        self._play(None)
        self._show(on)

    def pattern(self, name: str):
        """Play a pattern of `PATTERNS` instead of what is playing, then return to the steady state."""
        self._play(PATTERNS[name])

    def flash(self, times: int):
        """Play so many short flashes: a number to be counted."""
        self._play((120, 250, times))

    @property
    def playing(self) -> bool:
        return self._playing is not None

    def _play(self, pattern):
        self._playing = pattern
        self._changed.set()

    def _show(self, on):
        self._pin.value(on != self._active_low)

    async def run(self):
        """Plays what is asked for, for ever."""
        while True:
            self._changed.clear()
            if self._playing is None:
                self._show(self._on)
                await self._changed.wait()
                continue
            on_ms, off_ms, times = self._playing
            # A pattern over a steady light begins with a gap, or its first flash would not be seen.
            interrupted = self._on and await self._for(False, off_ms)
            played = 0
            while not interrupted and (times == 0 or played < times):
                interrupted = await self._for(True, on_ms) or await self._for(False, off_ms)
                played += 1
            if not interrupted:
                self._playing = None

    async def _for(self, on, duration_ms):
        """Show for a while; True if something else was asked for meanwhile."""
        self._show(on)
        try:
            await asyncio.wait_for(self._changed.wait(), duration_ms / 1000)
        except asyncio.TimeoutError:
            return False
        return True
