"""Setting the clock."""

from device import walltime

# The first bytes of a certificate, made by hand: version, serial number 5, algorithm, issuer, validity.
VALIDITY = {
    "utc": bytes([0x30, 30]) + bytes([0x17, 13]) + b"261121093000Z" + bytes([0x17, 13]) + b"461121093000Z",
    "old": bytes([0x30, 30]) + bytes([0x17, 13]) + b"991231235959Z" + bytes([0x17, 13]) + b"461121093000Z",
    "far": bytes([0x30, 34]) + bytes([0x18, 15]) + b"20511121093000Z" + bytes([0x18, 15]) + b"20611121093000Z",
}


def certificate(validity, version=True):
    issuer = bytes([0x30, 0x81, 130]) + bytes(130)  # a long one, whose length needs two bytes
    inside = bytes([0x02, 1, 5, 0x30, 2, 5, 0]) + issuer + validity + bytes(10)
    if version:
        inside = bytes([0xA0, 3, 2, 1, 2]) + inside
    inside = bytes([0x30, 0x82, len(inside) >> 8, len(inside) & 255]) + inside
    return bytes([0x30, 0x82, len(inside) >> 8, len(inside) & 255]) + inside


class Rtc:
    def __init__(self, now):
        self.now = now

    def datetime(self, fields=None):
        if fields is None:
            return self.now
        assert len(fields) == 8
        self.now = fields


def test_not_before():
    for version in (True, False):
        assert walltime.not_before(certificate(VALIDITY["utc"], version)) == (2026, 11, 21, 9, 30, 0)
        assert walltime.not_before(certificate(VALIDITY["old"], version)) == (1999, 12, 31, 23, 59, 59)
        assert walltime.not_before(certificate(VALIDITY["far"], version)) == (2051, 11, 21, 9, 30, 0)


def test_not_a_certificate():
    whole = certificate(VALIDITY["utc"])
    local = VALIDITY["utc"].replace(b"Z", b"+")
    for data in [b"", b"-----BEGIN CERTIFICATE-----", certificate(local)] + [whole[:n] for n in range(0, 180, 7)]:
        try:
            walltime.not_before(data)
        except ValueError as e:
            assert "certificate" in str(e)
        else:
            raise AssertionError(data)


def test_advance_only_forward():
    rtc = Rtc((2000, 1, 1, 5, 0, 0, 12, 345))
    moment = (2026, 11, 21, 9, 30, 0)
    assert walltime.advance(rtc, moment) is True
    assert rtc.now[:3] + rtc.now[4:7] == moment
    rtc.now = (2026, 11, 21, 5, 9, 30, 1, 0)
    assert walltime.advance(rtc, moment) is False and rtc.now[6] == 1


def test_set_ms():
    for unix_ms, fields in (
        (946684800000, (2000, 1, 1, 5, 0, 0, 0, 0)),
        (951782399999, (2000, 2, 28, 0, 23, 59, 59, 999000)),
        (951782400000, (2000, 2, 29, 1, 0, 0, 0, 0)),
        (1767225600000, (2026, 1, 1, 3, 0, 0, 0, 0)),
        (1795253400123, (2026, 11, 21, 5, 9, 30, 0, 123000)),
        (1835395199000, (2028, 2, 28, 0, 23, 59, 59, 0)),
        (4102444799999, (2099, 12, 31, 3, 23, 59, 59, 999000)),
    ):
        rtc = Rtc(None)
        walltime.set_ms(rtc, unix_ms)
        assert rtc.now == fields, (unix_ms, rtc.now)


def test_times_that_cannot_be():
    for unix_ms in (0, -1, 946684799999, 4102444800000, 1767225600):
        try:
            walltime.set_ms(Rtc(None), unix_ms)
        except ValueError as e:
            assert str(unix_ms) in str(e)
        else:
            raise AssertionError(unix_ms)


def test_the_clock_is_read_as_it_is_set():
    rtc = Rtc((2000, 1, 1, 5, 0, 0, 0, 0))
    assert walltime.now_ms(rtc) == 0
    for day in list(range(0, 36525, 13)) + [58, 59, 60, 365, 366, 424, 425, 36524]:
        unix_ms = 946684800000 + day * 86400000 + 86399999 - day
        walltime.set_ms(rtc, unix_ms)
        assert walltime.now_ms(rtc) == unix_ms - 946684800000, day
