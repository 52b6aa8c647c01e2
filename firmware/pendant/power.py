"""Sleep, the cable and the battery.

On the chip, light sleep stops the clock of I2S (the microphone must be started anew), loses the network and USB, and
keeps all memory; deep sleep keeps the 2 kB of RTC memory alone, and the board starts anew. Both are left by the button
(ext0), by the cable where a pin feels it (ext1), and by time.
"""

# A lithium polymer cell without load is at 3.6 V with about a fifth of its charge left, at 3.4 V with a twentieth, and
# is harmed below 3.0 V. Under the 0.3 A of a sending radio it, its wires and the regulator lose some 0.2 V [est], and
# the chip wants 3.0 V at least (ESP32-S3 data sheet, recommended operating conditions).
LOW_MV = 3600
EMPTY_MV = 3400
RECOVERED_MV = 100  # more than that is needed to be well again: without load a cell rises
_LEAST_MV = 2000  # with less than that the board would not run: the divider is not there, and nothing is known
_READINGS = 8  # of the ADC: the mean of them is taken
# The watchdog (30 s) may run on in light sleep: not tried.
SLICE_MS = 10_000


class Battery:
    """What a voltage means. Pure. `mv`: the last one, None while it is not known. `low`: warn. `empty`: end it all."""

    def __init__(self):
        self._forget()

    def _forget(self):
        self.mv = None
        self.low = self.empty = False
        self._empty_before = False

    def measured(self, mv: int):
        """One measurement, at the cell. Empty is only what was so twice running: a radio begins to send with a dip."""
        if mv < _LEAST_MV:
            self._forget()
            return
        self.mv = mv
        self.low = mv < LOW_MV + (RECOVERED_MV if self.low else 0)
        empty = mv < EMPTY_MV + (RECOVERED_MV if self.empty else 0)
        self.empty = empty and (self._empty_before or self.empty)
        self._empty_before = empty


class Power:
    """`machine`, `esp32`: the modules. `button`: its Pin. `usb`: a Pin that is high while the cable feeds the board, or
    None. `adc`: a machine.ADC at the battery's divider, or None; `divider`: (upper, lower) resistor.
    """

    def __init__(self, machine, esp32, button, usb=None, adc=None, divider=(1, 1)):
        self.battery = Battery()
        self._machine = machine
        self._esp32 = esp32
        self._button = button
        self._usb = usb
        self._adc = adc
        self._divider = divider
        if usb is not None:
            esp32.wake_on_ext1((usb,), esp32.WAKEUP_ANY_HIGH)
        deep = machine.reset_cause() == machine.DEEPSLEEP_RESET
        self.woken = deep  # this start is a wake-up from deep sleep
        self.woken_by_button = deep and machine.wake_reason() == machine.EXT0_WAKE
        for _ in range(2):  # before any load: so it may be believed at once
            self.look()

    def usb(self) -> bool:
        """Fed by the cable, as far as is known."""
        return self._usb is not None and self._usb.value() == 1

    def look(self):
        """Measures the battery."""
        if self._adc is not None:
            uv = sum(self._adc.read_uv() for _ in range(_READINGS)) // _READINGS
            upper, lower = self._divider
            self.battery.measured(uv * (upper + lower) // (1000 * lower))

    @property
    def low(self) -> bool:
        return self.battery.low and not self.usb()

    @property
    def empty(self) -> bool:
        return self.battery.empty and not self.usb()

    def _arm(self, held):
        # Where it is held down (in a bag, under a book), letting it go ends the sleep: else there would be none. Not
        # where it is down only now: that is a press, which ends the sleep at once.
        self._esp32.wake_on_ext0(self._button, 1 if held else 0)

    def light_sleep(self, ms: int, held: bool) -> bool:
        """Sleep so long at most; True if the button ended it. The radio and I2S must be off. `held`: the button's
        press has been seen and goes on, so that its end is waited for.
        """
        self._arm(held)
        self._machine.lightsleep(ms)
        # ext0 has made it a pin of the RTC, which `init` takes back (ESP-IDF, sleep modes).
        self._button.init(self._button.IN, self._button.PULL_UP)
        return self._machine.wake_reason() == self._machine.EXT0_WAKE

    def restart(self):
        """Does not return."""
        self._machine.reset()

    def deep_sleep(self, ms, held: bool):
        """Ends this run. Until the button, the cable or, if `ms` is not None, so many ms. `held`: as above."""
        self._arm(held)
        if ms is None:
            self._machine.deepsleep()
        else:
            self._machine.deepsleep(ms)
