"""The light: levels over time, in asyncio's own time scaled down."""

import asyncio

from device import light as light_module
from device.light import PATTERNS, Light


class Pin:
    def __init__(self):
        self.levels = []

    def value(self, level):
        self.levels.append(level)


def test_polarity():
    for active_low in (True, False):
        pin = Pin()
        light = Light(pin, active_low)
        light.set(True)
        light.set(False)
        assert pin.levels == [active_low, not active_low, active_low]


def test_the_table_is_sound():
    for name in PATTERNS:
        on_ms, off_ms, times = PATTERNS[name]
        assert on_ms >= 20 and off_ms >= 20 and 0 <= times <= 10, name
    try:
        Light(Pin(), False).pattern("storred")
    except KeyError:
        pass
    else:
        raise AssertionError("an unknown pattern")


async def played(steps, seconds):
    """Levels shown while `run` plays and `steps(light)` is done after a moment."""
    pin = Pin()
    light = Light(pin, False)
    task = asyncio.create_task(light.run())
    await asyncio.sleep(0.01)
    del pin.levels[:]
    await steps(light)
    await asyncio.sleep(seconds)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    return pin.levels


def test_flashes_are_counted_and_end_in_the_steady_state():
    light_module.PATTERNS["test"] = (5, 5, 3)

    async def off(light):
        light.pattern("test")

    async def on(light):
        light.set(True)
        light.pattern("test")

    try:
        assert asyncio.run(played(off, 0.15)) == [True, False] * 3 + [False]
        assert asyncio.run(played(on, 0.15)) == [True, False] + [True, False] * 3 + [True]
    finally:
        del light_module.PATTERNS["test"]


def test_what_is_asked_last_wins_at_once():
    light_module.PATTERNS["test"] = (5, 5, 0)

    async def steps(light):
        light.pattern("test")
        await asyncio.sleep(0.03)
        light.set(True)

    try:
        levels = asyncio.run(played(steps, 0.1))
    finally:
        del light_module.PATTERNS["test"]
    assert levels[:4] == [True, False, True, False] and levels[-1] is True and len(levels) < 12
    count = len(levels)

    async def flash(light):
        light.flash(4)
        await asyncio.sleep(0.01)
        light.set(False)

    assert asyncio.run(played(flash, 0.05))[-1] is False and count >= 5
