"""`machine` of the ESP32 port, over the simulator's clock and the host program's hands."""

from . import hosttime, network
from .clock import clock

PWRON_RESET = 1
HARD_RESET = 2
WDT_RESET = 3
DEEPSLEEP_RESET = 4
SOFT_RESET = 5
PIN_WAKE = EXT0_WAKE = 2
EXT1_WAKE = 3
TIMER_WAKE = 4
SLEEP = 2
DEEPSLEEP = 4

_cause = [PWRON_RESET, 0]


def reset_cause():
    return _cause[0]


def wake_reason():
    return _cause[1]


def unique_id():
    return b"\x02OFFB1"


def freq(hz=None):
    return None if hz else 240_000_000


def idle():
    clock.sleep(1000)


def disable_irq():
    return 0


def enable_irq(state):
    pass


def reset():
    clock.control.leave("reset", cause=HARD_RESET)


def soft_reset():
    clock.control.leave("reset", cause=SOFT_RESET)


class Pin:
    IN = 1
    OUT = 3
    OPEN_DRAIN = 7
    PULL_DOWN = 1
    PULL_UP = 2
    IRQ_RISING = 1
    IRQ_FALLING = 2
    WAKE_LOW = 4
    WAKE_HIGH = 5
    DRIVE_0, DRIVE_1, DRIVE_2, DRIVE_3 = range(4)

    outside = {}  # pin -> level that the world puts on it; absent: the pull decides
    _pads = {}  # pin -> [level driven, handler, trigger, handler's Pin, output]

    def __init__(self, id, mode=-1, pull=-1, *, value=None, drive=None, hold=None):
        if not isinstance(id, int) or not 0 <= id <= 48:
            raise ValueError("invalid pin")
        self.id = id
        self._pull = None
        self._pads.setdefault(id, [0, None, 0, None, False])
        self.init(mode, pull, value=value)

    def init(self, mode=-1, pull=-1, *, value=None, drive=None, hold=None):
        if pull != -1:
            self._pull = pull
        if mode != -1:
            self._pads[self.id][4] = mode in (self.OUT, self.OPEN_DRAIN)
        if value is not None:
            self.value(value)

    def value(self, level=None):
        clock.now()
        if level is not None:
            drive(self.id, 1 if level else 0)
            return None
        pad = self._pads[self.id]
        if pad[4]:
            return pad[0]
        return self.outside.get(self.id, 1 if self._pull == self.PULL_UP else 0)

    __call__ = value

    def on(self):
        self.value(1)

    def off(self):
        self.value(0)

    def toggle(self):
        self.value(1 - self._pads[self.id][0])

    def irq(self, handler=None, trigger=IRQ_RISING | IRQ_FALLING, *, wake=None, hard=False):
        pad = self._pads[self.id]
        pad[1], pad[2], pad[3] = handler, trigger, self


def drive(pin, level):
    """A pad is driven to a level, by `Pin` or by a peripheral; the host sees each change."""
    pad = Pin._pads.setdefault(pin, [0, None, 0, None, True])
    if pad[0] != level:
        pad[0] = level
        if pin == I2S.power_pin:
            I2S.powered_us = clock.now_us if level else None
        clock.control.report({"pin": pin, "level": level, "t": clock.true_us()})


def touch(pin, level):
    """The world puts a level on an input."""
    before = Pin.outside.get(pin, 1)
    Pin.outside[pin] = level
    pad = Pin._pads.get(pin)
    if pad and pad[1] and before != level and pad[2] & (Pin.IRQ_RISING if level else Pin.IRQ_FALLING):
        clock.interrupt(pad[1], pad[3])


wake_sources = {}  # reason -> (pins, level), filled by esp32.wake_on_ext0 and ext1


def _woken_by_pin():
    """The wake reason of a pin that has its level; None without one. What nobody drives wakes nobody."""
    for reason, (pins, level) in wake_sources.items():
        for pin in pins:
            if Pin.outside.get(pin, 1 - level) == level:
                return reason
    return None


def lightsleep(ms=None):
    """Until a wake source or the time; RAM and the program stay. The watchdog is taken to run on.

    Fails loudly where the chip would misbehave: the clock of I2S stops and the radio loses its network.
    """
    if I2S.open:
        raise RuntimeError("lightsleep with I2S running: on the chip its clock stops")
    if network.WLAN._only is not None and network.WLAN._only.active():
        raise RuntimeError("lightsleep with the radio on: on the chip it loses its network")
    target_us = None if ms is None else clock.now() + ms * 1000
    reason = _woken_by_pin()
    while reason is None and (target_us is None or clock.now() < target_us):
        if clock.jump:
            clock.idle(clock.granted_us + 1 if target_us is None else target_us)
        else:
            clock._wait_really(clock.now_us + 5000 if target_us is None else min(target_us, clock.now_us + 5000))
        reason = _woken_by_pin()
    _cause[1] = TIMER_WAKE if reason is None else reason
    clock.spend(clock.costs["light_sleep_wake_us"])


