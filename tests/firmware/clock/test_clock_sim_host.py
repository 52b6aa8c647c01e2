"""The clock's whole firmware on the simulated board, in jump time: the coil's edges against true time."""

import datetime
import json
import socket
import threading
from array import array
from itertools import pairwise

import loopback_http
import pytest
from clock import dial, modes
from clock.dice import Dice
from clock.timezone import Zone
from device import config
from simulated_clock import ATHENS, COIL, LIGHT, MINUTE_US, SEED, STOCK, Clock


@pytest.mark.parametrize("mode", modes.names())
def test_an_hour_of_each_mode(tmp_path, mode):
    with Clock(tmp_path, mode=mode) as clock:
        clock.run_to_minute(62)
        clock.check_minutes(1, 61, mode)


def test_a_quarter_on_the_32_bit_build(tmp_path):
    with Clock(tmp_path, mode="vetinari", bits=32) as clock:
        clock.run_to_minute(16, 1)
        clock.check_minutes(1, 16, "vetinari")


@pytest.mark.parametrize("at_s", [13.3, 29.9, 45.2, 50.0])
def test_a_press_in_the_middle_of_a_minute(tmp_path, at_s):
    order = modes.names()
    with Clock(tmp_path, mode=order[0]) as clock:
        clock.run_to_minute(1, at_s)
        clock.press()
        following = order[1 % len(order)]
        assert clock.board.console.count("mode " + following) >= 1
        clock.run_to_minute(5)
        clock.run_to_minute(5, at_s)
        for mode in order[2:] + order[:1]:  # all round, back to the first
            clock.press()
            assert clock.board.console.rstrip().endswith("mode " + mode)
        clock.run_to_minute(9, 1)
        for minute in range(2, 10):
            t_us = minute * MINUTE_US + 100_000
            assert clock.hands(t_us) == clock.right(t_us), minute
        clock.check_minutes(2, 5, following)
        clock.check_minutes(6, 9, order[0])


def test_the_light_counts_the_mode(tmp_path):
    order = modes.names()
    with Clock(tmp_path, mode=order[0]) as clock:
        clock.run_to_minute(1)
        begin_us = clock.board.now_us
        clock.press()
        clock.board.run(5)
        flashes = [e for e in clock.board.edges if e.pin == LIGHT and e.t_us > begin_us and not e.level]
        assert len(flashes) == order.index(order[1]) + 1


def test_the_hour_that_is_left_out_in_spring(tmp_path):
    start = datetime.datetime(2026, 3, 29, 0, 57, tzinfo=datetime.UTC)  # the change is at 01:00
    with Clock(tmp_path, start_utc=start, hands="02:57:00", mode="vetinari") as clock:
        clock.run_to_minute(20, 1)
        clock.check_minutes(1, 2, "vetinari")  # the third ends with the change
        # 3,600 steps behind, at seven more than needed a second: 514.3 s.
        clock.check_minutes(12, 20, "vetinari")
        hurried = [t for t in clock.ticks_us() if 3 * MINUTE_US < t <= 3 * MINUTE_US + 510_000_000]
        assert 4070 <= len(hurried) <= 4085  # eight a second
        t_us = 11 * MINUTE_US
        assert clock.hands(t_us) != clock.right(t_us)


def test_the_hour_that_comes_twice_in_autumn(tmp_path):
    start = datetime.datetime(2026, 10, 25, 0, 57, tzinfo=datetime.UTC)  # at 01:00 it is 03:00 again
    with Clock(tmp_path, start_utc=start, hands="03:57:00", mode="vetinari") as clock:
        clock.run_to_minute(66, 1)
        clock.check_minutes(1, 2, "vetinari")  # the third ends with the change
        waiting = [t for t in clock.ticks_us() if 3 * MINUTE_US + 100_000 < t <= 63 * MINUTE_US]
        assert waiting == []
        clock.check_minutes(63, 66, "vetinari")
        assert not clock.board.exits  # the watchdog knows that waiting is health


def test_power_cut_anywhere_costs_no_step(tmp_path):
    """Before, in and after pulses, twice in one second, in the middle of the start and of catching up."""
    with Clock(tmp_path) as clock:
        clock.run_to_minute(2)
        clock.press()  # vetinari, which the restarts must remember
        clock.run_to_minute(5, 0.3)
        assert clock.hands(clock.board.now_us) == clock.right(clock.board.now_us)
        for number, on_s in enumerate((5.015, 61.37, 0.2, 0.41, 0.43, 3.31, 2.07, 30.5, 7.5)):
            clock.board.cut_power()
            clock.board.run(11 * number % 17)
            clock.board.start()
            clock.board.run(on_s)
        assert clock.board.console.count("mode vetinari, not synced") == 9 - 1  # one start was cut before it said so
        last = clock.board.now_us // MINUTE_US + 5
        clock.run_to_minute(last, 1)
        clock.check_minutes(last - 3, last, "vetinari")


