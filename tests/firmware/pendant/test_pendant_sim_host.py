"""The pendant on the simulated board beside a server: what is said arrives, whatever happens meanwhile."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pendant_bench import (
    LIGHT,
    USB,
    changed,
    files_on_flash,
    flashes_ms,
    likeness,
    meta_of,
    samples_of,
    say,
    started,
    stored_ids,
    with_pins,
)


@pytest.mark.parametrize("bits", [64, 32])
def test_spoken_stored_delivered(pendant: Any, server: Any, sound: Any, bits: int) -> None:
    path, spoken = sound(3.0)
    board = started(pendant(bits=bits))
    say(board, path, 3.0)
    board.run_until(lambda: server.complete, timeout_s=40)
    (note_id,) = server.complete
    note = server.notes()[note_id]
    assert stored_ids(board) == [note_id]
    assert likeness(note, spoken) > 0.98
    assert 3.0 <= len(samples_of(note)) / 16000 < 3.2
    meta = meta_of(note)
    assert meta["id"] == note_id and meta["lost"] == 0 and 0 < meta["start_ms"] < 60_000
    assert re.fullmatch("[0-9a-f]{8}", meta["counter"])
    assert server.refused == []
    board.run_until(lambda: server.check_ins, timeout_s=5)
    assert f"delivered {note_id}" in board.console
    assert server.check_ins[0]["app"] == "pendant"


def test_the_light_is_on_while_recording_and_not_before(pendant: Any, sound: Any) -> None:
    board = started(pendant())
    assert not [edge for edge in board.edges if edge.pin == LIGHT and edge.level == 0]  # active low
    pressed_us = board.now_us
    say(board, sound(1.0)[0], 1.0)
    released_us = board.now_us
    board.run(0.3)
    on, off = [edge.t_us for edge in board.edges if edge.pin == LIGHT and edge.t_us > pressed_us][:2]
    assert pressed_us < on < pressed_us + 150_000
    assert released_us < off < released_us + 150_000


def test_the_first_sound_is_in_the_note(pendant: Any, server: Any, tmp_path: Any) -> None:
    """A click at the very moment of the press is there, and near the beginning."""
    import wave

    click = np.zeros(16000, "<i2")
    click[0:40] = 25000
    path = tmp_path / "click.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(click.tobytes())
    board = started(pendant())
    for _ in range(3):
        before = set(server.complete)
        say(board, path, 1.0)
        board.run_until(lambda: server.complete - before, timeout_s=40)  # noqa: B023
        (note_id,) = server.complete - before
        heard = np.abs(samples_of(server.notes()[note_id]))
        assert heard.max() > 10000
        assert 0 <= int(heard.argmax()) < 0.25 * 16000
        board.run(1.37)


def test_without_network_notes_wait_and_go_when_it_is_back(pendant: Any, server: Any, sound: Any) -> None:
    board = started(pendant())
    board.wifi(False)
    for seconds in (1.0, 1.5, 2.0):
        say(board, sound(seconds)[0], seconds)
        board.run(8)
    assert len(stored_ids(board)) == 3 and not server.complete
    board.run(30)
    assert "no network" in board.console and not server.complete
    board.wifi(True)
    board.run_until(lambda: len(server.complete) == 3, timeout_s=400)
    assert server.complete == set(stored_ids(board))
    assert server.refused == []


def test_network_lost_in_mid_upload(pendant: Any, server: Any, sound: Any) -> None:
    path, spoken = sound(12.0)
    board = started(pendant())
    server.cut_every_bytes = 0
    say(board, path, 12.0)
    board.run_until(lambda: any(len(data) > 10_000 for data in server.stored.values()), timeout_s=60, step_s=0.002)
    board.wifi(False)
    board.run(90)
    board.wifi(True)
    board.run_until(lambda: server.complete, timeout_s=400)
    (note,) = server.notes().values()
    assert likeness(note, spoken) > 0.98


def test_connection_cut_at_every_4_kb(pendant: Any, server: Any, sound: Any) -> None:
    path, spoken = sound(5.0)
    board = started(pendant())
    server.cut_every_bytes = 4096
    say(board, path, 5.0)
    board.run_until(lambda: server.complete, timeout_s=120)  # it leads somewhere, so the waits do not grow
    assert len(server.stored) == 1 and server.refused == []
    assert sum(line.startswith("PATCH") for line in server.requests) >= 10
    (note,) = server.notes().values()
    assert likeness(note, spoken) > 0.98


def test_power_cut_in_mid_upload(pendant: Any, server: Any, sound: Any) -> None:
    path, spoken = sound(12.0)
    board = started(pendant())
    say(board, path, 12.0)
    board.run_until(lambda: any(server.stored.values()), timeout_s=60, step_s=0.002)
    board.cut_power()
    assert not server.complete
    board.start()
    board.run_until(lambda: server.complete, timeout_s=60)
    assert stored_ids(board) == list(server.complete) and len(server.stored) == 1
    assert likeness(server.notes()[stored_ids(board)[0]], spoken) > 0.98


def test_power_cut_in_mid_storing(pendant: Any, server: Any, sound: Any) -> None:
    """What had been flushed is kept, marked by its length, and delivered."""
    path, spoken = sound(15.0)
    board = started(pendant())
    say(board, path, 15.0)
    board.run(0.9)
    assert not stored_ids(board)
    board.cut_power()
    board.start()
    board.run_until(lambda: server.complete, timeout_s=60)
    (note,) = server.notes().values()
    announced = struct.unpack("<I", note[4:8])[0] + 8
    assert 32_000 < len(note) < announced
    assert "was cut off by a power loss" in board.console
    heard = samples_of(note)
    assert likeness(note, spoken[: len(heard)]) > 0.95


def test_the_button_wins_over_sending(pendant: Any, server: Any, sound: Any) -> None:
    long, first = sound(14.0)
    board = started(pendant())
    say(board, long, 14.0)
    board.run_until(lambda: any(server.stored.values()), timeout_s=60, step_s=0.002)
    short, second = sound(2.0)
    pressed_us = board.now_us
    board.speak(short)
    board.press()
    board.run(2.0)
    asked = len(server.requests)
    board.run(1.0)
    assert len(server.requests) == asked, "something was asked of the server while recording"
    board.release()
    board.run_until(lambda: len(server.complete) == 2, timeout_s=60)
    ids = stored_ids(board)
    assert set(ids) == server.complete
    assert likeness(server.notes()[ids[0]], first) > 0.98 and likeness(server.notes()[ids[1]], second) > 0.98
    on = [edge.t_us for edge in board.edges if edge.pin == LIGHT and edge.level == 0 and edge.t_us > pressed_us]
    assert on[0] - pressed_us < 200_000


@pytest.mark.parametrize("into_ms", [20, 300, 700])
def test_a_bouncing_press_in_a_handshake_silences_nothing(
    pendant: Any, server: Any, sound: Any, tmp_path: Path, into_ms: int
) -> None:
    """Its twelve edges take all the places for handlers that wait, so that what the microphone asks for is dropped."""
    path, spoken = sound(6.0)
    begins = ("device/link.py", "            await self._send(self._head(", "print('shaking hands')")
    board = started(pendant(firmware=changed(tmp_path, begins)))
    board.run_until(lambda: server.check_ins, timeout_s=20)
    board.run(130)  # asleep: the connection is closed
    say(board, None, 1.0)
    before = board.console.count("shaking hands")
    board.run_until(lambda: board.console.count("shaking hands") > before, timeout_s=20, step_s=0.002)
    board.speak(path)
    board.run(into_ms / 1000)
    board.press(bounces=6)
    board.run(5.0)
    board.release()
    board.run_until(lambda: len(server.complete) == 2, timeout_s=60)
    note = server.notes()[stored_ids(board)[1]]
    assert meta_of(note)["lost"] == 0 and len(samples_of(note)) / 16000 > 5.0
    assert likeness(note, spoken[: round(5.0 * 16000) + into_ms * 16]) > 0.97


def test_the_button_wins_over_storing(pendant: Any, server: Any, sound: Any) -> None:
    long, first = sound(15.0)
    board = started(pendant(costs={"gc_collect_us": 100_000}))
    say(board, long, 15.0)
    board.run(0.55)  # an erase is under way at the press; some moments later none is, and nothing is lost
    assert not stored_ids(board)
    short, second = sound(3.0)
    say(board, short, 3.0)
    assert not stored_ids(board), "something was stored while recording"
    board.run_until(lambda: len(server.complete) == 2, timeout_s=60)
    ids = stored_ids(board)
    notes = server.notes()
    # A press while the flash is being written may lose up to 0.1 s of 3 s at the beginning.
    assert likeness(notes[ids[0]], first) > 0.98 and likeness(notes[ids[1]], second) > 0.93
    # While the flash was at work frames were lost, from the 126 ms before the press too: they are counted.
    assert 0 < meta_of(notes[ids[1]])["lost"] < 0.2 * 16000
    assert meta_of(notes[ids[1]])["start_ms"] - meta_of(notes[ids[0]])["start_ms"] > 15_000


def test_a_tap_keeps_nothing_and_sends(pendant: Any, server: Any) -> None:
    board = started(pendant())
    board.press()
    board.run(0.2)
    board.release()
    board.run(20)
    assert stored_ids(board) == [] and server.stored == {} and "recorded" not in board.console
    assert server.check_ins


def test_the_limit_of_memory_ends_a_recording_and_keeps_it(pendant: Any, server: Any, sound: Any) -> None:
    path, spoken = sound(60.0)
    board = started(pendant(heap_kb=600))
    assert 10 < int(re.findall(r"room for (\d+) s", board.console)[0]) < 50
    say(board, path, 60.0)
    board.run_until(lambda: server.complete, timeout_s=60)
    (note,) = server.notes().values()
    heard = samples_of(note)
    assert 10 * 16000 < len(heard) < 50 * 16000
    assert likeness(note, spoken[: len(heard)]) > 0.98
    board.run(0.5)
    say(board, path, 1.0)
    board.run_until(lambda: len(server.complete) == 2, timeout_s=60)


@pytest.mark.parametrize(("bits", "heap_kb"), [(32, 320), (64, 1024)])
def test_full_rings_and_talks_leave_memory_enough(
    pendant: Any, server: Any, sound: Any, bits: int, heap_kb: int
) -> None:
    """Recordings that fill the ring, a short one, the idle time between, and the talk after each."""
    board = started(pendant(bits=bits, heap_kb=heap_kb, board=with_pins(usb=USB)))
    board.touch(USB, 1)
    for count, seconds in enumerate((70.0, 1.0, 70.0), 1):
        say(board, sound(2.0)[0], seconds)
        board.run_until(lambda: len(server.complete) == count, timeout_s=60)  # noqa: B023
        board.run(20)
    assert "rror" not in board.console
    assert server.complete == set(stored_ids(board)) and server.refused == []


def test_sequences_of_recordings_share_a_small_ring(pendant: Any, server: Any, sound: Any) -> None:
    """More sound in all than the ring holds, with presses during storing and sending."""
    path, spoken = sound(4.0)
    board = started(pendant(heap_kb=600))
    for pause in (0.1, 0.35, 0.7, 2.0, 5.0, 0.1, 0.2):
        say(board, path, 4.0)
        board.run(pause)
    board.run_until(lambda: "delivered" in board.console and len(server.complete) == 7, timeout_s=120)
    assert set(stored_ids(board)) == server.complete
    for note in server.notes().values():
        # A press may find the flash at work: then what is missing at the beginning is counted.
        lost = meta_of(note)["lost"]
        assert likeness(note, spoken) > (0.97 if lost == 0 else 0.9), lost
        assert lost < 0.2 * 16000 and len(samples_of(note)) + lost >= 4.0 * 16000


@pytest.mark.parametrize(
    "answers",
    [
        [(500, b""), (503, b"")],
        [(507, b"")],
        [(200, b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\nContent-Length: 0\r\n\r\n")],
        [(200, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")],
        [(200, b"garbage\r\n\r\n"), (200, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000)],
        [(200, b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{")],
        [(200, b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"id": "no"}')],
    ],
)
def test_a_server_that_misbehaves_loses_no_note(pendant: Any, server: Any, sound: Any, answers: Any) -> None:
    path, spoken = sound(1.5)
    board = started(pendant())
    server.answers = list(answers)
    say(board, path, 1.5)
    board.run_until(lambda: server.complete and not server.answers, timeout_s=400)
    board.run_until(lambda: "delivered" in board.console, timeout_s=100)
    (note,) = server.notes().values()
    assert likeness(note, spoken) > 0.98
    assert board.console.count("error: talking to the server") >= len(answers)


def test_an_id_that_is_taken_gets_a_new_one(pendant: Any, server: Any, sound: Any) -> None:
    board = started(pendant())
    board.wifi(False)
    say(board, sound(1.5)[0], 1.5)
    board.run_until(lambda: stored_ids(board), timeout_s=10)
    (old,) = stored_ids(board)
    server.taken.add(old)
    board.wifi(True)
    board.run_until(lambda: server.complete, timeout_s=100)
    assert old not in server.complete and len(server.complete) == 1
    assert meta_of(next(iter(server.notes().values())))["id"] == old


def test_a_server_that_knows_every_id_already_gets_no_rest_and_no_note_is_lost(
    pendant: Any, server: Any, sound: Any
) -> None:
    board = started(pendant())
    server.all_taken = True
    say(board, sound(1.5)[0], 1.5)
    board.run(60)
    asked = sum(line.startswith("HEAD") for line in server.requests)
    assert 5 < asked < 50, asked
    server.all_taken = False
    board.run_until(lambda: server.complete, timeout_s=700)
    assert len(server.complete) == 1


def test_a_task_that_fails_is_started_anew(pendant: Any, server: Any, sound: Any, tmp_path: Any) -> None:
    """The first press meets a bug, and so does the first time something is stored."""
    bug = "if not hasattr(self, {0!r}):\n    self.{0} = 1\n    1 / 0"
    firmware = changed(
        tmp_path,
        ("pendant/control.py", "        gc.collect()  # now,", bug.format("bug_1")),
        ("pendant/control.py", "                left = take.blocks", bug.format("bug_2")),
    )
    board = pendant(firmware=firmware, board=with_pins(usb=USB))
    board.touch(USB, 1)  # or it would sleep before the second check-in, and forget
    board.wifi(False)  # so that the first check-in comes after the bugs
    started(board)
    path, spoken = sound(2.0)
    say(board, path, 2.0)
    board.run(5)
    assert board.console.count("ZeroDivisionError") == 2 and not stored_ids(board)
    for count in (1, 2):
        say(board, path, 2.0)
        board.run_until(lambda: len(stored_ids(board)) == count, timeout_s=10)  # noqa: B023
    assert board.console.count("ZeroDivisionError") == 4  # each with its traceback
    board.wifi(True)
    board.run_until(lambda: server.check_ins, timeout_s=100)
    assert server.complete == set(stored_ids(board))
    for note in server.notes().values():
        assert likeness(note, spoken) > 0.97
    errors = server.check_ins[0]["errors"]
    assert [line.split(":")[0] for line in errors if "ZeroDivisionError" in line] == ["the control", "storing"]
    board.run_until(lambda: len(server.check_ins) == 2, timeout_s=700)
    assert server.check_ins[1]["errors"] == [], "what was acknowledged is reported once more"


@pytest.mark.parametrize("fault", ["write", "close"])
def test_a_note_that_cannot_be_stored_waits_in_memory(
    pendant: Any, server: Any, sound: Any, tmp_path: Path, fault: str
) -> None:
    """The flash is full, twice, in mid write or at the last flush."""
    marker, after = (
        ("        self._file.write(data)", 20) if fault == "write" else ("        note = _read(self._path, s", 0)
    )
    full = (
        "spool = self._spool\n"
        "spool.calls = getattr(spool, 'calls', 0) + 1\n"
        f"if spool.calls > {after} and getattr(spool, 'faults', 0) < 2:\n"
        "    spool.faults = getattr(spool, 'faults', 0) + 1\n"
        "    spool.calls = 0\n"
        "    raise OSError(28)"
    )
    board = started(pendant(firmware=changed(tmp_path, ("pendant/spool.py", marker, full))))
    path, spoken = sound(15.0)
    say(board, path, 15.0)
    released_us = board.now_us
    board.run_until(lambda: "error: storing a note" in board.console, timeout_s=10)
    board.run(2.5)
    assert stored_ids(board) == [] and server.stored == {}
    assert len([ms for ms in flashes_ms(board, released_us) if ms > 350]) >= 2, "no trouble was shown"
    assert not [ms for ms in flashes_ms(board, released_us) if ms < 100], "shown as stored"
    board.run_until(lambda: board.console.count("error: storing a note") == 2, timeout_s=60)
    board.press()  # a tap: try again
    board.run(0.2)
    board.release()
    board.run_until(lambda: server.complete, timeout_s=60)
    (note,) = server.notes().values()
    assert stored_ids(board) == list(server.complete)
    assert len(samples_of(note)) >= 15.0 * 16000 and likeness(note, spoken) > 0.98


def test_a_refused_note_shows_trouble_and_a_tap_tries_again(pendant: Any, server: Any, sound: Any) -> None:
    board = started(pendant())
    board.run_until(lambda: server.check_ins, timeout_s=20)
    server.answers = [(413, b"")]
    say(board, sound(1.0)[0], 1.0)
    released_us = board.now_us
    board.run_until(lambda: not server.answers, timeout_s=20)
    board.run(5)
    print([(e.t_us / 1e6, e.level) for e in board.edges if e.pin == LIGHT], board.console, board.now_us)
    assert "stays here" in board.console and not server.complete
    assert len([ms for ms in flashes_ms(board, released_us) if ms > 350]) == 5
    board.press()
    board.run(0.2)
    board.release()
    board.run_until(lambda: server.complete, timeout_s=20)
    assert server.complete == set(stored_ids(board))


@pytest.mark.parametrize("fault", ["another certificate", "expired", "another name"])
def test_a_server_that_is_not_the_pinned_one_gets_nothing(
    pendant: Any, server: Any, sound: Any, certificate: Any, fault: str
) -> None:
    if fault == "another certificate":
        der = certificate()[2]
    elif fault == "another name":
        der = certificate("offbeat.example")[2]
    else:
        der = certificate(days_before=30, days_after=-1)[2]
    board = started(pendant(files={"server.der": der}))
    say(board, sound(1.0)[0], 1.0)
    board.run(60)
    assert server.requests == [] and server.stored == {}
    assert len(stored_ids(board)) == 1
    assert "error: talking to the server" in board.console


def test_secrets_are_not_on_the_console(pendant: Any, server: Any, sound: Any) -> None:
    board = started(pendant())
    say(board, sound(1.0)[0], 1.0)
    board.wifi(False)
    board.run(30)
    assert "t" * 43 not in board.console and "secret-password" not in board.console


def test_a_note_is_what_the_flash_had(pendant: Any, server: Any, sound: Any, tmp_path: Path) -> None:
    """What arrived is byte for byte what was stored, and then the flash has it no more."""
    board = started(pendant())
    board.wifi(False)
    say(board, sound(2.0)[0], 2.0)
    board.run_until(lambda: stored_ids(board), timeout_s=10)
    board.cut_power()
    (stored,) = files_on_flash(board, tmp_path, "/notes").items()
    board.wifi(True)
    board.start()
    board.run_until(lambda: "delivered" in board.console, timeout_s=40)
    ((note_id, note),) = server.notes().items()
    assert stored == ("000000-%s.wav" % note_id[-16:], note)
    board.cut_power()
    assert files_on_flash(board, tmp_path, "/notes") == {}
    blocks = struct.unpack("<I", note[76 + struct.unpack("<I", note[68:72])[0] :][:4])[0] // 256
    assert len(note) == 80 + struct.unpack("<I", note[68:72])[0] + blocks * 256
    assert len(samples_of(note)) == struct.unpack("<I", note[48:52])[0]


def test_the_second_network_is_joined_when_the_first_is_away(pendant: Any, server: Any, sound: Any) -> None:
    networks = [{"ssid": "home", "password": "secret-password"}, {"ssid": "cafe", "password": ""}]
    board = started(pendant(config={"wifi": networks}, air={"cafe": "", "home": "another-password"}))
    say(board, sound(1.0)[0], 1.0)
    board.run_until(lambda: server.complete, timeout_s=60)
    board.wifi(False)
    board.run(5)
    say(board, sound(1.0)[0], 1.0)
    board.run(40)
    assert "no network" in board.console and len(server.complete) == 1 and len(stored_ids(board)) == 2
    board.wifi(True)
    board.run_until(lambda: len(server.complete) == 2, timeout_s=400)
    assert server.complete == set(stored_ids(board))


def test_a_board_without_the_certificate_still_records(pendant: Any, server: Any, sound: Any) -> None:
    board = pendant(files={"server.der": b"no certificate"})
    board.start()
    board.run(3)
    say(board, sound(1.0)[0], 1.0)
    board.run(5)
    assert len(stored_ids(board)) == 1
    assert "not an X.509 certificate" in board.console
