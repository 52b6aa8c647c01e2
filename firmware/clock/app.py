"""The clock: makes the hardware's objects from the board's description and joins them with the pure core.

`Clock.tick` is the clock; it needs nothing but the movement and the place that was kept. WiFi, the time, the button and
the check-in are tasks beside it. If one of them fails, that is logged and the task begins again; ticking goes on.
"""

import asyncio
import time

import esp32
import machine
import network
from device import config as device_config
from device import log, sntp, twin, walltime
from device.button import Button
from device.light import Light
from device.ticks import Counter, diff
from device.update import Update
from device.wifi import Wifi

from clock import dial, journal, modes, movement, schedule, store, sync, timekeeper, timezone

WATCHDOG_MS = 60_000  # far more than any blocking call of the chip takes
SHORT_PRESS_MS = 1000
LATE_US = 10_000  # a tick later than this is counted (docs/protocol.md)
NAP_MS = 500  # the longest sleep while nothing is armed, so that a change of mode is soon seen
HELD_NAP_MS = 100  # the same while the hands are held, so that a step follows its press
HANDSHAKE_MS = 900  # what a TLS handshake may hold the interpreter, and a little more
READY_MS = 5000  # how long a connection that stands waits for such a moment
CHECK_IN_MS = 60_000  # after a check-in that failed
POLL_PAUSE_MS = 2000  # from one check-in to the next, whatever the server answers, unless there is news here
CUT_PAUSE_MS = 5000  # and from one whose wait was cut short by news to the next: each costs a handshake
FIRST_TIME_MS = 30_000  # how long the first check-in waits for the time; a report without it shows hands of no meaning
WIFI_TIMEOUT_S = 20
WIFI_PAUSE_MS = 10_000
RESTART_MS = 5000


FOLLOWING = "following"  # the hands follow the time, or what is taken for it until it is known
RUNNING = "running"  # they run to a position, to be held there
HELD = "held"  # they stand there, or take the single steps that are asked for


