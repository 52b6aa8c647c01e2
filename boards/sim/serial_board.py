"""A simulated board on a pseudo-terminal, as on a USB cable; `make board` (tools/serial_board.py) lends one.

mpremote, or any terminal program, connects to its `path` and finds MicroPython's prompts, and real LittleFS behind
them; what is installed there then runs from there, in real time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
import tty
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sim.board import Board, BoardError, Console

CTRL_C = 3
LINE_FEED = 10
#: In what the board says: the next byte as it is, or one of these (sim/chip/repl.py).
ESCAPE = 0xFF
UNINTERRUPTED, INTERRUPTED, INTERRUPTIBLE, RAW, FRIENDLY = 0, 1, 3, 4, 5
#: What console.txt holds at most: of this run, and nothing of the raw prompt, at which files with secrets are read.
LOG_BYTES = 1 << 20
#: A program that has not noticed a Ctrl-C after this time is busy with something that never looks.
UNNOTICED_S = 0.5
STEP_S = 0.01


class SerialBoard:
    """A `Board` in real time, whose console is a pseudo-terminal, and the threads that keep both going.

    path: of the terminal, for mpremote. board: its description; what is on its file system at first is in `files`, else
    nothing: then it shows MicroPython's prompt and waits. options: further ones of `Board`.
    """

    def __init__(
        self, folder: Path | str, board: Mapping[str, Any], files: Mapping[str, bytes] | None = None, **options: Any
    ) -> None:
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(self._master, False)
        board_input, self._to_board = os.pipe()
        self._from_board, board_output = os.pipe()
        for end in (board_input, self._to_board, self._from_board):
            os.set_blocking(end, False)
        self._board_input = board_input
        self._ends = [self._master, board_input, self._to_board, self._from_board, board_output]
        name = f"Simulated board with {board['chip'].upper()}"
        self.board = Board(
            folder,
            board=board,
            config=None,
            files=files,
            mode="real",
            firmware=None,
            console=Console(board_input, board_output, name),
            **options,
        )
        self._log = (self.board.folder / "console.txt").open("wb", buffering=0)
        self._raw = False
        self.failure: BaseException | None = None
        self._escaped = False
        self._interruptible = False
        self._interrupted_at: float | None = None
        self._lock = threading.RLock()  # of the Board, which is not for several threads
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), daemon=True) for work in (self._pump, self._follow)
        ]

    def start(self) -> None:
        """Plug it in."""
        with self._lock:
            self.board.start()
        for thread in self._threads:
            thread.start()

    def do(self, action: Callable[[Board], Any]) -> Any:
        """Do something to the board, such as `lambda board: board.press()`, while nobody else does. Its failure, if it
        had one, is raised here."""
        with self._lock:
            if self.failure is not None:
                raise self.failure
            return action(self.board)

    def power(self, on: bool) -> None:
        """Cut its power, or bring it back. The terminal stays, which on a real cable goes with the power."""
        self.do(lambda board: board.start() if on else board.cut_power())
        if not on:
            self._escaped = self._interruptible = False
            with contextlib.suppress(BlockingIOError):  # what it had not read yet is gone
                os.read(self._board_input, 1 << 20)

    def close(self) -> None:
        self._ended.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(10)
        self.board.close()
        self._log.close()
        for end in self._ends:
            os.close(end)

    def __enter__(self) -> SerialBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The threads

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            while not self._ended.is_set():
                work()
        except BaseException as error:
            self.failure = error

    def _follow(self) -> None:
        """Resets and deep sleep: the board starts again."""
        with self._lock:
            self.board.run(0.001)
        self._ended.wait(STEP_S)

    def _pump(self) -> None:
        poller = select.poll()
        poller.register(self._from_board, select.POLLIN)
        poller.register(self._master, select.POLLIN)
        ready = dict(poller.poll(50))
        listened = not ready.get(self._master, 0) & select.POLLHUP
        if self._from_board in ready:
            self._board_says(os.read(self._from_board, 4096), listened)
        if ready.get(self._master, 0) & select.POLLIN:
            self._cable_says(self._read_master())
        elif not listened:
            self._ended.wait(STEP_S)  # poll() returns at once while nobody has the terminal open
        self._insist()

    def _read_master(self) -> bytes:
        try:
            return os.read(self._master, 4096)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EAGAIN):  # EIO: closed this very moment
                raise
            return b""

    def _board_says(self, data: bytes, listened: bool) -> None:
        text, logged = bytearray(), bytearray()
        for byte in data:
            before = len(text)
            if self._escaped and byte in (RAW, FRIENDLY):
                self._raw = byte == RAW
                self._escaped = False
            elif self._escaped and byte in (UNINTERRUPTED, INTERRUPTED, INTERRUPTIBLE):
                if byte != INTERRUPTED:
                    self._interruptible = byte == INTERRUPTIBLE
                self._interrupted_at = None
                self._escaped = False
            elif self._escaped or byte not in (ESCAPE, LINE_FEED):
                text.append(byte)
                self._escaped = False
            elif byte == ESCAPE:
                self._escaped = True
            else:
                text += b"\r\n"
            if not self._raw:
                logged += text[before:]
        if self._log.tell() < LOG_BYTES:
            self._log.write(bytes(logged).replace(b"\r\n", b"\n"))
        deadline = time.monotonic() + 1
        while text and listened:
            try:
                del text[: os.write(self._master, text)]
            except BlockingIOError:
                if time.monotonic() > deadline:  # open, but not read: as on a cable, it is lost
                    return
                time.sleep(0.001)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return

    def _cable_says(self, data: bytes) -> None:
        while data:
            at = data.find(CTRL_C) if self._interruptible else -1
            self._to(data if at < 0 else data[:at])
            if at < 0:
                return
            data = data[at + 1 :]
            self._interrupted_at = time.monotonic()
            with self._lock, contextlib.suppress(BoardError):  # it was just ending
                self.board.interrupt()

    def _to(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # a program that reads nothing: the chip's buffer overflows, too
            os.write(self._to_board, data)

    def _insist(self) -> None:
        if self._interrupted_at is not None and time.monotonic() > self._interrupted_at + UNNOTICED_S:
            self._interrupted_at = None
            with self._lock:
                self.board.interrupt_hard()
