"""The clock's core through days of trouble, and through years of it in the soak; and that the simulation would tell."""

import argparse
import itertools
import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from typing import Any

import clock_simulation
import pytest
from clock import modes, schedule
from clock.journal import Journal
from clock.timezone import Zone
from clock_simulation import Faults, posix_tz, simulate, swing, theory_s

ZONES = ("Europe/Athens", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Europe/Dublin")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CUTS = {"at any instant", "program", "before the pulse", "in the pulse", "erase", "header", "boot"}


def changes(tz: str, year: int) -> list[datetime]:
    """The moments of a year at which the offset changes, to the minute."""
    zone = Zone(posix_tz(tz))
    first = (datetime(year, 1, 1, tzinfo=UTC) - EPOCH).days * 1440
    offsets = ((minute, zone.utc_offset_s(minute)) for minute in range(first, first + 366 * 1440))
    found = [later[0] for before, later in itertools.pairwise(offsets) if before[1] != later[1]]
    return [EPOCH + timedelta(minutes=minute) for minute in found]


def one_run(job: tuple[str, str, datetime, float, Faults | None]) -> dict[str, Any]:
    return simulate(*job)


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as executor:
        yield executor


def check(found: dict[str, Any]) -> None:
    """0 steps lost or gained, exact at every minute but on the way, and on the way never longer than in theory."""
    assert found["steps_lost"] == found["steps_gained"] == found["rotor_disagreements"] == 0, found
    assert found["error_at_minute_max"] == 0, found
    assert found["over_theory_s"] == 0, found
    assert "too soon" not in found["rotor_refused"], found


def test_a_day_without_faults() -> None:
    for mode in modes.names():
        found = simulate(mode, "Asia/Kathmandu", datetime(2026, 7, 16, tzinfo=UTC), 0.25)
        check(found)
        assert found["minutes"] == 360 and 358 <= found["minutes_checked"] <= 360
        assert 21_590 <= found["ticks"] <= 21_600
        assert found["late_ticks"] == found["waiting_s"] == 0 and found["catch_up_s"] < 10
        assert found["cuts"] == {}


def days_of_trouble(pool: ProcessPoolExecutor, mode: str, year: int) -> None:
    """Two days round each change of a year, and three days of it, in each zone."""
    chance = random.Random(f"{mode} {year}")
    jobs = []
    for tz in ZONES:
        around = changes(tz, year)
        assert len(around) == (0 if tz == "Asia/Kathmandu" else 2)
        starts = [(moment - timedelta(days=1), 2.0) for moment in around]
        starts += [(datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=chance.randrange(365)), 1.0) for _ in range(3)]
        for start, days in starts:
            faults = Faults(chance.randrange(1 << 30), cuts=6, stalls=4, disturbances=2, outages=1)
            jobs.append((mode, tz, start, days, faults))
    assert len(jobs) == 4 * 5 + 3
    results = list(pool.map(one_run, jobs))
    for found in results:
        check(found)
    assert not CUTS.difference(*(found["cuts"] for found in results))
    assert sum(sum(found["cuts"].values()) for found in results) >= 6 * len(jobs)
    assert sum(found["stalls"] for found in results) > 3 * len(jobs)  # some may come too late, after a long cut
    known_right = sum(
        found["minutes_checked"] - found["minutes_misled"] - found["minutes_not_synced"] for found in results
    )
    assert known_right > sum(found["minutes"] for found in results) * 6 // 10
    # An hour put back is waited for, an hour put forward is caught up; some while the power is off.
    changed = [found for job, found in zip(jobs, results, strict=True) if job[3] == 2.0]
    assert sum(found["waiting_s"] > 1700 for found in changed) >= 2
    assert sum(found["catch_up_s"] > 250 for found in changed) >= 2


@pytest.mark.parametrize("mode", modes.names())
def test_days_of_trouble_round_each_change(pool: ProcessPoolExecutor, mode: str) -> None:
    days_of_trouble(pool, mode, 2026 + modes.names().index(mode) % 2)


@pytest.mark.soak
@pytest.mark.parametrize("mode", modes.names())
def test_days_of_trouble_round_each_change_of_the_other_year(pool: ProcessPoolExecutor, mode: str) -> None:
    days_of_trouble(pool, mode, 2027 - modes.names().index(mode) % 2)


