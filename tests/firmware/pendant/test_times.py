"""The counter over deep sleeps and losses of power, against the vectors that the server reads too."""

import json

from device.walltime import now_ms, set_ms
from pendant.times import KEEP_MS, PACKED_BYTES, Times

VECTORS = __file__.rsplit("/", 3)[0] + "/vectors/times.json"
PERIOD = 1 << 30


class Rtc:
    """Stands for machine.RTC, to the millisecond; `pass_ms` is the time that it counts."""

    def __init__(self):
        self.fields = (2000, 1, 1, 5, 0, 0, 0, 0)

    def datetime(self, fields=None):
        if fields is None:
            return self.fields
        self.fields = fields

    def pass_ms(self, ms):
        set_ms(self, 946_684_800_000 + now_ms(self) + ms)


class Nvs:
    def __init__(self):
        self.values, self.commits = {}, 0

    def get_i32(self, key):
        if key not in self.values:
            raise OSError(-0x1102)
        return self.values[key]

    def set_i32(self, key, value):
        assert -(1 << 31) <= value < 1 << 31
        self.values[key] = value

    def commit(self):
        self.commits += 1


class Device:
    """One board: its ticks begin anew with each start."""

    def __init__(self, mark="89abcdef", ticks=5):
        self.rtc, self.nvs = Rtc(), Nvs()
        self.power(mark, ticks)

    def _start(self, mark, kept, ticks=0):
        self.ticks = ticks
        self.times = Times(ticks, lambda count: bytes.fromhex(mark), self.rtc, kept, self.nvs)

    def power(self, mark, ticks=0):
        self.rtc.datetime((2000, 1, 1, 5, 0, 0, 0, 0))
        self._start(mark, b"", ticks)

    def awake(self, ms):
        self.ticks = (self.ticks + ms) % PERIOD
        self.rtc.pass_ms(ms)

    def sleep(self, ms):
        kept = self.times.pack(self.rtc, self.ticks)
        assert len(kept) == PACKED_BYTES
        self.rtc.pass_ms(ms)
        self._start("ffffffff", kept + b"what others keep there")

    def told(self, time_ms):
        self.times.told(time_ms, self.ticks)
        set_ms(self.rtc, time_ms)

    def counter(self):
        return "%s %d %d" % self.times.now(self.ticks)


def test_vectors():
    with open(VECTORS) as file:
        cases = [case for case in json.load(file)["cases"] if case["device"] is not None]
    assert len(cases) >= 6
    for case in cases:
        device, metadata, counter = Device(), None, None
        for step in case["device"]:
            if step[0] == "record":
                metadata = device.times.stamp(device.ticks)
            elif step[0] == "send":
                counter = device.counter()
            else:
                getattr(device, step[0])(step[1])
        assert metadata == case["metadata"], (case["what"], metadata)
        assert counter == case["counter"], (case["what"], counter)


def test_setting_the_clock_does_not_disturb_the_count():
    device = Device()
    for _ in range(3):
        device.awake(1000)
        set_ms(device.rtc, 1_767_225_600_000)
        device.sleep(60_000)
        set_ms(device.rtc, 1_800_000_000_000)
        device.awake(500)
    assert device.counter() == "89abcdef %d 180000" % (3 * 61_500)


def test_over_the_wrap_of_the_ticks():
    device = Device(ticks=PERIOD - 10)
    device.awake(100)
    assert device.counter() == "89abcdef 100 0"


def test_damaged_memory_begins_a_new_count():
    device = Device()
    device.awake(1000)
    device.told(1_767_225_600_000)
    kept = device.times.pack(device.rtc, device.ticks)
    for at in range(PACKED_BYTES):
        for damaged in (kept[:at] + bytes([kept[at] ^ 0x10]) + kept[at + 1 :], kept[:at]):
            device._start("00000001", damaged)
            assert device.counter() == "00000001 0 0", at
            stamp = device.times.stamp(0)
            assert "anchor" not in stamp and stamp["after_ms"] == 1_767_225_600_000
    device._start("00000001", bytes(2048))
    assert device.counter() == "00000001 0 0"


def test_an_rtc_that_went_back_begins_a_new_count():
    device = Device()
    set_ms(device.rtc, 1_767_225_600_000)
    kept = device.times.pack(device.rtc, device.ticks)
    set_ms(device.rtc, 1_767_225_599_000)
    device._start("00000001", kept)
    assert device.counter() == "00000001 0 0"


def test_a_moment_before_the_last_look():
    device = Device()
    device.awake(5000)
    device.times.now(device.ticks)
    assert device.times.stamp(device.ticks - 1000)["start_ms"] == 4000


def test_light_sleep_counts_as_asleep():
    device = Device()
    device.awake(10_000)
    device.times.counter.dozed(6000)
    assert device.counter() == "89abcdef 10000 6000"
    device.sleep(1000)
    assert device.counter() == "89abcdef 11000 7000"


def test_nvs_is_written_once_an_hour():
    device = Device()
    start_ms = 1_767_225_600_000
    for minute in range(0, 600, 10):
        device.told(start_ms + minute * 60_000)
    assert device.nvs.commits == 10
    device.power("01234567")
    after_ms = device.times.stamp(0)["after_ms"]
    assert 0 <= start_ms + 590 * 60_000 - after_ms < KEEP_MS
    device.told(start_ms)  # the server's clock was wrong, and was set right
    device.told(start_ms + 1)
    assert device.nvs.commits == 11
