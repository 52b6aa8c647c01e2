"""`time` of the ESP32 port on the simulator's clock: epoch 2000, ticks since the start of this run."""

import time as _host_time

from .clock import clock

EPOCH_2000_S = 946_684_800
_TICKS = 1 << 30  # the period of the chip's ticks


class _Rtc:
    """The real-time counter: survives resets and sleeps, not the loss of power."""

    offset_us = 0  # time since 2000 less the simulator's clock
    memory = b""


rtc = _Rtc()


def ticks_us():
    clock.deliver()
    return clock.since_boot_us() % _TICKS


def ticks_ms():
    clock.deliver()
    return (clock.since_boot_us() // 1000) % _TICKS


def ticks_add(ticks, delta):
    return (ticks + delta) % _TICKS


def ticks_diff(later, earlier):
    return (later - earlier + _TICKS // 2) % _TICKS - _TICKS // 2


def ticks_cpu():
    return ticks_us()


def time():
    return (clock.now() + rtc.offset_us) // 1_000_000


def time_ns():
    return (clock.now() + rtc.offset_us) * 1000


def sleep(seconds):
    clock.sleep(int(seconds * 1_000_000))


def sleep_ms(ms):
    clock.sleep(ms * 1000)


def sleep_us(us):
    clock.sleep(us)


def gmtime(seconds=None):
    return _host_time.gmtime((time() if seconds is None else seconds) + EPOCH_2000_S)[:8]


localtime = gmtime


def mktime(fields):
    """Seconds since 2000 of a date in UTC (the chip knows no zones)."""
    year, month, day, hour, minute, second = fields[:6]
    year -= month < 3
    month = month + 9 if month < 3 else month - 3
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - 730_425
    return ((days * 24 + hour) * 60 + minute) * 60 + second
