"""The cable to a board: which port it is, and MicroPython's raw prompt behind it, by mpremote's own transport."""

from __future__ import annotations

import argparse
import ast
import contextlib
import errno
import io
import struct
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn

import serial
from mpremote.transport import TransportError, TransportExecError
from mpremote.transport_serial import SerialTransport
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from serial.tools import list_ports

#: USB vendors of the boards and of their serial chips: Espressif, Silicon Labs, WCH, FTDI, Seeed, Adafruit.
VENDORS = (0x303A, 0x10C4, 0x1A86, 0x0403, 0x2886, 0x239A)
NAMES = "/dev/ttyUSB0 or /dev/ttyACM0 on Linux, /dev/cu.usbserial-… or /dev/cu.usbmodem… on macOS, COM3 on Windows"
TRIES = 5
AGAIN_S = 0.5
#: A board with USB of its own leaves its port at each restart; for so long it is looked for.
APPEARS_S = 5.0
#: How long the board may say nothing; the SHA-256 of all notes of a full flash, 8 MB, is the longest.
ANSWER_S = 60.0
#: The firmware arms the watchdog, and nothing but a reset ends that. So it is made anew with this time, long enough for
#: what is done here and fed on the way; if the cable is pulled, the board starts by itself after it.
WATCHDOG_S = 300
#: The same for `setup` and `test`, in which people are asked.
LONGEST_S = 1800
PIECE_BYTES = 2048
CABLE_ERRORS = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADF)


class Trouble(Exception):
    """It cannot go on; the text says why and what to do."""


class BoardFailed(Trouble):
    """What the board was to do raised there."""

    def __init__(self, traceback: str) -> None:
        super().__init__(f"the board says: {traceback.strip()}")


def add_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", help=f"where the board is, such as {NAMES}; found by itself if there is only one")


