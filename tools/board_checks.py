"""Tries the parts of a board one by one, each with what to do if it does not work.

Nothing of the firmware is needed for the parts; the server is tried with the firmware's own connection.
"""

from __future__ import annotations

import ast
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from board_port import BoardFailed, Cable

WIFI_S = 15
SERVER_S = 8  # a handshake holds the chip for about a second (docs/clock.md, "Limits")
PRESS_S = 15
LISTEN_S = 3
BLINKS = 3
COIL_TICKS = 10
COIL_HZ = 4
#: An INMP441 gives -26 dBFS at 94 dB SPL (data sheet): a voice at half a metre, 60 to 70 dB SPL, -60 to -50 dBFS.
#: With a wire off it gives nothing but zeros, or the same value all the time.
SILENT_DBFS = -100
LEAST_SPEECH_DB = 6  # between the loudest and the quietest tenth of a second
BATTERY_MV = (3000, 4300)  # of a lithium polymer cell: empty, and full with some error

WIFI = """\
import network
wlan = network.WLAN(network.STA_IF)
wlan.active(True)
wlan.disconnect()
wlan.connect({ssid!r}, {password!r})
"""
WIFI_NOW = "(wlan.isconnected(), wlan.ifconfig()[0], wlan.status('rssi') if wlan.isconnected() else 0, wlan.status())"
NO_NETWORK, WRONG_PASSWORD = (201, 210, 211, 212), (15, 202, 204)  # WLAN.status() of the ESP32 port

SERVER = """\
import asyncio, json, machine, sys
try:
    with open("/active") as file:
        active = json.load(file).get("active")
except OSError:
    active = ""
if active:
    sys.path.insert(0, "/" + active)
from device import twin, walltime
from device.link import Link
pinned, following = twin.certificates()
with open("/config.json") as file:
    config = json.load(file)
link = Link(config["server"]["host"], config["server"]["port"], pinned, config["token"])
link.next_der = following  # taken where the server has changed to it, and not kept: that is the firmware's to do
for der in link.certificates():
    walltime.advance(machine.RTC(), walltime.not_before(der))
try:
    path = "/api/device/notes/" + config["device"] + "-0000000000000000"
    print(repr((asyncio.run(asyncio.wait_for(link.request("HEAD", path), LIMIT_S))[0], "")))
except (OSError, asyncio.TimeoutError) as error:
    print(repr((0, "%s: %s" % (type(error).__name__, error))))
link.close()
"""

BLINK = """\
import machine, time
light = machine.Pin({light}, machine.Pin.OUT, value={off})
time.sleep_ms(300)
for _ in range({count}):
    light.value({on}); time.sleep_ms(300)
    light.value({off}); time.sleep_ms(300)
"""

PRESS = """\
import machine, time
button = machine.Pin({button}, machine.Pin.IN, machine.Pin.PULL_UP)
time.sleep_ms(10)
seen = [button.value()]
def look():
    for _ in range(25):
        time.sleep_ms(20)
        if button.value() != seen[-1]:
            seen.append(1 - seen[-1])
    return seen
"""

BATTERY = """\
import machine
adc = machine.ADC(machine.Pin({pin}), atten=machine.ADC.ATTN_11DB)
print(sum(adc.read_uv() for _ in range(8)) // 8 * {whole} // (1000 * {lower}))
"""

LISTEN = """\
import machine, time, struct
from machine import I2S, Pin
power = {power}
if power is not None:
    Pin(power, Pin.OUT, value=1)
i2s = I2S(0, sck=Pin({sck}), ws=Pin({ws}), sd=Pin({sd}), mode=I2S.RX, bits=32, format=I2S.MONO, rate=16000, ibuf=32768)
buffer = bytearray(6400)
def level():
    count = i2s.readinto(buffer)
    samples = struct.unpack("<%di" % (count // 4), memoryview(buffer)[:count])
    samples = [sample >> 8 for sample in samples]
    mean = sum(samples) // len(samples)
    return max(samples) - min(samples), sum((sample - mean) ** 2 for sample in samples) / len(samples)
for _ in range(5):
    level()
"""
SOUND_STEP_S = 0.1  # of a buffer: 1600 samples


@dataclass(frozen=True)
class Result:
    """`good`: None: nobody was there to say. `said`: what was found, or what to do."""

    good: bool | None
    said: str


#: ask(question) -> yes, no, or None where nobody is there to ask; tell(text) prints a line.
Ask = Callable[[str], bool | None]
Tell = Callable[[str], None]


