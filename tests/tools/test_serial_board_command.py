"""`make board`: what a person types, and what they see."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from board_port import Cable

TOOLS = Path(__file__).parents[2] / "tools"


def test_a_board_is_lent_pressed_watched_unplugged_and_taken_away(tmp_path: Path) -> None:
    link = tmp_path / "port"
    command = [sys.executable, str(TOOLS / "serial_board.py"), "--folder", str(tmp_path / "board"), "--link", str(link)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        seen: list[str] = []
        reader = threading.Thread(target=lambda out: seen.extend(out), args=(process.stdout,))
        reader.start()

        def say(line: str) -> None:
            process.stdin.write(line + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]

        def until(line: str, times: int = 1) -> None:
            deadline = time.monotonic() + 20
            while sum(line in one for one in seen) < times:
                assert time.monotonic() < deadline and process.poll() is None, (line, seen)
                time.sleep(0.05)

        try:
            until("its WiFi: home, password secret-password")
            until("say FILE")
            with Cable(str(link)) as cable:
                cable.run(
                    "from machine import Pin\nbutton = Pin(1, Pin.IN, Pin.PULL_UP)\nlight = Pin(8, Pin.OUT, value=1)"
                )
                assert cable.value("button.value()") == 1
                say("press")
                deadline = time.monotonic() + 10
                while cable.value("button.value()"):
                    assert time.monotonic() < deadline
                cable.run("light.value(0)")  # it lights when it is low
                until("light on\n")
                cable.run("Pin(3, Pin.OUT, value=1)")
                until("tick 1\n")
                cable.write("/kept", b"there")
            say("nonsense")
            until("say FILE", 2)
            say("unplug\nplug")
            with Cable(str(link)) as cable:
                assert cable.read("/kept") == b"there"
                assert cable.value("__import__('machine').reset_cause()") == 5  # of reaching the prompt
            say("quit")
            assert process.wait(20) == 0
            assert not link.is_symlink()
        finally:
            process.kill()
            reader.join(10)
