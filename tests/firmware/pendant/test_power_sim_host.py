"""Sleep, wake, double taps and the battery, on the simulated board with the chip's costs."""

from __future__ import annotations

import re
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pendant_bench import (
    LIGHT,
    USB,
    changed,
    flashes_ms,
    likeness,
    meta_of,
    samples_of,
    say,
    started,
    stored_ids,
    with_pins,
)

BATTERY, MICROPHONE_POWER = 2, 4
MINUTE_S = 60


def tap(board: Any) -> None:
    board.press()
    board.run(0.12)
    board.release()


def in_light_sleep(board: Any) -> Any:
    """Started, used once, and asleep, but not deeply."""
    started(board)
    board.run(130)  # it stays awake for 120 s after power-on
    assert not board.is_asleep and board.level(MICROPHONE_POWER) == 0
    return board


def in_deep_sleep(board: Any) -> Any:
    started(board)
    board.run_until(lambda: board.is_asleep, timeout_s=310, step_s=1)
    return board


def light_on_after_ms(board: Any, since_us: int) -> float:
    return next(
        (e.t_us - since_us) / 1000 for e in board.edges if e.pin == LIGHT and e.level == 0 and e.t_us >= since_us
    )


def watched(tmp_path: Path) -> Path:
    """Firmware that says when a connection or a network is begun."""
    return changed(
        tmp_path,
        (
            "device/link.py",
            "        self._stream, _ = await asyncio.open",
            "print('begun', __import__('time').ticks_ms())",
        ),
        ("device/wifi.py", "        self._wlan.connect(network", "print('begun', __import__('time').ticks_ms())"),
    )


def test_after_use_it_sleeps_lightly_and_then_deeply(pendant: Any, server: Any, sound: Any) -> None:
    board = started(pendant())
    board.run(130)
    say(board, sound(1.0)[0], 1.0)
    used_us = board.now_us
    board.run_until(lambda: server.complete, timeout_s=20)
    board.run(10)
    assert board.level(MICROPHONE_POWER) == 0 and not board.is_asleep
    board.run_until(lambda: board.is_asleep, timeout_s=310, step_s=0.5)
    assert 295 < (board.now_us - used_us) / 1e6 < 302
    assert board.exits[-1]["exit"] == "deepsleep" and board.exits[-1]["radio"] is False
    assert board.exits[-1]["for_us"] == 6 * 3_600_000_000  # nothing waits: only to check in
    assert not [exit for exit in board.exits if exit["exit"] != "deepsleep"], "the watchdog bit in light sleep"


@pytest.mark.parametrize(("asleep", "most_ms"), [(in_light_sleep, 300), (in_deep_sleep, 700)])
def test_a_press_in_sleep_records_at_once(pendant: Any, server: Any, sound: Any, asleep: Any, most_ms: int) -> None:
    path, spoken = sound(3.0)
    board = asleep(pendant())
    before = len(server.check_ins)
    pressed_us = board.now_us
    say(board, path, 3.0)
    assert light_on_after_ms(board, pressed_us) < most_ms + 135  # a block of 32 ms must be full, and is looked for
    board.run_until(lambda: server.complete, timeout_s=20)
    (note,) = server.notes().values()
    first_sample_ms = 3000 - len(samples_of(note)) / 16 - meta_of(note)["lost"] / 16
    print(f"{asleep.__name__}: press to first kept sample {first_sample_ms:.0f} ms")
    assert first_sample_ms <= most_ms
    assert likeness(note, spoken[int(first_sample_ms * 16) :]) > 0.97
    board.run_until(lambda: len(server.check_ins) > before or asleep is in_light_sleep, timeout_s=20)


@pytest.mark.parametrize("deep", [False, True])
def test_a_hold_begun_as_it_goes_to_sleep_gives_a_note(pendant: Any, deep: bool) -> None:
    """In steps of 10 ms across the moment of sleep, which is known to 0.1 s."""
    board = started(pendant(config={"wifi": [], "sleep_after_s": 0 if deep else 300}))
    board.run_until(lambda: board.level(MICROPHONE_POWER) == 0, timeout_s=130)
    board.run(1)
    say(board, None, 0.5)
    released_us = board.now_us
    board.run_until(lambda: board.is_asleep or board.level(MICROPHONE_POWER) == 0, timeout_s=30, step_s=0.01)
    awake_s = (board.now_us - released_us) / 1e6
    for holds, before_ms in enumerate(range(90, -70, -10), 2):
        board.run(released_us / 1e6 + awake_s - before_ms / 1e3 - board.now_us / 1e6)
        say(board, None, 0.6 + 0.7 * deep)
        released_us = board.now_us
        board.run_until(lambda: len(stored_ids(board)) == holds, timeout_s=4, step_s=0.1)  # noqa: B023


