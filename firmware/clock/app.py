"""The clock: makes the hardware's objects from the board's description and joins them with the pure core.

`Clock.tick` is the clock; it needs nothing but the movement and the place that was kept. WiFi, the time, the button and
the check-in are tasks beside it. If one of them fails, that is logged and the task begins again; ticking goes on.
"""

import asyncio
import json
import os
import time

import esp32
import machine
import network
from clock import dial, modes, movement, schedule, store, timekeeper, timezone
from device import config as device_config
from device import log, sntp, walltime
from device.button import Button
from device.light import Light
from device.ticks import diff
from device.wifi import Wifi

WATCHDOG_MS = 60_000  # more than any blocking call of the chip takes: names that cannot be found take 5 s each
SHORT_PRESS_MS = 1000
LATE_US = 10_000  # a tick later than this is counted (docs/protocol.md)
NAP_MS = 500  # the longest sleep while nothing is armed, so that a change of mode is soon seen
HANDSHAKE_MS = 900  # what a TLS handshake may hold the interpreter, and a little more
EXCHANGE_TIMEOUT_MS = 3000
CHECK_IN_MS = 60_000
WIFI_TIMEOUT_S = 20
WIFI_PAUSE_MS = 10_000
RESTART_MS = 5000


class Clock:
    """The hands and the time, and the loop that brings them together."""

    def __init__(self, mover, keeper, plans, zone, kept, mode: str, position: int, polarity: int) -> None:
        """mover: Movement; keeper: Timekeeper; plans: Schedule; zone: Zone; kept: NvsStore.

        position, polarity: where the hands stand and of what polarity the pulse was that brought them there.
        """
        self.mover = mover
        self.keeper = keeper
        self.plans = plans
        self.zone = zone
        self.kept = kept
        self.position = position
        self.polarity = polarity
        self.mode = mode
        self.late_ticks = 0
        self.waiting = False  # for a minute or more, hands that are ahead, such as after an hour put back
        self._module = modes.load(mode)
        self._offset_s = 0
        self._settled = False  # on target since the last change of time, zone or mode
        self._armed = asyncio.Event()
        self._free_ms = 0  # when last armed: how long until Python is needed again

    # What the rest of the program asks and tells

    def choose(self, mode: str) -> None:
        """Follow another mode, from this minute on, and after a restart too."""
        self._module = modes.load(mode)
        self.mode = mode
        self._settled = False
        try:
            self.kept.choose(mode)
            self.kept.write(self.position, self.polarity)
        except OSError as error:
            log.error("the mode could not be kept", error)

    def hear(self, minute: int, us: int, error_us: int, ticks_us) -> bool:
        """A time server said so; see Timekeeper.hear."""
        first = not self.keeper.known
        better = self.keeper.hear(minute, us, error_us, ticks_us)
        self._settled = self._settled and not better
        if first:
            log.info("synced, within %d ms" % (error_us // 1000))
        return better

    def report(self) -> dict:
        """The clock's part of a check-in (docs/protocol.md)."""
        minute, uncertainty_us = self.keeper.minute, self.keeper.uncertainty_us()
        return {
            "mode": self.mode,
            "position": self.position,
            "minute": minute,
            "utc_offset_s": self._offset_s,
            "plan": list(self.plans.plan(self._module, minute)),
            "uncertainty_ms": None if uncertainty_us is None else (uncertainty_us + 999) // 1000,
            "late_ticks": self.late_ticks,
        }

    async def quiet(self, needed_ms: int) -> None:
        """The moment for a call that blocks: a tick is armed, nothing more is due for needed_ms, no catching up.

        If no such moment comes within a hundred ticks (a call that long never fits), the next tick's must do.
        """
        for _ in range(100):
            await self._armed.wait()
            if self._free_ms >= needed_ms:
                return

    # The loop

    async def tick(self, watchdog) -> None:
        """Tick for ever. The watchdog is fed with each decision, whatever it is: holding and waiting are health."""
        while True:
            sleep_ms = self._step()
            watchdog.feed()
            await asyncio.sleep_ms(sleep_ms)

    def _step(self) -> int:
        """Decide and arm. Returns how many ms to sleep until the next decision is due."""
        now = time.ticks_us()
        self.keeper.read(now)
        minute, us = self.keeper.minute, self.keeper.us
        ms = us // 1000
        offset_s = self.zone.utc_offset_s(minute, ms // 1000) if self.keeper.known else 0
        if offset_s != self._offset_s:
            self._offset_s = offset_s
            self._settled = False
        action, wait_ms = self.plans.decide(self.position, self._module, minute, ms, offset_s, self.mover.rest_ms(now))
        if action in (schedule.WAIT, schedule.HOLD):
            self.waiting = self.waiting or wait_ms > modes.MINUTE_MS - 2 * NAP_MS
            self._leave_free(wait_ms)
            return min(wait_ms, NAP_MS)
        self.waiting = False
        if wait_ms > movement.AHEAD_MS:
            self._leave_free(wait_ms)
            return min(wait_ms - movement.AHEAD_MS + 1, NAP_MS)
        if action == schedule.TICK:
            self._settled = True
            late_us = self._pulse(time.ticks_add(now, wait_ms * 1000 - us % 1000))
            self.late_ticks += late_us > LATE_US
            following_ms = self.plans.following_ms(ms + wait_ms)
            self._leave_free(following_ms - ms)
        else:
            self.late_ticks += self._settled
            self._pulse(now)  # overdue: as soon as the movement may, which `arm` knows to the microsecond
        return wait_ms + self.mover.pulse_us // 1000 + 3  # the pulse is over then, however both were rounded

    def _pulse(self, at) -> int:
        position, polarity = (self.position + 1) % dial.STEPS, 1 - self.polarity
        try:
            self.kept.commit(position, polarity)
        except OSError as error:
            log.error("the hands' place could not be kept", error)
        late_us = self.mover.arm(polarity, at)
        self.position, self.polarity = position, polarity
        return late_us

    def _leave_free(self, free_ms: int) -> None:
        self._free_ms = free_ms
        self._armed.set()
        self._armed.clear()


# What goes on beside the ticking. Each of these may fail, and is then begun again.


async def _again(what: str, task) -> None:
    while True:
        try:
            await task()
            return
        except Exception as error:
            log.error(what + " failed and begins again", error)
        await asyncio.sleep_ms(RESTART_MS)


async def _press(clock, button, light) -> None:
    """A short press: the next mode, and as many flashes as its place in the order."""
    order = modes.names()
    pressed_ms = 0
    while True:
        down, at_ms = await button.change()
        if down:
            pressed_ms = at_ms
        elif diff(at_ms, pressed_ms) < SHORT_PRESS_MS:
            place = (order.index(clock.mode) + 1) % len(order)
            clock.choose(order[place])
            light.flash(place + 1)
            log.info("mode " + clock.mode)


async def _show(clock, light) -> None:
    """The light blinks while the time is not known, and while the hands wait for long."""
    blinking = False
    while True:
        was, blinking = blinking, clock.waiting or not clock.keeper.known
        if blinking:
            light.pattern("waiting")  # each time round: the flashes of a press may have ended it
        elif was:
            light.set(False)
        await asyncio.sleep_ms(10_000 if blinking else 1000)


async def _join(wifi) -> None:
    while True:
        if not wifi.connected() and not await wifi.connect(WIFI_TIMEOUT_S):
            log.error("no WiFi network of the configuration could be joined")
        await asyncio.sleep_ms(WIFI_PAUSE_MS)


async def _online(wifi) -> None:
    while not wifi.connected():
        await asyncio.sleep_ms(NAP_MS)


async def _sync(clock, wifi, servers: list) -> None:
    """Ask the time servers, one at a time, with manners."""
    import socket

    manners = sntp.Manners(servers)
    asked = address = None
    while True:
        await _online(wifi)
        server = manners.server
        try:
            if server != asked:
                await clock.quiet(HANDSHAKE_MS)
                asked = None
                host, _, port = server.partition(":")
                address = socket.getaddrinfo(host, int(port or sntp.PORT), 0, socket.SOCK_DGRAM)[0][-1]
                asked = server
            (minute, us, _, error_us), ticks_us = await sntp.exchange(address, EXCHANGE_TIMEOUT_MS)
        except sntp.KissOfDeath as kiss:
            log.error("time from " + server, kiss)
            manners.kissed(kiss.code)
        except OSError as error:
            log.error("time from " + server, error)
            manners.failed()
            asked = None  # the name may by now be another address
        else:
            manners.succeeded()
            if clock.hear(minute, us, error_us, ticks_us):
                # The chip's own clock, too: the dates of certificates are checked against it.
                walltime.set_ms(machine.RTC(), minute * 60_000 + us // 1000)
        await asyncio.sleep_ms(manners.wait_ms(os.urandom(1)[0]))


_JSON = (("Content-Type", "application/json"),)


async def _check_in(clock, wifi, link) -> None:
    while True:
        await _online(wifi)
        await clock.quiet(HANDSHAKE_MS)
        report = clock.report()
        report.update({"app": "clock", "version": device_config.VERSION, "errors": log.errors()})
        try:
            status, _, body = await link.request("POST", "/api/device/check-in", _JSON, json.dumps(report).encode())
            if status != 200:
                log.error("check-in: the server answered %d %r" % (status, body[:80]))
        except OSError as error:
            log.error("check-in", error)
        await asyncio.sleep_ms(CHECK_IN_MS)


def _make_link(settings: dict):
    from device.link import Link

    with open("/server.der", "rb") as file:
        certificate_der = file.read()
    walltime.advance(machine.RTC(), walltime.not_before(certificate_der))  # or it would count as not yet valid
    return Link(settings["server"]["host"], settings["server"]["port"], certificate_der, settings["token"])


def _make_movement(board: dict):
    if hasattr(esp32.RMT, "bitstream_channel"):
        esp32.RMT.bitstream_channel(None)  # until 1.26 it has the last channel for itself; an ESP32-C3 has two
    duty_percent = board["movement"]["duty_percent"]
    chop = (movement.CHOP_HZ, duty_percent, True) if duty_percent < 100 else None
    pins = [machine.Pin(number, machine.Pin.OUT, value=0) for number in board["pins"]["coil"]]
    coils = [
        esp32.RMT(channel, pin=pin, clock_div=movement.CLOCK_DIV, tx_carrier=chop) for channel, pin in enumerate(pins)
    ]
    return movement.Movement(coils, board["movement"], time.ticks_us)


def _make_clock(settings: dict, board: dict) -> Clock:
    mover = _make_movement(board)
    kept = store.NvsStore(esp32.NVS(store.NAMESPACE))
    mode = kept.mode()
    if mode not in modes.names():
        mode = settings["mode"]
    place = kept.place()
    if place is None:
        place = dial.parse(settings["hands"]), 0
        log.info("no place was kept: the hands are taken to show " + settings["hands"])
    position, polarity = place
    log.info("hands at %s, mode %s, not synced; the place is kept once a minute" % (dial.text(position), mode))
    plans = schedule.Schedule(settings["seed"], mover.catch_up_hz)
    minute, ms = plans.moment(position, modes.load(mode))
    keeper = timekeeper.Timekeeper(minute, ms * 1000, time.ticks_us())
    zone = timezone.Zone(settings["timezone"])
    return Clock(mover, keeper, plans, zone, kept, mode, position, polarity)


async def main(settings: dict, board: dict) -> None:
    """Be a clock, for ever. settings, board: config.json and board.json, checked by device.config."""
    pins = board["pins"]
    clock = _make_clock(settings, board)
    button = Button(machine.Pin(pins["button"], machine.Pin.IN, machine.Pin.PULL_UP))
    dark = board["light_active_low"]
    light = Light(machine.Pin(pins["light"], machine.Pin.OUT, value=dark), dark)
    wifi = Wifi(settings["wifi"], network.WLAN(network.STA_IF))
    beside = {
        "light": light.run,
        "light's meaning": lambda: _show(clock, light),
        "button": lambda: _press(clock, button, light),
        "WiFi": lambda: _join(wifi),
        "time": lambda: _sync(clock, wifi, settings["ntp"]),
    }
    if "server" in settings:
        beside["check-in"] = lambda: _check_in(clock, wifi, _make_link(settings))
    tasks = [asyncio.create_task(_again(what, beside[what])) for what in beside]
    try:
        await clock.tick(machine.WDT(timeout=WATCHDOG_MS))
    finally:
        for task in tasks:
            task.cancel()
