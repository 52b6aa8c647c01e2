"""The battery's levels, and sleep over a chip that records what is asked of it."""

from pendant.power import EMPTY_MV, LOW_MV, RECOVERED_MV, Battery, Power


def levels(*millivolts):
    battery = Battery()
    seen = []
    for mv in millivolts:
        battery.measured(mv)
        seen.append((battery.mv, battery.low, battery.empty))
    return seen


def test_levels_of_the_battery():
    assert levels(4200, LOW_MV, LOW_MV - 1) == [(4200, False, False), (LOW_MV, False, False), (LOW_MV - 1, True, False)]
    # A dip is not the end; twice running is.
    assert [empty for _, _, empty in levels(3300, 3700, 3300, 3300, 3450)] == [False, False, False, True, True]
    # It must rise clearly to be well again, or the light would flicker between the two.
    assert [low for _, low, _ in levels(3500, LOW_MV + RECOVERED_MV - 1, LOW_MV + RECOVERED_MV)] == [True, True, False]
    assert levels(3300, 3300, EMPTY_MV + RECOVERED_MV)[-1][2] is False
    # No divider, or a broken one: nothing is claimed.
    assert levels(3300, 3300, 0) == [(3300, True, False), (3300, True, True), (None, False, False)]


class Pin:
    IN, PULL_UP = 1, 2

    def __init__(self, level):
        self.level = level
        self.inits = 0

    def value(self):
        return self.level

    def init(self, mode, pull):
        assert (mode, pull) == (self.IN, self.PULL_UP)
        self.inits += 1


class Adc:
    def __init__(self, mv):
        self.mv = mv

    def read_uv(self):
        return self.mv * 1000


class Chip:
    """Stands for both `machine` and `esp32`."""

    DEEPSLEEP_RESET, EXT0_WAKE, EXT1_WAKE, TIMER_WAKE, WAKEUP_ANY_HIGH = 4, 2, 3, 4, 1

    def __init__(self, cause=1, reason=0):
        self.cause, self.reason = cause, reason
        self.calls = []

    def reset_cause(self):
        return self.cause

    def wake_reason(self):
        return self.reason

    def wake_on_ext0(self, pin, level):
        self.calls.append(("ext0", level))

    def wake_on_ext1(self, pins, level):
        self.calls.append(("ext1", level))

    def lightsleep(self, ms):
        self.calls.append(("light", ms))

    def deepsleep(self, *ms):
        self.calls.append(("deep",) + ms)


def test_what_woke_it():
    for cause, reason, woken, by_button in ((1, 0, False, False), (4, 2, True, True), (4, 4, True, False)):
        chip = Chip(cause, reason)
        power = Power(chip, chip, Pin(1))
        assert (power.woken, power.woken_by_button) == (woken, by_button)


def test_sleep_is_left_by_a_change_of_the_button():
    for held in (False, True):  # then letting it go is the change, whatever the level is by now
        chip, pin = Chip(), Pin(0)
        power = Power(chip, chip, pin)
        chip.reason = chip.EXT0_WAKE
        assert power.light_sleep(100, held) is True and pin.inits == 1
        chip.reason = chip.TIMER_WAKE
        assert power.light_sleep(100, held) is False
        power.deep_sleep(5000, held)
        power.deep_sleep(None, held)
        armed = ("ext0", 1 if held else 0)
        sleeps = (("light", 100), ("light", 100), ("deep", 5000), ("deep",))
        assert chip.calls == [call for sleep in sleeps for call in (armed, sleep)]


def test_the_cable():
    chip, usb = Chip(), Pin(1)
    power = Power(chip, chip, Pin(1), usb, Adc(1650), (220, 220))
    assert chip.calls == [("ext1", chip.WAKEUP_ANY_HIGH)]
    assert power.usb() and power.battery.mv == 3300 and power.battery.empty and not power.empty
    assert power.battery.low and not power.low
    usb.level = 0
    assert not power.usb() and power.empty and power.low


def test_without_pins_nothing_is_claimed():
    chip = Chip()
    power = Power(chip, chip, Pin(1))
    power.look()
    assert power.battery.mv is None and not power.usb() and not power.empty and not power.low


def test_the_divider():
    for mv, divider, expected in ((2000, (220, 220), 4000), (1000, (300, 100), 4000), (0, (220, 220), None)):
        chip = Chip()
        assert Power(chip, chip, Pin(1), None, Adc(mv), divider).battery.mv == expected