def test_pulses_cut_in_their_middle_cost_no_step(tmp_path):
    with Clock(tmp_path, mode="steady") as clock:
        clock.run_to_minute(2)
        for _ in range(8):
            clock.board.run(0.04)
            clock.board.run_until(lambda: any(clock.board.level(pin) for pin in COIL), 10, step_s=0.001)
            clock.board.run(0.010)
            clock.board.cut_power()
            clock.board.start()
            clock.board.run(3.1)
        cut = [end - begin for _, begin, end in clock.pulses() if end - begin < 31_000]
        assert len(cut) == 8 and max(cut) < 20_000  # by which the rotor did not move, says the wall
        last = clock.board.now_us // MINUTE_US + 3
        clock.run_to_minute(last, 1)
        clock.check_minutes(last - 2, last, "steady")


COUNT_LATE = """
import asyncio
from clock import app

whole = app.Clock.tick

async def tick(self, watchdog):
    async def count():
        while True:
            await asyncio.sleep(600)
            print("late ticks:", self.late_ticks)

    asyncio.create_task(count())
    await whole(self, watchdog)

app.Clock.tick = tick
"""


def test_ticks_are_on_time_over_changes_of_the_journals_sector(tmp_path):
    with Clock(tmp_path, mode="vetinari", before=COUNT_LATE) as clock:
        clock.run_to_minute(140, 1)  # 8,400 ticks: two changes, three erases of 45 ms
        clock.check_minutes(1, 140, "vetinari", off_us=12_000)  # 10,000 as a late tick counts, and the time's own error
        assert clock.board.console.count("late ticks: ") == clock.board.console.count("late ticks: 0") == 14
        flash = clock.board.folder.joinpath("flash.img").read_bytes()[0x200000:0x210000]
        opened = [sector for sector in range(16) if flash[sector * 4096] != 0xFF]
        assert opened == [0, 1, 2]
        clock.board.cut_power()
        clock.board.start()
        clock.run_to_minute(144, 1)
        clock.check_minutes(142, 144, "vetinari")


def test_with_the_stock_partition_table_it_says_so_and_is_right_after_a_cut_just_after_a_minute(tmp_path):
    with Clock(tmp_path, options={"partitions": STOCK}) as clock:
        clock.run_to_minute(5)
        clock.press()  # vetinari, which the restart must remember
        clock.run_to_minute(10, 0.3)
        before = clock.hands(clock.board.now_us)
        assert before == 600
        assert "no partition named ticks: the place is kept once a minute only" in clock.board.console
        clock.board.cut_power()
        clock.board.run(30)
        assert clock.hands(clock.board.now_us) == before
        clock.board.start()
        clock.run_to_minute(16, 1)
        assert "hands at 12:10:00, mode vetinari" in clock.board.console
        clock.check_minutes(12, 16, "vetinari")


UPDATED = """
from clock import app

class Twin:
    def __init__(self, clock):
        self.clock, self.update, self.changed = clock, self, {}

    def counter_ms(self):
        return 0

    def in_trial(self):
        return False

    async def check_in(self):
        while self.clock.position != 100:
            await app._news(self.clock, 100)
        return {"update": {"version": "2.0"}}

    async def take(self, version):
        print("restarts for", version)
        return True

class Link:
    connected = False

app._make_link = lambda settings, clock: Link()
app._make_twin = lambda clock, *others: Twin(clock)
"""
BROKEN = """
from clock import app

step = app.Clock._step

def decide(self):
    if self.position == 100 and self.keeper.known:  # which it is not at the next start
        raise RuntimeError("as if by a mistake")
    return step(self)

app.Clock._step = decide
"""
ON_TRIAL = {"active": b'{"active": "", "trial": "", "version": "2.0"}'}


@pytest.mark.parametrize(
    ("program", "changes"),
    [(UPDATED, {"server": {"host": "127.0.0.1", "port": 1}, "token": "t" * 43}), (BROKEN, {}), ("", {})],
    ids=["updated", "broken", "not confirmed"],
)
def test_with_the_stock_partition_table_a_restart_that_is_no_cut_costs_no_step(tmp_path, program, changes):
    with Clock(tmp_path, options={"partitions": STOCK}, files=ON_TRIAL, before=program, **changes) as clock:
        clock.board.run(0.5)
        clock.board.cut_power()
        clock.board.run(22.5)  # so that the ten minutes of the trial end between two minutes
        clock.board.start()
        clock.board.run(660)
        assert clock.board.console.count("mode steady, not synced") == 3
        last = clock.board.now_us // MINUTE_US + 3
        clock.run_to_minute(last, 1)
        clock.check_minutes(last - 2, last, "steady", off_us=70_000)


