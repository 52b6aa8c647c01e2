"""`clock.py simulate`: the clock's own core through days and years of trouble, in virtual time.

What the firmware decides by is the firmware's own, imported: schedule, modes, dice, timezone, timekeeper, journal and
the manners towards time servers. Simulated are the rotor, the flash, the counter, the network, and the loop between
them, which does what `Clock._step` of firmware/clock/app.py does.

Time is the board's free-running counter in microseconds, from the beginning of the simulation; the true time runs away
from it by the error of its crystal. Nothing is stepped through: each pass of the loop goes to the next one, or to the
fault before it.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import random
import sys
import zoneinfo
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from clock import dial, modes, schedule, timezone
from clock.journal import ERASE_MS, SECTOR_BYTES, Journal
from clock.timekeeper import Timekeeper
from device import sntp
from offbeat.zones import posix_tz

MINUTE_US = 60_000_000
DAY_US = 1440 * MINUTE_US
NEVER_US = 1 << 62

# Of firmware/clock/app.py and firmware/clock/movement.py, which need the chip's modules.
WATCHDOG_US = 60_000_000
LATE_US = 10_000
NAP_MS = 500
AHEAD_MS = 1965
EXCHANGE_TIMEOUT_US = 3_000_000
SOONEST_US = 60

# What the chip takes, from boards/sim/chip/costs.py.
BOOT_US = 400_000
ERASE_US = 45_000
PROGRAM_US = 300
WAKE_JITTER_US = 10_000

FAULTS_A_DAY = {"cuts": 2.0, "stalls": 1.0, "disturbances": 1.0, "outages": 0.25}


class PowerCut(Exception):
    """Power has failed; raised where the firmware stood."""


class Flash:
    """The partition `ticks`, with the chip's interface: an erase sets all bits, a program clears bits only.

    `cut`: which operation the power fails in: None, "program" (a tick's byte), "header" (one of several bytes) or
    "erase". What is left then is drawn: of a byte any subset of its bits cleared; of a sector random bits, all ones, or
    what it held before.
    """

    def __init__(self, chance: random.Random, sectors: int = 16) -> None:
        self.sectors = [bytearray(b"\xff" * SECTOR_BYTES) for _ in range(sectors)]
        self.erases = [0] * sectors
        self.cut: str | None = None
        self._chance = chance

    def ioctl(self, command: int, argument: int) -> int:
        if command == 4:
            return len(self.sectors)
        sector = self.sectors[argument]
        self.erases[argument] += 1
        if self.cut == "erase":
            sector[:] = self._chance.choice((self._chance.randbytes(SECTOR_BYTES), b"\xff" * SECTOR_BYTES, sector))
            raise PowerCut
        sector[:] = b"\xff" * SECTOR_BYTES
        return 0

    def readblocks(self, block: int, buffer: bytearray, offset: int) -> None:
        buffer[:] = self.sectors[block][offset : offset + len(buffer)]

    def writeblocks(self, block: int, buffer: bytes, offset: int) -> None:
        sector = self.sectors[block]
        if self.cut is None and len(buffer) == 1:
            sector[offset] &= buffer[0]
            return
        cut_at = -1
        if self.cut == ("program" if len(buffer) == 1 else "header"):
            cut_at = self._chance.randrange(len(buffer))
        for index, byte in enumerate(buffer):
            if index == cut_at:
                sector[offset + index] &= byte | self._chance.getrandbits(8)
                raise PowerCut
            sector[offset + index] &= byte


class Rotor:
    """A Lavet movement: it turns by one step when a pulse is long enough, not too soon after the last one that turned
    it, and of the other polarity than that one.
    """

    def __init__(self, position: int, polarity: int, least_us: int, spacing_us: int) -> None:
        """least_us: shortest pulse that turns it; spacing_us: least time between two."""
        self.position = position
        self.polarity = polarity
        self.turns = 0
        self.refused = Counter[str]()
        self._least_us = least_us
        self._spacing_us = spacing_us
        self._last_us = -NEVER_US

    def pulse(self, polarity: int, begin_us: int, width_us: int) -> None:
        if polarity == self.polarity:
            self.refused["same polarity"] += 1
        elif width_us < self._least_us:
            self.refused["too short"] += 1
        elif begin_us - self._last_us < self._spacing_us:
            self.refused["too soon"] += 1
        else:
            self.polarity = polarity
            self.position = (self.position + 1) % dial.STEPS
            self.turns += 1
            self._last_us = begin_us


@dataclass(frozen=True)
class Faults:
    """How many of each are drawn, all from `seed`."""

    seed: int
    cuts: int = 0
    stalls: int = 0
    disturbances: int = 0
    outages: int = 0

    @classmethod
    def usual(cls, seed: int, days: float) -> Faults:
        return cls(seed, **{kind: max(1, round(rate * days)) for kind, rate in FAULTS_A_DAY.items()})


def swing(plans: schedule.Schedule, module: Any, first_minute: int, last_minute: int) -> float:
    """How far the plans of some minutes are from one tick a second, in ticks: the most that they gain from one moment
    to a later one, or lose. 1 for `steady`, 30.5 for `rush`.
    """
    most = least = 0.0
    for minute in range(first_minute, last_minute + 1):
        leads = [index - time_ms / 1000 for index, time_ms in enumerate(plans.plan(module, minute))]  # just before each
        most, least = max(most, max(leads) + 1), min(least, min(leads))
    return most - least


def theory_s(behind: int, catch_up_hz: int, uneven: float) -> float:
    """The longest that it may take until hands that are `behind` steps behind (0 .. 43,199) are right again.

    Catching up gains hz - 1 steps a second on a target that goes on at one; waiting gains one. A plan that is not
    steady goes on by up to `uneven` steps (see `swing`) more, or fewer, than the seconds that pass. The shorter way is
    taken:

        min((behind + uneven) / (hz - 1), (43,200 - behind) + uneven)

    and then the next tick, of which the last one's spacing (1 / hz), and the loop's way of sleeping, keep it.
    """
    way_s = min((behind + uneven) / (catch_up_hz - 1), dial.STEPS - behind + uneven) if behind else uneven
    return way_s + 1 / catch_up_hz + (NAP_MS * 1000 + WAKE_JITTER_US) / 1e6


def _true_offset(tz: str) -> Callable[[int], int]:
    """Local time less UTC in s at a minute since 1970: by Python's zoneinfo where tz is a name, else by the string."""
    try:
        zone = zoneinfo.ZoneInfo(tz)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return timezone.Zone(tz).utc_offset_s
    epoch = datetime(1970, 1, 1, tzinfo=UTC)

    def offset_s(minute: int) -> int:
        offset = (epoch + timedelta(minutes=minute)).astimezone(zone).utcoffset()
        assert offset is not None
        return int(offset.total_seconds())

    return offset_s


class Simulation:
    """One clock on one wall. `run` it once; `summary` is then what became of it."""

    def __init__(
        self,
        mode: str,
        tz: str,
        start: datetime,
        days: float,
        faults: Faults | None = None,
        *,
        clock_seed: int = 1,
        pulse_us: int = 31_000,
        catch_up_hz: int = 8,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """start: aware, the true time; tz: a POSIX TZ string or a zone's name; progress: is told 0 .. 1 now and then.

        ValueError if the mode or the zone is none. Other movements: pulse_us wide, catch_up_hz at most.
        """
        self._chance = chance = random.Random(f"{faults.seed if faults else 0} {mode} {tz} {start.isoformat()}")
        self._module = modes.load(mode, None, -(-1000 // catch_up_hz))
        self._zone = timezone.Zone(posix_tz(tz))
        self._true_offset_s = _true_offset(tz)
        self._start_us = round(start.timestamp() * 1_000_000)
        self._end_us = round(days * DAY_US)
        self._crystal_ppm = chance.randrange(-20, 21) if faults else 0
        self._clock_seed = clock_seed
        self._pulse_us = pulse_us
        self._hz = catch_up_hz
        self._spacing_us = 1_000_000 // catch_up_hz
        self._progress = progress
        self._jitter = itertools.cycle([chance.randrange(WAKE_JITTER_US) for _ in range(997)])
        self._flash = Flash(chance)
        self._now_us = 0
        minute = self._start_us // MINUTE_US
        position = dial.showing(minute, self._true_offset_s(minute))
        least_us = pulse_us * chance.randrange(40, 95) // 100
        self._rotor = Rotor(position, chance.randrange(2), least_us, self._spacing_us * 9 // 10)
        Journal(self._flash).write(position, self._rotor.polarity)

        self._events: list[tuple[int, int, str, Any]] = []
        self._order = itertools.count()
        self._stalled_until_us = 0
        self._out_until_us = 0
        self._lie_us = self._lies = 0
        self._cut_next: str | None = None  # the kind of cut that awaits its occasion
        if faults:
            self._draw(faults)

        self.cuts = Counter[str]()
        self.counts = Counter[str]()
        self._disagreement = 0
        self._caught_up_us = self._waited_us = 0
        self._error_max = 0
        self._true_error_max = 0
        self._longest_s = self._over_theory_s = 0.0

    def _draw(self, faults: Faults) -> None:
        chance = self._chance

        def moment_us() -> int:
            return chance.randrange(self._end_us * 19 // 20)  # and the rest for what comes of it

        for _ in range(faults.cuts):
            kind = chance.choice(("at any instant", "program", "before the pulse", "in the pulse", "erase", "header"))
            self._at(moment_us(), "cut", kind)
        for _ in range(faults.stalls):
            self._at(moment_us(), "stall", round(200_000 * 450 ** chance.random()))  # 0.2 to 90 s
        for _ in range(faults.disturbances):
            largest_us = chance.choice((100_000, 1_000_000, 60_000_000, 13 * 3_600_000_000))
            self._at(moment_us(), "disturbance", (chance.randint(-largest_us, largest_us), chance.randint(1, 5)))
        for _ in range(faults.outages):
            self._at(moment_us(), "outage", round(60_000_000 * 1440 ** chance.random()))  # a minute to a day

    def _at(self, t_us: int, kind: str, detail: Any = None) -> None:
        heapq.heappush(self._events, (t_us, next(self._order), kind, detail))

    # The world

    def _true_us(self) -> int:
        """UTC in us since 1970."""
        return self._start_us + self._now_us + self._now_us * self._crystal_ppm // 1_000_000

    def _compare(self) -> None:
        """The hands against what the firmware takes them to show."""
        apart = dial.steps(self._position, self._rotor.position)
        apart -= dial.STEPS if apart > dial.STEPS // 2 else 0
        if apart != self._disagreement:
            self.counts["gained" if apart > self._disagreement else "lost"] += abs(apart - self._disagreement)
            self._disagreement = apart
        if apart or self._rotor.polarity != self._polarity:
            self.counts["disagreements"] += 1

    def run(self) -> None:
        while self._now_us < self._end_us:
            with contextlib.suppress(PowerCut):
                self._powered()
            self._flash.cut = None
            # Off: from a flicker to some hours, and now and then for days.
            chance = self._chance
            self._now_us += round(100_000 * 10 ** (chance.random() * (6 if chance.random() < 0.05 else 4.5)))
            while self._events and self._events[0][0] < self._now_us:
                t_us, _, kind, detail = heapq.heappop(self._events)
                if kind == "outage":
                    self._out_until_us = max(self._out_until_us, t_us + detail)
                elif kind != "exchange":  # none is left out: it comes while there is power again
                    self._at(self._now_us + chance.randrange(MINUTE_US), kind, detail)
                    if self._now_us > self._end_us:
                        break

    # The board

    def _boot(self) -> None:
        """What the app does at its start (firmware/clock/app.py)."""
        self._now_us += BOOT_US + next(self._jitter)
        if self._cut_next == "boot" and self._chance.random() < 0.5:
            self._flash.cut = "program"  # while the last byte, half written, is completed
        self._journal = Journal(self._flash)
        place = self._journal.place()
        assert place is not None, "the journal is blank"
        self._position, self._polarity = place
        width_us = self._pulse_us  # the last pulse once more, with its polarity
        if self._cut_next == "boot":
            width_us = self._chance.randrange(width_us)
        self._rotor.pulse(self._polarity, self._now_us, width_us)
        if width_us < self._pulse_us:
            self._now_us += width_us
            self._cut("boot")
        self._last_us = self._now_us
        self._now_us += self._pulse_us
        self._flash.cut = None
        self._cut_next = None
        self._compare()
        self._on_us = self._now_us
        self._plans = schedule.Schedule(self._clock_seed, self._hz)
        minute, ms = self._plans.moment(self._position, self._module)
        self._keeper = Timekeeper(minute, ms * 1000, 0)
        self._manners = sntp.Manners(["ntp.sim"])
        self._offset_s = 0
        self._settled = False  # as the app has it: on target since the last change of time, zone or mode
        self._begin_episode()
        self._ask_in(self._chance.randrange(2_000_000, 10_000_000))

    def _cut(self, kind: str) -> None:
        self.cuts[kind] += 1
        # Power that fails often comes back only to fail again at once.
        self._cut_next = "boot" if self._chance.random() < 0.2 else None
        raise PowerCut

    def _begin_episode(self) -> None:
        """The hands may be wrong from now on, for as long as the theory says."""
        self._exact = False
        self._episode_ms = -1

    def _powered(self) -> None:
        """From power-on until power fails (PowerCut), the watchdog bites, or the simulation ends (both return)."""
        self._boot()
        # The loop of a year has 31 million passes: what it uses is at hand.
        rotor, keeper, journal, zone = self._rotor, self._keeper, self._journal, self._zone
        module, jitter, flash = self._module, self._jitter, self._flash
        decide, times_ms, after_ms = self._plans.decide, self._plans.times_ms, ERASE_MS + self._pulse_us // 1000
        read, commit, offset_of, pulse = keeper.read, journal.commit, zone.utc_offset_s, rotor.pulse
        events, end_us, spacing_us, pulse_us = self._events, self._end_us, self._spacing_us, self._pulse_us
        on_us, now_us, minute_before = self._on_us, self._now_us, -1
        TICK, CATCH_UP = schedule.TICK, schedule.CATCH_UP

        while now_us < end_us:
            read(now_us - on_us & 0x3FFFFFFF)
            minute, us = keeper.minute, keeper.us
            ms = us // 1000
            offset_s = offset_of(minute, ms // 1000) if keeper.known else 0
            if offset_s != self._offset_s:
                self._offset_s = offset_s
                self._settled = False
                self._begin_episode()
            if minute != minute_before:
                if self._exact and minute > minute_before:
                    self._now_us = now_us
                    self._minute_begins(minute, ms, offset_s)
                minute_before = minute
            rest_us = self._last_us + spacing_us - now_us
            rest_ms = 0 if rest_us <= 0 else (rest_us + 999) // 1000
            action, wait_ms = decide(self._position, module, minute, ms, offset_s, rest_ms)
            if not self._exact:
                self._follow_episode(action, minute, ms, offset_s)

            begin_us = 0
            if action == TICK:
                if wait_ms > AHEAD_MS:
                    wake_us = now_us + min(wait_ms - AHEAD_MS + 1, NAP_MS) * 1000
                else:
                    self._settled = True
                    begin_us = asked_us = now_us + wait_ms * 1000 - us % 1000
            elif action == CATCH_UP:
                self.counts["late ticks"] += self._settled
                begin_us = asked_us = now_us
            else:
                wake_us = now_us + min(wait_ms, NAP_MS) * 1000

            if begin_us:
                self._now_us = now_us
                if self._cut_next is not None:
                    flash.cut = self._cut_next
                position, polarity = (self._position + 1) % dial.STEPS, 1 - self._polarity
                try:
                    commit(position, polarity)
                except PowerCut:
                    self._cut(flash.cut or "")
                now_us += PROGRAM_US
                if begin_us < now_us + SOONEST_US:
                    begin_us = now_us + SOONEST_US
                if begin_us < self._last_us + spacing_us:
                    begin_us = self._last_us + spacing_us
                if action == TICK and begin_us - asked_us > LATE_US:
                    self.counts["late ticks"] += 1
                self._position, self._polarity = position, polarity
                self._last_us = begin_us
                if self._cut_next is not None:
                    self._cut_around(begin_us, polarity)
                if action == TICK and times_ms[bisect_right(times_ms, ms + wait_ms, 0, 59)] - ms - wait_ms > after_ms:
                    try:
                        if journal.tidy():
                            now_us += ERASE_US
                    except PowerCut:
                        self._now_us = now_us
                        self._cut(flash.cut or "")
                wake_us = max(now_us, self._now_us + wait_ms * 1000 + pulse_us + 3000)

            wake_us += next(jitter)
            if events and events[0][0] <= wake_us:
                wake_us = self._meanwhile(now_us, wake_us, begin_us)
                if wake_us < 0:
                    return
            elif begin_us:
                pulse(self._polarity, begin_us, pulse_us)
            if not self._exact:
                if action == CATCH_UP:
                    self._caught_up_us += wake_us - now_us
                elif action != TICK:
                    self._waited_us += wake_us - now_us
            now_us = wake_us
        self._now_us = now_us
        self._compare()

    def _cut_around(self, begin_us: int, polarity: int) -> None:
        """A cut between a tick's byte and its pulse, or within the pulse, if one of these is to come."""
        kind = self._cut_next
        if kind == "before the pulse":
            self._now_us = self._chance.randrange(self._now_us, begin_us)
        elif kind == "in the pulse":
            width_us = self._chance.randrange(self._pulse_us)
            self._now_us = begin_us + width_us
            self._rotor.pulse(polarity, begin_us, width_us)
        else:
            return
        self._cut(kind)

    def _meanwhile(self, now_us: int, wake_us: int, begin_us: int) -> int:
        """What happens while the loop sleeps, beside the pulse armed for begin_us (0 if none).

        Returns when it really wakes, or -1 if the watchdog has restarted the board.
        """
        fed_us, rang = now_us, begin_us == 0
        events = self._events
        while events and events[0][0] <= wake_us:
            t_us, _, kind, detail = heapq.heappop(events)
            t_us = max(t_us, now_us)
            if not rang and begin_us + self._pulse_us <= t_us:
                self._rotor.pulse(self._polarity, begin_us, self._pulse_us)
                rang = True
            if kind == "cut" and detail == "at any instant":
                self._fail(t_us, begin_us, rang)
                self._cut(detail)
            elif kind == "cut" and self._cut_next is None:
                self._cut_next = detail
            elif kind == "cut":
                self._at(t_us + 60 * MINUTE_US, kind, detail)
            elif kind == "stall":
                self.counts["stalls"] += 1
                wake_us = self._stalled_until_us = max(wake_us, t_us + detail)
                self._begin_episode()
                if wake_us - fed_us > WATCHDOG_US:
                    self.counts["watchdog"] += 1
                    self._fail(fed_us + WATCHDOG_US, begin_us, rang)
                    return -1
            elif kind == "disturbance":
                self.counts["disturbances"] += 1
                self._lie_us, self._lies = detail
            elif kind == "outage":
                self.counts["outages"] += 1
                self._out_until_us = max(self._out_until_us, t_us + detail)
            elif kind == "exchange":
                self._exchange(t_us, wake_us, detail)
        if not rang:
            self._rotor.pulse(self._polarity, begin_us, self._pulse_us)
        return wake_us

    def _fail(self, t_us: int, begin_us: int, rang: bool) -> None:
        """Power, or the watchdog, ends what the chip does: also a pulse."""
        if not rang and t_us > begin_us:
            self._rotor.pulse(self._polarity, begin_us, min(t_us - begin_us, self._pulse_us))
        self._now_us = t_us

    # Time servers

    def _ask_in(self, wait_us: int) -> None:
        delay_us = self._chance.randrange(4_000, 100_000)
        self._at(self._now_us + wait_us + delay_us, "exchange", (self._on_us, delay_us))

    def _exchange(self, t_us: int, wake_us: int, detail: tuple[int, int]) -> None:
        """An answer arrives, or should."""
        on_us, delay_us = detail
        if on_us != self._on_us:
            return  # asked before the last restart
        if t_us < self._stalled_until_us:  # it is read when the loop goes on
            delay_us += self._stalled_until_us - t_us
            t_us = self._stalled_until_us
        self._now_us = t_us
        if t_us < self._out_until_us or delay_us > EXCHANGE_TIMEOUT_US:
            self._manners.failed()
        else:
            error_us = delay_us // 2 + 1000
            utc_us = self._true_us() + self._chance.randint(-delay_us // 2, delay_us // 2)
            if self._lies:
                self._lies -= 1
                utc_us += self._lie_us
            keeper, ticks_us = self._keeper, t_us - self._on_us & 0x3FFFFFFF
            keeper.read(ticks_us)
            before = (keeper.minute, keeper.us)
            if keeper.hear(utc_us // MINUTE_US, utc_us % MINUTE_US, error_us, ticks_us):
                self._settled = False
            if before != (keeper.minute, keeper.us):  # a step; what is slewed, the hands follow
                self.counts["time steps"] += 1
                self._begin_episode()
            if keeper.doubtful:
                self._manners.doubted()
            else:
                self._manners.succeeded()
        self._ask_in(self._manners.wait_ms(self._chance.randrange(256)) * 1000)

    # What is found

    def _follow_episode(self, action: int, minute: int, ms: int, offset_s: int) -> None:
        """From the first decision after a disturbance to the first planned tick, against the theory, in the clock's own
        time, which does not step meanwhile.
        """
        now_ms = minute * modes.MINUTE_MS + ms
        if self._episode_ms < 0:
            self._episode_ms = now_ms
            due = bisect_right(self._plans.times_ms, ms)
            self._episode_behind = dial.steps(self._position, dial.showing(minute, offset_s) + due)
        if action != schedule.TICK:
            return
        self._exact = True
        lasted_s = (now_ms - self._episode_ms) / 1000
        if lasted_s > 0:
            plans = schedule.Schedule(self._clock_seed, self._hz)
            uneven = swing(plans, self._module, self._episode_ms // modes.MINUTE_MS, minute)
            limit_s = theory_s(self._episode_behind, self._hz, uneven)
            self._over_theory_s = max(self._over_theory_s, lasted_s - limit_s)
            self._longest_s = max(self._longest_s, lasted_s)
            self.counts["episodes"] += 1

    def _minute_begins(self, minute: int, ms: int, offset_s: int) -> None:
        """The hands against the minute: the clock's own, and the true one unless a server misled it."""
        self.counts["checked"] += 1
        if ms >= 250:
            self.counts["checked late"] += 1
            return
        self._compare()
        self._error_max = max(self._error_max, _apart(self._rotor.position, dial.showing(minute, offset_s)))
        if not self._keeper.known:
            self.counts["not synced"] += 1
            return
        true_us = self._true_us()
        true_minute = (true_us + MINUTE_US // 2) // MINUTE_US
        off_us = minute * MINUTE_US + ms * 1000 - true_us
        if abs(off_us) > 500_000:
            self.counts["misled"] += 1
            return
        right = dial.showing(true_minute, self._true_offset_s(true_minute))
        self._true_error_max = max(self._true_error_max, _apart(self._rotor.position, right))
        if minute % 60 == 0 and self._progress:
            self._progress(self._now_us / self._end_us)

    @property
    def summary(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "minutes": self._end_us // MINUTE_US,
            "minutes_checked": counts["checked"] - counts["checked late"],
            "minutes_not_synced": counts["not synced"],
            "minutes_misled": counts["misled"],
            "ticks": self._rotor.turns,
            "error_at_minute_max": max(self._error_max, self._true_error_max),
            "catch_up_s": round(self._caught_up_us / 1e6, 1),
            "catch_ups": counts["episodes"],
            "longest_way_s": round(self._longest_s, 1),
            "over_theory_s": round(self._over_theory_s, 3),
            "waiting_s": round(self._waited_us / 1e6, 1),
            "steps_lost": counts["lost"],
            "steps_gained": counts["gained"],
            "rotor_disagreements": counts["disagreements"],
            "rotor_refused": dict(self._rotor.refused),
            "late_ticks": counts["late ticks"],
            "cuts": dict(self.cuts),
            "watchdog_restarts": counts["watchdog"],
            "stalls": counts["stalls"],
            "disturbances": counts["disturbances"],
            "outages": counts["outages"],
            "time_steps": counts["time steps"],
            "sector_erases_max": max(self._flash.erases),
        }


def _apart(position: int, right: int) -> int:
    """How many steps hands are off, the shorter way round."""
    return min(dial.steps(position, right), dial.steps(right, position))


def simulate(
    mode: str, tz: str, start: datetime, days: float, faults: Faults | None = None, **more: Any
) -> dict[str, Any]:
    """Run one Simulation; its summary."""
    simulation = Simulation(mode, tz, start, days, faults, **more)
    simulation.run()
    return simulation.summary


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", required=True, choices=modes.names())
    parser.add_argument("--tz", default="UTC0", help="a POSIX TZ string, or a zone's name such as Europe/Athens")
    parser.add_argument(
        "--start", default="2026-01-01", type=_moment, metavar="ISO", help="UTC unless it says otherwise"
    )
    parser.add_argument("--days", default=1.0, type=float)
    parser.add_argument("--faults", type=int, metavar="SEED", help="draw faults from this seed; none without it")
    for kind, rate in FAULTS_A_DAY.items():
        parser.add_argument(f"--{kind}", type=int, metavar="N", help=f"how many in all (with --faults: {rate:g} a day)")
    parser.add_argument("--seed", default=1, type=int, help="the clock's own seed")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def run(arguments: argparse.Namespace) -> int:
    """Simulate, with a progress bar on stderr, and print the summary. 0 if no step was lost or gained."""
    from rich.console import Console
    from rich.progress import Progress

    given = {kind: value for kind in FAULTS_A_DAY if (value := getattr(arguments, kind)) is not None}
    faults = None
    if arguments.faults is not None:
        usual = Faults.usual(arguments.faults, arguments.days)
        faults = Faults(**(vars(usual) | given))
    elif given:
        print("--" + next(iter(given)) + " needs --faults SEED, from which they are drawn", file=sys.stderr)
        return 2
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{arguments.mode}, {arguments.days:g} days", total=1.0)
        try:
            found = simulate(
                arguments.mode, arguments.tz, arguments.start, arguments.days, faults,
                clock_seed=arguments.seed, progress=lambda share: bar.update(task, completed=share),
            )  # fmt: skip
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    print(json.dumps(found, indent=2))
    return 0 if found["steps_lost"] == found["steps_gained"] == found["rotor_disagreements"] == 0 else 1
