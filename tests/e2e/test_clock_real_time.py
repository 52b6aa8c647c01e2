"""The clock in real time against a real NTP server: chrony on loopback."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from sim.board import Board, Edge

ROOT = Path(__file__).parents[2]
MINUTE_US = 60_000_000
MODES = sorted(path.stem for path in (ROOT / "firmware" / "clock" / "modes").glob("*.py") if path.stem != "__init__")


def test_two_minutes_of_each_mode(tmp_path: Path, chrony_port: int) -> None:
    """60 pulses a minute, of strictly alternating polarity, the 60th within 20 ms of the minute."""
    description = json.loads((ROOT / "boards" / "esp32c3-supermini" / "board.json").read_text())
    with ExitStack() as stack:
        boards = []
        for mode in MODES:
            config = {
                "app": "clock",
                "device": mode,
                "wifi": [{"ssid": "home", "password": "a good password"}],
                "ntp": [f"127.0.0.1:{chrony_port}"],
                "timezone": "UTC0",
                "mode": mode,
                "seed": 7,
                "hands": time.strftime("%I:%M:%S", time.gmtime(time.time() + 3)),
            }
            board = stack.enter_context(Board(tmp_path / mode, board=description, config=config, mode="real"))
            board.start()
            boards.append(board)
        boards[0].run_until(lambda: all("synced, within" in board.console for board in boards), timeout_s=30)
        began_us = boards[0].utc_us(boards[0].now_us)
        # Up to a minute until the first whole one begins; the first seconds may still be catching up.
        first_us = -(-(began_us + 5_000_000) // MINUTE_US) * MINUTE_US
        boards[0].run((first_us + 2 * MINUTE_US + 1_500_000 - began_us) / 1e6)
        for mode, board in zip(MODES, boards, strict=True):
            for minute_us in (first_us, first_us + MINUTE_US):
                check_minute(mode, board, minute_us)


def check_minute(mode: str, board: Board, minute_us: int) -> None:
    coil = set(board.board["pins"]["coil"])
    # A pulse that is due at the minute may begin some milliseconds on either side of it.
    rises = [
        Edge(edge.pin, edge.level, board.utc_us(edge.t_us) - minute_us)
        for edge in board.edges
        if edge.level and edge.pin in coil and 100_000 < board.utc_us(edge.t_us) - minute_us <= MINUTE_US + 100_000
    ]
    assert len(rises) == 60, (mode, len(rises), board.console[-1000:])
    assert all(one.pin != other.pin for one, other in pairwise(rises)), mode
    print(f"{mode}: the 60th pulse {(rises[-1].t_us - MINUTE_US) / 1000:+.1f} ms from the minute")
    assert abs(rises[-1].t_us - MINUTE_US) <= 20_000, (mode, rises[-1].t_us - MINUTE_US)
