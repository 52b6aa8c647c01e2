#!/usr/bin/env python3
"""The main job on one machine: a sentence spoken into a simulated pendant comes out of a webhook, and the clock ticks.

    make demo                 then watch the page; Enter speaks again, Ctrl-C ends
    make demo ONCE=1          ends by itself; the last line is the body that the webhook receiver got, as JSON
    make demo WAV=file.wav    speaks that file instead of the sentence

Everything is real but the boards' hardware: the firmware on MicroPython, the server, its model, TLS, the webhook. All
of it is on loopback, in a temporary folder, and nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "boards"), str(ROOT / "tools")]

from server_process import DEMO_MODEL, ServerProcess, WebhookReceiver  # noqa: E402
from sim.board import Board, BoardError, duration_s  # noqa: E402

SENTENCE = "remind me to call mum tomorrow"
SPEECH = ROOT / "tests" / "speech" / (SENTENCE.replace(" ", "-") + ".wav")
WIFI = {"ssid": "demo", "password": "in-the-air-of-one-machine"}
NTP = "ntp.sim"  # a time server inside the simulator


class DemoFailed(Exception):
    """A step did not work; the message says which, and what was seen."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Name what is being done, and name it again when it fails."""
    print(f"demo: {name}", flush=True)
    try:
        yield
    except DemoFailed as error:
        raise DemoFailed(f"{name}: {error}") from error
    except Exception as error:
        raise DemoFailed(f"{name}: {type(error).__name__}: {error}") from error


def make_board(folder: Path, server: ServerProcess, app: str, board: str, **config: Any) -> Board:
    """A simulated board, set up as a real one is: added to the server, whose certificate it pins."""
    added = server.add_device(app, app)
    return Board(
        folder / app,
        board=json.loads((ROOT / "boards" / board / "board.json").read_text()),
        config={
            "app": app,
            "device": added.id,
            "token": added.token,
            "server": {"host": "127.0.0.1", "port": server.device_port},
            "wifi": [WIFI],
            **config,
        },
        files={"server.der": added.certificate},
        mode="real",
    )


def speak(pendant: Board, sound: Path) -> None:
    """Press, speak, let go: as a person does, a moment after the press and a moment before the release."""
    pendant.press()
    pendant.run(0.4)
    pendant.speak(sound)
    pendant.run(duration_s(sound) + 0.3)
    pendant.release()


def await_body(receiver: WebhookReceiver, pendant: Board, clock: Board, server: ServerProcess) -> dict[str, Any]:
    """The next webhook's body."""
    count = len(receiver.received)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for board in (pendant, clock):
            board.run(0.05)
        if len(receiver.received) > count:
            return dict(receiver.received[count].json)
    raise DemoFailed(
        "no webhook within 60 s\n"
        f"the pendant's console ends:\n{pendant.console[-1500:]}\nthe server's log ends:\n{server.log()[-2000:]}"
    )


def run(once: bool, sound: Path) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="offbeat-demo-")))
        with step("start the webhook receiver"):
            receiver = stack.enter_context(WebhookReceiver())
        with step("tell the server of the receiver, a pendant and a clock"):
            server = ServerProcess(folder / "data", DEMO_MODEL)
            stack.callback(server.stop)
            server.add_destination(receiver.url)
            pendant = make_board(folder, server, "pendant", "xiao-esp32s3")
            stack.callback(pendant.close)
            clock = make_board(
                folder, server, "clock", "esp32c3-supermini",
                ntp=[NTP], timezone=zone_here(), mode="vetinari", seed=1, hands=time.strftime("%I:%M:%S"),
            )  # fmt: skip
            stack.callback(clock.close)
        with step("start the server"):
            server.start()
            link = server.command("sign-in").stdout.strip()
        with step("switch on the pendant and the clock (simulated boards, real firmware on MicroPython)"):
            clock.start()
            pendant.start()
            pendant.run(2.0)
        body = speak_and_wait(receiver, pendant, clock, server, sound)
        with step("read the text"):
            text = body["data"]["text"]
            print(f"demo: the webhook got: {text!r}")
            if sound == SPEECH and text != SENTENCE:
                raise DemoFailed(f"it came out as {text!r}, not as {SENTENCE!r}")
        with step("see the clock tick"):
            await_ticks(clock)
        if once:
            print(json.dumps(body, ensure_ascii=False), flush=True)
            return
        print(f"\ndemo: the page, signed in:  {link}\n")
        print("demo: Enter speaks again, Ctrl-C ends", flush=True)
        while True:
            try:
                for board in (pendant, clock):
                    board.run(0.05)
            except BoardError as error:
                raise DemoFailed(f"keep the boards running: {error}") from error
            if sys.stdin.isatty() and select.select([sys.stdin], [], [], 0)[0] and sys.stdin.readline():
                body = speak_and_wait(receiver, pendant, clock, server, sound)
                print(f"demo: the webhook got: {body['data']['text']!r}", flush=True)


def speak_and_wait(
    receiver: WebhookReceiver, pendant: Board, clock: Board, server: ServerProcess, sound: Path
) -> dict[str, Any]:
    with step(f"press, speak {sound.name}, let go"):
        speak(pendant, sound)
    with step("wait for the text at the receiver"):
        return await_body(receiver, pendant, clock, server)


def zone_here() -> str:
    """This machine's present offset from UTC, as a POSIX TZ string (whose sign is the other way round)."""
    minutes = -time.localtime().tm_gmtoff // 60
    return f"<here>{'-' if minutes < 0 else ''}{abs(minutes) // 60}:{abs(minutes) % 60:02}"


def await_ticks(clock: Board) -> None:
    coil = clock.board["pins"]["coil"]
    before = sum(edge.level for edge in clock.edges if edge.pin in coil)
    clock.run_until(lambda: sum(edge.level for edge in clock.edges if edge.pin in coil) >= before + 3, timeout_s=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--once", action="store_true", help="do it once and end")
    parser.add_argument("--wav", type=Path, help="speak this sound file instead")
    arguments = parser.parse_args()
    sound = SPEECH if arguments.wav is None else arguments.wav
    if not sound.is_file():
        sys.exit(f"demo: there is no file {sound}")

    def terminated(signal_number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    try:
        run(arguments.once, sound)
    except DemoFailed as error:
        sys.exit(f"demo: FAILED at: {error}")
    except KeyboardInterrupt:
        print("\ndemo: ended")
        if arguments.once:
            sys.exit(130)  # it did not get as far as it was asked to


if __name__ == "__main__":
    main()