def test_the_counter_goes_on_in_sleep(pendant: Any, server: Any, sound: Any) -> None:
    board = in_deep_sleep(pendant(rtc_ppm=30_000))
    board.run(3600)
    say(board, sound(1.0)[0], 1.0)
    board.run_until(lambda: len(server.complete) == 1, timeout_s=20)
    board.run_until(lambda: board.is_asleep, timeout_s=400, step_s=1)
    say(board, sound(1.0)[0], 1.0)
    board.run_until(lambda: len(server.complete) == 2, timeout_s=20)
    first, second = (meta_of(server.notes()[note_id]) for note_id in stored_ids(board))
    assert first["counter"] == second["counter"]
    assert 3600 * 1.029 < first["asleep_ms"] / 1000 < (3600 + 300) * 1.031
    assert first["start_ms"] < second["start_ms"] and first["asleep_ms"] < second["asleep_ms"]


def test_let_go_before_it_woke_was_a_tap_and_sends(pendant: Any, server: Any, sound: Any) -> None:
    board = started(pendant())
    board.wifi(False)
    say(board, sound(1.0)[0], 1.0)
    board.run_until(lambda: board.is_asleep, timeout_s=320, step_s=1)
    board.wifi(True)
    tap(board)
    board.run_until(lambda: server.complete, timeout_s=20)
    assert len(stored_ids(board)) == 1 == board.console.count("recorded")


def test_two_taps_in_sleep_are_a_double_tap(pendant: Any, server: Any, sound: Any) -> None:
    """The first is over before anybody looks; the second comes within 1.5 s of the wake-up, but not within 0.4 s."""
    for asleep in (in_deep_sleep, in_light_sleep):
        path, spoken = sound(4.0)
        board = asleep(pendant())
        before = set(server.complete)
        tap(board)
        board.run(1.1)
        board.speak(path)
        tap(board)
        board.run(4.0)
        tap(board)
        board.run_until(lambda: server.complete - before, timeout_s=20)  # noqa: B023
        (note_id,) = server.complete - before
        assert likeness(server.notes()[note_id], spoken) > 0.97
        assert 3.9 < len(samples_of(server.notes()[note_id])) / 16000 < 4.5


def test_a_double_tap_records_until_the_next_tap(pendant: Any, server: Any, sound: Any, tmp_path: Path) -> None:
    """And no network is joined and no connection begun from its first press to its last release."""
    path, spoken = sound(5.0)
    board = started(pendant(firmware=watched(tmp_path)))
    board.run_until(lambda: server.check_ins, timeout_s=20)
    board.run(3)
    board.wifi(False)
    board.run(1)
    board.wifi(True)
    pressed_ms = board.now_us // 1000
    tap(board)
    board.run(0.35)
    board.speak(path)
    tap(board)
    board.run(5)
    tap(board)
    ended_ms = board.now_us // 1000
    board.run_until(lambda: server.complete, timeout_s=90)
    (note,) = server.notes().values()
    assert likeness(note, spoken) > 0.97 and len(samples_of(note)) / 16000 < 5.5
    begun = [int(ms) for ms in re.findall(r"^begun (\d+)$", board.console, re.MULTILINE)]
    assert begun and not [ms for ms in begun if pressed_ms <= ms <= ended_ms]
    assert begun[-1] > ended_ms


def test_a_single_tap_connects_only_when_no_second_can_come(pendant: Any, server: Any, tmp_path: Path) -> None:
    board = started(pendant(firmware=watched(tmp_path)))
    board.run_until(lambda: server.check_ins, timeout_s=20)
    board.wifi(False)
    board.run(1)
    before = board.console.count("begun")
    tap(board)
    released_ms = board.now_us // 1000
    board.run(3)
    begun = [int(ms) for ms in re.findall(r"^begun (\d+)$", board.console, re.MULTILINE)][before:]
    assert begun and 400 <= begun[0] - released_ms < 700, (begun, released_ms)


def test_taps_too_far_apart_are_two(pendant: Any, server: Any) -> None:
    board = started(pendant())
    board.run_until(lambda: server.check_ins, timeout_s=20)
    for pause in (0.41, 0.45, 0.6):
        tap(board)
        board.run(pause)
    board.run(20)
    assert "recorded" not in board.console and not stored_ids(board)


def test_hold_while_hands_free_ends_it_at_the_release(pendant: Any, server: Any, sound: Any) -> None:
    path, spoken = sound(4.0)
    board = started(pendant())
    tap(board)
    board.run(0.2)
    board.speak(path)
    tap(board)
    board.run(1.88)
    board.press()
    board.run(2.0)
    board.release()
    board.run_until(lambda: server.complete, timeout_s=30)
    (note,) = server.notes().values()
    assert likeness(note, spoken) > 0.97 and len(samples_of(note)) / 16000 < 4.5


def test_a_tap_and_a_hold_is_a_recording_as_long_as_the_hold(pendant: Any, server: Any, sound: Any) -> None:
    board = started(pendant())
    tap(board)
    board.run(0.2)
    say(board, sound(2.0)[0], 2.0)
    board.run_until(lambda: server.complete, timeout_s=30)
    (note,) = server.notes().values()
    assert 2.0 <= len(samples_of(note)) / 16000 < 2.3


