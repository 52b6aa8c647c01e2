"""Which port a board is on, and what is said where there is none."""

from __future__ import annotations

import errno
import os
import pty
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import board_port
import pytest
from board_port import Cable, Trouble
from serial.tools import list_ports
from sim.serial_board import SerialBoard


@pytest.mark.parametrize(
    "name", ["/dev/ttyUSB0", "/dev/ttyACM0", "/dev/cu.usbserial-0001", "/dev/cu.usbmodem1101", "COM3"]
)
def test_the_only_port_that_looks_like_a_board_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    printer = SimpleNamespace(device="/dev/ttyS0", vid=None)
    monkeypatch.setattr(board_port, "APPEARS_S", 0.0)
    ports = [printer, SimpleNamespace(device=name, vid=0x303A)]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    assert board_port.find(None) == name
    assert board_port.find("/dev/other") == "/dev/other"
    ports.append(SimpleNamespace(device="COM9", vid=0x10C4))
    with pytest.raises(Trouble, match=r"several boards are here: .*COM9.*Say which with --port"):
        board_port.find(None)
    del ports[1:]
    with pytest.raises(Trouble, match="cable that carries data"):
        board_port.find(None)
    # One that restarts is back a moment later.
    monkeypatch.setattr(board_port, "APPEARS_S", 5.0)
    monkeypatch.setattr(board_port, "AGAIN_S", 0.01)
    looks = iter([[], [], [SimpleNamespace(device=name, vid=0x303A)]])
    monkeypatch.setattr(list_ports, "comports", lambda: next(looks))
    assert board_port.find(None) == name


def test_a_board_starts_again_however_a_command_ends_and_a_refusal_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    class Board:
        def __init__(self, _port: str, watchdog_s: int) -> None:
            assert watchdog_s == 7

        def __enter__(self) -> Board:
            return self

        def __exit__(self, *_error: object) -> None:
            pass

        def _reach(self) -> None:
            done.append("reached")

        def restart(self) -> None:
            done.append("restarted")

    monkeypatch.setattr(board_port, "Cable", Board)
    with board_port.stopped("a port", 7):
        pass
    with pytest.raises(Trouble, match="no such network\nThe board starts again"), board_port.stopped("a port", 7):
        raise Trouble("no such network")
    assert done == ["restarted"] * 2
    with pytest.raises(KeyboardInterrupt), board_port.stopped("a port", 7):
        raise KeyboardInterrupt
    assert done[2:] == ["reached", "restarted"]


def test_a_board_that_leaves_its_port_to_restart_is_reached_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Transport:
        in_raw_repl = False

        def __init__(self, gone: bool) -> None:
            self.serial = SimpleNamespace(write=lambda _data: None, close=lambda: None)
            self._gone = gone

        def enter_raw_repl(self, **_options: Any) -> None:
            if self._gone:
                raise OSError(errno.EIO, "gone")

        def read_until(self, *_all: Any, **_options: Any) -> bytes:
            return b"CTRL-B to exit\r\n"

    transports = [Transport(True), Transport(False)]
    left = list(transports)
    monkeypatch.setattr(board_port, "_opened", lambda _port: left.pop(0))
    monkeypatch.setattr(board_port, "AGAIN_S", 0.01)
    cable = Cable("a port")
    cable._reach()
    assert cable._transport is transports[1]  # type: ignore[comparison-overlap]
    left.extend([Transport(True)] * board_port.TRIES)
    cable._transport = Transport(True)  # type: ignore[assignment]
    with pytest.raises(Trouble, match="went away"):
        cable._reach()


def test_a_file_that_takes_longer_than_the_watchdog_feeds_it(tmp_path: Path) -> None:
    with SerialBoard(tmp_path, {"chip": "esp32c3", "pins": {"button": 1}}) as board:
        board.start()
        with Cable(board.path, watchdog_s=2) as cable:
            cable.write("/note", bytes(4 * 2048))
            assert cable.read("/note", lambda _count: time.sleep(0.7)) == bytes(4 * 2048)


def test_where_a_program_cannot_be_replaced_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: after os.execv the shell would go on while the command still asks."""
    called: list[list[str]] = []
    ignored: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda *what: ignored.append(what))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "prefix", "/another")
    monkeypatch.setattr(sys, "argv", ["offbeat-board", "logs"])
    monkeypatch.setattr(os, "execv", lambda *_all: pytest.fail("replaced"))
    monkeypatch.setattr(subprocess, "call", lambda words: called.append(words) or 3)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(Path(__file__).parents[2] / "tools" / "offbeat-board"), run_name="__main__")
    assert ended.value.code == 3 and called[0][2:] == ["logs"]
    assert ignored == [(signal.SIGINT, signal.SIG_IGN)]


def test_a_port_without_a_board_behind_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(board_port, "TRIES", 2)
    monkeypatch.setattr(board_port, "APPEARS_S", 0.0)
    monkeypatch.setattr(board_port, "AGAIN_S", 0.01)
    with pytest.raises(Trouble, match="COM99 cannot be opened"):
        Cable("COM99")
    master, slave = pty.openpty()
    with pytest.raises(Trouble, match=r"no prompt of MicroPython\. Asleep\?"), Cable(os.ttyname(slave)):
        raise AssertionError("nothing answered")
    os.close(master)
    os.close(slave)
    assert capsys.readouterr().out == ""
