"""`offbeat-board install`: the firmware of this tree, compiled for the board that is on the cable.

The board starts the modules of the folder that its file `/active` names (firmware/main.py). The new ones go into the
other folder, and the file is replaced by one rename when all of them are there and checked. So a cut at any moment
leaves a board that starts what it started before, or the whole of the new, and the same command completes it. The one
exception: where a clock becomes a pendant or the other way round, two files change, and a cut between their renames
leaves a board that starts nothing until the command was run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import board_description
import board_port
import package
from board_port import Cable, Trouble, add_port, stopped

OLDEST_MICROPYTHON = (1, 24)
NOTES = "/notes"
SPARE_BLOCKS = 8  # for what LittleFS itself needs, and for `active`

#: On the board: what is under a folder, as {path: (bytes, SHA-256)}; nothing of a folder that it has not.
DIGESTS = """
import os, hashlib, binascii
def digest(path):
    h = hashlib.sha256()
    b = memoryview(bytearray(1024))
    n = 0
    with open(path, "rb") as f:
        while True:
            c = f.readinto(b)
            if not c:
                return n, binascii.hexlify(h.digest()).decode()
            h.update(b[:c])
            n += c
def digests(folder, below="", found=None):
    found = {} if found is None else found
    try:
        names = list(os.ilistdir(folder))
    except OSError as e:
        if e.errno != 2:
            raise
        return found
    for name in names:
        path = folder + "/" + name[0]
        if name[1] == 0x4000:
            digests(path, below + name[0] + "/", found)
        else:
            found[below + name[0]] = digest(path)
    return found
"""

#: On the board: which gadget its settings are of; they hold secrets, so no more of them comes over the cable.
SETTINGS_OF = "__import__('json').load(open('/config.json')).get('app')"

#: On the board: a folder with its parents, without failing where one is there; what is there but not wanted goes.
FOLDERS = """
import os
def folders(path):
    at = path.find("/", 1)
    while at > 0:
        try:
            os.mkdir(path[:at])
        except OSError as e:
            if e.errno != 17:
                raise
        at = path.find("/", at + 1)
def copy(source, target):
    folders(target)
    b = memoryview(bytearray(1024))
    with open(source, "rb") as s, open(target, "wb") as t:
        while True:
            c = s.readinto(b)
            if not c:
                break
            t.write(b[:c])
def clear(folder, kept, below=""):
    for name in list(os.ilistdir(folder)):
        path = folder + "/" + name[0]
        if name[1] == 0x4000:
            clear(path, kept, below + name[0] + "/")
            if not os.listdir(path):
                os.rmdir(path)
        elif below + name[0] not in kept:
            os.remove(path)
"""


class About(NamedTuple):
    """What a board says of itself. chip: as in board.json. mpy: what its modules are for (tools/package.py)."""

    version: tuple[int, ...]
    machine: str
    chip: str
    mpy: int


class Installed(NamedTuple):
    """What an installation did. sent: bytes that went over the cable. changed: False if all was there already."""

    board: str
    app: str
    version: str
    files: int
    sent: int
    changed: bool


def about(cable: Cable) -> About:
    """Ask the board. Trouble for a MicroPython that is too old, or for another chip's."""
    cable.run("import sys")
    version, machine, mpy = cable.value(
        "(tuple(sys.implementation[1][:3]), getattr(sys.implementation, '_machine', ''), "
        "getattr(sys.implementation, '_mpy', 0) & 65535)"
    )
    shown = ".".join(str(part) for part in version)
    if tuple(version) < OLDEST_MICROPYTHON:
        raise Trouble(
            f"MicroPython {shown} is on the board, and 1.24 or later is needed: take the newest from "
            "https://micropython.org/download/ and `offbeat-board flash` it"
        )
    found = re.search(r"with ESP32-?([CHPS]\d)?", machine, re.IGNORECASE)
    if found is None:
        raise Trouble(f"the board calls itself {machine!r}: that is no ESP32")
    return About(tuple(version), machine, "esp32" + (found[1] or "").lower(), mpy)


def choose(cable: Cable, chip: str, name: str | None, app: str | None) -> tuple[dict[str, Any], bool]:
    """(the description of the board, whether it has to be written to it). Raises Trouble, with what to choose from.

    What is on the board already stays if it is of the same board: it may hold what the calibration found.
    """
    there = None
    if cable.exists("/board.json"):
        try:
            there = dict(json.loads(cable.read("/board.json")))
        except ValueError:  # cut off while somebody copied it by hand: it is written anew
            there = None
    known = {}
    for candidate in board_description.names():
        board = board_description.load(candidate)
        if board["chip"] == chip and app in (None, board["app"]):
            known[candidate] = board
    if name is not None:
        if name not in known:
            try:
                board = board_description.load(name)
            except ValueError as error:
                raise Trouble(str(error)) from error
            raise Trouble(
                f"{name} is a {board['app']} with the chip {board['chip']}, but on the cable is an {chip}"
                + (f", and a {app} was asked for" if app else "")
            )
        wanted = known[name]
    elif there and app in (None, there.get("app")):
        if there.get("chip") != chip:
            raise Trouble(f"its board.json is of an {there.get('chip')}, but on the cable is an {chip}: say --board")
        wanted = there
    elif len(known) == 1:
        wanted = next(iter(known.values()))
    elif known:
        raise Trouble(f"which board is it? Say --board with one of: {', '.join(known)} (see boards/)")
    else:
        raise Trouble(f"no board of boards/ is {'a ' + app if app else 'anything'} with the chip {chip}")
    if there and there.get("name") == wanted["name"] and there.get("app") == wanted["app"]:
        return there, False
    return wanted, True


