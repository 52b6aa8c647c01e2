"""`offbeat-board backup-notes`, `reset`, `logs` and `shell`, on the simulated serial board."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import board_command
import board_console
import board_notes
import pytest
from board_port import BoardFailed, Cable, Trouble
from mpremote.transport import TransportError
from sim.serial_board import SerialBoard

BOARD = {"chip": "esp32s3", "pins": {"button": 1}}
QUICK = {"boot_us": 0, "littlefs_erase_us": 0, "littlefs_program_ns_per_byte": 0}
TOOL = Path(__file__).parents[2] / "tools" / "offbeat-board"
NOTES = {
    "000001-0011223344556677.wav": b"RIFF" + bytes(range(256)) * 20,
    "000002-8899aabbccddeeff.wav": b"RIFF" + b"\n\x03\x04" * 1000,
    "storing": b"RIFF" + bytes(3000),
    "0123456789abcdef.bad": b"?" * 10,
}
MAIN = b"import time\nn = 0\nwhile True:\n  n += 1\n  print('alive', n)\n  time.sleep(0.2)\n"
OWNERS = {"/config.json": b"{}", "/settings.json": b"{}", "/server.der": b"der"}
FIRMWARE = {"/main.py": MAIN, "/active": b'{"active": "a"}', "/board.json": b"{}", "/a/device/config.mpy": b"M"}


@pytest.fixture
def board(tmp_path: Path) -> Iterator[SerialBoard]:
    notes = {"/notes/" + name: data for name, data in NOTES.items()}
    with SerialBoard(tmp_path / "board", BOARD, {**notes, **OWNERS, **FIRMWARE}, costs=QUICK) as board:
        board.start()
        yield board


def offbeat_board(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOL), *arguments], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip


def alive(board: SerialBoard, since: int = 0) -> bool:
    deadline = time.monotonic() + 10
    while "alive 2\n" not in board.board.console[since:]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_notes_are_copied_checked_and_stay_until_they_are_to_be_deleted(board: SerialBoard, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    since = len(board.board.console)
    done = offbeat_board("backup-notes", str(folder), "--port", board.path)
    assert done.returncode == 0 and "4 notes are in" in done.stdout, done
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(there.values()) == sorted(NOTES.values())
    assert there["000002-8899aabbccddeeff.wav"] == NOTES["000002-8899aabbccddeeff.wav"]
    assert alive(board, since)
    with Cable(board.path) as cable:
        assert sorted(cable.value("__import__('os').listdir('/notes')")) == sorted(NOTES)
        # What is there whole is not fetched again; what is there and is another file is not touched.
        cable.read = lambda path, progress: pytest.fail(path)  # type: ignore[method-assign,assignment,return-value]
        notes = board_notes.backup(cable, folder)
        (folder / "000001-0011223344556677.wav").write_bytes(b"another")
        with pytest.raises(Trouble, match="is there already and is another file"):
            board_notes.backup(cable, folder)
        with pytest.raises(Trouble, match=r"000001-0011223344556677\.wav is not in .*, so nothing was deleted"):
            board_notes.delete(cable, notes, folder)
        (folder / "000001-0011223344556677.wav").unlink()
        with pytest.raises(Trouble, match="so nothing was deleted"):
            board_notes.delete(cable, notes, folder)
        assert len(cable.value("__import__('os').listdir('/notes')")) == 4
    done = offbeat_board("backup-notes", str(folder), "--port", board.path, "--delete")
    assert done.returncode == 0 and "deleted on the board" in done.stdout, done
    assert sorted(path.read_bytes() for path in folder.iterdir()) == sorted(NOTES.values())
    with Cable(board.path) as cable:
        assert cable.value("__import__('os').listdir('/notes')") == []


def test_a_note_that_does_not_arrive_whole_is_not_kept_for_one(board: SerialBoard, tmp_path: Path) -> None:
    with Cable(board.path) as cable:
        whole = cable.read
        cable.read = lambda path, progress: whole(path, progress)[:-1]  # type: ignore[method-assign,assignment]
        with pytest.raises(Trouble, match="did not arrive whole"):
            board_notes.backup(cable, tmp_path / "notes")
        assert list((tmp_path / "notes").iterdir()) == []
        cable.read = whole  # type: ignore[method-assign]
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(Trouble, match="cannot be written"):
            board_notes.backup(cable, tmp_path / "file")


def test_the_names_are_on_the_disk_before_anything_is_deleted(
    board: SerialBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last thing that is synced is the folder, with all names in it; a folder that was made is, too."""
    synced: list[tuple[Path, list[str]]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        synced.append((path, os.listdir(path) if path.is_dir() else []))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = tmp_path / "of" / "notes"
    with Cable(board.path) as cable:
        notes = board_notes.backup(cable, folder)
        assert synced[-1][0] == folder and sorted(synced[-1][1]) == sorted(note.file for note in notes)
        assert {tmp_path, tmp_path / "of"} < {path for path, _ in synced}
        synced.clear()
        board_notes.backup(cable, folder)  # those that an earlier one fetched and did not sync, as it was ended
        assert synced[-1][0] == folder


def test_a_spool_that_cannot_be_read_does_not_count_as_empty(board: SerialBoard) -> None:
    with Cable(board.path) as cable:
        real = cable.run

        def broken(program: str) -> str:
            return real(program.replace("os.ilistdir(folder)", "(lambda: (_ for _ in ()).throw(OSError(5)))()"))

        cable.run = broken  # type: ignore[method-assign]
        with pytest.raises(BoardFailed, match="EIO"):
            board_notes.reset(cable, drop_notes=False)


def test_reset_asks_keeps_notes_unless_told_and_leaves_the_firmware(
    board: SerialBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_question: str) -> str:
        raise EOFError

    for arguments, answers, why in (
        ([], lambda _question: "no", "nothing was changed"),
        ([], nobody, "nobody is there to ask"),
        ([], lambda _question: "yes", "4 notes on the board were not sent"),
        (["--yes"], nobody, "backup-notes DIR"),
    ):
        monkeypatch.setattr("builtins.input", answers)
        with pytest.raises(SystemExit, match=why):
            board_command.main(["reset", "--port", board.path, *arguments])
    with Cable(board.path) as cable:
        assert {"config.json", "settings.json", "server.der", "notes"} <= set(cable.value("__import__('os').listdir()"))
    since = len(board.board.console)
    done = offbeat_board("reset", "--port", board.path, "--yes", "--drop-notes")
    assert done.returncode == 0 and "gone: server.der, settings.json, config.json" in done.stdout, done
    assert alive(board, since)
    with Cable(board.path) as cable:
        assert sorted(cable.value("__import__('os').listdir()")) == ["a", "active", "board.json", "main.py"]


def test_reset_forgets_what_was_chosen_at_a_clock_but_not_where_its_hands_stand(tmp_path: Path) -> None:
    store = Path(__file__).parents[2] / "firmware" / "clock"
    files = {f"/clock/{name}.py": (store / f"{name}.py").read_bytes() for name in ("__init__", "store", "dial")}
    made = "import esp32\nfrom clock.store import NAMESPACE, NvsStore\nkept = NvsStore(esp32.NVS(NAMESPACE))\n"
    with SerialBoard(tmp_path, BOARD, {**files, **OWNERS, **FIRMWARE}, costs=QUICK) as board:
        board.start()
        with Cable(board.path) as cable:
            cable.run(made + "kept.choose('rush')\nkept.hold(600)\nkept.touch('hold')\nkept.write(1234, 1)")
            gone = board_notes.reset(cable, drop_notes=False)
            assert gone == ["the clock's mode and hold", "server.der", "settings.json", "config.json"]
        with Cable(board.path) as cable:
            cable.run(made)
            assert cable.value("[kept.mode(), kept.goal(), kept.touched()]") == [None, None, []]
            assert cable.value("kept.place()") == (1234, 1)


def test_logs_show_what_the_board_prints_and_leave_it_alone(board: SerialBoard, tmp_path: Path) -> None:
    done = offbeat_board("logs", "--port", board.path, "--seconds", "1.5")
    assert done.returncode == 0
    numbers = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("alive ")]
    assert len(numbers) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))), done
    with pytest.raises(SystemExit, match="is the board plugged in"):
        board_command.main(["logs", "--port", str(tmp_path / "none"), "--seconds", "1"])


