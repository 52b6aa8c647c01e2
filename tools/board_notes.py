"""`offbeat-board backup-notes` and `reset`: notes that were not sent come off the board before anything drops them."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import board_port
from board_install import DIGESTS, NOTES
from board_port import Cable, Trouble, add_port, stopped

#: What `reset` leaves in the board's root: the firmware, and what the board is. All other files are the owner's.
KEPT = ("main.py", "boot.py", "active", "board.json")

#: On the board: the files of a folder are removed, and the folder.
DROP = """
import os
def drop(folder):
    for name in list(os.ilistdir(folder)):
        if name[1] == 0x8000:
            os.remove(folder + "/" + name[0])
    os.rmdir(folder)
"""


#: On the board: forget what a clock's owner chose (clock.store), but not where its hands stand. True if there was any.
FORGET = """
import esp32
def forget():
    nvs, gone = esp32.NVS("clock"), False
    for key in ("mode", "goal", "changed"):
        try:
            nvs.erase_key(key)
            gone = True
        except OSError:
            pass  # ESP_ERR_NVS_NOT_FOUND
    nvs.commit()
    return gone
"""


class Note(NamedTuple):
    """A file of the board's spool. name: as it is there; file: what it is called on the desk."""

    name: str
    file: str
    length: int
    sha256: str


def waiting(cable: Cable) -> list[Note]:
    """All files of the spool, the oldest first: whole notes, one that was being written, what was set aside."""
    cable.run(DIGESTS)
    found = cable.value(f"digests({NOTES!r})")
    notes = []
    for name in sorted(found):
        length, sha256 = found[name]
        # `storing` is the name of each note while it is written: two of them are not the same one.
        file = name if name.endswith((".wav", ".bad")) else f"{name}-{sha256[:16]}.wav"
        notes.append(Note(name, file, length, sha256))
    return notes


def backup(cable: Cable, folder: Path, bar: Callable[[int, int], None] = lambda done, total: None) -> list[Note]:
    """Copy the notes into a folder; what is there already, whole, stays. Returns those that the board holds.

    Each one is on the disk, with its name, and was read again from there and is what the board has, when this returns.
    Raises Trouble.
    """
    notes = waiting(cable)
    done, total = 0, sum(note.length for note in notes)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        bar(done, total)

    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in made:
            _sync_folder(path.parent)
        for note in notes:
            target = folder / note.file
            if target.exists():
                if not _is(target, note):
                    raise Trouble(f"{target} is there already and is another file: name another folder")
                advance(note.length)
                continue
            cable.feed()
            part = target.with_name(target.name + ".part")
            with part.open("wb") as file:
                file.write(cable.read(f"{NOTES}/{note.name}", advance))
                file.flush()
                os.fsync(file.fileno())
            if not _is(part, note):
                part.unlink()
                raise Trouble(f"{note.name} did not arrive whole: run the same command again. It is still on the board")
            part.rename(target)
        _sync_folder(folder)
    except OSError as error:
        raise Trouble(f"{folder} cannot be written ({error.strerror}). The notes are still on the board") from error
    return notes


def _sync_folder(path: Path) -> None:
    """Returns when the names in the folder are on the disk. On Windows a folder cannot be opened, so not there."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is(path: Path, note: Note) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == note.sha256


def delete(cable: Cable, notes: list[Note], folder: Path) -> None:
    """Remove notes from the board that are in the folder. Trouble if one of them is not, before any is removed."""
    for note in notes:
        if not (folder / note.file).exists() or not _is(folder / note.file, note):
            raise Trouble(f"{note.file} is not in {folder}, so nothing was deleted on the board")
    for note in notes:
        cable.run(f"import os\nos.remove({NOTES + '/' + note.name!r})")


def reset(cable: Cable, drop_notes: bool) -> list[str]:
    """Remove what `setup` and the use of it put on the board; the firmware stays, and the place of a clock's hands.

    Returns the names of what went. Raises Trouble while there are notes, unless drop_notes. `config.json` goes last: a
    reset that is cut off is completed by another one, and until then the board is set up, or asks to be.
    """
    notes = waiting(cable)
    if notes and not drop_notes:
        raise Trouble(
            f"{len(notes)} notes on the board were not sent, and would be lost. `offbeat-board backup-notes DIR` saves "
            "them; to lose them: reset --drop-notes"
        )
    cable.run(DROP)
    names = cable.value("[f[0] for f in os.ilistdir('/') if f[1] == 0x8000]")
    gone = sorted((name for name in names if name not in KEPT), key=lambda name: (name == "config.json", name))
    if cable.exists(NOTES):
        cable.run(f"drop({NOTES!r})")
    cable.run(FORGET)
    choices = ["the clock's mode and hold"] if cable.value("forget()") else []
    for name in gone:
        cable.run(f"os.remove({'/' + name!r})")
    return choices + gone


def run_backup(options: argparse.Namespace) -> None:
    with stopped(options.port) as cable:
        with board_port.bar("from the board") as bar:
            notes = backup(cable, options.folder, bar)
        if options.delete:
            delete(cable, notes, options.folder)
    if not notes:
        print("no note waits on the board")
        return
    print(f"{len(notes)} notes are in {options.folder}, each checked against the board's", end="")
    print(
        ", and deleted on the board"
        if options.delete
        else "; they are on the board, too, and it goes on sending them (--delete takes them off it)"
    )


def run_reset(options: argparse.Namespace) -> None:
    with stopped(options.port) as cable:
        if not options.yes and not _agreed(options.drop_notes):
            raise Trouble("nothing was changed")
        gone = reset(cable, options.drop_notes)
    print(f"gone: {', '.join(gone) or 'nothing, there was nothing'}. Next: `offbeat-board setup`")
    print("its token is valid until you end it: `offbeat device revoke NAME` on the server")


def _agreed(drop_notes: bool) -> bool:
    notes = " and every note that was not sent" if drop_notes else ""
    try:
        answer = input(f"This removes its WiFi, server and settings{notes} from the board. Type yes to go on: ")
    except EOFError as error:
        raise Trouble("nobody is there to ask: say --yes") from error
    return answer.strip().lower() == "yes"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("backup-notes", help="copy the notes that were not sent off the board")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to; made if it is missing")
    add_port(parser)
    parser.add_argument("--delete", action="store_true", help="then delete them on the board")
    parser.set_defaults(run=run_backup)
    parser = subparsers.add_parser("reset", help="remove what setup and use put there; the firmware stays")
    add_port(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--drop-notes", action="store_true", help="even if notes that were not sent are lost")
    parser.set_defaults(run=run_reset)