def find(given: str | None) -> str:
    """The port that was named, or the only one that looks like a board, which may take APPEARS_S to come back from a
    restart. Raises Trouble, with those there are."""
    if given:
        return given
    until = time.monotonic() + APPEARS_S
    while not (found := sorted(port.device for port in list_ports.comports() if port.vid in VENDORS)):
        if time.monotonic() >= until:
            break
        time.sleep(AGAIN_S)
    if len(found) == 1:
        return found[0]
    if found:
        raise Trouble(f"several boards are here: {', '.join(found)}. Say which with --port")
    raise Trouble(
        f"no board found. Plug it in with a cable that carries data (many only charge), or name it with --port: {NAMES}"
    )


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, to be called with the bytes done and to do."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class Cable:
    """A board whose program was ended and which waits at the raw prompt.

    with Cable(port) as cable:
        cable.run("import os")
        cable.value("os.listdir()")

    At the end the board waits at its friendly prompt; `restart` starts its program instead. Raises Trouble when the
    port cannot be opened, or nothing that is MicroPython answers; of all that is done on it, `BoardFailed` when the
    board's own code raised, and Trouble when the cable or the board went away.
    """

    def __init__(self, port: str, watchdog_s: int = WATCHDOG_S) -> None:
        self.port = port
        self._watchdog_s = watchdog_s
        self._fed = time.monotonic()
        self._transport = _opened(port)

    def __enter__(self) -> Cable:
        try:
            self._reach()
            self.feed()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            if self._transport.in_raw_repl:
                self._transport.exit_raw_repl()
            self._transport.close()
        except OSError:  # pulled out
            self._transport.serial.close()

    def _reach(self) -> None:
        """Ends the program and resets softly, so that all of the memory is free and no timer is left."""
        for attempt in range(TRIES):
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # it prints what came instead
                    self._transport.enter_raw_repl(soft_reset=False, timeout_overall=2)
                self._transport.serial.write(b"\x04")
                self._transport.read_until(1, b"soft reboot\r\n", timeout_overall=5)
                if self._transport.read_until(1, b"CTRL-B to exit\r\n", timeout_overall=5).endswith(b"exit\r\n"):
                    return
            except TransportError:  # in the middle of its start, or of a call that takes long
                pass
            except OSError as error:  # a board with USB of its own that was just about to restart
                if attempt == TRIES - 1:
                    self._gone(error)
                with contextlib.suppress(OSError):
                    self._transport.serial.close()
                self._transport = _opened(self.port)
            if attempt < TRIES - 1:
                time.sleep(AGAIN_S)
        raise Trouble(
            f"{self.port}: no prompt of MicroPython. Asleep? Press its button, or plug it out and in, and try again "
            "within some seconds. No MicroPython on it yet? `offbeat-board flash IMAGE` first. Is another program, "
            "such as a serial monitor, on that port? Close it"
        )

    def _gone(self, error: Exception) -> NoReturn:
        raise Trouble(
            f"{self.port}: the board went away ({error}). Plug it in again; the same command takes it up"
        ) from error

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except TransportExecError as error:
            raise BoardFailed(error.error_output) from error
        except (TransportError, OSError, struct.error) as error:
            # mpremote also makes an OSError of one that the board's file system raised. struct.error: no answer.
            of_the_cable = isinstance(error, serial.SerialException) or getattr(error, "errno", None) in CABLE_ERRORS
            if isinstance(error, OSError) and not of_the_cable:
                raise BoardFailed(str(error)) from error
            self._gone(error)

    def run(self, program: str) -> str:
        """Run a program on the board; what it printed."""
        output, error = self._guarded(lambda: self._transport.exec_raw(program, timeout=ANSWER_S))
        if error:
            raise BoardFailed(error.decode(errors="replace"))
        return str(output.decode(errors="replace").replace("\r\n", "\n"))

    def value(self, expression: str) -> Any:
        """The value of an expression on the board, of the kinds that ast.literal_eval reads."""
        return ast.literal_eval(self.run(f"print(repr({expression}))").strip())

    def feed(self, program: str = "") -> None:
        """Another WATCHDOG_S until the board restarts by itself; then it runs `program`."""
        self.run(f"import machine\nmachine.WDT(timeout={self._watchdog_s * 1000}).feed()\n{program}")
        self._fed = time.monotonic()

    def _pieces(self, progress: Callable[[int], None]) -> Callable[[int, int], None]:
        """What mpremote calls after each piece of a file. A long file takes longer than the watchdog waits: feed it."""
        done = 0

        def report(so_far: int, _all: int) -> None:
            nonlocal done
            progress(so_far - done)
            done = so_far
            if time.monotonic() - self._fed > self._watchdog_s / 4:
                self.feed()

        return report

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder."""
        try:
            self.run(f"import os\nos.stat({path!r})")
        except BoardFailed as failure:
            if "ENOENT" not in str(failure):
                raise
            return False
        return True

    def read(self, path: str, progress: Callable[[int], None] = lambda count: None) -> bytes:
        """A file of the board. BoardFailed if there is none. progress: called with the number of each piece's bytes."""
        report = self._pieces(progress)
        return bytes(self._guarded(lambda: self._transport.fs_readfile(path, PIECE_BYTES, report)))

    def write(self, path: str, data: bytes, progress: Callable[[int], None] = lambda count: None) -> None:
        """Write a file as it comes; a cut leaves part of it. progress: called with the number of each piece's bytes."""
        report = self._pieces(progress)
        self._guarded(lambda: self._transport.fs_writefile(path, data, PIECE_BYTES, report))

    def replace(self, path: str, data: bytes) -> None:
        """Replace a file by one rename: whatever happens, it is the old one or the new one."""
        self.write(path + ".new", data)
        self.run(f"import os\nos.rename({path + '.new'!r}, {path!r})")

    def restart(self) -> None:
        """As if its power came back: main.py starts. The cable has no prompt any more."""
        try:
            self._transport.exec_raw_no_follow("import machine\nmachine.reset()")
            self._transport.in_raw_repl = False
        except (TransportError, OSError) as error:
            self._gone(error)


def _opened(port: str) -> SerialTransport:
    """The port, for this program alone. A board that was just plugged in, or restarts, may be a moment away."""
    until = time.monotonic() + APPEARS_S
    while True:
        try:
            transport = SerialTransport(port, timeout=ANSWER_S)
            # Where mpremote takes a port for a pseudo-terminal it reads without looking whether there is anything.
            transport.is_pty = False
            return transport
        except (TransportError, OSError) as error:
            if time.monotonic() >= until:
                text = (
                    f"{port} cannot be opened. Is it the right name ({NAMES}), is the board plugged in, and does no "
                    "other program use it?"
                )
                if sys.platform == "linux":
                    text += " If permission is denied: `sudo usermod -aG dialout $USER`, then log in anew"
                raise Trouble(text) from error
            time.sleep(AGAIN_S)


@contextlib.contextmanager
def stopped(port: str | None, watchdog_s: int = WATCHDOG_S) -> Iterator[Cable]:
    """A board whose program is ended; it starts again at the end, however that comes. A Trouble then says so."""
    with Cable(find(port), watchdog_s) as cable:
        try:
            yield cable
        except BaseException as error:
            try:
                if not isinstance(error, Trouble):  # as Ctrl-C, in the middle of an answer
                    cable._reach()
                cable.restart()
            except Trouble:  # gone: it starts when it is plugged in again, or by its watchdog
                raise error from None
            if isinstance(error, Trouble):
                raise Trouble(f"{error}\nThe board starts again, with what is on it") from error
            raise
        cable.restart()
