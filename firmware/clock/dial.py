"""The dial: 43,200 positions, 12 hours of 60 minutes of 60 steps. A position is steps past 12:00:00."""

STEPS = 43_200


def showing(minute: int, utc_offset_s: int) -> int:
    """The position that is right as a minute begins.

    minute: since 1970-01-01 UTC; utc_offset_s: local time less UTC, any whole number of seconds.
    """
    return (minute % 720 * 60 + utc_offset_s) % STEPS


def steps(start: int, end: int) -> int:
    """How many ticks bring the hands from one position to another; they only go forward. 0 .. 43,199."""
    return (end - start) % STEPS


def parse(text: str) -> int:
    """Position of "10:08:30". The hour is 0 to 23: hands do not know noon from midnight. ValueError if malformed."""
    parts = text.split(":")
    if len(parts) == 3 and all(part.isdigit() and len(part) <= 2 for part in parts):
        hour, minute, second = [int(part) for part in parts]
        if hour < 24 and minute < 60 and second < 60:
            return (hour * 3600 + minute * 60 + second) % STEPS
    raise ValueError('hands: "%s" is not a reading like "10:08:30"' % text)


def text(position: int) -> str:
    """What hands at a position show, "12:00:00" to "11:59:59"."""
    hour = position // 3600
    return "%02d:%02d:%02d" % (hour or 12, position // 60 % 60, position % 60)