def state_of(cable: Cable) -> dict[str, Any]:
    """What `/active` holds, read as main.py reads it."""
    if not cable.exists("/active"):
        return {}
    try:
        state = json.loads(cable.read("/active"))
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}


def install(
    cable: Cable,
    name: str | None = None,
    app: str | None = None,
    bar: Callable[[int, int], None] = lambda done, total: None,
    firmware: Path = package.FIRMWARE,
) -> Installed:
    """Make the board start this tree's firmware at its next start. bar: called with the bytes done and to do.

    name: of the board, a folder of boards/; app: "clock" or "pendant"; None: found out. Raises Trouble.
    """
    board = about(cable)
    description, write_description = choose(cable, board.chip, name, app)
    app = description["app"]
    if (
        write_description
        and app != "pendant"
        and cable.exists(NOTES)
        and cable.value(f"__import__('os').listdir({NOTES!r})")
    ):
        raise Trouble(
            f"notes that were not sent are on this board, and a {app} would never send them: `offbeat-board "
            "backup-notes DIR --delete` takes them off first"
        )
    with tempfile.TemporaryDirectory() as temporary:
        packed = Path(temporary) / "package"
        try:
            manifest = package.package(app, board.mpy, packed, firmware)
        except package.PackageError as error:
            raise Trouble(str(error)) from error
        contents = {path: (packed / path).read_bytes() for path, _, _ in manifest["files"]}
    wanted = {path: (length, sha256) for path, length, sha256 in manifest["files"]}
    main = (firmware / "main.py").read_bytes()
    cable.run(DIGESTS)
    cable.run(FOLDERS)

    state = state_of(cable)
    active = state.get("active", "")
    running = cable.value(f"digests({'/' + active!r})") if active else {}
    main_there = _digest(cable, "/main.py")
    sent = 0
    changed = write_description
    target = active
    if running != wanted or "trial" in state:
        changed = True
        if "trial" in state:  # of an update over the air, in the very folder that is about to change
            cable.replace("/active", json.dumps({"active": active}).encode())
        target = "b" if active == "a" else "a"
        sent = fill(cable, "/" + target, wanted, contents, "/" + active if active else "", running, bar)
    if write_description:
        cable.replace("/board.json", json.dumps(description).encode())
    if target != active:
        cable.replace("/active", json.dumps({"active": target}).encode())
    # After `active`: what was there started the old modules, and starts the new ones as well, as over the air.
    if main_there != (len(main), hashlib.sha256(main).hexdigest()):
        cable.replace("/main.py", main)
        sent, changed = sent + len(main), True
    return Installed(description["name"], app, manifest["version"], len(wanted), sent, changed)


def _digest(cable: Cable, path: str) -> tuple[int, str] | None:
    """(bytes, SHA-256) of a file of the board; None if there is none. After DIGESTS."""
    if not cable.exists(path):
        return None
    length, sha256 = cable.value(f"digest({path!r})")
    return length, sha256


def fill(
    cable: Cable,
    folder: str,
    wanted: dict[str, tuple[int, str]],
    contents: dict[str, bytes],
    beside: str,
    running: dict[str, tuple[int, str]],
    bar: Callable[[int, int], None],
) -> int:
    """Make a folder that does not run hold exactly these files, and check each. Returns the bytes sent for it.

    What is in it already stays; what is in the running folder `beside` is copied on the board.
    """
    cable.run(f"folders({folder + '/'!r})\nclear({folder!r}, {set(wanted)!r})")
    there = cable.value(f"digests({folder!r})")
    missing = [path for path in wanted if there.get(path) != wanted[path]]
    _check_room(cable, [wanted[path][0] for path in missing])
    total, done, sent = sum(wanted[path][0] for path in missing), 0, 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        bar(done, total)

    for path in missing:
        target = f"{folder}/{path}"
        if running.get(path) == wanted[path]:
            cable.feed(f"copy({beside + '/' + path!r}, {target!r})")
            advance(wanted[path][0])
        else:
            cable.feed(f"folders({target!r})")
            cable.write(target, contents[path], advance)
            sent += wanted[path][0]
    if cable.value(f"digests({folder!r})") != wanted:
        raise Trouble(
            "what arrived on the board is not what was sent; what ran before still does. Try another cable or port, "
            "and run the same command again"
        )
    return sent


def _check_room(cable: Cable, lengths: list[int]) -> None:
    fields = cable.value("os.statvfs('/')")
    block_bytes, free = fields[1], fields[4]
    needed = sum(length // block_bytes + 1 for length in lengths) + 2 * SPARE_BLOCKS if lengths else 0
    if needed > free:
        raise Trouble(
            f"no room on the board: {needed * block_bytes // 1024} KiB are needed, and "
            f"{free * block_bytes // 1024} KiB are free. Do notes that were not sent fill it? "
            "`offbeat-board backup-notes DIR --delete` makes room"
        )


def run(options: argparse.Namespace) -> None:
    with stopped(options.port) as cable:
        with board_port.bar("to the board") as bar:
            done = install(cable, options.board, options.app, bar)
        settings_of = cable.exists("/config.json") and cable.value(SETTINGS_OF)
    print(
        f"{done.board}: {done.app} {done.version}, {done.files} modules, "
        + (f"{done.sent} bytes sent" if done.changed else "all of it was there already")
    )
    if settings_of == done.app:
        print("it starts now")
    else:
        why = f"its settings are of a {settings_of}" if settings_of else "it does not know its WiFi yet"
        print(f"next: `offbeat-board setup`, for {why}")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("install", help="put the firmware of this tree on the board, or bring it up to date")
    add_port(parser)
    parser.add_argument("--app", choices=package.APPS, help="which gadget; found out where only one is possible")
    parser.add_argument("--board", help=f"which board, a folder of boards/: {', '.join(board_description.names())}")
    parser.set_defaults(run=run)
