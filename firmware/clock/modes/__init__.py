"""The modes: one file each in this folder, and this list of them is made from the files.

A mode's file is named as the mode and holds
- a docstring that begins with the sentence for the table in the documentation;
- `ORDER`: its place in the order of the button; a number no other mode has;
- `plan(out, dice)`: fills `out`, an `array("H")` of 60, with the times of a minute's ticks in ms into the minute,
  strictly increasing, the last exactly 60,000. Equal dice give equal plans. Nothing is allocated on the heap.
"""

import os

TICKS = 60
MINUTE_MS = 60_000


def _folder() -> str:
    path = __path__  # text on MicroPython, a list on CPython
    return path if isinstance(path, str) else path[0]


def names() -> list:
    """The names of the modes in the order of the button, from the files (.py or .mpy) in this folder."""
    found = set()
    for file in os.listdir(_folder()):
        name, _, kind = file.rpartition(".")
        if kind in ("py", "mpy") and name[:1] not in ("", "_", "."):  # some desktops leave files like ._steady.py
            found.add((_module(name).ORDER, name))
    return [name for _, name in sorted(found)]


def load(name: str):
    """The mode of this name, its module. ValueError, with the names there are, if there is none."""
    known = names()
    if name not in known:
        raise ValueError('mode: no "%s" here; there are: %s' % (name, ", ".join(known)))
    return _module(name)


def _module(name: str):
    return __import__("clock.modes." + name, None, None, ("plan",))