def test_with_the_stock_partition_table_a_cut_costs_what_the_documentation_says(tmp_path):
    with Clock(tmp_path, options={"partitions": STOCK}) as clock:
        clock.run_to_minute(10, 37.5)
        assert clock.hands(clock.board.now_us) == 637
        clock.board.cut_power()
        clock.board.run(30)
        clock.board.start()
        clock.run_to_minute(16, 1)
        assert "hands at 12:10:00" in clock.board.console
        end_us = 15 * MINUTE_US + 100_000
        # Taken to stand at 12:10:00 they stand 37 steps ahead; and one more, as the pulse of the start has the polarity
        # of 12:10:00, not that of the last one.
        assert dial.steps(clock.right(end_us), clock.hands(end_us)) == 38


def test_without_any_network_it_ticks_on_from_where_it_stood(tmp_path):
    with Clock(tmp_path, hands="07:30:00") as clock:
        clock.board.wifi(False)
        clock.board.run(600)
        assert clock.hands(clock.board.now_us) - dial.parse("07:30:00") == 599
        # Nothing corrects the time, so each second is the counter's, to the resolution of RMT.
        assert all(abs(after - before - 1_000_000) <= 2 for before, after in pairwise(clock.ticks_us()))
        assert "synced, within" not in clock.board.console
        clock.board.wifi(True)
        clock.board.run(60)
        assert "synced, within" in clock.board.console


def test_wifi_away_for_minutes_is_not_seen_in_the_ticks(tmp_path):
    with Clock(tmp_path, mode="vetinari") as clock:
        clock.run_to_minute(2)
        clock.board.wifi(False)
        clock.run_to_minute(12)
        clock.board.wifi(True)
        clock.run_to_minute(20, 1)
        clock.check_minutes(1, 20, "vetinari")


def test_a_task_that_fails_is_begun_again_and_the_ticks_do_not_mind(tmp_path):
    # The server's certificate was not copied to the board.
    server = {"host": "127.0.0.1", "port": 8443}
    with Clock(tmp_path, server=server, token="t" * 43) as clock:
        clock.run_to_minute(4, 1)
        assert clock.board.console.count("check-in failed and begins again") > 20
        clock.check_minutes(1, 4, "steady")


TURNS = """
import asyncio, time
from clock import app
from device.ticks import Counter

class Fake:
    pass

TURN_MS = 1 << 30
clock, wifi = Fake(), Fake()
clock.twin, clock.news, counter = Fake(), asyncio.Event(), Counter("", 0)
moments = [number * TURN_MS // 3 for number in range(7)]  # two turns, looked at six times
clock.twin.counter_ms = lambda: counter.at_ms(moments.pop(0) % TURN_MS)
wifi.connected = lambda: not moments

async def check_in(wait_ms):
    await asyncio.sleep_ms(wait_ms)

clock.twin.check_in = check_in

async def look():
    await app._online(clock, wifi)
    print("counted", counter.at_ms(2 * TURN_MS % TURN_MS))
    clock.news.set()
    for ago_ms in (1000, 6000, TURN_MS // 2 + 6000, TURN_MS - 6000):
        began_ms = time.ticks_ms()
        cut = await app._poll(clock, (began_ms - ago_ms) % TURN_MS)
        print("cut after", app.diff(time.ticks_ms(), began_ms) // 500)

app.NAP_MS = 50
asyncio.run(look())
app.NAP_MS = 500
"""


def test_over_turns_of_the_counter_the_age_and_the_pause_between_cut_polls_are_right(tmp_path):
    """ticks_ms turns after 12.4 days: without WiFi the clock counts on, and a cut of weeks ago delays no report."""
    with Clock(tmp_path, before=TURNS) as clock:
        clock.board.run(20)
        assert f"counted {2 << 30}" in clock.board.console
        said = [line for line in clock.board.console.splitlines() if line.startswith("cut after")]
        assert said == ["cut after 8", "cut after 0", "cut after 0", "cut after 0"]


