"""`offbeat-board logs` and `shell`: what the board prints, and MicroPython's prompt on it."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Any, TextIO

from board_port import AGAIN_S, APPEARS_S, Cable, Trouble, add_port, find, stopped
from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport

#: After this time at the prompt the watchdog, which the firmware started and nobody can stop, restarts the board.
SHELL_S = 3600


def follow(port: str, out: TextIO, seconds: float | None = None) -> None:
    """Write what the board prints to `out`, for ever or for so many seconds. The board notices nothing of it.

    A port that goes away comes back: a board with USB of its own leaves it at each reset and in its sleep. Trouble if
    it was not there within APPEARS_S. It is opened and closed by mpremote, which sets DTR and RTS in the order that
    does not reset a board whose loader hangs on them.
    """
    began = time.monotonic()
    patience_s = APPEARS_S if seconds is None else min(APPEARS_S, seconds / 2)
    seen = False
    while seconds is None or time.monotonic() < began + seconds:
        try:
            transport = SerialTransport(port, timeout=0.2)
        except (TransportError, OSError) as error:
            if not seen and time.monotonic() > began + patience_s:
                raise Trouble(f"{port} cannot be opened ({error}): is the board plugged in, and awake?") from error
            time.sleep(AGAIN_S)
            continue
        line, seen = transport.serial, True
        try:
            while seconds is None or time.monotonic() < began + seconds:
                try:
                    said = line.read(max(1, line.in_waiting))
                except OSError:  # pyserial's SerialException is one
                    out.write("\n(the board went away: it restarts, sleeps, or was unplugged; waiting)\n")
                    break
                out.write(said.decode(errors="replace").replace("\r\n", "\n"))
                out.flush()
        finally:
            try:
                transport.close()
            except OSError:  # it is gone already, and its name is free for its return only when this is closed
                line.close()


def run_logs(options: argparse.Namespace) -> None:
    port = find(options.port)
    if options.restart:
        with stopped(port):
            pass
    print(f"{port}: what it prints from now on; Ctrl-C ends this, and not the board", file=sys.stderr)
    try:
        follow(port, sys.stdout, options.seconds)
    except KeyboardInterrupt:
        print(file=sys.stderr)


def run_shell(options: argparse.Namespace) -> None:
    port = find(options.port)
    with Cable(port, watchdog_s=SHELL_S):
        pass
    print(f"the gadget stands still meanwhile, and starts by itself after {SHELL_S // 60} minutes at the latest")
    ended = subprocess.run([sys.executable, "-m", "mpremote", "connect", port, "resume", "repl"], check=False)
    with stopped(port):
        pass
    print("it starts again")
    if ended.returncode:
        raise Trouble(f"mpremote ended with {ended.returncode}")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("logs", help="show what the board prints")
    add_port(parser)
    parser.add_argument("--restart", action="store_true", help="restart it first, to see how it starts")
    parser.add_argument("--seconds", type=float, help="end after this time")
    parser.set_defaults(run=run_logs)
    parser = subparsers.add_parser("shell", help="MicroPython's prompt on the board (mpremote's repl)")
    add_port(parser)
    parser.set_defaults(run=run_shell)
