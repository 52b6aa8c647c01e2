"""The counter over deep sleeps, and what the server needs to tell when a note was recorded (docs/protocol.md). Pure.

    times = Times(ticks_ms(), os.urandom, rtc, rtc.memory() if woken_from_deep_sleep else b"", esp32.NVS(NAMESPACE))
    stamp = times.stamp(take.start)     # as soon as a recording has ended, and kept with it
    times.told(time_ms, ticks_ms())     # with the time that a check-in's answer brought
    rtc.memory(times.pack(rtc, ticks_ms()))  # the last thing before deepsleep()

Awake the counter follows ticks_ms. In deep sleep the RTC's clock goes on, off by percents; what it counted is part of
the counter, and told apart. It is read before the sleep and after it, so setting it in between disturbs nothing; but
`Times` must be made before anybody sets it (walltime.advance) in a new run. Any other start than from deep sleep, and
memory that is not what was packed, begin a new count under a new mark.
"""

import binascii
import struct

from device.ticks import Counter
from device.walltime import now_ms

NAMESPACE = "times"  # of NVS
KEEP_MS = 3_600_000
PACKED_BYTES = 72
# Magic; mark; RTC, counter and its part asleep; whether there is an anchor: server's time, counter and its part asleep.
_LAYOUT = "<4s8sQQQQQQQ"
_MAGIC = b"off1"


class Times:
    """`counter`: the device.ticks.Counter. `anchor`: [server's time in ms since 1970, counter, part asleep], or None.

    NVS keeps the minute of the latest server time, at most once an hour: 8,760 entries of 32 bytes a year in pages of
    126 are 14 erases of each of 5 pages, of the 10,000 that are the worst case.
    """

    def __init__(self, ticks, random_bytes, rtc, kept: bytes, nvs):
        """ticks: ticks_ms now; random_bytes: os.urandom; rtc: machine.RTC; kept: what `pack` made, and anything after
        it, or b"" for a new count; nvs: an esp32.NVS of NAMESPACE.
        """
        self.anchor = None
        self._nvs = nvs
        self._after_ms = None  # the latest server time
        self._kept_ms = None  # the same as NVS has it
        try:
            self._after_ms = self._kept_ms = nvs.get_i32("after") * 60_000
        except OSError:
            pass  # ESP_ERR_NVS_NOT_FOUND: no server has ever told the time
        packed = _unpack(kept)
        if packed is not None:
            mark, rtc_ms, ms, asleep_ms, anchored, *anchor = packed
            slept_ms = now_ms(rtc) - rtc_ms
            if slept_ms >= 0:
                self.counter = Counter(mark.decode(), ticks, ms + slept_ms, asleep_ms + slept_ms)
                if anchored:
                    self.anchor = anchor
                    self._after_ms = max(anchor[0], self._after_ms or 0)
                return
        self.counter = Counter(binascii.hexlify(random_bytes(4)).decode(), ticks)

    def now(self, ticks):
        """(mark, counter in ms, part of that asleep): what `Offbeat-Counter` tells."""
        return self.counter.mark, self.counter.at_ms(ticks), self.counter.asleep_ms

    def stamp(self, ticks) -> dict:
        """The metadata's keys `counter`, `start_ms`, `asleep_ms`, `anchor`, `after_ms` of a recording that began at
        `ticks`. To be asked for before the device sleeps or hears a time again.
        """
        stamp = {"counter": self.counter.mark, "start_ms": self.counter.at_ms(ticks)}
        stamp["asleep_ms"] = self.counter.asleep_ms
        if self.anchor is not None:
            stamp["anchor"] = self.anchor
        if self._after_ms is not None:
            stamp["after_ms"] = self._after_ms
        return stamp

    def told(self, time_ms: int, ticks):
        """The server said `time_ms` (ms since 1970) when it was `ticks`. OSError: NVS could not keep it."""
        self.anchor = [time_ms, self.counter.at_ms(ticks), self.counter.asleep_ms]
        self._after_ms = time_ms
        # Also when it is less than what is kept: the server's clock was wrong then.
        if self._kept_ms is None or not 0 <= time_ms - self._kept_ms < KEEP_MS:
            self._kept_ms = time_ms // 60_000 * 60_000
            self._nvs.set_i32("after", time_ms // 60_000)
            self._nvs.commit()

    def pack(self, rtc, ticks) -> bytes:
        """What to keep over a deep sleep that begins now: PACKED_BYTES."""
        mark, ms, asleep_ms = self.now(ticks)
        anchored = self.anchor is not None
        anchor = self.anchor if anchored else (0, 0, 0)
        packed = struct.pack(_LAYOUT, _MAGIC, mark.encode(), now_ms(rtc), ms, asleep_ms, anchored, *anchor)
        return packed + struct.pack("<I", binascii.crc32(packed))


def _unpack(kept):
    """What was packed, without the magic; None if it is not what `pack` made."""
    size = struct.calcsize(_LAYOUT)
    packed = kept[:size]
    checksum = kept[size : size + 4]
    if packed[:4] != _MAGIC or checksum != struct.pack("<I", binascii.crc32(packed)):
        return None
    return struct.unpack(_LAYOUT, packed)[1:]
