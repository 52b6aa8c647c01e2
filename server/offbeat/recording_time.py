"""When a note was recorded: docs/protocol.md, "When a note was recorded". Pure."""

from dataclasses import dataclass
from typing import Any

SLACK_MS = 2000  # for what is between a counter's reading and the server's: networks, and a server that is busy
AWAKE_PPM = 100  # by which the counter may be off while awake
PERCENT_BETWEEN = 2  # of the time asleep that lies between two times of the server
PERCENT_ALONE = 5  # and of that which only the device has timed
PERCENT_STRANGE = 10  # beyond that no clock of a sleeping device is off


@dataclass(frozen=True)
class Reading:
    """A value of the device's counter: ms since power-on, and the part of that spent asleep."""

    ms: int
    asleep_ms: int

    def since(self, earlier: "Reading") -> tuple[int, int] | None:
        """(awake, asleep) ms that passed; None where it would run backwards."""
        asleep_ms = self.asleep_ms - earlier.asleep_ms
        awake_ms = self.ms - earlier.ms - asleep_ms
        return None if asleep_ms < 0 or awake_ms < 0 else (awake_ms, asleep_ms)


@dataclass(frozen=True)
class Stamp:
    """What a note's file says about its time; `anchor`: (server's time in ms since 1970, counter then)."""

    counter: str
    start: Reading
    anchor: tuple[int, Reading] | None
    after_ms: int | None

    @classmethod
    def of(cls, metadata: dict[str, Any]) -> "Stamp | None":
        """None where the metadata does not tell. An anchor or `after_ms` that is not as it should be is left out."""
        counter: Any = metadata.get("counter")
        start_ms: Any = metadata.get("start_ms")
        asleep_ms: Any = metadata.get("asleep_ms")
        if not isinstance(counter, str) or not _times([start_ms, asleep_ms]):
            return None
        anchor: Any = metadata.get("anchor")
        after_ms = metadata.get("after_ms")
        good = isinstance(anchor, list) and len(anchor) == 3 and _times(anchor)
        return cls(
            counter,
            Reading(start_ms, asleep_ms),
            (anchor[0], Reading(anchor[1], anchor[2])) if good else None,
            after_ms if _times([after_ms]) else None,
        )


def _times(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value < 2**53 for value in values)


@dataclass(frozen=True)
class RecordingTime:
    """Milliseconds since 1970 UTC: the time, or None where there is only an interval, and the ends of that."""

    ms: int | None
    from_ms: int | None
    to_ms: int


def recording_time(stamp: Stamp | None, counter: str, now: Reading, arrived_ms: int) -> RecordingTime:
    """stamp: of the note, if it has one; counter, now, arrived_ms: of `Offbeat-Counter` at its first `PATCH`."""
    to_ms = arrived_ms
    if stamp is None:
        return RecordingTime(None, None, to_ms)
    from_ms = stamp.after_ms if stamp.after_ms is not None and stamp.after_ms <= to_ms else None
    if stamp.counter != counter:
        # It lies before the start of this count, whose part asleep may be too long by some percents.
        to_ms = min(to_ms, arrived_ms - now.ms * (100 - PERCENT_ALONE) // 100 + SLACK_MS)
    if from_ms is not None and from_ms > to_ms:
        from_ms = None
    estimate = _same_count(stamp, now, arrived_ms) if stamp.counter == counter else _from_anchor(stamp)
    if estimate is not None:
        ms, half_ms = estimate
        low_ms = ms - half_ms if from_ms is None else max(ms - half_ms, from_ms)
        high_ms = min(ms + half_ms, to_ms)
        if low_ms <= high_ms:
            return RecordingTime(min(max(ms, low_ms), high_ms), low_ms, high_ms)
    return RecordingTime(None, from_ms, to_ms)


def _same_count(stamp: Stamp, now: Reading, arrived_ms: int) -> tuple[int, int] | None:
    """(time, half of the interval), or None: the counter runs backwards."""
    passed = now.since(stamp.start)
    if passed is None:
        return None
    between = _between(stamp, now, arrived_ms)
    if between is not None:
        return between
    awake_ms, asleep_ms = passed
    return arrived_ms - awake_ms - asleep_ms, _half_ms(awake_ms, asleep_ms * PERCENT_ALONE // 100)


def _between(stamp: Stamp, now: Reading, arrived_ms: int) -> tuple[int, int] | None:
    """The same from the anchor and the arrival; None where there is no anchor, or one that contradicts the counter."""
    if stamp.anchor is None:
        return None
    at_ms, anchor = stamp.anchor
    whole, part = now.since(anchor), stamp.start.since(anchor)
    if whole is None or part is None:
        return None
    asleep_ms = arrived_ms - at_ms - whole[0]  # by the server's clock, against what the device's counted: whole[1]
    if abs(asleep_ms - whole[1]) > _half_ms(whole[0], whole[1] * PERCENT_STRANGE // 100):
        return None
    ms, half_ms = at_ms + part[0], 0
    if whole[1]:
        ms += asleep_ms * part[1] // whole[1]
        half_ms = part[1] * (whole[1] - part[1]) * PERCENT_BETWEEN // (whole[1] * 100)
    return ms, _half_ms(whole[0], half_ms)


def _from_anchor(stamp: Stamp) -> tuple[int, int] | None:
    if stamp.anchor is None:
        return None
    at_ms, anchor = stamp.anchor
    passed = stamp.start.since(anchor)
    if passed is None:
        return None
    awake_ms, asleep_ms = passed
    return at_ms + awake_ms + asleep_ms, _half_ms(awake_ms, asleep_ms * PERCENT_ALONE // 100)


def _half_ms(awake_ms: int, asleep_error_ms: int) -> int:
    return SLACK_MS + awake_ms * AWAKE_PPM // 1_000_000 + asleep_error_ms
