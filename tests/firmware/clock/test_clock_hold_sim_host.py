"""On the simulated board: the states of the start, hold and step by the button, and a coil that never stays on."""

from itertools import pairwise

import pytest
from clock import dial
from sim.board import BoardError
from simulated_clock import COIL, LIGHT, MINUTE_US, PULSE_US, STOCK, Clock


def long_press(clock):
    clock.press(1.2)


def flashes(clock, seconds):
    """Durations in ms for which the light is on in the next seconds."""
    begin_us = clock.board.now_us
    clock.board.run(seconds)
    edges = [edge for edge in clock.board.edges if edge.pin == LIGHT and edge.t_us > begin_us]
    return [(off.t_us - on.t_us) // 1000 for on, off in pairwise(edges) if not on.level and off.level]


def about(durations_ms, wanted_ms):
    """Whether those flashes are of such a length, but for some: a pattern that was begun anew, a look-up."""
    right = [shown for shown in durations_ms if wanted_ms <= shown <= wanted_ms + 30]
    return len(right) >= 5 and len(durations_ms) - len(right) <= 3


def moved(clock, begin_us):
    """How often the hands moved since."""
    return sum(tick > begin_us for tick in clock.ticks_us())


@pytest.mark.parametrize("options", [{}, {"partitions": STOCK}], ids=["journal", "stock"])
def test_hold_by_the_button_set_the_hands_and_run_to_the_right_time(tmp_path, options):
    with Clock(tmp_path, options=options) as clock:
        clock.run_to_minute(3, 17.4)
        long_press(clock)
        clock.board.run(10)
        assert clock.hands(clock.board.now_us) == 240  # on to 12:04:00, in six seconds instead of forty
        assert "on hold" in clock.board.console
        assert about(flashes(clock, 20), 60)
        clock.run_to_minute(20)
        assert clock.hands(clock.board.now_us) == 240 and not clock.board.exits
        # The seconds hand stands three steps short of 12, the owner finds; the others he turns to 12:00.
        begin_us = clock.board.now_us
        for presses in (1, 2, 3):
            clock.press()
            assert moved(clock, begin_us) == presses
        clock.board.run(30)
        assert moved(clock, begin_us) == 3
        long_press(clock)
        assert "hands set to 12:00:00" in clock.board.console
        assert "mode vetinari" not in clock.board.console
        clock.run_to_minute(27, 1)
        clock.check_minutes(
            24, 27, "steady", off_us=70_000, shown="11:55:57"
        )  # as he turned them: 12:00:00 after 243 ticks
        assert flashes(clock, 5) == []
        clock.board.cut_power()
        clock.board.start()
        clock.run_to_minute(31, 1)
        if not options:
            clock.check_minutes(29, 31, "steady", off_us=70_000, shown="11:55:57")


@pytest.mark.parametrize("options", [{}, {"partitions": STOCK}], ids=["journal", "stock"])
def test_a_hold_survives_a_restart(tmp_path, options):
    with Clock(tmp_path, options=options) as clock:
        clock.run_to_minute(2, 58.5)
        long_press(clock)
        clock.board.run(4)
        held = clock.hands(clock.board.now_us)
        assert held == 180
        clock.press()
        for _ in range(2):
            clock.board.cut_power()
            clock.board.start()
            clock.board.run(100)
            assert clock.hands(clock.board.now_us) == held + 1
            assert "on hold" in clock.board.console
        long_press(clock)
        last = clock.board.now_us // MINUTE_US + 4
        clock.run_to_minute(last, 1)
        shown = dial.text((dial.parse("12:00:00") - held - 1) % dial.STEPS)
        clock.check_minutes(last - 2, last, "steady", off_us=70_000, shown=shown)


def test_cut_while_running_to_the_hold_it_runs_on_and_holds(tmp_path):
    with Clock(tmp_path) as clock:
        clock.run_to_minute(2, 5)
        long_press(clock)
        clock.board.run(1)
        assert clock.hands(clock.board.now_us) < 170
        clock.board.cut_power()
        clock.board.start()
        clock.board.run(60)
        assert clock.hands(clock.board.now_us) == 180


def test_a_second_long_press_before_the_hold_takes_the_first_one_back(tmp_path):
    with Clock(tmp_path) as clock:
        clock.run_to_minute(2, 3)
        long_press(clock)
        clock.board.run(0.5)
        clock.press()  # no step and no mode meanwhile
        long_press(clock)
        clock.run_to_minute(6, 1)
        assert "hands set" not in clock.board.console
        clock.check_minutes(4, 6, "steady", off_us=70_000)


def test_a_blank_clock_holds_says_so_and_asks_to_be_set(tmp_path):
    with Clock(tmp_path, hands=None) as clock:
        clock.board.run(300)
        assert "where the hands stand is not known: bring them to 12:00:00" in clock.board.console
        assert len(clock.pulses()) == 1  # after which the polarity is known
        assert about(flashes(clock, 20), 60)
        begin_us = clock.board.now_us
        for _ in range(3):
            clock.press()
        assert moved(clock, begin_us) == 3
        clock.board.cut_power()
        clock.board.start()
        clock.board.run(100)
        assert clock.board.console.count("is not known") == 2
        ticks = clock.ticks_us()
        long_press(clock)
        clock.board.run(MINUTE_US / 1e6 * 3)
        last = clock.board.now_us // MINUTE_US + 12
        clock.run_to_minute(last, 1)
        # What they showed at the first tick of all, if they showed 12:00:00 at the last one before they were set.
        clock.check_minutes(last - 2, last, "steady", off_us=70_000, shown=dial.text(-len(ticks) % dial.STEPS))


def test_without_the_time_the_hands_that_are_set_are_taken_for_it(tmp_path):
    with Clock(tmp_path, hands=None, wifi=[{"ssid": "another", "password": "not-in-the-air"}]) as clock:
        clock.board.wifi(False)
        clock.board.run(30)
        begin_us = clock.board.now_us
        long_press(clock)
        clock.board.run(120)
        assert 119 <= moved(clock, begin_us) <= 121
        clock.board.cut_power()
        clock.board.run(1000)
        clock.board.start()
        clock.board.run(60)
        assert "hands at 12:02:0" in clock.board.console and ", not synced" in clock.board.console
        assert 178 <= moved(clock, begin_us) <= 181  # as if no time had passed
        assert about(flashes(clock, 20), 500)


CONTROL = """
import asyncio, json
from clock import app

whole = app.Clock.tick

async def remote(clock):
    await asyncio.sleep(150)
    clock.run_to(600)
    await asyncio.sleep(60)
    clock.step()
    clock.step()
    await asyncio.sleep(5)
    print("report", clock.report()["position"], clock.state)
    clock.set_hands(43_000)
    await asyncio.sleep(900)
    print("report", clock.state, clock.late_ticks)

async def tick(self, watchdog):
    asyncio.create_task(remote(self))
    await whole(self, watchdog)

app.Clock.tick = tick
"""


def test_control_from_elsewhere(tmp_path):
    """The calls that a server will make: run to a position, step, set the hands."""
    with Clock(tmp_path, before=CONTROL) as clock:
        clock.board.run(155)
        begin_us = clock.board.now_us
        clock.board.run(55)
        assert 400 < moved(clock, begin_us) < 450  # to 12:10:00 at eight a second
        assert clock.hands(clock.board.now_us) == 600
        clock.board.run(10)
        assert "report 602 held" in clock.board.console
        clock.board.run(900)
        assert "report following 0" in clock.board.console
        last = clock.board.now_us // MINUTE_US + 2
        clock.run_to_minute(last, 1)
        clock.check_minutes(last - 2, last, "steady", off_us=70_000, shown=dial.text((43_000 - 602) % dial.STEPS))


SHIFTED = """
import asyncio
from clock import app

whole = app.Clock.tick

async def remote(clock):
    for steps in (20, 60, -60):
        await asyncio.sleep(150)
        clock.run_to(clock.position + 40)
        await asyncio.sleep(1)
        clock.shift(steps)
        await asyncio.sleep(14)
        print("shifted", steps, clock.state, clock.position - clock.held_at())
        clock.follow()

async def tick(self, watchdog):
    asyncio.create_task(remote(self))
    await whole(self, watchdog)

app.Clock.tick = tick
"""


def test_hands_that_turn_out_to_be_past_the_hold_stop_instead_of_going_round(tmp_path):
    with Clock(tmp_path, before=SHIFTED) as clock:
        clock.board.run(150)
        for steps, moves in ((20, 20), (60, 8), (-60, 100)):
            begin_us = clock.board.now_us
            clock.board.run(15.5)
            assert f"shifted {steps} held 0" in clock.board.console
            assert moves - 3 <= moved(clock, begin_us) <= moves + 3
            clock.board.run(149.5)


def in_the_coil(board):
    """The longest time for which a pin of the coil was high, in microseconds."""
    longest_us, up = 0, {}
    for edge in board.edges:
        if edge.pin in COIL:
            if edge.level:
                up[edge.pin] = edge.t_us
            else:
                longest_us = max(longest_us, edge.t_us - up.pop(edge.pin))
    return max([longest_us, *(board.now_us - since_us for since_us in up.values())])


ENDING = """
import asyncio, machine, time
from clock import app

whole, pulse, step = app.Clock.tick, app.Clock._pulse, app.Clock._step

async def tick(self, watchdog):
    loop = asyncio.current_task()

    async def end():
        await asyncio.sleep_ms(AFTER_MS)
        ACT

    def armed(at):
        late_us = pulse(self, at)
        if self.position == 70:
            print("armed the seventieth")
            asyncio.create_task(end())
        return late_us

    def decide():
        if self._fail:
            raise RuntimeError("as if by a mistake")
        return step(self)

    self._pulse, self._step, self._fail = armed, decide, False
    await whole(self, watchdog)

app.Clock.tick = tick
"""


@pytest.mark.parametrize("how", ["exception", "cancelled", "reset", "busy", "power"])
@pytest.mark.parametrize("after_ms", [0, 500, 970, 1010])
def test_the_coil_never_stays_on(tmp_path, how, after_ms):
    """Something ends or stalls the loop while a pulse is armed or under way. The board lives on, as it would."""
    act = {
        "exception": "self._fail = True",
        "cancelled": "loop.cancel()",
        "reset": "machine.reset()",
        "busy": "time.sleep(5)",
        "power": "pass",
    }[how]
    program = ENDING.replace("ACT", act).replace("AFTER_MS", str(after_ms))
    with Clock(tmp_path, before=program) as clock:
        clock.board.run(60)
        clock.board.run_until(lambda: "armed the seventieth" in clock.board.console, 60, step_s=0.01)
        if how == "power":
            clock.board.run(after_ms / 1000)
            clock.board.cut_power()
            clock.board.run(10)
        elif how in ("exception", "cancelled"):
            with pytest.raises(BoardError, match=r"mistake|Cancelled"):
                clock.board.run(120)
        else:
            clock.board.run(20)
        assert in_the_coil(clock.board) == PULSE_US
        clock.pulses()  # never two at once


FORGETFUL = """
from clock import app, sync

exchange, asked = sync.sntp.exchange, []

async def counted(address, timeout_ms):
    asked.append(address)
    print("asked", len(asked))
    if len(asked) == 3:
        raise RuntimeError("as if by a mistake")
    return await exchange(address, timeout_ms)

sync.sntp.exchange = counted
"""


def test_a_time_server_that_said_no_more_is_not_asked_again_after_a_failure_of_the_task(tmp_path):
    with Clock(tmp_path, before=FORGETFUL, ntp=["denies.sim", "ntp.sim"]) as clock:
        clock.board.time_server("denies.sim", answers="DENY")
        clock.board.run(3600)
        assert "time failed and begins again: RuntimeError" in clock.board.console
        assert clock.board.console.count("asked") > 4
        assert clock.board.console.count("time from denies.sim: KissOfDeath") == 1