class Clock:
    """The hands and the time, and the loop that brings them together.

    A clock that does not know where its hands stand (`placed` is False) counts steps from 12:00:00 as if they had stood
    there, and is held until `set_hands`.
    """

    def __init__(self, mover, keeper, plans, zone, kept, choices, able: list, mode: str, place) -> None:
        """mover: Movement; keeper: Timekeeper; plans: Schedule; zone: Zone; kept: Journal or NvsStore, for the place;
        choices: NvsStore, for mode and hold; able: what `modes.able` gives; mode: the name of one of them.

        place: (position, polarity): where the hands stand and of what polarity the pulse was that brought them there;
        or None if that is not known, with the last pulse of polarity 0.
        """
        self.mover = mover
        self.keeper = keeper
        self.plans = plans
        self.zone = zone
        self.kept = kept
        self.choices = choices
        self.talking = asyncio.Lock()  # one conversation at a time: a handshake would spoil an exchange's round trip
        self.news = asyncio.Event()  # worth a check-in before its time
        self.twin = None  # device.twin.Twin, as soon as there is one
        self.placed = place is not None
        self.position = place[0] if place else 0
        self.polarity = place[1] if place else 0
        self.able = able
        self.mode = mode
        self.late_ticks = 0
        self.waiting = False  # for a minute or more, hands that are ahead, such as after an hour put back
        self._goal = choices.goal() if place else 0
        self.state = FOLLOWING if self._goal is None else RUNNING if place else HELD
        self._plan = self._find(mode)
        self._offset_s = 0
        self._settled = False  # on target since the last change of time, zone, mode or hold
        self._armed = asyncio.Event()
        self._free_ms = 0  # when last armed: how long until Python is needed again

    # What the rest of the program asks and tells

    def choose(self, mode: str) -> None:
        """Follow another mode, from this minute on, and after a restart too. ValueError if this clock has none such."""
        self._plan = self._find(mode)
        self.mode = mode
        self._settled = False
        self.news.set()
        try:
            self.choices.choose(mode)
        except OSError as error:
            log.error("the mode could not be kept", error)

    def _find(self, mode: str):
        for name, plan in self.able:
            if name == mode:
                return plan
        raise ValueError('mode: no "%s" here; there are: %s' % (mode, ", ".join([name for name, _ in self.able])))

    def use(self, able: list) -> None:
        """Other modes can run here, or the same with other settings. The present one must be among them."""
        self.able = able
        self._plan = self._find(self.mode)
        self._settled = False

    def live_in(self, zone) -> None:
        """Show the time of another time zone."""
        self.zone = zone
        self._settled = False

    def held_at(self):
        """The position at which the hands are held, or to which they run to be held there; None: they follow."""
        return self._goal if self.state != FOLLOWING else None

    def hold(self) -> None:
        """Run on until the seconds hand is at 12, and hold the hands there; after a restart too."""
        self._aim(RUNNING, (self.position + 59) // 60 * 60 % dial.STEPS)

    def run_to(self, position: int) -> None:
        """Run to a position, and hold the hands there; after a restart too. ValueError if they are not set."""
        self._need_place()
        self._aim(RUNNING, position % dial.STEPS)

    def step(self) -> None:
        """One step, and hold the hands there."""
        self._aim(HELD, ((self.position if self._goal is None else self._goal) + 1) % dial.STEPS)

    def follow(self) -> None:
        """End the hold: run to the right time. ValueError if the hands are not set."""
        self._need_place()
        self._assume()
        self._aim(FOLLOWING, None)

    def set_hands(self, position: int) -> None:
        """They show this now. Ends the hold: run to the right time. OSError if that could not be kept."""
        position = (position + self.mover.pending(time.ticks_us())) % dial.STEPS
        self.kept.write(position, self.polarity)
        self.position = position
        self.placed = True
        log.info("hands set to " + dial.text(position))
        self.follow()

    def shift(self, steps: int) -> None:
        """They stand so many steps further than believed. ValueError if they are not set; OSError: it was not kept."""
        self._need_place()
        position = (self.position + steps) % dial.STEPS
        passed = self.state == RUNNING and steps > (self._goal - self.position) % dial.STEPS
        if self.state == HELD or passed:
            # Where they are, and not once round the dial; first, for the same reason: a cut may come in between.
            self._aim(self.state, position)
        self.kept.write(position, self.polarity)
        self.position = position
        self._settled = False

    def keep(self) -> None:
        """Before a restart that is not a cut: NVS, too, shall know the last pulse, begun or not. A journal does."""
        if self.placed and self.kept is self.choices:
            try:
                self.kept.write(self.position, self.polarity)
            except OSError as error:
                log.error("the hands' place could not be kept", error)

    def _need_place(self) -> None:
        if not self.placed:
            raise ValueError("where the hands stand is not known: set them first")

    def _assume(self) -> None:
        """While the time is not known, it is taken to be what the hands show."""
        if not self.keeper.known:
            minute, ms = self.plans.moment(self.position, self._plan)
            self.keeper = timekeeper.Timekeeper(minute, ms * 1000, time.ticks_us())

    def _aim(self, state: str, goal) -> None:
        self.state = state
        self._goal = goal
        self._settled = False
        self.news.set()
        try:
            self.choices.hold(goal)
        except OSError as error:
            log.error("the hold could not be kept", error)

    def hear(self, minute: int, us: int, error_us: int, ticks_us) -> bool:
        """A time server said so; see Timekeeper.hear."""
        first = not self.keeper.known
        stepped = self.keeper.hear(minute, us, error_us, ticks_us)
        self._settled = self._settled and not stepped
        if first:
            self.news.set()
            log.info("synced, within %d ms" % (error_us // 1000))
        return stepped

    def report(self) -> dict:
        """The clock's part of a check-in (docs/protocol.md)."""
        minute, uncertainty_us = self.keeper.minute, self.keeper.uncertainty_us()
        return {
            "mode": self.mode,
            "modes": [name for name, _ in self.able],
            "position": self.position if self.placed else None,
            "minute": minute,
            "utc_offset_s": self._offset_s,
            "plan": list(self.plans.plan(self._plan, minute)),
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
        await asyncio.sleep_ms(self.mover.over_ms(time.ticks_us()))  # the pulse of the start
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
        rest_ms = self.mover.rest_ms(now)
        if self._goal is None:
            action, wait_ms = self.plans.decide(self.position, self._plan, minute, ms, offset_s, rest_ms)
        elif self._goal != self.position:
            action, wait_ms = schedule.CATCH_UP, rest_ms
        else:
            return self._stand()
        if action == schedule.CATCH_UP:
            self.waiting = False
            self.late_ticks += self._settled
            self._pulse(now)  # overdue: as soon as the movement may, which `arm` knows to the microsecond
            return self.mover.over_ms(time.ticks_us())
        if action == schedule.TICK and wait_ms <= movement.AHEAD_MS:
            self.waiting = False
            self._settled = True
            late_us = self._pulse(time.ticks_add(now, wait_ms * 1000 - us % 1000))
            self.late_ticks += late_us > LATE_US
            following_ms = self.plans.following_ms(ms + wait_ms) - ms
            if following_ms - wait_ms - self.mover.pulse_us // 1000 > journal.ERASE_MS:
                self._tidy()
            self._leave_free(following_ms)
            return self.mover.over_ms(time.ticks_us())
        if action == schedule.TICK:
            self.waiting = False
            wait_ms -= movement.AHEAD_MS - 1
        else:
            self.waiting = self.waiting or wait_ms > modes.MINUTE_MS - 2 * NAP_MS
        self._leave_free(wait_ms)
        return min(wait_ms, NAP_MS)

    def _stand(self) -> int:
        """Be held. Returns as `_step` does."""
        if self.state == RUNNING:
            self.state = HELD
            self.news.set()
            log.info("on hold; a short press is one step, a long one says that the hands show 12:00:00")
        self.waiting = False
        self._tidy()
        self._leave_free(modes.MINUTE_MS)
        return HELD_NAP_MS

    def _pulse(self, at) -> int:
        position, polarity = (self.position + 1) % dial.STEPS, 1 - self.polarity
        try:
            if self.placed:
                self.kept.commit(position, polarity, position == self._goal)
        except OSError as error:
            log.error("the hands' place could not be kept", error)
        # Before it is armed, for `keep` may come in between, and the start gives the last pulse once more.
        self.position, self.polarity = position, polarity
        return self.mover.arm(polarity, at)

    def _tidy(self) -> None:
        try:
            self.kept.tidy()
        except OSError as error:
            log.error("the journal could not be made ready", error)

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
    """What the button means in each state of the clock, short and long."""
    pressed_ms = 0
    while True:
        down, at_ms = await button.change()
        if down:
            pressed_ms = at_ms
        elif diff(at_ms, pressed_ms) < SHORT_PRESS_MS:
            if clock.state == FOLLOWING:
                _next_mode(clock, light)
            elif clock.state == HELD:
                clock.step()
                light.flash(1)
                _by_hand(clock, "hold")
        else:
            if clock.state == FOLLOWING:
                clock.hold()
                light.pattern("held")
            elif clock.state == RUNNING:
                clock.follow()  # it was a mistake: the place is still known
            else:
                clock.set_hands(0)
            _by_hand(clock, "hold")


def _by_hand(clock, setting: str) -> None:
    """The server shall hear that somebody changed this setting here, also if the power goes before it does."""
    try:
        clock.choices.touch(setting)
    except OSError as error:
        log.error("a change could not be kept for the server", error)
    if clock.twin is not None:
        clock.twin.touch(setting)


def _next_mode(clock, light) -> None:
    """And as many flashes as its place in the order."""
    order = [name for name, _ in clock.able]
    place = (order.index(clock.mode) + 1) % len(order)
    clock.choose(order[place])
    light.flash(place + 1)
    _by_hand(clock, "mode")
    log.info("mode " + clock.mode)


def _meaning(clock):
    """The pattern of the light for what the clock is doing; None: dark, all is well."""
    if not clock.placed:
        return "unset"
    if clock.state != FOLLOWING:
        return "held"
    return "waiting" if clock.waiting or not clock.keeper.known else None


async def _show(clock, light) -> None:
    """The light says what hinders the clock, anew every ten seconds: flashes of a press may have ended the pattern."""
    shown, since = None, 0
    while True:
        meaning = _meaning(clock)
        since += 1
        if meaning != shown or since >= 10:
            if meaning:
                light.pattern(meaning)
            elif shown:
                light.set(False)
            shown, since = meaning, 0
        await asyncio.sleep_ms(1000)


async def _join(wifi) -> None:
    while True:
        if not wifi.connected() and not await wifi.connect(WIFI_TIMEOUT_S):
            log.error("no WiFi network of the configuration could be joined")
        await asyncio.sleep_ms(WIFI_PAUSE_MS)


async def _listen(clock, wifi, board: dict, settings: dict) -> None:
    """Improv over the cable, unless WiFi is found first: a clock that has it does without these 6 kB of its heap."""
    while not wifi.missing:
        if wifi.connected():
            return
        await asyncio.sleep_ms(NAP_MS)
    from device.cable import Cable

    about = ("Offbeat clock", device_config.VERSION, board["name"], settings["device"])
    await Cable(wifi, about, lambda: _ready(clock)).listen()


async def _online(clock, wifi) -> None:
    while not wifi.connected():
        clock.twin.counter_ms()  # lest it miss a turn of ticks_ms: all other waits of this task are short
        await asyncio.sleep_ms(NAP_MS)


async def _check_in(clock, wifi, link) -> None:
    """Over and over, each waiting at the server until something new is desired; soon, when there is news here."""
    await _online(clock, wifi)
    if not clock.keeper.known:
        await _news(clock, FIRST_TIME_MS)
    cut_ms = None  # ticks_ms when news last ended a wait
    while True:
        await _online(clock, wifi)
        if not link.connected:
            if clock.twin.update.in_trial():
                await _ready(clock)  # its ten minutes do not wait for the hands, which may catch up for longer
            else:
                await clock.quiet(HANDSHAKE_MS)
            if clock.talking.locked():
                await asyncio.sleep_ms(NAP_MS)
                continue
        clock.news.clear()
        began_ms = time.ticks_ms()
        try:
            if link.connected:
                answer = await _poll(clock, cut_ms)
                if answer is None:
                    cut_ms = time.ticks_ms()
                    continue
            else:
                async with clock.talking:
                    answer = await clock.twin.check_in()
            if "update" in answer and await clock.twin.update.take(str(answer["update"].get("version"))):
                await clock.quiet(NAP_MS)
                clock.keep()
                machine.reset()
            if not clock.twin.changed:
                clock.choices.heard()
        except OSError as error:
            log.error("check-in", error)
            await _news(clock, CHECK_IN_MS)
            continue
        await _news(clock, max(0, POLL_PAUSE_MS - diff(time.ticks_ms(), began_ms)))


async def _poll(clock, cut_ms):
    """A check-in that waits for the server, but not longer than until there is news here; None: it was cut short.

    cut_ms: ticks_ms when the last one was, or None. One of long ago counts anew for 5 s every 12.4 days.
    """
    work = asyncio.create_task(clock.twin.check_in(twin.WAIT_MS))
    try:
        while not work.done():
            await asyncio.sleep_ms(NAP_MS)
            if clock.news.is_set() and (cut_ms is None or not 0 <= diff(time.ticks_ms(), cut_ms) <= CUT_PAUSE_MS):
                break
        return await work if work.done() else None
    finally:
        work.cancel()  # does nothing to one that has ended


async def _report(clock, settings: dict, board: dict, wifi) -> None:
    link = _make_link(settings, clock)
    clock.twin = _make_twin(clock, settings, board, wifi, link)
    await _check_in(clock, wifi, link)


async def _news(clock, timeout_ms: int) -> None:
    """Until there is something new to report, or the time is over."""
    try:
        await asyncio.wait_for_ms(clock.news.wait(), timeout_ms)
    except asyncio.TimeoutError:
        pass  # then it is time


async def _ready(clock) -> None:
    """A moment for what blocks, such as a handshake; if none comes in time, now."""
    try:
        await asyncio.wait_for_ms(clock.quiet(HANDSHAKE_MS), READY_MS)
    except asyncio.TimeoutError:
        pass  # such as while catching up, which it then delays


def _make_link(settings: dict, clock):
    from device.link import Link

    pinned, following = twin.certificates()
    # Or the one that verifies the server would count as not yet valid.
    walltime.advance(machine.RTC(), walltime.not_before(following or pinned))
    server = settings["server"]
    look_up = sync.LookUp()
    link = Link(server["host"], server["port"], pinned, settings["token"], look_up.find, lambda: _ready(clock))
    link.next_der, link.changed = following, twin.change
    return link


def _make_twin(clock, settings: dict, board: dict, wifi, link):
    """The clock as the server sees it."""
    counter = Counter("", time.ticks_ms())  # since the power came, or nearly

    def counter_ms():
        return counter.at_ms(time.ticks_ms())

    def report():
        return dict(clock.report(), rssi_dbm=wifi.rssi_dbm())

    def has():
        held = clock.held_at()
        has = {"mode": clock.mode, "hold": None if held is None else dial.text(held)}
        for key in ("timezone", "morse", "pattern"):
            if key in settings:
                has[key] = settings[key]
        return has

    identity = twin.identity("clock", board["name"], machine)
    made = twin.Twin(
        *(link, identity, counter_ms, report, has),
        *(lambda key, value: _set(clock, settings, key, value), lambda time_ms: None),
        *(("hands", "steps"), clock.choices.touched()),
    )
    made.update = Update("", link.get, settings["token"], "clock", identity["mpy"], identity["version"])
    return made


def _set(clock, settings: dict, key: str, value) -> bool:
    """Do what the server desires. True: the twin is to keep the value. ValueError: why it cannot be done."""
    if key == "mode":
        clock.choose(value)
    elif key == "hold" and value is None:
        if clock.state != FOLLOWING:
            clock.follow()
    elif key == "hold":
        clock.run_to(dial.parse(value))
    elif key == "hands":
        clock.set_hands(dial.parse(value))
    elif key == "steps":
        if isinstance(value, bool) or not isinstance(value, int) or not -dial.STEPS < value < dial.STEPS:
            raise ValueError("steps: not an integer from -43199 to 43199")
        clock.shift(value)
    elif key in ("timezone", "morse", "pattern"):
        device_config.check_some({key: value})
        if key == "timezone":
            clock.live_in(timezone.Zone(value))
        else:
            refused: list = []
            able = modes.able(dict(settings, **{key: value}), _least_ms(clock.mover), refused=refused)
            if key not in dict(able):
                raise ValueError(" ".join([reason for reason in refused if reason.startswith(key)]) or key)
            clock.use(able)
        settings[key] = value
        return True
    else:
        raise ValueError("%s: this clock has no such setting" % key)
    return False


def _least_ms(mover) -> int:
    """From tick to tick."""
    return (999 + mover.catch_up_hz) // mover.catch_up_hz


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


def _make_place(choices):
    """What keeps the place: the journal, or NVS where the partition table lacks one."""
    found = esp32.Partition.find(esp32.Partition.TYPE_DATA, label="ticks")
    if found:
        return journal.Journal(found[0])
    log.info("no partition named ticks: the place is kept once a minute only")
    return choices


def _make_clock(settings: dict, board: dict) -> Clock:
    mover = _make_movement(board)
    choices = store.NvsStore(esp32.NVS(store.NAMESPACE))
    kept = _make_place(choices)
    place = kept.place()
    if place is not None or "hands" not in settings:
        # Whether the last pulse before a cut moved the hand is not known; once more of the same polarity, and it has.
        # If nothing at all is known, the polarity is, after this.
        mover.arm(place[1] if place else 0, time.ticks_us())
    if place is None and "hands" in settings:
        place = dial.parse(settings["hands"]), 0
        log.info("no place was kept: the hands are taken to show " + settings["hands"])
    refused: list = []
    able = modes.able(settings, _least_ms(mover), refused=refused)
    for reason in refused:
        log.info("without this mode: " + reason)
    mode = choices.mode()
    found = dict(able)
    if mode not in found:
        mode = settings["mode"]
    if mode not in found:
        log.error('mode: "%s" cannot run here; it is %s until another is chosen' % (mode, able[0][0]))
        mode = able[0][0]
    plans = schedule.Schedule(settings["seed"], mover.catch_up_hz)
    minute, ms = plans.moment(place[0] if place else 0, found[mode])
    keeper = timekeeper.Timekeeper(minute, ms * 1000, time.ticks_us())
    clock = Clock(mover, keeper, plans, timezone.Zone(settings["timezone"]), kept, choices, able, mode, place)
    if place:
        held = "" if clock.state == FOLLOWING else ", on hold"
        log.info("hands at %s, mode %s, not synced%s" % (dial.text(place[0]), mode, held))
    else:
        log.info("where the hands stand is not known: bring them to 12:00:00, then press for a second")
    return clock


_clock = None


def busy() -> bool:
    """main.py asks before it ends a trial: a reset loses nothing, once the place is kept."""
    if _clock is not None:
        _clock.keep()
    return False


async def main(settings: dict, board: dict) -> None:
    """Be a clock, for ever. settings, board: config.json and board.json, checked by device.config."""
    global _clock
    watchdog = machine.WDT(timeout=WATCHDOG_MS)  # first: whatever fails from here on ends in a reset, not in silence
    pins = board["pins"]
    _clock = clock = _make_clock(settings, board)
    button = Button(machine.Pin(pins["button"], machine.Pin.IN, machine.Pin.PULL_UP))
    dark = board["light_active_low"]
    light = Light(machine.Pin(pins["light"], machine.Pin.OUT, value=dark), dark)
    wifi = Wifi(settings["wifi"], network.WLAN(network.STA_IF))
    manners = sntp.Manners(settings["ntp"])
    beside = {
        "light": light.run,
        "light's meaning": lambda: _show(clock, light),
        "button": lambda: _press(clock, button, light),
        "WiFi": lambda: _join(wifi),
        "time": lambda: sync.run(clock, wifi, manners),
        "cable": lambda: _listen(clock, wifi, board, settings),
    }
    if "server" in settings:
        beside["check-in"] = lambda: _report(clock, settings, board, wifi)
    tasks = [asyncio.create_task(_again(what, beside[what])) for what in beside]
    try:
        await clock.tick(watchdog)
    finally:
        clock.keep()  # for whatever ended it ends in a reset
        for task in tasks:
            task.cancel()
