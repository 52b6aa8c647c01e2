"""The simulated board's serial console: byte for byte as pyexec.c speaks, and with the real mpremote."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial
from sim.board import FIRMWARE
from sim.serial_board import SerialBoard

BOARD = {"chip": "esp32c3", "pins": {"button": 1}}
QUICK = {"boot_us": 0, "littlefs_erase_us": 100}


@pytest.fixture
def board(tmp_path: Path) -> Iterator[SerialBoard]:
    with SerialBoard(tmp_path / "board", BOARD, costs=QUICK) as board:
        board.start()
        yield board


class Line:
    """The host's end, with nothing of mpremote in it."""

    def __init__(self, board: SerialBoard) -> None:
        self.port = serial.Serial(board.path, timeout=10)

    def until(self, ending: bytes) -> bytes:
        """What the board says up to `ending`, without it."""
        said = self.port.read_until(ending)
        assert said.endswith(ending), said
        return said[: -len(ending)]

    def say(self, data: bytes) -> None:
        self.port.write(data)


@pytest.fixture
def line(board: SerialBoard) -> Iterator[Line]:
    line = Line(board)
    with line.port:
        deadline = time.monotonic() + 10
        while not line.port.in_waiting:  # it says nothing while nobody listens, so ask until it is up
            assert time.monotonic() < deadline
            line.say(b"\r\x03")
            time.sleep(0.05)
        time.sleep(0.1)
        line.port.reset_input_buffer()
        yield line