def test_what_waits_is_tried_ever_less_often_and_then_sent(pendant: Any, server: Any, sound: Any) -> None:
    board = started(pendant())
    board.wifi(False)
    say(board, sound(1.0)[0], 1.0)
    board.run(3 * 3600)  # in light sleep 2, 4, 8 ... s from one try to the next
    waits = [exit["for_us"] // 60_000_000 for exit in board.exits]
    assert waits[:5] == [5, 10, 20, 40, 60] and set(waits[5:]) <= {60}
    board.wifi(True)
    board.run_until(lambda: server.complete, timeout_s=3700, step_s=10)
    assert set(stored_ids(board)) == server.complete
    board.run(60)
    assert board.is_asleep and board.exits[-1]["for_us"] == 6 * 3_600_000_000, "did not go back to sleep at once"


def test_a_button_that_is_held_for_ever_lets_it_sleep(pendant: Any, server: Any) -> None:
    board = started(pendant(heap_kb=600))
    board.press()
    board.run_until(lambda: board.is_asleep, timeout_s=900, step_s=1)
    recorded = board.console.count("recorded")
    board.run(7 * 3600)  # over a wake-up by the timer, for a check-in
    assert board.console.count("deep sleep") >= 2
    assert recorded == 1 == board.console.count("recorded") and board.is_asleep
    board.release()
    board.run_until(lambda: not board.is_asleep, timeout_s=1)
    board.run(5)
    say(board, None, 1.0)
    board.run_until(lambda: len(server.complete) == 2, timeout_s=20)


def test_it_stays_awake_on_the_cable_which_wakes_it(pendant: Any) -> None:
    board = started(pendant(board=with_pins(usb=USB)))
    board.touch(USB, 1)
    board.run(600)
    assert board.level(MICROPHONE_POWER) == 1 and not board.exits
    board.touch(USB, 0)
    board.run(6)
    assert board.is_asleep
    board.touch(USB, 1)
    board.run(400)
    assert not board.is_asleep and board.level(MICROPHONE_POWER) == 1


def with_battery() -> dict[str, Any]:
    return with_pins(battery=BATTERY) | {"battery_divider": [220, 220]}


def test_a_low_battery_warns(pendant: Any, server: Any, sound: Any) -> None:
    board = pendant(board=with_battery())
    board.voltage(BATTERY, 3550 // 2)
    started(board)
    say(board, sound(1.0)[0], 1.0)
    released_us = board.now_us
    board.run_until(lambda: server.complete, timeout_s=20)
    board.run(3)
    flickers = [ms for ms in flashes_ms(board, released_us) if ms < 50]
    assert len(flickers) == 8


def test_an_empty_battery_ends_and_keeps_a_recording_and_then_everything(pendant: Any, server: Any, sound: Any) -> None:
    path, spoken = sound(30.0)
    board = pendant(board=with_battery())
    board.voltage(BATTERY, 4000 // 2)
    started(board)
    board.run_until(lambda: server.check_ins, timeout_s=20)
    board.speak(path)
    board.press()
    board.run(5)
    asked = len(server.requests)
    board.voltage(BATTERY, 3350 // 2)
    board.run_until(lambda: stored_ids(board), timeout_s=15)
    board.run_until(lambda: board.is_asleep, timeout_s=15)
    assert board.exits[-1]["for_us"] is None and len(server.requests) == asked
    board.release()
    for _ in range(2):  # each press is refused, and seen to be
        board.run(5)
        pressed_us = board.now_us
        say(board, path, 1.0)
        board.run_until(lambda: board.is_asleep, timeout_s=15)
        assert len([ms for ms in flashes_ms(board, pressed_us) if ms < 50]) == 8
    assert board.console.count("recorded ") == 1 == len(stored_ids(board)) and len(server.requests) == asked
    board.voltage(BATTERY, 3900 // 2)
    tap(board)
    board.run_until(lambda: server.complete, timeout_s=20)
    (note,) = server.notes().values()
    heard = samples_of(note)
    assert 5.0 < len(heard) / 16000 < 16 and likeness(note, spoken[: len(heard)]) > 0.97


def test_without_sense_pins_an_empty_battery_is_not_claimed(pendant: Any, server: Any, sound: Any) -> None:
    board = started(pendant())
    say(board, sound(1.0)[0], 1.0)
    board.run_until(lambda: server.complete, timeout_s=20)
    assert "battery" not in board.console


def test_ten_minutes(pendant: Any, server: Any, sound: Any) -> None:
    """With a heap like that of PSRAM: whole."""
    path, spoken = sound(40.0)
    said = path.parent / "long.wav"
    with wave.open(str(said), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.tile(spoken, 15).tobytes())
    board = started(pendant(heap_kb=8300))
    assert re.search("room for (599|600) s", board.console)
    say(board, said, 605.0)
    board.run_until(lambda: server.complete, timeout_s=200)
    (note,) = server.notes().values()
    heard = samples_of(note)
    assert 599 < len(heard) / 16000 <= 600.1 and meta_of(note)["lost"] == 0
    first = heard[: 39 * 16000]  # each forty seconds sound alike
    for turn in range(1, 14):
        again = heard[turn * 40 * 16000 :][: len(first)]
        assert np.corrcoef(first, again)[0, 1] > 0.98, turn