def test_logs_wait_for_a_port_that_restarts_and_leave_it_as_mpremote_does(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, closed = [], []

    class Transport:
        serial = SimpleNamespace(in_waiting=0, close=lambda: closed.append("by force"))

        def __init__(self, port: str, timeout: float) -> None:
            opened.append(port)
            if len(opened) == 1:
                raise TransportError("not there")
            self.serial.read = self._read

        def _read(self, _count: int) -> bytes:
            if len(opened) == 2:
                raise OSError("gone")
            return b"hello\r\n"

        def close(self) -> None:
            if len(opened) == 2:
                raise OSError("gone")
            closed.append("by mpremote")

    monkeypatch.setattr(board_console, "SerialTransport", Transport)
    monkeypatch.setattr(board_console, "AGAIN_S", 0.01)
    out = io.StringIO()
    board_console.follow("a port", out, 0.1)
    assert "went away" in out.getvalue() and out.getvalue().endswith("hello\n")
    assert len(opened) == 3 and closed == ["by force", "by mpremote"]


def test_the_shell_is_mpremotes_and_the_board_starts_again_after_it(board: SerialBoard) -> None:
    terminal, end = pty.openpty()
    with subprocess.Popen([str(TOOL), "shell", "--port", board.path], stdin=end, stdout=end, stderr=end) as shell:
        os.close(end)
        said = b""

        def until(text: bytes) -> None:
            nonlocal said
            deadline = time.monotonic() + 30
            while text not in said:
                assert time.monotonic() < deadline, said
                if select.select([terminal], [], [], 1)[0]:
                    said += os.read(terminal, 1000)

        until(b"to exit this shell")
        os.write(terminal, b"6*7\r")
        until(b"\n42\r\n")
        since = len(board.board.console)
        os.write(terminal, b"\x1d")
        until(b"it starts again")
        assert shell.wait(30) == 0
    os.close(terminal)
    assert alive(board, since)
