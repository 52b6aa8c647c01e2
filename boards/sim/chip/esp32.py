"""`esp32`: NVS, partitions, RMT and wake sources."""

import json

from . import machine
from .clock import clock
from .flash import Partition  # noqa: F401  part of esp32

WAKEUP_ALL_LOW = 0
WAKEUP_ANY_HIGH = 1


def wake_on_ext0(pin, level):
    """One pin, 0 to 21; None: no more."""
    _wake_on(machine.EXT0_WAKE, () if pin is None else (pin,), level)


def wake_on_ext1(pins, level):
    """Several pins, 0 to 21; an empty tuple or None: no more."""
    _wake_on(machine.EXT1_WAKE, pins or (), level)


def _wake_on(reason, pins, level):
    for pin in pins:
        if pin.id > 21:
            raise ValueError("invalid pin")  # not of the RTC
    machine.wake_sources[reason] = (tuple(pin.id for pin in pins), 1 if level else 0)


class NVS:
    """Namespaces in one JSON file of the host; what is not committed is lost with the power."""

    file = None  # an object with read() and write(text), atomic
    _committed = None

    def __init__(self, namespace):
        if NVS._committed is None:
            NVS._committed = json.loads(self.file.read() or "{}")
        self._namespace = namespace
        self._values = dict(NVS._committed.get(namespace, {}))

    def _get(self, kind, key):
        value = self._values.get(key)
        if value is None or value[0] != kind:
            raise OSError(-0x1102)  # ESP_ERR_NVS_NOT_FOUND
        return value[1]

    def _set(self, kind, key, value):
        if len(key) > 15:
            raise OSError(-0x1109)  # ESP_ERR_NVS_KEY_TOO_LONG
        self._values[key] = [kind, value]

    def set_i32(self, key, value):
        if not -0x80000000 <= value <= 0x7FFFFFFF:
            raise OverflowError
        self._set("i32", key, value)

    def get_i32(self, key):
        return self._get("i32", key)

    def set_blob(self, key, value):
        self._set("blob", key, "".join("%02x" % byte for byte in bytes(value)))

    def get_blob(self, key, buffer):
        value = bytes.fromhex(self._get("blob", key))
        if len(value) > len(buffer):
            raise OSError(-0x110C)  # ESP_ERR_NVS_INVALID_LENGTH
        buffer[: len(value)] = value
        return len(value)

    def erase_key(self, key):
        if key not in self._values:
            raise OSError(-0x1102)
        del self._values[key]

    def commit(self):
        clock.spend(clock.costs["nvs_commit_us"])
        NVS._committed[self._namespace] = dict(self._values)
        self.file.write(json.dumps(NVS._committed))


class RMT:
    """Transmits a train of levels with exact times, whatever the interpreter does meanwhile.

    Fails loudly where the chip would misbehave: a phase longer than its 15 bits, a train while one is under way (the
    chip would block until the first is done).
    """

    PULSE_MAX = 32767
    _base_hz = 80_000_000

    def __init__(
        self,
        channel,
        *,
        pin=None,
        resolution_hz=10_000_000,
        clock_div=None,
        idle_level=False,
        num_symbols=None,
        tx_carrier=None,
    ):
        if pin is None:
            raise TypeError("pin")
        self._pin = pin.id
        self._resolution_hz = resolution_hz if clock_div is None else self._base_hz // clock_div
        self._idle = 1 if idle_level else 0
        self._events = []
        self._done_us = clock.now()
        machine.Pin(self._pin, machine.Pin.OUT)
        machine.drive(self._pin, self._idle)

    def clock_div(self):
        return self._base_hz // self._resolution_hz

    @staticmethod
    def source_freq():
        return RMT._base_hz

    @staticmethod
    def bitstream_channel(channel=None):
        """Which channel `machine.bitstream` keeps for itself; the simulated board has no bitstream."""

    def write_pulses(self, duration, data=True):
        if isinstance(duration, int):
            levels = [1 if bit else 0 for bit in data]
            durations = [duration] * len(levels)
        elif isinstance(data, (bool, int)):
            durations = list(duration)
            levels = [(1 if data else 0) ^ (index & 1) for index in range(len(durations))]
        else:
            durations, levels = list(duration), [1 if bit else 0 for bit in data]
        if not durations or len(durations) != len(levels):
            raise ValueError("duration and data must have the same length")
        if max(durations) > self.PULSE_MAX or min(durations) < 1:
            raise ValueError("an RMT phase has 1 to 32767 ticks")
        if not self.wait_done():
            clock.spend(self._done_us - clock.now_us)
        at_ticks = 0
        began_us = clock.now()
        self._events = []
        before = self._idle
        for ticks, level in zip(durations, levels):
            if level != before:
                self._edge(began_us, at_ticks, level)
                before = level
            at_ticks += ticks
        if before != self._idle:
            self._edge(began_us, at_ticks, self._idle)
        self._done_us = began_us + at_ticks * 1_000_000 // self._resolution_hz

    def _edge(self, began_us, at_ticks, level):
        t_us = began_us + at_ticks * 1_000_000 // self._resolution_hz
        self._events.append(clock.at(t_us, lambda: machine.drive(self._pin, level)))

    def wait_done(self, *, timeout=0):
        if clock.now() < self._done_us and timeout:
            clock.spend(min(self._done_us - clock.now_us, timeout * 1000))
        return clock.now_us >= self._done_us

    def loop(self, enable):
        if enable:
            raise NotImplementedError("the simulated RMT does not loop")

    def active(self, value=None):
        if value is False:
            self.deinit()
        return clock.now() < self._done_us

    def deinit(self):
        for event in self._events:
            event[2] = None
        self._events = []
        self._done_us = clock.now()
        machine.drive(self._pin, self._idle)
