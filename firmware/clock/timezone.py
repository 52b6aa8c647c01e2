"""Wall time from a POSIX TZ string, such as "EET-2EEST,M3.5.0/3,M10.5.0/4": when the clocks change, for ever.

All of POSIX, and what RFC 8536 adds for the footers of the time zone database: quoted names, hours from -167 to 167
in the times of the changes, daylight saving before or behind standard time, and all the year round.

Moments are (minutes since 1970-01-01 UTC, seconds 0 .. 59): a count of seconds would need more than the 31 bits of a
small integer.
"""

_DAYS_BEFORE = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)  # a month's first day in the year, no leap day


def is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def new_year(year: int) -> int:
    """Days from 1970-01-01 to the 1st of January of a year, 1970 or later."""
    before = year - 1
    return (year - 1970) * 365 + before // 4 - before // 100 + before // 400 - 477


def year_of(day: int) -> int:
    """The year in which a day lies that is counted from 1970-01-01."""
    year = 1970 + day // 366
    while new_year(year + 1) <= day:
        year += 1
    return year


class _Reader:
    """Takes a TZ string apart from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def refuse(self, expected: str):
        rest = self.text[self.at :]
        raise ValueError('timezone: "%s" should have %s at "%s"' % (self.text, expected, rest))

    def next_is(self, letters: str) -> bool:
        return self.at < len(self.text) and self.text[self.at] in letters

    def take(self, letters: str) -> str:
        """The longest run of these letters, possibly empty."""
        start = self.at
        while self.next_is(letters):
            self.at += 1
        return self.text[start : self.at]

    def expect(self, letter: str) -> None:
        if not self.next_is(letter):
            self.refuse('"%s"' % letter)
        self.at += 1

    def number(self, low: int, high: int) -> int:
        start = self.at
        digits = self.take("0123456789")
        if not digits or not low <= int(digits) <= high:
            self.at = start
            self.refuse("a number from %d to %d" % (low, high))
        return int(digits)

    def name(self) -> None:
        if self.next_is("<"):
            self.at += 1
            name = self.take(_LETTERS + "0123456789+-")
            self.expect(">")
        else:
            name = self.take(_LETTERS)
        if len(name) < 3:
            self.refuse("a name of three letters or more before what stands")

    def time_s(self, hours: int) -> int:
        """[+-]hh[:mm[:ss]] as seconds, hh at most `hours`."""
        sign = -1 if self.next_is("-") else 1
        if self.next_is("+-"):
            self.at += 1
        total_s = self.number(0, hours) * 3600
        for unit_s in (60, 1):
            if not self.next_is(":"):
                break
            self.at += 1
            total_s += self.number(0, 59) * unit_s
        return sign * total_s

    def rule(self):
        """(kind, three numbers, time in s): a day of the year and the wall time of the change on it."""
        self.expect(",")
        if self.next_is("M"):
            self.at += 1
            month = self.number(1, 12)
            self.expect(".")
            week = self.number(1, 5)
            self.expect(".")
            day = ("M", month, week, self.number(0, 6))
        elif self.next_is("J"):
            self.at += 1
            day = ("J", self.number(1, 365), 0, 0)
        else:
            day = ("0", self.number(0, 365), 0, 0)
        time_s = 7200
        if self.next_is("/"):
            self.at += 1
            time_s = self.time_s(167)
        return day + (time_s,)


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _day_of(rule, year: int) -> int:
    """The day that a rule names in a year, counted from 1970-01-01."""
    kind, number, week, weekday, _ = rule
    first = new_year(year)
    if kind == "0":  # 0 .. 365, leap days counted
        return first + number
    if kind == "J":  # 1 .. 365, the 29th of February never counted
        return first + number - 1 + (is_leap(year) and number > 59)
    first += _DAYS_BEFORE[number - 1] + (is_leap(year) and number > 2)
    day = (weekday - first - 4) % 7 + 7 * (week - 1)  # 1970-01-01 was a Thursday
    length = 28 + is_leap(year) if number == 2 else 30 + (number + number // 8) % 2
    return first + (day if day < length else day - 7)  # week 5 is the last, which may be the fourth


class Zone:
    """A time zone. ValueError, with the place, if the string is malformed or has daylight saving without its rules."""

    def __init__(self, text: str) -> None:
        reader = _Reader(text)
        reader.name()
        self.standard_s = self.daylight_s = -reader.time_s(24)  # POSIX counts west of Greenwich as positive
        self._rules: tuple = ()
        if reader.at < len(text):
            reader.name()
            self.daylight_s = self.standard_s + 3600
            if not reader.next_is(","):
                self.daylight_s = -reader.time_s(24)
            self._rules = (reader.rule(), reader.rule())
        if reader.at < len(text):
            reader.refuse("its end")
        self._offset_s = self.standard_s
        self._from = self._until = 0  # the whole minutes for which _offset_s is known to hold

    def utc_offset_s(self, minute: int, second: int = 0) -> int:
        """Local time less UTC, in seconds, at a moment from 1971 on."""
        if not self._rules:
            return self.standard_s
        if not self._from <= minute < self._until:
            self._find(minute, second)
        return self._offset_s

    def _find(self, minute: int, second: int) -> None:
        """The last change until a moment decides, and holds until the next. A change may lie a week beside its year.

        Of two at one moment the beginning of daylight saving counts: all the year round it ends where it begins again.
        """
        year = year_of(minute // 1440)
        changes = [self._change(near, daylight) for near in range(year - 2, year + 3) for daylight in (0, 1)]
        last = max([change for change in changes if change[:2] <= (minute, second)])
        following = min([change for change in changes if change[:2] > (minute, second)])
        self._offset_s = self.daylight_s if last[2] else self.standard_s
        self._from = last[0] + (last[1] > 0)
        self._until = following[0]

    def _change(self, year: int, daylight: int):
        """(minute, second, daylight): the moment in UTC at which daylight saving begins (1) or ends (0) in a year."""
        rule = self._rules[1 - daylight]
        utc_s = rule[4] - (self.standard_s if daylight else self.daylight_s)
        return _day_of(rule, year) * 1440 + utc_s // 60, utc_s % 60, daylight