def deepsleep(ms=None):
    """Ends the program; the host starts the board again at a wake source or after the time."""
    wake = [[reason, list(pins), level] for reason, (pins, level) in wake_sources.items()]
    clock.now()
    clock.control.leave(
        "deepsleep",
        wake=wake,
        for_us=None if ms is None else ms * 1000,
        rtc_memory=rtc_memory_hex(),
        rtc_offset_us=hosttime.rtc.offset_us,
        radio=network.WLAN._only is not None and network.WLAN._only.active(),
    )


def rtc_memory_hex():
    return "".join("%02x" % byte for byte in hosttime.rtc.memory)


class RTC:
    def __init__(self, id=0):
        pass

    def datetime(self, fields=None):
        """(year, month, day, weekday, hour, minute, second, microsecond), UTC."""
        if fields is None:
            now_us = clock.now() + hosttime.rtc.offset_us
            year, month, day, hour, minute, second, weekday, _ = hosttime.gmtime(now_us // 1_000_000)
            return (year, month, day, weekday, hour, minute, second, now_us % 1_000_000)
        year, month, day, _, hour, minute, second, micros = fields
        seconds = hosttime.mktime((year, month, day, hour, minute, second))
        hosttime.rtc.offset_us = seconds * 1_000_000 + micros - clock.now()
        clock.control.report({"rtc_offset_us": hosttime.rtc.offset_us})
        return None

    def init(self, fields):
        self.datetime(fields)

    def memory(self, data=None):
        if data is None:
            return hosttime.rtc.memory
        if len(data) > 2048:
            raise ValueError("buffer too long")
        hosttime.rtc.memory = bytes(data)
        clock.control.report({"rtc_memory": rtc_memory_hex()})
        return None


class Timer:
    """Soft timers, as on the ESP32: the callback runs when the interpreter is free."""

    ONE_SHOT = 0
    PERIODIC = 1

    def __init__(self, id=0, **options):
        self._event = None
        if options:
            self.init(**options)

    def init(self, *, mode=PERIODIC, freq=-1, period=-1, callback=None):
        self.deinit()
        self._period_us = period * 1000 if freq == -1 else 1_000_000 // freq
        self._mode = mode
        self._callback = callback
        self._event = clock.at(clock.now() + self._period_us, self._fire)

    def _fire(self):
        if self._callback:
            clock.interrupt(self._callback, self)
        if self._mode == self.PERIODIC:
            self._event = clock.at(clock.now_us + self._period_us, self._fire)

    def deinit(self):
        if self._event:
            self._event[2] = None
            self._event = None


class WDT:
    """The task watchdog: there is one, it cannot be stopped, resets the chip, and runs on over a soft reset. Made again
    it has the new time (esp_task_wdt_reconfigure in the ESP32 port's machine_wdt.c)."""

    _timeout_us = 0
    _until_us = None  # when it bites, unless it is fed before; None: there is none
    _event = None

    def __init__(self, id=0, timeout=5000):
        WDT.go_on(timeout * 1000, timeout * 1000)

    def feed(self):
        WDT._until_us = clock.now() + WDT._timeout_us

    @staticmethod
    def go_on(timeout_us, left_us):
        WDT._timeout_us = timeout_us
        WDT._until_us = clock.now() + left_us
        if WDT._event:
            WDT._event[2] = None
        WDT._event = clock.at(WDT._until_us, WDT._look)

    @staticmethod
    def running():
        """[timeout_us, what is left of it], or None."""
        return None if WDT._until_us is None else [WDT._timeout_us, max(0, WDT._until_us - clock.now())]

    @staticmethod
    def _look():
        # One event goes along behind: a new one at each feed, and the old ones called off, would leave 300 scraps
        # all over the heap, and no long piece of it free.
        if clock.now_us < WDT._until_us:
            WDT._event = clock.at(WDT._until_us, WDT._look)
        else:
            clock.control.leave("reset", cause=WDT_RESET)


class ADC:
    ATTN_0DB, ATTN_2_5DB, ATTN_6DB, ATTN_11DB = range(4)
    WIDTH_12BIT = 12
    millivolts = {}

    def __init__(self, pin, *, atten=ATTN_11DB):
        self._pin = pin.id if isinstance(pin, Pin) else pin

    def atten(self, value):
        pass

    def read_uv(self):
        return self.millivolts.get(self._pin, 0) * 1000

    def read_u16(self):
        return min(65535, self.millivolts.get(self._pin, 0) * 65535 // 3100)


class I2S:
    """Receiving from an INMP441. Bytes that nobody reads in time are lost: the driver's ring holds `ibuf` bytes of
    stereo frames, 8 bytes each whatever format is asked for, and drops the oldest without a word.

    The sound is a file of 32-bit words, one a frame at 16 kHz, made by the host from a WAV.
    """

    RX = 1
    TX = 2
    MONO = 0
    STEREO = 1

    DC_WORD = 0x00_05_20_00  # what the microphone gives in silence: its offset
    sound = None  # (binary file, first frame's t_us, frames)
    power_pin = None  # the pad that feeds the microphone; None: it always has power
    powered_us = 0  # since when it has power; None without
    open = None  # the one that was made and not yet deinited

    def __init__(self, id, *, sck, ws, sd, mode, bits, format, rate, ibuf):
        if mode != I2S.RX or bits != 32 or format != I2S.MONO:
            raise ValueError("the simulated I2S receives 32-bit mono")
        self._rate_hz = rate
        self._ring_frames = ibuf // 8
        self._began_us = clock.now()
        self._next_frame = 0  # the next that the driver will hand out
        self._handler = None
        self._event = None
        self._gaps = []  # (first, end) of the frames that were lost, those that are still to come
        if I2S.open is not None:
            raise OSError("I2S is in use already")
        I2S.open = self
        for pin in (sck, ws):
            Pin(pin.id, Pin.OUT)
        I2S.flash.during.append(self._flash_operation)

    def _flash_operation(self, us):
        # The driver's interrupt is not in IRAM: beyond the descriptor in flight (256 frames, 16 ms) frames are lost.
        if us > 16_000:
            self._gaps.append((self._frames_at(clock.now_us + 16_000), self._frames_at(clock.now_us + us)))

    def irq(self, handler):
        self._handler = handler

    def _frames_at(self, t_us):
        return (t_us - self._began_us) * self._rate_hz // 1_000_000

    def readinto(self, buffer):
        frames = len(buffer) // 4
        self._next_frame = max(self._next_frame, self._frames_at(clock.now()) - self._ring_frames)
        done_us = max(self._done_us(frames), clock.now_us)
        if self._handler is None:
            clock.sleep(done_us - clock.now_us)
            self._fill(buffer, frames)
        else:
            self._event = clock.at(done_us, lambda: self._complete(buffer, frames))
        return frames * 4

    def _done_us(self, frames):
        """When so many frames will have come."""
        at = self._next_frame
        for first, end in self._gaps:
            if end > at:
                if at + frames <= first:
                    break
                frames -= max(0, first - at)
                at = end
        return self._began_us + -(-(at + frames) * 1_000_000 // self._rate_hz)

    def _complete(self, buffer, frames):
        if self._done_us(frames) > clock.now_us:  # some were lost meanwhile, so later ones fill it up
            self._event = clock.at(self._done_us(frames), lambda: self._complete(buffer, frames))
            return
        self._fill(buffer, frames)
        clock.interrupt(self._handler, self)

    def _fill(self, buffer, frames):
        view = memoryview(buffer)
        done = 0
        while done < frames:
            while self._gaps and self._gaps[0][0] <= self._next_frame:
                self._next_frame = max(self._next_frame, self._gaps.pop(0)[1])
            count = frames - done
            if self._gaps:
                count = min(count, self._gaps[0][0] - self._next_frame)
            self._fill_from(self._next_frame, view[done * 4 : (done + count) * 4], count)
            self._next_frame += count
            done += count

    def _fill_from(self, first, view, frames):
        done = 0
        # It wakes when it has both power and a clock.
        settle = frames + first
        if I2S.powered_us is not None:
            settle = self._frames_at(max(self._began_us, I2S.powered_us) + clock.costs["microphone_startup_us"])
        while done < frames:
            frame = first + done
            if frame < settle:  # not valid yet: a large constant
                count = min(frames - done, settle - frame)
                pattern = b"\x00\x00\xf0\x3f"
            else:
                at = self._frame_of_sound(frame)
                count = frames - done
                if at is not None and 0 <= at < self.sound[2]:
                    count = min(count, self.sound[2] - at)
                    self.sound[0].seek(at * 4)
                    self.sound[0].readinto(view[done * 4 : (done + count) * 4])
                    done += count
                    continue
                if at is not None and at < 0:
                    count = min(count, -at)
                pattern = I2S.DC_WORD.to_bytes(4, "little")
            count = min(count, 500)  # a piece at a time, for the heap may be small
            view[done * 4 : (done + count) * 4] = pattern * count
            done += count

    def _frame_of_sound(self, frame):
        if self.sound is None:
            return None
        return frame - (self.sound[1] - self._began_us) * self._rate_hz // 1_000_000

    def deinit(self):
        if self._event:
            self._event[2] = None
        if I2S.open is self:
            I2S.open = None
        if self._flash_operation in I2S.flash.during:
            I2S.flash.during.remove(self._flash_operation)
