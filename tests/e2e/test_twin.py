"""What is desired on the page, done by the real firmware; the change of certificate; the time of a note over sleeps."""

from __future__ import annotations

import io
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from offbeat import wav
from offbeat.recording_time import Reading, Stamp, recording_time
from server_process import ServerProcess, WebhookReceiver
from sim.board import Board
from test_thread import SPOKEN, deliver, listed, say

ROOT = Path(__file__).parents[2]
NETWORK = {"ssid": "home", "password": "a good password"}
MINUTE_MS = 60_000


class Page:
    """A signed-in page."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._session: requests.Session = server.sign_in()

    def desire(self, device: str, **settings: Any) -> None:
        url = f"{self._server.url}/api/devices/{device}"
        answer = self._session.patch(url, json={"settings": settings}, timeout=10)
        assert answer.status_code == 200, answer.text

    def report(self, device: str) -> dict[str, Any]:
        devices = self._session.get(f"{self._server.url}/api/devices", timeout=10).json()
        report = next(one["report"] for one in devices if one["id"] == device)
        return report or {"settings": {}}

    def close(self) -> None:
        self._session.close()


@pytest.fixture(scope="module")
def page(server: ServerProcess) -> Iterator[Page]:
    page = Page(server)
    yield page
    page.close()


@pytest.fixture
def clock(server: ServerProcess, tmp_path: Path) -> Iterator[Board]:
    """A clock that is added to the server as `wall`, its hands right."""
    device = server.add_device("wall", "clock")
    now = time.time()
    config = {
        "app": "clock",
        "device": device.id,
        "token": device.token,
        "server": {"host": "127.0.0.1", "port": server.device_port},
        "wifi": [NETWORK],
        "ntp": ["ntp.sim"],
        "timezone": "UTC0",
        "mode": "steady",
        "morse": "OFFBEAT",
        "seed": 7,
        "hands": time.strftime("%I:%M:%S", time.gmtime(now + 2)),
    }
    description = json.loads((ROOT / "boards" / "esp32c3-supermini" / "board.json").read_text())
    with Board(tmp_path / "clock", board=description, config=config, files={"server.der": device.certificate}) as board:
        yield board


def short_press(board: Board) -> None:
    board.press()
    board.run(0.3)
    board.release()


def test_the_page_the_button_and_the_power(server: ServerProcess, page: Page, clock: Board) -> None:
    def reported(key: str, value: Any) -> bool:
        return bool(page.report("wall")["settings"].get(key) == value)

    def within(timeout_s: float, key: str, value: Any) -> float:
        began_us = clock.now_us
        clock.run_until(lambda: reported(key, value), timeout_s, step_s=0.2)
        return (clock.now_us - began_us) / 1e6

    clock.start()
    within(60, "mode", "steady")
    clock.run(3)  # a wait at the server has begun
    page.desire("wall", mode="rush", timezone="GMT0")
    took_s = within(8, "mode", "rush")
    print(f"desired on the page, reported as done after {took_s:.1f} s")
    assert page.report("wall")["settings"]["timezone"] == "GMT0" and page.report("wall")["revision"] == 2

    page.desire("wall", mode="nonsense", pattern=[2, 1, 1])
    within(8, "pattern", [2, 1, 1])
    assert "nonsense" in page.report("wall")["refused"]["mode"] and reported("mode", "rush")
    page.desire("wall", mode="pattern")
    within(8, "mode", "pattern")

    short_press(clock)
    clock.run_until(lambda: not reported("mode", "pattern"), 12, step_s=0.2)
    by_hand = page.report("wall")["settings"]["mode"]
    clock.run(3)
    assert reported("mode", by_hand) and "changed" not in page.report("wall")

    # Out of reach: the button, then the page, and the power. Whose hand was the last is known all the same.
    clock.wifi(False)
    clock.run(3)
    short_press(clock)
    clock.run(1)
    page.desire("wall", mode="gravity", morse="SOS")
    clock.cut_power()
    clock.start()
    clock.wifi(True)
    within(90, "mode", "gravity")
    assert reported("morse", "SOS") and reported("pattern", [2, 1, 1])
    assert reported("timezone", "GMT0")

    place = page.report("wall")["position"]
    page.desire("wall", steps=-600)  # more than it catches up while this looks
    clock.run_until(lambda: (place - page.report("wall")["position"]) % 43_200 in range(300, 601), 8, step_s=0.2)
    page.desire("wall", hold="12:00:00")
    within(8, "hold", "12:00:00")
    page.desire("wall", hold=None)
    within(8, "hold", None)

    # Out of reach, the hands are set and then held: so they are held.
    clock.wifi(False)
    clock.run(3)
    page.desire("wall", hands="11:59:30")
    page.desire("wall", hold="12:00:00")
    clock.wifi(True)
    within(90, "hold", "12:00:00")
    clock.run(8)
    assert reported("hold", "12:00:00") and page.report("wall")["position"] == 0
    assert "Traceback" not in clock.console


def test_the_change_of_certificate(tmp_path: Path) -> None:
    """Told, switched, restarted: the device goes on delivering, also when its power went meanwhile."""
    with WebhookReceiver() as receiver, ServerProcess(tmp_path / "data") as server:
        server.add_destination(receiver.url)
        device = server.add_device("pin", "pendant")
        config = {
            "app": "pendant",
            "device": device.id,
            "token": device.token,
            "server": {"host": "127.0.0.1", "port": server.device_port},
            "wifi": [NETWORK],
        }
        description = json.loads((ROOT / "boards" / "xiao-esp32s3" / "board.json").read_text())
        files = {"server.der": device.certificate}
        with Board(tmp_path / "pin", board=description, config=config, files=files) as board:
            server.command("certificate", "next")
            assert server.command("certificate", "switch", check=False).returncode == 1
            board.start()
            board.run_until(lambda: not waits(server), 60)
            server.command("certificate", "switch")
            server.stop()
            server.start()
            board.cut_power()
            board.start()
            board.run(3)
            say(board, SPOKEN)
            deliver(board, receiver, "pin")
            assert "the server has its next certificate" in board.console
            board.cut_power()
            board.start()  # from the one certificate that is left
            board.run(3)
            say(board, SPOKEN)
            deliver(board, receiver, "pin", count=2)


def waits(server: ServerProcess) -> bool:
    connection = sqlite3.connect(server.data / "offbeat.sqlite", timeout=10)
    (report,) = connection.execute("SELECT report FROM devices").fetchone()
    connection.close()
    return "next_certificate" not in json.loads(report or "{}")


def test_the_time_of_a_note_over_a_day_without_network(
    server: ServerProcess, receiver: WebhookReceiver, make_pendant: Callable[..., Board]
) -> None:
    """The server's clock is the host's, and a simulated day passes in seconds. So what the server would have made of it
    is reckoned here, from what it was told, with the time of its own at which it would have been told."""
    name = "sleeper"
    board = make_pendant(name, rtc_ppm=30_000, rtc_wander_ppm=5000)
    board.start()
    page = Page(server)
    board.run_until(lambda: page.report(name).get("app"), 60)
    board.run(1)  # the answer, which tells the time, may still be on its way
    page.close()
    ahead_ms = time.time() * 1000 - board.utc_us(board.now_us) / 1000  # the server's clock, of the simulation's
    board.wifi(False)
    board.run(7 * 3600)
    assert board.is_asleep
    said_ms = board.utc_us(board.now_us) / 1000 + ahead_ms
    say(board, SPOKEN)
    for _ in range(2):
        board.run(7 * 3600)
    sleeps = board.console.count("deep sleep")
    assert sleeps >= 3
    board.wifi(True)
    board.press()
    board.run(0.1)
    board.release()
    deliver(board, receiver, name, timeout_s=600)
    arrived_ms = round(board.utc_us(board.now_us) / 1000 + ahead_ms)
    (note_id,) = listed(server, name)
    found = as_told(server, note_id, arrived_ms)
    print(
        f"{sleeps} deep sleeps: off by {(found.ms - said_ms) / 1000:.0f} s, ± {(found.to_ms - found.ms) / 1000:.0f} s"
    )
    assert found.from_ms <= said_ms <= found.to_ms
    assert abs(found.ms - said_ms) <= 10 * MINUTE_MS and found.to_ms - found.from_ms <= 2 * 15 * MINUTE_MS


def test_the_time_of_a_note_over_a_loss_of_power(
    server: ServerProcess, receiver: WebhookReceiver, make_pendant: Callable[..., Board]
) -> None:
    board = make_pendant("cutoff", rtc_ppm=30_000)
    board.start()
    page = Page(server)
    board.run_until(lambda: page.report("cutoff").get("app"), 60)
    board.run(1)  # the answer, which tells the time, may still be on its way
    page.close()
    ahead_ms = time.time() * 1000 - board.utc_us(board.now_us) / 1000
    board.wifi(False)
    said = []
    for _ in range(2):  # the first has an anchor in its run, the second has none
        board.run(3600)
        said.append(board.utc_us(board.now_us) / 1000 + ahead_ms)
        count = board.console.count("stored ")
        say(board, SPOKEN)
        board.run_until(lambda count=count: board.console.count("stored ") > count, 30)
        board.cut_power()
        board.run(3600)
        board.start()
    board.wifi(True)
    deliver(board, receiver, "cutoff", count=2, timeout_s=900)
    arrived_ms = round(board.utc_us(board.now_us) / 1000 + ahead_ms)
    stored = [line.split()[1] for line in board.console.splitlines() if line.startswith("stored ")]
    first, second = (as_told(server, note_id, arrived_ms) for note_id in stored)
    assert first.from_ms <= said[0] <= first.to_ms and first.to_ms - first.from_ms < 10 * MINUTE_MS
    assert second.ms is None and second.from_ms <= said[1] <= second.to_ms


def as_told(server: ServerProcess, note_id: str, arrived_ms: int) -> Any:
    """What the server makes of a note that was first told of at arrived_ms."""
    content = (server.data / "notes" / f"{note_id}.wav").read_bytes()
    connection = sqlite3.connect(server.data / "offbeat.sqlite", timeout=10)
    (counter,) = connection.execute("SELECT first_counter FROM notes WHERE id = ?", (note_id,)).fetchone()
    connection.close()
    mark, ms, asleep_ms = json.loads(counter)
    stamp = Stamp.of(wav.read(io.BytesIO(content), len(content)).metadata)
    return recording_time(stamp, mark, Reading(ms, asleep_ms), arrived_ms)
