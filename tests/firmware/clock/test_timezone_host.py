"""The time zones of the world against Python's zoneinfo, to the second, from 2026 to 2036."""

import functools
import importlib.resources
import io
import struct
import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clock.timezone import Zone

FIRST, LAST = datetime(2026, 1, 1, tzinfo=UTC), datetime(2037, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STEP = timedelta(days=5)  # shorter than any stay in one offset in these years


@functools.cache
def data_of(key):
    for folder in zoneinfo.TZPATH:
        path = Path(folder, key)
        if path.is_file():
            return path.read_bytes()
    return importlib.resources.files("tzdata.zoneinfo").joinpath(*key.split("/")).read_bytes()


def footer(key):
    data = data_of(key)
    return data[data.rstrip(b"\n").rindex(b"\n") + 1 :].strip().decode() if data[4:5] >= b"2" else ""


def by_footer_alone(text):
    """zoneinfo's own reading of a TZ string: a TZif file with nothing but it."""
    header = b"TZif2" + bytes(15)
    body = struct.pack(">6l", 0, 0, 0, 0, 1, 1) + struct.pack(">lbB", 0, 0, 0) + b"\0"
    return zoneinfo.ZoneInfo.from_file(io.BytesIO((header + body) * 2 + b"\n" + text.encode() + b"\n"))


def offset_s(zone, moment):
    return int(moment.astimezone(zone).utcoffset().total_seconds())


def ours_s(zone, moment):
    since = moment - EPOCH
    return zone.utc_offset_s(since.days * 1440 + since.seconds // 60, since.seconds % 60)


def moments(zone):
    """Every fifth day, and both sides of each change, to the second."""
    moment = FIRST
    while moment < LAST:
        yield moment
        following = moment + STEP
        if offset_s(zone, moment) != offset_s(zone, following):
            low, high = moment, following
            while high - low > timedelta(seconds=1):
                middle = low + timedelta(seconds=(high - low).total_seconds() // 2)
                low, high = (middle, high) if offset_s(zone, middle) == offset_s(zone, moment) else (low, middle)
            yield low
            yield high
        moment = following


def test_every_zone_of_the_world(capsys):
    footers = {key: footer(key) for key in sorted(zoneinfo.available_timezones()) if key != "localtime"}
    footers = {key: text for key, text in footers.items() if text}
    assert len(footers) > 400
    for text in sorted(set(footers.values())):
        reference, zone = by_footer_alone(text), Zone(text)
        changes = 0
        for moment in moments(reference):
            assert ours_s(zone, moment) == offset_s(reference, moment), (text, moment)
            changes += 1
        assert changes > 800

    # What the rest of the file says: some zones have changes in these years that their footer does not tell of.
    apart = set()
    for key, text in footers.items():
        real, zone = zoneinfo.ZoneInfo(key), Zone(text)
        departing = [m for m in moments(real) if ours_s(zone, m) != offset_s(real, m)]
        if departing:
            alone = by_footer_alone(text)
            assert all(offset_s(alone, m) != offset_s(real, m) for m in departing), key
            apart.add(key)
    with capsys.disabled():
        print("\nzones whose own table departs from their footer:", ", ".join(sorted(apart)) or "none")
    assert len(apart) < 25


def test_the_zones_of_the_design_change_as_their_tables_say():
    for key in ("Europe/Athens", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Europe/Dublin"):
        real, zone = zoneinfo.ZoneInfo(key), Zone(footer(key))
        assert len({ours_s(zone, m) for m in moments(real)}) == (1 if key == "Asia/Kathmandu" else 2)
        for moment in moments(real):
            assert ours_s(zone, moment) == offset_s(real, moment), (key, moment)
