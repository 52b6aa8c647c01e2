"""`_thread`: threads of the host that take turns, so that one at a time runs and simulated time stays in order.

On the chip a thread runs beside the main one, but the interpreter's lock lets only one at a time into Python; a name
look-up and a sleep give the lock away. So here: a thread runs at once until it waits (`clock.wait`), and goes on at the
end of that wait, when the interpreter is free. Whatever else it calls holds up the main thread.
"""

import _thread as _host
import sys

from .clock import clock

LockType = _host.LockType
allocate_lock = _host.allocate_lock
get_ident = _host.get_ident


def exit():
    raise SystemExit


def stack_size(size_bytes=0):
    return 5120  # the chip's default; the host has enough


def start_new_thread(function, arguments, keywords=None):
    turn = _Turn()
    _host.start_new_thread(turn.run, (function, arguments, keywords or {}))
    turn.take()
    return id(turn)


class _Turn:
    """One thread, and whose turn it is: its own while `mine` can be taken, the others' while `yours` can be."""

    def __init__(self):
        self._mine = _host.allocate_lock()
        self._yours = _host.allocate_lock()
        self._mine.acquire()
        self._yours.acquire()

    def take(self, _=None):
        """Let the thread run until it waits or ends. Called by whoever runs; it stands still meanwhile."""
        before, clock.thread = clock.thread, self
        self._mine.release()
        self._yours.acquire()
        clock.thread = before

    def run(self, function, arguments, keywords):
        self._mine.acquire()
        try:
            function(*arguments, **keywords)
        except SystemExit:
            pass
        except BaseException as error:
            print("Unhandled exception in thread started by", function)
            sys.print_exception(error)
        self._yours.release()

    def wait(self, us):
        """Called by the thread: let the others run for so long."""
        clock.at(clock.now() + us, lambda: clock.handlers.append((self.take, None)))
        self._yours.release()
        self._mine.acquire()
