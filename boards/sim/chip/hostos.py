"""`os` of the simulated chip: the host's, but that in jump mode its random bytes follow from the simulation's seed."""

import hashlib
import os as _os

from .clock import clock

_drawn = 0


def __getattr__(name):
    return getattr(_os, name)


def urandom(n):
    """n bytes. In jump mode a run repeats, so they are the same in each run, and other ones after each start."""
    global _drawn
    if not clock.jump:
        return _os.urandom(n)
    drawn = b""
    while len(drawn) < n:
        _drawn += 1
        drawn += hashlib.sha256(b"%d %d" % (clock.seed, _drawn)).digest()
    return drawn[:n]
