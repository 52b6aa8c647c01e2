"""The one clock of the simulated chip: it drives I2S, RMT, timers, sleeps, `time` and asyncio.

Time is counted in microseconds since the simulation began and goes on over resets and power cuts. In `jump` mode the
clock stands still while code runs and goes to the next deadline at once when nothing is left to do, never past the
moment that the host has granted. In `real` mode it is the host's clock.

All of this is the chip's time, by its crystal. Where that is off (`crystal_ppm`), only what touches the outside world
is converted: what the host is told and tells (in true time), and what a time server says.

Things happen on two levels. An *event* is hardware: it happens at its time whatever the interpreter does. A *handler*
is Python code that an interrupt asks for: like `micropython.schedule` on the chip it runs when the interpreter is free,
so not within a blocking call that is being charged. Where MOST_HANDLERS wait already, one more is dropped, and nobody
is told: so the ESP32 port does in its interrupts of pins, timers and I2S.
"""

import heapq
import time as _host_time

MOST_HANDLERS = 8  # MICROPY_SCHEDULER_DEPTH in the ESP32 port's mpconfigport.h
_sequence = 0


class Clock:
    def __init__(self):
        self.jump = True
        self.now_us = 0
        self.boot_us = 0
        self.granted_us = 0  # jump: how far the host lets time go
        self.host_epoch_ns = 0  # real: the host's time_ns() when the simulation began
        self.crystal_ppm = 0  # by which the chip's time runs faster than the true one
        self.thread = None  # the one that runs, of those that the firmware started (see _thread)
        self.costs = {}
        self.events = []
        self.handlers = []
        self.control = None  # the line to the host; set by boot
        self.interrupted = False  # by a Ctrl-C on the console
        self.seed = self._random = 1

    # Reading

    def now(self):
        """Microseconds since the simulation began; in real mode also lets happen what is due."""
        if not self.jump:
            self._reach(self._host_now_us())
        return self.now_us

    def since_boot_us(self):
        return self.now() - self.boot_us

    def _host_now_us(self):
        return max(self.now_us, self.chip_us((_host_time.time_ns() - self.host_epoch_ns) // 1000))

    def true_us(self):
        """True time, microseconds since the simulation began, as the host counts it."""
        return self.now_us * 1_000_000 // (1_000_000 + self.crystal_ppm) if self.crystal_ppm else self.now_us

    def chip_us(self, true_us):
        """The first moment of the chip's time at which the true time has come."""
        return -(-true_us * (1_000_000 + self.crystal_ppm) // 1_000_000) if self.crystal_ppm else true_us

    def random_below(self, n):
        """0 .. n-1, from the seed that the host gave: a run in jump mode repeats."""
        self._random = (self._random * 1103515245 + 12345) & 0x7FFFFFFF
        return (self._random >> 8) % n

    # Events and handlers

    def at(self, t_us, action):
        """Let `action()` happen at t_us. Returns a list whose third item may be set to None to call it off."""
        global _sequence
        _sequence += 1
        event = [t_us, _sequence, action]
        heapq.heappush(self.events, event)
        return event

    def next_event_us(self):
        while self.events and self.events[0][2] is None:
            heapq.heappop(self.events)
        return self.events[0][0] if self.events else None

    def interrupt(self, handler, argument):
        """Ask for a soft interrupt handler, like `mp_sched_schedule`; it may be dropped."""
        if len(self.handlers) < MOST_HANDLERS:
            self.handlers.append((handler, argument))

    def deliver(self):
        """Run the handlers that were asked for. True if there were any. Here a Ctrl-C ends the program."""
        if self.interrupted and self.thread is None:
            self.interrupted = False
            raise KeyboardInterrupt
        any_ran = False
        while self.handlers:
            handler, argument = self.handlers.pop(0)
            handler(argument)
            any_ran = True
        return any_ran

    # Going forward

    def spend(self, us, deliver=True):
        """A blocking call of the chip: hardware goes on, Python handlers wait until it is over.

        deliver: False inside LittleFS, which a handler must not meet half-way through an operation.
        """
        target = self.now() + us
        if self.jump:
            self._go(target)
        else:
            self._wait_really(target)
        if deliver:
            self.deliver()

    def wait(self, us):
        """A blocking call that gives the interpreter to other threads meanwhile."""
        if self.thread:
            self.thread.wait(us)
        else:
            self.spend(us)

    def sleep(self, us):
        """time.sleep: handlers run meanwhile, as on the chip."""
        if self.thread:
            self.thread.wait(us)
            return
        target = self.now() + us
        while self.now_us < target:
            next_us = self.next_event_us()
            step = target if next_us is None else max(self.now_us, min(target, next_us))
            if self.jump:
                self._go(step)
            else:
                self._wait_really(min(step, self.now_us + 10_000))
            self.deliver()

    def _wait_really(self, target_us):
        """Real mode: wait for the host's clock, but listen to the host program and let events happen in time."""
        while True:
            left_us = target_us - self.now()
            if left_us <= 0:
                return
            next_us = self.next_event_us()
            if next_us is not None:
                left_us = min(left_us, max(0, next_us - self.now_us))
            self.control.poll(min(left_us, 5000) // 1000)
            if left_us < 1000:
                _host_time.sleep_us(max(1, left_us))

    def _go(self, target_us):
        """Jump mode: forward to target_us, with a pause wherever the host's grant ends."""
        while target_us > self.granted_us:
            self._reach(self.granted_us)
            self.control.pause()
        self._reach(target_us)

    def idle(self, target_us):
        """Jump mode: nothing to do before target_us. Returns earlier where the host's grant ended in between, since the
        host may have touched something."""
        if target_us > self.granted_us:
            self._reach(self.granted_us)
            self.control.pause()
        else:
            self._reach(target_us)

    def _reach(self, target_us):
        while True:
            next_us = self.next_event_us()
            if next_us is None or next_us > target_us:
                break
            event = heapq.heappop(self.events)
            if event[0] > self.now_us:
                self.now_us = event[0]
            event[2]()
        if target_us > self.now_us:
            self.now_us = target_us


clock = Clock()
