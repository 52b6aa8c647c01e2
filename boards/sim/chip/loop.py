"""asyncio on the simulator's clock.

The run loop, tasks and events are MicroPython's own; only the two things by which they touch the world are replaced:
`core.ticks` and `core._io_queue`.

The task queue is written in C and stamps a task that is pushed without a time with the *host's* milliseconds, so
asyncio's ticks must never fall behind those, nor run ahead of them by half of their period (6.2 days). So they are
the simulator's milliseconds plus an offset, and the offset is moved, with everything in the queue, when it must be.
"""

import asyncio.core as core
import select
import time as _host_time

from .clock import clock

_HOUR_MS = 3_600_000
_MASK = _host_time.ticks_add(0, -1)  # the period of the host's ticks: 2^30 ms on 32 bits, far more on 64
_offset_ms = 0


def _ticks():
    return (clock.now_us // 1000 + _offset_ms) & _MASK


def _lead_ms():
    return _host_time.ticks_diff(_ticks(), _host_time.ticks_ms())


def _rebase():
    """Bring asyncio's ticks to twelve hours ahead of the host's. Only while no task is due."""
    global _offset_ms
    shift_ms = 12 * _HOUR_MS - _lead_ms()
    _offset_ms = (_offset_ms + shift_ms) & _MASK
    waiting = []
    while core._task_queue.peek():
        task = core._task_queue.pop()
        waiting.append((task, task.ph_key))
    for task, due in waiting:
        core._task_queue.push(task, _host_time.ticks_add(due, shift_ms))


_POLL = 3  # MP_STREAM_POLL


class IOQueue:
    """Same interface as asyncio.core.IOQueue. Streams are sockets of the simulator, or objects with a Python `ioctl`
    (which are asked directly: a poller that holds one of them takes a millisecond of the host's time a call)."""

    def __init__(self):
        self.poller = select.poll()
        self.map = {}  # id(what is polled) -> [reading task, writing task, stream]
        self.asked = {}  # the same, for objects with `ioctl`: id -> (object, mask)

    def _enqueue(self, stream, index):
        polled = getattr(stream, "polled", stream)
        entry = self.map.get(id(polled))
        if entry is None:
            entry = [None, None, stream]
            self.map[id(polled)] = entry
        assert entry[index] is None
        entry[index] = core.cur_task
        core.cur_task.data = self
        self._register(polled, entry)

    def _register(self, polled, entry):
        mask = (select.POLLIN if entry[0] else 0) | (select.POLLOUT if entry[1] else 0)
        if not mask:
            del self.map[id(polled)]
        if hasattr(polled, "ioctl"):
            if mask:
                self.asked[id(polled)] = (polled, mask)
            else:
                del self.asked[id(polled)]
        elif mask:
            self.poller.register(polled, mask)
        else:
            self.poller.unregister(polled)

    def queue_read(self, stream):
        self._enqueue(stream, 0)

    def queue_write(self, stream):
        self._enqueue(stream, 1)

    def remove(self, task):
        for key in list(self.map):
            entry = self.map[key]
            for index in (0, 1):
                if entry[index] is task:
                    entry[index] = None
                    self._register(getattr(entry[2], "polled", entry[2]), entry)

    def _poll(self, timeout_ms):
        """Wake the tasks whose streams are ready. True if there were any."""
        woken = False
        for polled, mask in list(self.asked.values()):
            events = polled.ioctl(_POLL, mask)
            if events:
                woken |= self._wake(polled, events)
        if len(self.map) > len(self.asked):
            for polled, events in self.poller.poll(0 if woken else timeout_ms):
                woken |= self._wake(polled, events)
        return woken

    def _wake(self, polled, events):
        entry = self.map.get(id(polled))
        if entry is None or getattr(entry[2], "unreachable", False):
            return False
        woken = False
        for index, mask in ((0, ~select.POLLOUT), (1, ~select.POLLIN)):
            if entry[index] is not None and events & mask:
                core._task_queue.push(entry[index])
                entry[index] = None
                woken = True
        self._register(polled, entry)
        return woken

    def _awaits_host(self):
        """Whether a real server owes us an answer: then time must pass as it does for the server."""
        return any(getattr(entry[2], "on_host", False) and not entry[2].unreachable for entry in self.map.values())

    def wait_io_event(self, dt_ms):
        clock.now()
        if clock.deliver() or self._poll(0) or dt_ms == 0:
            return
        if not _HOUR_MS < _lead_ms() < 72 * _HOUR_MS:
            _rebase()
        target_us = None if dt_ms < 0 else clock.now_us + dt_ms * 1000
        next_us = clock.next_event_us()
        if target_us is not None and (next_us is None or target_us < next_us):
            next_us = target_us + clock.random_below(clock.costs["wake_jitter_us"] + 1)
        if clock.jump and not (self._awaits_host() and not clock.control.server_hangs):
            if next_us is None:
                next_us = clock.granted_us + 1  # nothing will ever happen by itself: wait for the host
            clock.idle(max(next_us, clock.now_us))
        else:
            self._wait_with_host(next_us)
        clock.deliver()
        self._poll(0)

    def _wait_with_host(self, next_us):
        """A few milliseconds of the host's time, on sockets and (in real mode) on the host program's commands."""
        left_ms = 5 if next_us is None else min(5, max(0, (next_us - clock.now_us) // 1000))
        began_us = _host_time.ticks_us()
        if clock.jump:
            self._poll(left_ms)
            elapsed_us = max(100, _host_time.ticks_diff(_host_time.ticks_us(), began_us))
            clock.idle(clock.now_us + elapsed_us if next_us is None else min(clock.now_us + elapsed_us, next_us))
        elif self._awaits_host():
            clock.control.poll(0)
            self._poll(left_ms)
            clock.now()
        else:
            clock.control.poll(left_ms)
            if next_us is not None and 0 < next_us - clock.now() < 1000:
                _host_time.sleep_us(next_us - clock.now_us)
            clock.now()


def install():
    """Put asyncio on the simulator's clock. Before any task is made."""
    global _offset_ms
    _offset_ms = (_host_time.ticks_ms() + 12 * _HOUR_MS - clock.now_us // 1000) & _MASK
    core.ticks = _ticks
    core._io_queue = IOQueue()
