"""Which port a board is on, and what is said where there is none."""

from __future__ import annotations

import os
import pty
from types import SimpleNamespace

import board_port
import pytest
from board_port import Cable, Trouble
from serial.tools import list_ports


@pytest.mark.parametrize(
    "name", ["/dev/ttyUSB0", "/dev/ttyACM0", "/dev/cu.usbserial-0001", "/dev/cu.usbmodem1101", "COM3"]
)
def test_the_only_port_that_looks_like_a_board_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    printer = SimpleNamespace(device="/dev/ttyS0", vid=None)
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


def test_a_port_without_a_board_behind_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(board_port, "TRIES", 2)
    monkeypatch.setattr(board_port, "AGAIN_S", 0.01)
    with pytest.raises(Trouble, match="COM99 cannot be opened"):
        Cable("COM99")
    master, slave = pty.openpty()
    with pytest.raises(Trouble, match=r"no prompt of MicroPython\. Asleep\?"), Cable(os.ttyname(slave)):
        raise AssertionError("nothing answered")
    os.close(master)
    os.close(slave)
    assert capsys.readouterr().out == ""
