"""Time zones by name, for clocks that know POSIX TZ strings only."""

import importlib.resources
import re
import zoneinfo
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}")


def posix_tz(text: str) -> str:
    """A POSIX TZ string: that of a zone's name (the footer of its TZif data, RFC 9636), or the text itself where it is
    no zone's name.

    Raises ValueError where the zone has no rule that holds for ever."""
    data = _data(text) if _NAME.fullmatch(text) else b""
    if not data.startswith(b"TZif"):
        return text
    footer = data[data.rstrip(b"\n").rindex(b"\n") + 1 :].strip().decode() if data[4:5] >= b"2" else ""
    if not footer:
        raise ValueError(f"the zone {text} has no rule that holds for ever; give its POSIX TZ string instead")
    return footer


def _data(name: str) -> bytes:
    """Of the system where it has the zone, else of the package tzdata; empty where neither has it."""
    for folder in zoneinfo.TZPATH:
        path = Path(folder, name)
        if path.is_file():
            return path.read_bytes()
    found = importlib.resources.files("tzdata.zoneinfo").joinpath(*name.split("/"))
    return found.read_bytes() if found.is_file() else b""