class BadTimeServer(threading.Thread):
    """Answers each request in another wrong way, and the fourth with the kiss of death."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.asked = 0

    def run(self):
        while True:
            try:
                request, sender = self.socket.recvfrom(100)
            except OSError:  # closed at the end of the test
                return
            self.asked += 1
            head, nonce = b"\x24\x02\x06\xec" + bytes(20), request[40:]
            answers = [b"short", head + bytes(24), head + nonce + bytes(16), b"\x24\0\0\0" + bytes(8) + b"DENY"]
            answers[3] += bytes(8) + nonce + bytes(16)
            self.socket.sendto(answers[(self.asked - 1) % 4], sender)


def test_a_time_server_that_answers_nonsense_is_not_believed(tmp_path):
    bad = BadTimeServer()
    bad.start()
    try:
        with Clock(tmp_path, ntp=[f"127.0.0.1:{bad.port}"]) as clock:
            clock.board.run_until(lambda: bad.asked == 4, timeout_s=1000, step_s=1)
            clock.board.run(2000)
            assert bad.asked == 4  # not again on this day
            for why in ("5 bytes instead of 48", "not the answer to this request", "no transmit time", "answered DENY"):
                assert clock.board.console.count(why) == 1, why
            assert "synced, within" not in clock.board.console
            ticks = clock.ticks_us()
            assert all(900_000 < after - before < 1_100_000 for before, after in pairwise(ticks))
    finally:
        bad.socket.close()


def test_the_next_server_is_asked_when_one_fails(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with Clock(tmp_path, ntp=[f"127.0.0.1:{silent.getsockname()[1]}", "ntp.sim"]) as clock:
            clock.board.server_hangs(True)
            clock.board.run(60)
            assert "no answer within 3000 ms" in clock.board.console
            assert "synced, within" in clock.board.console


class Receiver(loopback_http.Handler):
    reports: list

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reports.append((self.path, self.headers["Authorization"], json.loads(body)))
        self.answer(200, {"Content-Type": "application/json"}, b'{"time_ms": 0, "revision": 0}')


TOKEN = "t" * 43


@pytest.fixture
def receiver(certificate):
    """(what was reported, the configuration of a clock beside it, the server's certificate, today)."""
    chain, key, der = certificate()
    handler = type("Handler", (Receiver,), {"reports": []})
    with loopback_http.Server(handler, (chain, key)) as server:
        changes = {"server": {"host": "127.0.0.1", "port": server.server_port}, "token": TOKEN, "mode": "vetinari"}
        yield handler.reports, changes, der, datetime.datetime.now(datetime.UTC)  # the certificate is valid today


def right_hands(now, ahead_s=0):
    offset = datetime.timedelta(seconds=Zone(ATHENS).utc_offset_s(int(now.timestamp()) // 60) + ahead_s)
    return (now + offset).strftime("%I:%M:%S")


LOADED = """import machine, sys
machine.Timer(1, mode=machine.Timer.ONE_SHOT, period=50_000, callback=lambda timer: print("LOADED", *sys.modules))"""


def test_the_check_in(tmp_path, receiver):
    reports, changes, der, now = receiver
    # It is not while catching up that the server is called.
    with Clock(
        tmp_path, start_utc=now, files={"server.der": der}, before=LOADED, hands=right_hands(now), **changes
    ) as clock:
        clock.board.run_until(lambda: len(reports) > 2, timeout_s=300)
        clock.board.run_until(lambda: "LOADED" in clock.board.console, timeout_s=60)
        assert TOKEN not in clock.board.console
    loaded = clock.board.console.split("LOADED ")[1].splitlines()[0].split()
    assert {"clock.app", "device.link", "device.update"} <= set(loaded)
    assert not [name for name in loaded if name.split(".")[0] == "pendant"]
    path, authorization, report = reports[-1]
    assert (path, authorization) == ("/api/device/check-in", "Bearer " + TOKEN)
    assert report["app"] == "clock" and report["mode"] == "vetinari" and report["errors"] == []
    assert report["late_ticks"] == 0
    assert 0 <= report["uncertainty_ms"] < 100
    minute = report["minute"]
    assert 0 <= (clock.board.utc_us(clock.board.now_us) // MINUTE_US) - minute <= 1
    assert report["utc_offset_s"] == Zone(ATHENS).utc_offset_s(minute)
    assert 0 <= report["position"] < 43_200
    times_ms, dice = array("H", bytes(120)), Dice()
    dice.seed(SEED, minute)
    modes.load("vetinari").plan(times_ms, dice)
    assert report["plan"] == list(times_ms)


def test_a_version_on_trial_checks_in_while_the_hands_catch_up(tmp_path, receiver):
    """Which may take longer than the ten minutes that it has to prove itself."""
    reports, changes, der, now = receiver
    on_trial = json.dumps({"active": "", "trial": "a", "version": config.VERSION, "tries": 0})
    files = {"server.der": der, "active": on_trial.encode()}
    with Clock(tmp_path, start_utc=now, files=files, hands=right_hands(now, -7200), **changes) as clock:
        clock.board.run_until(lambda: reports, timeout_s=60, step_s=1)
        t_us = clock.board.now_us
        assert clock.hands(t_us) != clock.right(t_us), "it was not catching up"