def wifi(cable: Cable, ssid: str, password: str) -> Result:
    """Joins a network; it stays joined."""
    cable.feed()
    cable.run(WIFI.format(ssid=ssid, password=password))
    end = time.monotonic() + WIFI_S
    joined = False
    while not joined and time.monotonic() < end:
        time.sleep(0.3)
        joined, address, rssi_dbm, status = cable.value(WIFI_NOW)
    if joined:
        weak = "; that is weak, sound may take long to get through" if rssi_dbm < -80 else ""
        return Result(True, f"joined {ssid!r} as {address}, {rssi_dbm} dBm{weak}")
    if status in NO_NETWORK:
        why = "no such network is heard: is the name right, to the letter? ESP32 boards hear 2.4 GHz only, not 5 GHz"
    elif status in WRONG_PASSWORD:
        why = "the network refuses the password"
    else:
        why = f"not joined within {WIFI_S} s (status {status}): nearer to the router, antenna plugged in?"
    return Result(False, f"WiFi {ssid!r}: {why}")


def any_wifi(cable: Cable, networks: list[dict[str, str]]) -> Result:
    """Joins the first network that can be joined; it stays joined."""
    results = []
    for network in networks:
        results.append(wifi(cable, network["ssid"], network["password"]))
        if results[-1].good:
            return results[-1]
    return Result(False, "; ".join(result.said for result in results))


def server(cable: Cable) -> Result:
    """Asks the server over the WiFi that is joined, with the board's token, verified by the pinned certificate or the
    next one.
    """
    cable.feed()
    status, why = _printed(cable, SERVER.replace("LIMIT_S", str(SERVER_S)))
    if status == 404:  # no such note: but it knows this device
        return Result(True, "the server answers with a certificate that this board trusts, and knows this device")
    if status in (401, 403):
        return Result(False, "the server does not know this device's token: pair it anew, setup --pair-anew")
    if status:
        return Result(False, f"the server answered {status}: its log says why")
    return Result(
        False,
        f"the server cannot be reached from the board: {why}. Is it running, with OFFBEAT_HOST=0.0.0.0, on the "
        "address and the device port in config.json, in the same network, and not behind a firewall? A certificate "
        "that is refused means another server than the one it was paired with: setup --pair-anew",
    )


def light(cable: Cable, board: dict[str, Any], ask: Ask) -> Result:
    dark = int(board["light_active_low"])
    cable.run(BLINK.format(light=board["pins"]["light"], count=BLINKS, on=1 - dark, off=dark))
    return _seen(
        ask(f"Did the light flash {BLINKS} times?"),
        f"flashed {BLINKS} times",
        f"is the LED at pin {board['pins']['light']} the right way round, with its resistor? Stays it on instead, "
        "light_active_low in board.json is the wrong way round",
    )


def button(cable: Cable, board: dict[str, Any], ask: Ask, tell: Tell) -> Result:
    pin = board["pins"]["button"]
    tell(f"  press the button and let go, within {PRESS_S} s")
    cable.run(PRESS.format(button=pin))
    seen: list[int] = cable.value("seen")
    end = time.monotonic() + PRESS_S
    while seen[0] == 1 and len(seen) < 3 and time.monotonic() < end:
        seen = cable.value("look()")
    if seen[0] == 0:
        return Result(
            False, f"pin {pin} is low without a press: a short to GND, or legs of the button that belong together"
        )
    if len(seen) < 3:
        pressed = ask("Nothing came. Did you press it?")
        return Result(
            False if pressed else None,
            f"nothing came, or nobody pressed it: is the button between pin {pin} and GND? Across the corner if it has "
            "4 legs",
        )
    return Result(True, "pressed and let go")


def battery(cable: Cable, board: dict[str, Any]) -> Result:
    upper, lower = board["battery_divider"]
    mv = _printed(cable, BATTERY.format(pin=board["pins"]["battery"], whole=upper + lower, lower=lower))
    if BATTERY_MV[0] <= mv <= BATTERY_MV[1]:
        return Result(True, f"{mv / 1000:.2f} V")
    return Result(
        False,
        f"{mv / 1000:.2f} V, which no cell has: are the two resistors ({upper} and {lower}) at pin "
        f"{board['pins']['battery']}, and a cell at the other end?",
    )