@pytest.mark.soak
def test_a_year_of_trouble_for_every_mode(pool: ProcessPoolExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    faults = Faults(2026, cuts=500, stalls=200, disturbances=200, outages=50)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    jobs = [(mode, ZONES[number % len(ZONES)], start, 365.0, faults) for number, mode in enumerate(modes.names())]
    for job, found in zip(jobs, pool.map(one_run, jobs), strict=True):
        with capsys.disabled():
            print(f"\n{job[0]} in {job[1]}: {json.dumps(found)}")
        check(found)
        assert sum(found["cuts"].values()) >= 500 and found["stalls"] == 200 and found["disturbances"] == 200
        assert set(found["cuts"]) == CUTS
        assert found["minutes_checked"] - found["minutes_misled"] - found["minutes_not_synced"] > 365 * 1440 * 6 // 10
        assert found["sector_erases_max"] < 600


# Would it tell? Each of these breaks one thing, and the summary must show it.

ATHENS_AUTUMN = ("steady", "Europe/Athens", datetime(2026, 10, 24, 1, tzinfo=UTC), 2.0)
MANY_CUTS = Faults(3, cuts=40)


def test_it_tells_of_a_journal_that_writes_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick is logged when the next one comes: a cut after the pulse forgets it, and its polarity."""

    class Behind(Journal):
        def commit(self, position: int, polarity: int, *more: Any) -> None:
            behind = self.__dict__.get("behind")
            if behind is not None:
                super().commit(*behind)
            self.behind = (position, polarity)

    check(simulate(*ATHENS_AUTUMN, MANY_CUTS))
    monkeypatch.setattr(clock_simulation, "Journal", Behind)
    found = simulate(*ATHENS_AUTUMN, MANY_CUTS)
    assert found["steps_gained"] > 0 or found["steps_lost"] > 0
    assert found["rotor_disagreements"] > 0 and found["error_at_minute_max"] > 0


def test_it_tells_of_a_start_that_does_not_repeat_the_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opposite(Journal):
        """The last pulse's polarity is taken for the other one."""

        def place(self) -> Any:
            place = super().place()
            return place and (place[0], 1 - place[1])

    monkeypatch.setattr(clock_simulation, "Journal", Opposite)
    found = simulate(*ATHENS_AUTUMN, MANY_CUTS)
    assert found["rotor_disagreements"] > 0 and found["steps_gained"] + found["steps_lost"] > 0


def test_it_tells_of_a_scheduler_that_dawdles(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = schedule.Schedule.decide

    def waits_always(self: Any, position: int, mode: Any, minute: int, ms: int, *more: int) -> Any:
        action, wait_ms = decide(self, position, mode, minute, ms, *more)
        return (schedule.WAIT, 60_000 - ms) if action == schedule.CATCH_UP and ms < 30_000 else (action, wait_ms)

    monkeypatch.setattr(schedule.Schedule, "decide", waits_always)
    assert simulate(*ATHENS_AUTUMN, MANY_CUTS)["over_theory_s"] > 1


def test_it_tells_of_a_zone_that_changes_on_the_wrong_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_simulation, "posix_tz", lambda tz: "EET-2EEST,M3.5.0/3,M10.4.6/4")
    assert simulate(*ATHENS_AUTUMN)["error_at_minute_max"] == 3600


def test_it_tells_of_pulses_that_come_too_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    rotor = clock_simulation.Rotor(0, 0, least_us=20_000, spacing_us=112_500)
    rotor.pulse(1, 0, 31_000)
    rotor.pulse(0, 100_000, 31_000)  # too soon
    rotor.pulse(0, 200_000, 10_000)  # too short
    rotor.pulse(1, 300_000, 31_000)  # of the same polarity
    rotor.pulse(0, 400_000, 31_000)
    assert (rotor.position, rotor.polarity, rotor.turns) == (2, 0, 2)
    assert rotor.refused == {"too soon": 1, "too short": 1, "same polarity": 1}


# The theory


def test_the_theory_of_the_shortest_way() -> None:
    plans = schedule.Schedule(1, 8)
    assert swing(plans, modes.load("steady"), 0, 3) == 1
    assert swing(plans, modes.load("rush"), 0, 3) == pytest.approx(30.5)  # 59 ticks by 29.5 s, and nearly one by 0.5 s
    # An hour forward takes 514.3 s at 8 a second; an hour back an hour; the most is where both ways are as long.
    assert theory_s(3600, 8, 0) == pytest.approx(3600 / 7, abs=1)
    assert theory_s(43_200 - 3600, 8, 0) == pytest.approx(3600, abs=1)
    longest = max(range(43_200), key=lambda behind: theory_s(behind, 8, 0))
    assert abs(longest - 43_200 * 7 / 8) <= 1


# The command


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    clock_simulation.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_prints_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--mode", "vetinari", "--tz", "Europe/Athens", "--start", "2026-03-28", "--days", "0.5", "--faults", "7")
    assert clock_simulation.run(arguments(*words)) == 0
    first = capsys.readouterr().out
    found = json.loads(first)
    for key in (
        "minutes", "ticks", "error_at_minute_max", "catch_up_s", "waiting_s", "steps_lost", "steps_gained",
        "rotor_disagreements", "late_ticks",
    ):  # fmt: skip
        assert isinstance(found[key], (int, float)), key
    assert found["minutes"] == 720
    assert clock_simulation.run(arguments(*words)) == 0
    assert capsys.readouterr().out == first  # a seed repeats it
    assert clock_simulation.run(arguments(*words[:-1], "8")) == 0
    assert capsys.readouterr().out != first


def test_the_command_refuses_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert clock_simulation.run(arguments("--mode", "steady", "--tz", "Mars/Olympus")) == 2
    assert '"Mars/Olympus"' in capsys.readouterr().err
    assert clock_simulation.run(arguments("--mode", "steady", "--cuts", "3")) == 2
    assert "--faults" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        arguments("--mode", "no such mode")


def test_zones_by_name_and_by_string() -> None:
    assert posix_tz("Europe/Athens") == "EET-2EEST,M3.5.0/3,M10.5.0/4"
    assert posix_tz("EET-2EEST,M3.5.0/3,M10.5.0/4") == "EET-2EEST,M3.5.0/3,M10.5.0/4"
    assert posix_tz("../../etc/passwd") == "../../etc/passwd"
