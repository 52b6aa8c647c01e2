"""Setting the board's clock: enough to verify a certificate's dates, then the server's true time.

`rtc` is a machine.RTC. Its years before 2000 do not exist on the ESP32; nothing here needs them.
"""

_EPOCH_DAYS = 10957  # from 1970-01-01 to 2000-01-01


def not_before(der) -> tuple:
    """The first moment at which an X.509 certificate (DER) is valid: (year, month, day, hour, minute, second), UTC.

    ValueError if `der` is not a certificate. Layout: RFC 5280, 4.1 and 4.1.2.5.
    """
    try:
        _, certificate, _ = _item(der, 0)
        _, at, _ = _item(der, certificate)
        tag, _, end = _item(der, at)
        if tag == 0xA0:  # version, absent in version 1
            at = end
        for _ in range(3):  # serial number, signature algorithm, issuer
            at = _item(der, at)[2]
        _, validity, _ = _item(der, at)
        tag, start, end = _item(der, validity)
        text = bytes(der[start:end]).decode()
        if tag == 0x17:  # UTCTime: two digits of the year, 1950 to 2049
            text = ("19" if text[0] >= "5" else "20") + text
        elif tag != 0x18:
            raise ValueError
        if len(text) != 15 or text[14] != "Z":
            raise ValueError
        return (int(text[:4]),) + tuple(int(text[i : i + 2]) for i in range(4, 14, 2))
    except (ValueError, IndexError):
        raise ValueError("not an X.509 certificate in DER: pair the device again")


def _item(der, at):
    """(tag, start, end) of the content of the DER item at `at`; IndexError when it does not fit."""
    length = der[at + 1]
    start = at + 2
    if length & 0x80:
        count = length & 0x7F
        length = 0
        for i in range(start, start + count):
            length = length << 8 | der[i]
        start += count
    if start + length > len(der):
        raise IndexError
    return der[at], start, start + length


def advance(rtc, moment: tuple):
    """Set the clock forward to `moment` (as from `not_before`) if it is behind; True if it was."""
    year, month, day, _, hour, minute, second, _ = rtc.datetime()
    if (year, month, day, hour, minute, second) >= moment:
        return False
    rtc.datetime(moment[:3] + (0,) + moment[3:] + (0,))
    return True


def now_ms(rtc) -> int:
    """What the clock shows, milliseconds since 2000-01-01 UTC, from 2000 to 2099."""
    year, month, day, _, hour, minute, second, us = rtc.datetime()
    year -= 2000
    days = year * 365 + (year + 3) // 4 + day - 1  # no exception to the rule of four from 2000 to 2099
    days += (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)[month - 1] + (month > 2 and year % 4 == 0)
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + us // 1000


def set_ms(rtc, unix_ms: int):
    """Set the clock to `unix_ms`, milliseconds since 1970-01-01 UTC; ValueError outside 2000 to 2099."""
    days, ms = divmod(unix_ms, 86400000)
    days -= _EPOCH_DAYS
    if not 0 <= days < 36525:
        raise ValueError("time_ms is %d: not between 2000 and 2099" % unix_ms)
    weekday = (days + 5) % 7  # 2000-01-01 was a Saturday; Monday is 0
    year = 2000
    while days >= (366 if year % 4 == 0 else 365):  # no exception to the rule of four from 2000 to 2099
        days -= 366 if year % 4 == 0 else 365
        year += 1
    month = 1
    for length in (31, 29 if year % 4 == 0 else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31):
        if days < length:
            break
        days -= length
        month += 1
    second, ms = divmod(ms, 1000)
    hour, minute = divmod(second // 60, 60)
    rtc.datetime((year, month, days + 1, weekday, hour, minute, second % 60, ms * 1000))
