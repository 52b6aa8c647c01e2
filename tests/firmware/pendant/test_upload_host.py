"""Sending over real TLS from the simulated board: who is trusted, and how many connections it takes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from sim.board import FIRMWARE


def start(board: Any) -> Any:
    board.start()
    board.run_until(lambda: "ready:" in board.console, timeout_s=10)
    return board


def record(board: Any, seconds: float = 1.0) -> None:
    before = board.console.count("\nstored ")
    board.press()
    board.run(seconds)
    board.release()
    board.run_until(lambda: board.console.count("\nstored ") > before, timeout_s=20)


@pytest.mark.parametrize("fault", ["another name", "expired"])
def test_a_server_with_a_wrong_certificate_gets_nothing(
    pendant: Any, server: Any, certificate: Any, fault: str
) -> None:
    """The very certificate that is pinned: what is wrong is its name, or that its time is over."""
    wrong = {"another name": {"name": "offbeat.example"}, "expired": {"days_before": 30, "days_after": -1}}[fault]
    bad = type(server)(lambda: certificate(**wrong))
    try:
        place = {"server": {"host": "127.0.0.1", "port": bad.port}}
        board = start(pendant(config=place, files={"server.der": bad.der}))
        record(board)
        board.run(60)
        assert bad.requests == [] and bad.connections >= 2 and "error: talking to the server" in board.console
        board.cut_power()
        start(board)
        board.run(20)
        assert bad.requests == [] and "delivered" not in board.console, "the note is gone"
    finally:
        bad.close()


def test_a_board_without_time_freshly_powered_delivers(pendant: Any, server: Any, tmp_path: Path) -> None:
    firmware = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, firmware)
    app = firmware / "main.py"
    app.write_text("import time\n\nprint('the clock begins at', time.time())\n" + app.read_text())
    board = start(pendant(firmware=firmware))
    (began_s,) = re.findall(r"the clock begins at (\d+)", board.console)
    assert int(began_s) < 60, "seconds since 2000: not a board without time"
    record(board)
    board.run_until(lambda: server.complete, timeout_s=30)


def test_one_connection_for_all_that_waits(pendant: Any, server: Any) -> None:
    board = pendant()
    board.wifi(False)
    start(board)
    for _ in range(6):
        record(board, 0.6)
    assert server.connections == 0
    board.wifi(True)
    board.run_until(lambda: len(server.complete) == 6, timeout_s=700)
    assert server.connections == 1
    assert [line.split("-")[1] for line in server.requests if line.startswith("PATCH")] == [
        note_id[-16:] for note_id in re.findall(r"^stored (\S+)$", board.console, re.MULTILINE)
    ], "not the oldest first"
