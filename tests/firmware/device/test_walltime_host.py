"""Setting the clock, against CPython's own calendar and a real certificate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from device import walltime
from hypothesis import given
from hypothesis import strategies as st


class Rtc:
    now: Any = None

    def datetime(self, fields: Any) -> None:
        self.now = fields


@given(st.integers(946684800000, 4102444799999))
def test_set_ms_is_the_calendars(unix_ms: int) -> None:
    rtc = Rtc()
    walltime.set_ms(rtc, unix_ms)
    true = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)
    year, month, day, weekday, hour, minute, second, micros = rtc.now
    assert datetime(year, month, day, hour, minute, second, micros, UTC) == true
    assert weekday == true.weekday()


def test_not_before_of_a_real_certificate(certificate: Any) -> None:
    _, _, der = certificate(days_before=400)
    expected = x509.load_der_x509_certificate(der).not_valid_before_utc
    assert walltime.not_before(der) == tuple(expected.timetuple()[:6])
