"""What a person types at `make board`, line by line as it comes from a terminal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import board_description
from serial_board import obey

SPEECH = Path(__file__).parents[1] / "speech" / "remind-me-to-call-mum-tomorrow.wav"


def test_lines_with_a_word_more_are_understood(capsys: Any) -> None:
    done: list[tuple[Any, ...]] = []
    board = SimpleNamespace(
        speak=lambda name: done.append(("speak", name)),
        wifi=lambda present: done.append(("wifi", present)),
        voltage=lambda pin, millivolts: done.append(("voltage", pin, millivolts)),
        board=board_description.load("xiao-esp32s3"),
    )
    board.board["pins"]["battery"] = 2
    serial: Any = SimpleNamespace(board=board, do=lambda action: action(board))
    for line in (f"say {SPEECH}\n", "wifi off\n", "wifi on\n", "battery 3500\n"):
        assert obey(serial, line)
    assert done == [("speak", str(SPEECH)), ("wifi", False), ("wifi", True), ("voltage", 2, 3500)]
    assert capsys.readouterr().out == ""
    assert obey(serial, "say no-such-file.wav\n") and "say FILE" in capsys.readouterr().out
    assert not obey(serial, "quit\n")
