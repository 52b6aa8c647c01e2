"""The pendant: press, speak, let go. Makes the hardware objects and starts the tasks; what they do is in `control`.

What is needed to hear is imported and started first; the rest is imported while the microphone settles.
"""

import asyncio
import gc
import sys
from time import ticks_ms

from pendant import adpcm
from pendant.microphone import BRACE_BLOCKS, GAIN_BITS, LEAST_BLOCKS, LONGEST_S, Microphone

WATCHDOG_MS = 30_000  # longer than the longest blocking call, a name look-up that fails
# Left for everything else: on the chip 160 kB, of which the program takes 65 kB (measured on the 32-bit build), and,
# without PSRAM, WiFi and TLS the rest [est]; on a 64-bit host objects are twice the size.
_RESERVE_BYTES = 327_680 if sys.maxsize > 1 << 32 else 163_840

_pendant = None  # the Pendant, once it runs


def ring_memory():
    """The ring of the microphone: room for the longest recording, or what there is."""
    gc.collect()
    blocks = LONGEST_S * adpcm.SAMPLE_RATE_HZ // adpcm.BLOCK_SAMPLES + 2
    left_bytes = gc.mem_free() - _RESERVE_BYTES - BRACE_BLOCKS * adpcm.FRAMES_BYTES
    blocks = min(blocks, left_bytes // adpcm.BLOCK_BYTES)
    while blocks >= LEAST_BLOCKS:
        try:
            return bytearray(blocks * adpcm.BLOCK_BYTES)
        except MemoryError:  # not in one piece
            blocks = blocks * 3 // 4
    raise MemoryError("too little memory to record: is this the firmware for a board with PSRAM?")


def busy() -> bool:
    """For main.py: whether a reset would lose what is in memory alone."""
    return _pendant is not None and _pendant.busy()


async def main(settings: dict, board: dict):
    global _pendant
    from machine import I2S, Pin

    pins = board["pins"]
    microphone_power = Pin(pins["microphone_power"], Pin.OUT, value=1) if "microphone_power" in pins else None

    def open_i2s():
        sck, ws, sd = (Pin(pins["microphone_" + name]) for name in ("sck", "ws", "sd"))
        # ibuf: 0.51 s, for the driver keeps stereo frames of 8 bytes.
        return I2S(0, sck=sck, ws=ws, sd=sd, mode=I2S.RX, bits=32, format=I2S.MONO, rate=16000, ibuf=65536)

    i2s = open_i2s()  # it wakes up while the memory is cleared, which takes PSRAM a while
    gc.threshold(-1)  # none but those that are asked for: a collection while recording may take 100 ms with PSRAM
    microphone = Microphone(open_i2s, ring_memory(), ticks_ms, microphone_power)
    if "gain_db" in settings:
        microphone.set_gain(GAIN_BITS + settings["gain_db"] // 6)
    microphone.start(i2s)

    import os

    import esp32
    import machine
    from device import log
    from device.button import Button
    from device.light import Light

    from pendant.control import Pendant, forever
    from pendant.power import Power
    from pendant.times import NAMESPACE, PACKED_BYTES, Times

    button_pin = Pin(pins["button"], Pin.IN, Pin.PULL_UP)
    usb_pin = Pin(pins["usb"], Pin.IN) if "usb" in pins else None
    adc = machine.ADC(Pin(pins["battery"]), atten=machine.ADC.ATTN_11DB) if "battery" in pins else None
    power = Power(machine, esp32, button_pin, usb_pin, adc, board.get("battery_divider", (1, 1)))
    rtc = machine.RTC()
    kept = rtc.memory() if power.woken else b""
    times = Times(ticks_ms(), os.urandom, rtc, kept, esp32.NVS(NAMESPACE))
    light = Light(Pin(pins["light"], Pin.OUT), board["light_active_low"])
    watchdog = machine.WDT(timeout=WATCHDOG_MS)
    pendant = _pendant = Pendant(Button(button_pin), light, microphone, times, watchdog, power, rtc)
    pendant.begin(kept[PACKED_BYTES:])
    works = (
        ("the button", pendant.watch_button),
        ("the control", pendant.control),
        ("the watch", pendant.watch),
        ("storing", pendant.store),
        ("the light", light.run),
    )
    tasks = [asyncio.create_task(forever(name, work)) for name, work in works]
    await forever("opening the flash", lambda: pendant.open_spool(settings))
    await forever("preparing to send", lambda: pendant.prepare_upload(settings, board))
    tasks.append(asyncio.create_task(forever("the cable", pendant.cable.listen)))
    log.info("ready: room for %d s" % pendant.room_s())
    for task in tasks:
        await task
