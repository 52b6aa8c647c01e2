"""A simulated board that behaves as one on a USB cable: `make board`.

    python tools/serial_board.py [--board xiao-esp32s3] [--folder DIR] [--link PATH]

`tools/offbeat-board` and mpremote connect to the printed path. Lines on the standard input are what a person does to
the board: `help` lists them. What its light and its coil do is printed.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "boards"))

from sim.board import Board, Edge  # noqa: E402
from sim.serial_board import SerialBoard  # noqa: E402

HELP = """press, release: the button    tap: both, 0.2 s apart    say FILE: the microphone hears that sound file
battery MILLIVOLTS    wifi off, wifi on    unplug, plug: the board's power    quit"""
BOARDS = ROOT / "boards"
DEFAULTS = {"clock": "esp32c3-supermini", "pendant": "esp32s3-generic"}


def describe(name: str) -> dict[str, Any]:
    """The description of a board of this repository. SystemExit, with the names there are."""
    file = BOARDS / name / "board.json"
    if not file.is_file():
        names = ", ".join(sorted(path.parent.name for path in BOARDS.glob("*/board.json")))
        sys.exit(f"board: no board {name!r}; there are {names}")
    description: dict[str, Any] = json.loads(file.read_text())
    return description


class Watch:
    """Says what a person would see of the board: its light, and each tick of a clock."""

    def __init__(self, board: Board) -> None:
        pins = board.board["pins"]
        self._light = pins["light"]
        self._light_on = 0 if board.board["light_active_low"] else 1
        self._coil = pins.get("coil", [])
        self._seen = 0
        self.ticks = 0

    def look(self, board: Board) -> None:
        new = board.edges[self._seen :]
        self._seen += len(new)
        if board.is_on:  # without power all levels fall, and an inverted light is not on by that
            for edge in new:
                self._say(edge)

    def _say(self, edge: Edge) -> None:
        if edge.pin == self._light:
            print("light", "on" if edge.level == self._light_on else "off", flush=True)
        elif edge.pin in self._coil and edge.level:
            self.ticks += 1
            print("tick", self.ticks, flush=True)


def obey(serial: SerialBoard, line: str) -> bool:
    """Do what a person typed. False: it was `quit`."""
    words = line.strip().split(maxsplit=1)
    button = serial.board.board["pins"]["button"]
    match words:
        case []:
            pass
        case ["press"] | ["release"]:
            serial.do(lambda board: board.touch(button, 0 if words == ["press"] else 1))
        case ["tap"]:
            serial.do(lambda board: board.press())
            time.sleep(0.2)
            serial.do(lambda board: board.release())
        case ["say", name] if Path(name).is_file():
            serial.do(lambda board: board.speak(name))
        case ["battery", millivolts] if millivolts.isdigit() and "battery" in serial.board.board["pins"]:
            serial.do(lambda board: board.voltage(board.board["pins"]["battery"], int(millivolts)))
        case ["wifi", "off" | "on"]:
            serial.do(lambda board: board.wifi(words[1] == "on"))
        case ["unplug"] | ["plug"] if serial.do(lambda board: board.is_on) == (words == ["unplug"]):
            serial.power(words == ["plug"])
        case ["quit"]:
            return False
        case _:
            print(HELP, flush=True)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", help="a folder of boards/; by default one for --app")
    parser.add_argument("--app", choices=DEFAULTS, default="clock")
    parser.add_argument("--folder", type=Path, help="where its flash is kept; by default .cache/board/NAME")
    parser.add_argument("--link", type=Path, default=ROOT / ".cache/board/port", help="a name that stays for its path")
    parser.add_argument("--fresh", action="store_true", help="begin with a blank flash")
    parser.add_argument("--wifi", nargs=2, metavar=("NAME", "PASSWORD"), default=("home", "secret-password"))
    options = parser.parse_args()
    name = options.board or DEFAULTS[options.app]
    folder = options.folder or ROOT / ".cache/board" / name
    if options.fresh:
        for path in (folder / "flash.img", folder / "nvs.json", folder / "console.txt"):
            path.unlink(missing_ok=True)
    with SerialBoard(folder, describe(name), air=dict([options.wifi])) as serial:
        serial.start()
        options.link.parent.mkdir(parents=True, exist_ok=True)
        options.link.unlink(missing_ok=True)
        options.link.symlink_to(serial.path)
        print(f"{name}: {serial.path}, also {options.link}; its WiFi: {options.wifi[0]}, password {options.wifi[1]}")
        print(HELP, flush=True)
        try:
            live(serial)
        except (KeyboardInterrupt, BrokenPipeError):
            pass
        finally:
            options.link.unlink(missing_ok=True)


def live(serial: SerialBoard) -> None:
    """Until `quit`; without a standard input, until Ctrl-C."""
    watch = Watch(serial.board)
    typed: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            typed.put(line)

    threading.Thread(target=read, daemon=True).start()
    while True:
        serial.do(watch.look)
        try:
            if not obey(serial, typed.get(timeout=0.05)):
                return
        except queue.Empty:
            continue


if __name__ == "__main__":
    main()
