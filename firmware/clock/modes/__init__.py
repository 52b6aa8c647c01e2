"""The modes: one file each in this folder, and all lists of them are made from the files.

A mode's file is named as the mode and holds
- a docstring that begins with the sentence for the table in the documentation;
- `ORDER`: its place in the order of the button; a number no other mode has;
- `LEAST_MS`: no two of its ticks are nearer than that, so that a movement that is slower refuses the mode;
- `plan(out, dice)`: fills `out`, an `array("H")` of 60, with the times of a minute's ticks in ms into the minute,
  strictly increasing, the last exactly 60,000. Equal dice give equal plans. Nothing is allocated on the heap.

A mode with settings has instead of the last two `make(settings, least_ms)`, which returns an object that has them, or
raises ValueError with the reason why these settings cannot be followed.
"""

import os

TICKS = 60
MINUTE_MS = 60_000
LEAST_MS = 125  # from tick to tick, of a movement that nothing else is known of: 1000 / catch_up_hz, rounded up


def files() -> list:
    """The names of all modes in the order of the button, from the files (.py or .mpy) in this folder."""
    path = __path__  # text on MicroPython, a list on CPython
    found = set()
    for file in os.listdir(path if isinstance(path, str) else path[0]):
        name, _, kind = file.rpartition(".")
        if kind in ("py", "mpy") and name[:1] not in ("", "_", "."):  # some desktops leave files like ._steady.py
            found.add((_module(name).ORDER, name))
    return [name for _, name in sorted(found)]


def able(settings=None, least_ms: int = LEAST_MS, without: str = "", refused=None) -> list:
    """The modes that can run, in the order of the button: pairs of the name and what `load` gives.

    settings: of config.json, as checked by device.config; least_ms: from tick to tick, of the movement; without: one to
    leave out; refused: a list, to which is added for each other mode why it cannot run.
    """
    pairs = []
    for name in files():
        if name != without:
            try:
                pairs.append((name, _make(name, settings or {}, least_ms)))
            except ValueError as error:
                if refused is not None:
                    refused.append(str(error))
    return pairs


def names(settings=None, least_ms: int = LEAST_MS) -> list:
    """The names of the modes that can run, in the order of the button."""
    return [name for name, _ in able(settings, least_ms)]


def load(name: str, settings=None, least_ms: int = LEAST_MS):
    """The mode of this name: has `plan(out, dice)` and `LEAST_MS`.

    ValueError if there is none, with the names there are, or if it cannot run, with the reason.
    """
    known = files()
    if name not in known:
        raise ValueError('mode: no "%s" here; there are: %s' % (name, ", ".join(known)))
    return _make(name, settings or {}, least_ms)


def fill(out, weights, first: int = 0) -> None:
    """A plan whose intervals are as these weights, taken in turn from the first-th on, to a millisecond; sum exact.

    weights: 1 .. 10,000 each, indexable, for instance bytes.
    """
    total = 0
    index = first
    for _ in range(TICKS):
        total += weights[index]
        index = (index + 1) % len(weights)
    at_ms = left = 0  # what is left of a division goes to the next interval, so that nothing is lost
    index = first
    for tick in range(TICKS):
        left += weights[index] * MINUTE_MS
        index = (index + 1) % len(weights)
        at_ms += left // total
        left %= total
        out[tick] = at_ms


def _make(name: str, settings: dict, least_ms: int):
    mode = _module(name)
    if hasattr(mode, "make"):
        mode = mode.make(settings, least_ms)
    if least_ms > mode.LEAST_MS:
        reason = "%s has ticks %d ms apart, but this movement needs %d (1000 / catch_up_hz)"
        raise ValueError(reason % (name, mode.LEAST_MS, least_ms))
    return mode


def _module(name: str):
    return __import__("clock.modes." + name, None, None, ("plan",))