def mpremote(board: SerialBoard, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mpremote", "connect", board.path, *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    return done.stdout


def test_the_raw_prompt_answers_byte_for_byte(line: Line) -> None:
    line.say(b"\x01")
    line.until(b"\r\nraw REPL; CTRL-B to exit\r\n>")
    line.say(b"print(6*7)\x04")
    assert line.until(b"\x04>") == b"OK42\r\n\x04"
    line.say(b"1/0\x04")
    trace = b'Traceback (most recent call last):\r\n  File "<stdin>", line 1, in <module>\r\n'
    assert line.until(b"\x04>") == b"OK\x04" + trace + b"ZeroDivisionError: divide by zero\r\n"
    line.say(b"print(1\x03print(2)\x04")  # Ctrl-C clears what was typed
    assert line.until(b"\x04>") == b"OK2\r\n\x04"
    line.say(b"\x04")
    assert line.until(b"raw REPL; CTRL-B to exit\r\n>") == b"OK\r\nMPY: soft reboot\r\n"
    line.say(b"\x02")
    assert re.fullmatch(
        rb"\r\nMicroPython v1\.\d+.*; Simulated board with ESP32C3\r\n"
        rb'Type "help\(\)" for more information\.\r\n',
        line.until(b">>> "),
    )


def test_raw_paste_lets_the_sender_be_two_windows_ahead(line: Line) -> None:
    line.say(b"\x01")
    line.until(b">")
    line.say(b"\x05A\x01")
    assert line.port.read(5) == b"R\x01\x80\x00\x01"  # understood; a window is 128 bytes, and there is one more
    program = b"print('%s')" % (b"x" * 247)
    assert len(program) == 256
    line.say(program[:128])
    assert line.port.read(1) == b"\x01"
    line.say(program[128:])
    assert line.port.read(1) == b"\x01"
    line.say(b"\x04")
    assert line.until(b"\x04>") == b"\x04" + b"x" * 247 + b"\r\n\x04"
    line.say(b"\x05A\x01")
    line.port.read(5)
    line.say(b"print(1)\x03")
    assert line.until(b">") == b"\x04\x04KeyboardInterrupt: \r\n\x04"
    line.say(b"\x05B\x01")
    assert line.until(b">") == b"R\x00"


def test_the_friendly_prompt_takes_lines_blocks_and_pastes(line: Line) -> None:
    line.say(b"\r")
    line.until(b">>> ")
    for typed, said in (
        (b"1+1\r", b"1+1\r\n2\r\n"),
        (b"12\x7f3\r", b"12\x08 \x083\r\n13\r\n"),
        (b"\x1b[A'a'\r", b"'a'\r\n'a'\r\n"),  # a cursor key does nothing here
        (b"for i in range(2):\r  i\r\r", b"for i in range(2):\r\n...   i\r\n... \r\n0\r\n1\r\n"),
        (b"\x05if 1:\r  print('p')\r\x04", None),
    ):
        line.say(typed)
        answer = line.until(b">>> ")
        assert answer.endswith(b"\r\np\r\n") if said is None else answer == said
    line.say(b"\x04")
    assert b"\r\nMPY: soft reboot\r\nMicroPython v1." in line.until(b">>> ")


def test_what_is_said_at_the_raw_prompt_is_not_kept_in_the_log(board: SerialBoard, line: Line) -> None:
    line.say(b"\x01print('a ' + 'secret')\x04")
    assert b"a secret" in line.until(b"\x04\x04>")
    line.say(b"\x02")
    line.until(b">>> ")
    line.say(b"print('an ' + 'answer')\r")
    line.until(b"an answer\r\n>>> ")
    assert "a secret" not in board.board.console and "an answer" in board.board.console


def test_the_log_is_of_this_run_alone(tmp_path: Path) -> None:
    (tmp_path / "console.txt").write_text("what an older run said")
    with SerialBoard(tmp_path, BOARD) as board:
        assert board.board.console == ""


@pytest.mark.parametrize("program", ["while True: pass", "import time\nwhile True: time.sleep(1)"])
def test_ctrl_c_ends_a_program_that_waits_and_one_that_does_not(line: Line, program: str) -> None:
    line.say(b"\x01" + program.encode() + b"\x04")
    line.until(b">OK")
    time.sleep(0.1)
    line.say(b"\x03")
    assert b"\x04Traceback" in line.until(b"KeyboardInterrupt: \r\n\x04>")


def test_a_program_may_catch_a_ctrl_c_and_go_on_to_the_next(line: Line) -> None:
    program = """
        import time
        for turn in range(2):
            try:
                print("waits")
                while True:
                    time.sleep(1)
            except KeyboardInterrupt:
                print("caught", turn)
        """
    line.say(b"\x01" + textwrap.dedent(program).encode() + b"\x04")
    for turn in (b"0", b"1"):
        line.until(b"waits\r\n")
        line.say(b"\x03")
        assert line.until(b"\r\n") == b"caught " + turn
    line.until(b"\x04\x04>")


def test_a_program_may_take_ctrl_c_as_a_byte_and_send_any_byte(line: Line) -> None:
    program = """
        import micropython, sys, select
        micropython.kbd_intr(-1)
        sys.stdout.buffer.write(b"!")
        poller = select.poll()
        poller.register(sys.stdin.buffer, select.POLLIN)
        got = b""
        while len(got) < 5:
            assert poller.poll(5000)
            got += sys.stdin.buffer.read(1)
        sys.stdout.buffer.write(bytes(range(256)) + got)
        """
    line.say(b"\x01" + textwrap.dedent(program).encode() + b"\x04")
    line.until(b">OK!")
    line.say(b"\x00\x03\xff\n\x04")
    assert line.until(b"\x00\x03\xff\n\x04\x04\x04>") == bytes(range(256))


def test_the_watchdog_runs_on_over_a_soft_reset(board: SerialBoard, line: Line) -> None:
    line.say(b"\x01import machine\nw = machine.WDT(timeout=1500)\x04")
    line.until(b"OK\x04\x04>")
    line.say(b"\x04")
    line.until(b"MPY: soft reboot\r\nraw REPL; CTRL-B to exit\r\n>")
    began = time.monotonic()
    line.until(b"MicroPython v1.")
    assert 0.5 < time.monotonic() - began < 3
    line.until(b">>> ")
    line.say(b"import machine; machine.reset_cause() == machine.WDT_RESET\r")
    assert b"\r\nTrue\r\n" in line.until(b">>> ")


def test_the_real_mpremote_copies_runs_mounts_and_resets(board: SerialBoard, tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    main.write_text("import time\nprint('main', __name__)\nwhile True: time.sleep(0.1)\n")
    source = FIRMWARE / "clock" / "app.py"
    assert mpremote(board, "exec", "import os; print(os.listdir('/'))") == "[]\n"
    mpremote(board, "mkdir", ":clock", "+", "cp", str(source), ":clock/app.py", "+", "cp", str(main), ":main.py")
    assert hashlib.sha256(source.read_bytes()).hexdigest() in mpremote(board, "sha256sum", ":clock/app.py")
    assert "'main.py'" in mpremote(
        board, "resume", "mount", str(tmp_path), "eval", "__import__('os').listdir('/remote')"
    )
    assert "main __main__" not in board.board.console
    mpremote(board, "reset")
    deadline = time.monotonic() + 10
    while "main __main__" not in board.board.console:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert mpremote(board, "eval", "6*7").strip() == "42"  # it ends the program by Ctrl-C
    board.power(False)
    board.power(True)
    deadline = time.monotonic() + 10
    while board.board.console.count("main __main__") < 2:  # from its own flash, after the cut as well
        assert time.monotonic() < deadline
        time.sleep(0.05)
