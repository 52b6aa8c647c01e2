from clock import dial, modes
from clock.schedule import CATCH_UP, HOLD, TICK, WAIT, Schedule

MIDNIGHT = 29_736_000  # 2026-07-16 00:00 UTC: hands at 12:00:00 with an offset of 0
STEADY = modes.load("steady")


def decide(position, minute=MIDNIGHT, ms=0, offset_s=0, rest_ms=0, hz=8, mode=STEADY, seed=1):
    return Schedule(seed, hz).decide(position, mode, minute, ms, offset_s, rest_ms)


def test_decisions():
    for position, ms, expected in (
        (0, 0, (TICK, 1000)),
        (0, 999, (TICK, 1)),
        (0, 1000, (CATCH_UP, 0)),  # due now
        (1, 1000, (TICK, 1000)),
        (30, 30_400, (TICK, 600)),
        (59, 59_999, (TICK, 1)),
        (31, 30_400, (TICK, 1600)),  # one ahead, as after arming: the tick after the next
        (59, 0, (TICK, 60_000)),
        (60, 0, (WAIT, 60_000)),  # a whole minute ahead
        (60, 59_999, (WAIT, 1)),  # the sixtieth tick is made; the next is the next minute's
        (29, 30_400, (CATCH_UP, 0)),
        (0, 59_999, (CATCH_UP, 0)),
        (43_199, 0, (CATCH_UP, 0)),
        (None, 20_000, (HOLD, 40_000)),
    ):
        assert decide(position, ms=ms) == expected, (position, ms)


def test_the_movement_gets_its_rest():
    assert decide(43_199, rest_ms=77) == (CATCH_UP, 77)
    assert decide(0, ms=900, rest_ms=300) == (TICK, 300)
    assert decide(0, ms=100, rest_ms=300) == (TICK, 900)


def test_daylight_saving_goes_the_shorter_way():
    # An hour forward: 3,600 behind. An hour back: 3,600 ahead, and the long way round would take 39,600 / 7 seconds.
    assert decide(0, offset_s=3600) == (CATCH_UP, 0)
    assert decide(3600, offset_s=0) == (WAIT, 60_000)
    # Half an hour, as on Lord Howe.
    assert decide(0, offset_s=1800) == (CATCH_UP, 0)
    assert decide(1800, offset_s=0) == (WAIT, 60_000)


def test_the_shortest_way_by_real_time():
    # At hz ticks a second, catching up d takes d / (hz - 1) s and waiting 43,200 - d: equal at 43,200 (hz - 1) / hz.
    for hz in (2, 8, 16):
        border = 43_200 * (hz - 1) // hz
        assert decide(43_200 - border, hz=hz)[0] == CATCH_UP
        assert decide(43_200 - border - 1, hz=hz)[0] == WAIT


def test_the_hour_and_the_offset_count_the_dial_only():
    assert decide(0, minute=MIDNIGHT + 720) == (TICK, 1000)
    assert decide(7200, offset_s=7200) == (TICK, 1000)
    assert decide(43_200 - 18_000, offset_s=-18_000) == (TICK, 1000)
    assert decide(20_700, minute=MIDNIGHT, offset_s=20_700) == (TICK, 1000)  # Kathmandu
    assert decide(17, offset_s=17) == (TICK, 1000)  # an offset of odd seconds, such as zones had before 1972


def simulate(position, mode_at, ms, minutes, hz=8, offset_s=0, seed=1):
    """Follow the decisions exactly. Yields (position, minute) at each beginning of a minute.

    mode_at: the mode as a function of (minute, ms).
    """
    plans = Schedule(seed, hz)
    minute, rest_until = MIDNIGHT, 0
    end = MIDNIGHT + minutes
    while minute < end:
        now = (minute - MIDNIGHT) * 60_000 + ms
        action, wait_ms = plans.decide(position, mode_at(minute, ms), minute, ms, offset_s, max(0, rest_until - now))
        assert wait_ms >= 0
        if action in (TICK, CATCH_UP):
            position = (position + 1) % dial.STEPS
            rest_until = now + wait_ms + -(-1000 // hz)
            wait_ms += 32  # the pulse
        ms += wait_ms
        while ms >= 60_000:
            ms -= 60_000
            minute += 1
            yield position, minute


def right(minute, offset_s=0):
    return dial.showing(minute, offset_s)


def test_every_mode_is_right_at_every_minute():
    for name in modes.names():
        mode = modes.load(name)
        for position, minute in simulate(0, lambda minute, ms, mode=mode: mode, 0, 30):
            assert position == right(minute), (name, minute)


def test_a_change_of_mode_in_the_middle_of_a_minute_is_right_at_the_next():
    names = modes.names()
    for first in names:
        for second in names:
            for at_ms in range(500, 50_000, 1700):
                before, after = modes.load(first), modes.load(second)

                def mode_at(minute, ms, before=before, after=after, at_ms=at_ms):
                    return before if minute == MIDNIGHT and ms < at_ms else after

                for position, minute in simulate(0, mode_at, 0, 2):
                    assert position == right(minute), (first, second, at_ms)


def test_whatever_the_hands_show_they_become_right_and_in_the_shortest_time():
    for start in range(0, 43_200, 1187):
        behind = dial.steps(start, 0)
        limit_s = min(behind // 7 + 1, (43_200 - behind) + 1)
        minutes = limit_s // 60 + 2
        arrived = None
        for position, minute in simulate(start, lambda minute, ms: STEADY, 0, minutes):
            if position == right(minute):
                arrived = minute if arrived is None else arrived
            else:
                assert arrived is None, start
        assert arrived is not None and (arrived - MIDNIGHT - 1) * 60 <= limit_s, (start, arrived)


def test_the_decision_to_wait_or_to_hurry_does_not_swing():
    # Around the border of the two: once begun, the same way is kept until the hands are right.
    for ahead in (5398, 5399, 5400, 5401):
        plans = Schedule(1, 8)
        position, now, actions, action = ahead, 0, [], None
        while action != TICK:
            action, wait_ms = plans.decide(position, STEADY, MIDNIGHT + now // 60_000, now % 60_000, 0, 125)
            if action not in actions:
                actions.append(action)
            if action == CATCH_UP:
                position = (position + 1) % dial.STEPS
            now += wait_ms
        assert actions == [WAIT if ahead < 5400 else CATCH_UP, TICK], ahead


def test_assumed_time_keeps_the_hands_where_they_are():
    for name in modes.names():
        mode = modes.load(name)
        plans = Schedule(1, 8)
        for position in (0, 1, 59, 60, 3599, 36_510, 43_199):
            minute, ms = plans.moment(position, mode)
            action, wait_ms = plans.decide(position, mode, minute, ms, 0, 0)
            assert action == TICK and wait_ms > 0, (name, position)


def test_following():
    plans = Schedule(1, 8)
    plans.plan(STEADY, MIDNIGHT)
    assert plans.following_ms(0) == 1000
    assert plans.following_ms(1000) == 2000
    assert plans.following_ms(59_000) == 60_000
    assert plans.following_ms(60_000) == 60_000


def test_a_changed_mode_is_planned_anew():
    plans = Schedule(1, 8)
    steady = list(plans.plan(STEADY, MIDNIGHT))
    assert list(plans.plan(modes.load("vetinari"), MIDNIGHT)) != steady
    assert list(plans.plan(STEADY, MIDNIGHT)) == steady