def microphone(cable: Cable, board: dict[str, Any], ask: Ask, tell: Tell) -> Result:
    """A level meter for some seconds."""
    pins = board["pins"]
    cable.run(
        LISTEN.format(
            power=pins.get("microphone_power"),
            sck=pins["microphone_sck"],
            ws=pins["microphone_ws"],
            sd=pins["microphone_sd"],
        )
    )
    tell(f"  speak, for {LISTEN_S} s")
    peaks, levels = [], []
    for _ in range(round(LISTEN_S / SOUND_STEP_S)):
        peak, power = cable.value("level()")
        peaks.append(peak)
        levels.append(dbfs(power))
        tell("  " + meter(levels[-1]))
    cable.run("i2s.deinit()")
    loudest = max(levels)
    if max(peaks) == 0 or loudest < SILENT_DBFS:
        return Result(
            False,
            "nothing but silence: 3.3 V and GND at the microphone? SCK, WS and SD at "
            f"{pins['microphone_sck']}, {pins['microphone_ws']} and {pins['microphone_sd']}? L/R at GND?",
        )
    if loudest - min(levels) < LEAST_SPEECH_DB:
        spoke = ask("The level hardly changed. Did you speak?")
        return Result(False if spoke else None, f"{loudest:.0f} dBFS all the time: a loose GND, or nobody spoke")
    return Result(True, f"from {min(levels):.0f} to {loudest:.0f} dBFS")


def coil(cable: Cable, board: dict[str, Any], ask: Ask) -> Result:
    """Ten ticks; the clock does not know of them, and its hands are to be set again."""
    from clock_calibration import Pulse, program

    movement = board["movement"]
    pulse = Pulse(movement["pulse_us"], movement["duty_percent"], COIL_HZ)
    cable.run(program(board["pins"]["coil"], COIL_TICKS, 0, pulse))
    return _seen(
        ask(f"Did the seconds hand make {COIL_TICKS} steps (or one less: the first may be of the wrong polarity)?"),
        f"{COIL_TICKS} pulses given",
        "no step: is the coil cut free from its own circuit, and are its ends at the two pins, one over the resistor? "
        "Some steps: `tools/clock.py calibrate` finds the right pulse",
    )


def _seen(answer: bool | None, good: str, bad: str) -> Result:
    if answer is None:
        return Result(None, good + "; nobody was there to look")
    return Result(answer, good if answer else bad)


def _printed(cable: Cable, program: str) -> Any:
    return ast.literal_eval(cable.run(program).strip().splitlines()[-1])


def dbfs(power: float) -> float:
    """Of the mean square of 24-bit samples, relative to full scale."""
    return 10 * math.log10(power / (1 << 46)) if power >= 1 else -140.0


def meter(level_dbfs: float) -> str:
    """A bar of 30 characters from -90 to -10 dBFS."""
    filled = max(0, min(30, round((level_dbfs + 90) * 30 / 80)))
    return "#" * filled + "." * (30 - filled) + f" {level_dbfs:4.0f} dBFS"


def coil_in_use(cable: Cable, board: dict[str, Any], ask: Ask, tell: Tell) -> Result:
    """The coil of a clock that may show the right time: only if that may be lost."""
    if not ask(f"The coil is tried with {COIL_TICKS} ticks, after which the hands have to be set again. Do it?"):
        return Result(None, "not tried, so that the hands stay right")
    result = coil(cable, board, ask)
    tell(
        "  The clock does not know of these ticks. Set the hands: hold the button for a second, and "
        "it stops near 12; turn hour and minute hand to 12:00; a short press is one step of the seconds hand; then "
        "hold it once more"
    )
    return result


def all_of(
    cable: Cable, board: dict[str, Any], config: dict[str, Any], ask: Ask, tell: Tell, in_use: bool = True
) -> bool:
    """Every part that this board has; tells each result. False: one of them does not work.

    in_use: it was set up before, so that a clock's hands may be right.
    """
    checks: list[tuple[str, Callable[[], Result]]] = [
        ("light", lambda: light(cable, board, ask)),
        ("button", lambda: button(cable, board, ask, tell)),
    ]
    if "battery" in board["pins"]:
        checks.append(("battery", lambda: battery(cable, board)))
    if board["app"] == "pendant":
        checks.append(("microphone", lambda: microphone(cable, board, ask, tell)))
    else:
        checks.append(("coil", lambda: coil_in_use(cable, board, ask, tell) if in_use else coil(cable, board, ask)))
    if config["wifi"]:
        checks.append(("WiFi", lambda: any_wifi(cable, config["wifi"])))
        if "server" in config:
            checks.append(("server", lambda: server(cable)))
    all_good = True
    for name, check in checks:
        tell(f"{name} …")
        try:
            result = check()
        except BoardFailed as failure:
            result = Result(False, str(failure))
        tell(f"{name}: {'' if result.good is not False else 'DOES NOT WORK: '}{result.said}")
        all_good = all_good and result.good is not False
    return all_good


def of_board(cable: Cable) -> tuple[dict[str, Any], dict[str, Any]]:
    """board.json and config.json that are on it. BoardFailed where there are none."""
    return json.loads(cable.read("/board.json")), json.loads(cable.read("/config.json"))
