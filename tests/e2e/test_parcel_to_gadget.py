"""From bare boards to working gadgets, as their builder does it: install, set up, reset, then a note and the ticks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import board_description
from server_process import ServerProcess, WebhookReceiver, until
from sim.board import duration_s
from sim.serial_board import SerialBoard
from test_thread import SENTENCE, SPOKEN, notes_of

ROOT = Path(__file__).parents[2]
AIR = {"home": "a good password"}


def offbeat_board(serial: SerialBoard, server: ServerProcess, *words: str) -> str:
    """Runs it without anybody to ask; what it showed."""
    secret = {
        "OFFBEAT_WIFI_PASSWORD": AIR["home"],
        "OFFBEAT_DATA": str(server.data),
        "OFFBEAT_DEVICE_PORT": str(server.device_port),
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "offbeat-board"), words[0], "--port", serial.path, *words[1:]],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False, env=os.environ | secret,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def build(serial: SerialBoard, server: ServerProcess, board: str, *options: str) -> int:
    """Install and set up; then its power is cut and comes back. Where on the console that start begins."""
    offbeat_board(serial, server, "install", "--board", board)
    words = ("--board", board, "--wifi", "home", "--name", board, "--server", "here", "--server-host", "127.0.0.1")
    offbeat_board(serial, server, "setup", *words, "--no-test", *options)
    serial.power(False)
    begins = len(serial.board.console)
    serial.power(True)
    return begins


def a_note_arrives(serial: SerialBoard, begins: int, receiver: WebhookReceiver, device: str) -> None:
    until(lambda: "ready: room for" in serial.board.console[begins:], 30, "the pendant to be ready")
    serial.do(lambda board: board.press())
    time.sleep(0.4)
    serial.do(lambda board: board.speak(SPOKEN))
    time.sleep(duration_s(SPOKEN) + 0.3)
    serial.do(lambda board: board.release())
    (got,) = until(lambda: notes_of(receiver, device), 60, "the note at the webhook")
    assert got.json["data"]["text"] == SENTENCE


def the_clock_ticks(serial: SerialBoard, begins: int) -> None:
    """Told that its hands show 12:00:00, it runs to the right time, with ticks of alternating polarity."""
    coil = serial.board.board["pins"]["coil"]
    until(lambda: "synced, within" in serial.board.console[begins:], 40, "the clock to have the time")
    serial.do(lambda board: board.press())
    time.sleep(1.3)
    serial.do(lambda board: board.release())
    until(lambda: "hands set to 12:00:00" in serial.board.console, 5, "the hands to be set")
    seen = len(serial.board.edges)
    time.sleep(3)
    ticks = [edge.pin for edge in serial.board.edges[seen:] if edge.level and edge.pin in coil]
    assert len(ticks) >= 3, serial.board.console[-1000:]
    assert all(one != other for one, other in pairwise(ticks)), ticks


def test_both_gadgets_from_bare_boards(
    tmp_path: Path, server: ServerProcess, receiver: WebhookReceiver, chrony_port: int
) -> None:
    pendant_board, clock_board = (board_description.load(name) for name in ("xiao-esp32s3", "esp32c3-supermini"))
    with (
        SerialBoard(tmp_path / "pendant", pendant_board, air=AIR, heap_kb=8192) as pendant,
        SerialBoard(tmp_path / "clock", clock_board, air=AIR) as clock,
        ThreadPoolExecutor(2) as both,
    ):
        pendant.start()
        clock.start()
        # Where it is between three and four: hands at twelve run there, whereas for the last hour and a half they wait.
        name = f"Etc/GMT-{(3 - datetime.now(UTC).hour) % 12}"
        zone = ("--timezone", name, "--mode", "steady", "--ntp", f"127.0.0.1:{chrony_port}")
        pendant_built = both.submit(build, pendant, server, "xiao-esp32s3")
        clock_built = both.submit(build, clock, server, "esp32c3-supermini", *zone)
        note = both.submit(a_note_arrives, pendant, pendant_built.result(180), receiver, "xiaoesp32s3")
        ticks = both.submit(the_clock_ticks, clock, clock_built.result(180))
        note.result(120)
        ticks.result(120)

        def reported() -> bool:
            return {one["id"] for one in server.get("/api/devices").json() if one["report"]} >= ours

        ours = {"xiaoesp32s3", "esp32c3supermini"}
        until(reported, 30, "a report of both on the server")
