"""`offbeat-board install` onto the simulated serial board: mpremote's transport, real MicroPython, real LittleFS."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import board_description
import board_install
import pytest
import serial
from board_port import Cable, Trouble
from sim.board import FIRMWARE
from sim.serial_board import SerialBoard

QUICK = {"boot_us": 0, "littlefs_erase_us": 0, "littlefs_program_ns_per_byte": 0}
WIFI = [{"ssid": "home", "password": "secret-password"}]
AIR = {"home": "secret-password"}
CLOCK = {
    "app": "clock", "device": "clock1", "wifi": WIFI, "ntp": ["ntp.sim"], "timezone": "UTC0", "mode": "steady",
    "seed": 5, "hands": "12:00:00",
}  # fmt: skip
PENDANT = {
    "app": "pendant", "device": "pendant1", "wifi": WIFI, "token": "t" * 43,
    "server": {"host": "127.0.0.1", "port": 9},
}  # fmt: skip
TOOL = Path(__file__).parents[2] / "tools" / "offbeat-board"


def wait(condition: Callable[[], Any], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Boards:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made: list[SerialBoard] = []

    def __call__(self, name: str, config: dict[str, Any] | None, **options: Any) -> SerialBoard:
        files = {**options.pop("files", {})} | ({"/config.json": json.dumps(config).encode()} if config else {})
        options.setdefault("costs", QUICK)
        board = SerialBoard(
            self._folder / str(len(self.made)), board_description.load(name), files, air=AIR, **options
        )  # fmt: skip
        self.made.append(board)
        board.start()
        return board


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[Boards]:
    boards = Boards(tmp_path / "boards")
    yield boards
    for board in boards.made:
        board.close()


def offbeat_board(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(TOOL), *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_the_clock_is_installed_by_the_command_and_ticks_from_the_boards_own_files(boards: Boards) -> None:
    board = boards("esp32c3-supermini", CLOCK)
    done = offbeat_board("install", "--port", board.path)
    assert done.returncode == 0, done
    assert "ESP32-C3 SuperMini with a Lavet movement: clock" in done.stdout and "it starts now" in done.stdout
    coil = board.board.board["pins"]["coil"]

    def ticks() -> list[int]:
        return [edge.t_us for edge in board.board.edges if edge.pin in coil and edge.level]

    wait(lambda: len(ticks()) >= 3, board.board.console)
    again = offbeat_board("install", "--port", board.path)  # out of its running: Ctrl-C, and the watchdog made longer
    assert again.returncode == 0 and "all of it was there already" in again.stdout, again
    before = len(ticks())
    wait(lambda: len(ticks()) >= before + 3, board.board.console)


def test_the_pendant_is_installed_and_starts(boards: Boards) -> None:
    board = boards("esp32s3-generic", PENDANT)
    with Cable(board.path) as cable:
        with pytest.raises(Trouble, match=r"Say --board with one of: esp32s3-generic, xiao-esp32s3"):
            board_install.install(cable)
        done = board_install.install(cable, name="esp32s3-generic")
        assert (done.app, done.changed) == ("pendant", True)
        names = cable.value("list(digests('/a'))")
        assert "pendant/app.mpy" in names and not [name for name in names if name.startswith("clock")]
        cable.restart()
    light = board.board.board["pins"]["light"]
    board.do(lambda board: board.press())
    wait(lambda: any(edge.pin == light and edge.level for edge in board.board.edges), board.board.console)
    time.sleep(1)
    board.do(lambda board: board.release())
    time.sleep(1)
    with Cable(board.path) as cable:
        (note,) = cable.value("__import__('os').listdir('/notes')")
        assert cable.read("/notes/" + note)[:4] == b"RIFF"


def test_a_tool_that_is_killed_in_the_middle_leaves_what_ran_and_is_taken_up(boards: Boards, tmp_path: Path) -> None:
    board = boards("esp32c3-supermini", CLOCK)
    with Cable(board.path) as cable:
        board_install.install(cable, app="clock", firmware=firmware(tmp_path / "0", "0.0"))
        before = cable.value("digests('/a')")
    says, said = board._board_says, bytearray()
    board._board_says = lambda data, listened: (said.extend(data), says(data, listened))  # type: ignore[method-assign,assignment,func-returns-value]
    with subprocess.Popen([str(TOOL), "install", "--port", board.path], stdout=subprocess.PIPE) as tool:
        wait(lambda: said.count(b"R\x01") > 60, "the tool did not reach the board")
        tool.send_signal(signal.SIGKILL)
    board.power(False)
    board.power(True)
    assert started(board, 1) == "['0.0']"
    with Cable(board.path) as cable:
        cable.run(board_install.DIGESTS)
        assert cable.value("digests('/a')") == before
        assert 0 < len(cable.value("digests('/b')")) < 35  # it was in the middle
    again = offbeat_board("install", "--port", board.path)
    assert again.returncode == 0, again
    coil = board.board.board["pins"]["coil"]
    wait(lambda: any(edge.pin in coil and edge.level for edge in board.board.edges), board.board.console)


def firmware(folder: Path, version: str) -> Path:
    """A small one, of this tree's main.py and device/config.py, which says whether it is all of one version."""
    for part in ("device", "clock"):
        (folder / part).mkdir(parents=True)
    shutil.copy(FIRMWARE / "main.py", folder)
    settings = (FIRMWARE / "device" / "config.py").read_text()
    with (folder / "main.py").open("a") as main:
        main.write(f"# {version}\n")
    (folder / "device" / "config.py").write_text(settings.replace('VERSION = "0.1.0"', f'VERSION = "{version}"'))
    (folder / "clock" / "same.py").write_text("FILLER = %r\n" % ("same in each version " * 100))
    for number in range(3):
        (folder / "clock" / f"part{number}.py").write_text(f'VERSION = "{version}"\nFILLER = {version * 200!r}\n')
    (folder / "clock" / "app.py").write_text(
        f"""
import asyncio, machine
from clock import part0, part1, part2, same
from device import config
async def main(settings, board):
    watchdog = machine.WDT(timeout=60_000)
    versions = {{part.VERSION for part in (part0, part1, part2, config)}} | {{"{version}"}}
    print("started", sorted(versions), "end")
    while True:
        await asyncio.sleep(0.1)
        watchdog.feed()
"""
    )
    return folder


class Cut(serial.SerialException):
    pass


class CutSerial:
    """The serial port of a Cable, which breaks after so many bytes that were sent."""

    def __init__(self, port: serial.Serial, after_bytes: int) -> None:
        self._port = port
        self.left = after_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    def write(self, data: bytes) -> int:
        self._port.write(data[: self.left])
        self.left -= len(data)
        if self.left < 0:
            self.left = 0
            raise Cut("cut")
        return len(data)


def started(board: SerialBoard, times: int) -> str:
    """What the board said at its start number `times`."""
    wait(lambda: board.board.console.count(" end\n") >= times, board.board.console[-1000:])
    return board.board.console.split("started ")[times].split(" end\n")[0]


@pytest.mark.parametrize("seed", [1, 2, 3])  # ten moments each, so that they can run beside each other
def test_an_installation_cut_at_thirty_moments_starts_the_old_or_the_new_and_is_completed(
    boards: Boards, tmp_path: Path, seed: int
) -> None:
    random.seed(seed)
    board = boards("esp32c3-supermini", CLOCK)
    with Cable(board.path) as cable:
        board_install.install(cable, app="clock", firmware=firmware(tmp_path / "first", "first"))
        whole = cable._transport.serial
        cable._transport.serial = counting = CutSerial(whole, 1_000_000)
        board_install.install(cable, firmware=firmware(tmp_path / "0", "0.0"))
        all_bytes = 1_000_000 - counting.left
        cable._transport.serial = whole
        cable.restart()
    assert started(board, 1) == "['0.0']"
    starts, new_ones = 1, 0
    for number in range(1, 11):
        old, new = f"['0.{number - 1}']", f"['0.{number}']"
        folder = firmware(tmp_path / str(number), f"0.{number}")
        # Every third near the end, where the board is switched over and main.py, which is 5 kB, replaced.
        at = random.randrange(all_bytes - 7000 if number % 3 == 0 else 0, all_bytes - 200)
        power = number % 2 == 1 or number % 3 == 0
        with Cable(board.path) as cable:
            whole = cable._transport.serial
            cable._transport.serial = CutSerial(whole, at)
            with pytest.raises(Trouble, match="the same command takes it up"):
                board_install.install(cable, firmware=folder)
            cable._transport.serial = whole
            time.sleep(random.uniform(0, 0.01))
            if power:
                board.power(False)
        if power:  # else only the tool was ended, and the board waits for the rest of what it was sent
            board.power(True)
            starts += 1
            assert started(board, starts) in (old, new), (number, at)
            new_ones += started(board, starts) == new
        with Cable(board.path) as cable:
            board_install.install(cable, firmware=folder)
            cable.restart()
        starts += 1
        assert started(board, starts) == new, (number, at)
    assert 0 < new_ones < 5


def test_the_watchdog_that_a_program_started_does_not_end_the_copying_and_restarts_a_board_that_is_left(
    boards: Boards,
) -> None:
    main = (
        b"import machine, time\nw = machine.WDT(timeout=1500)\nprint('runs end')\n"
        b"while True:\n w.feed()\n time.sleep(0.1)\n"
    )
    board = boards("esp32c3-supermini", None, files={"/main.py": main})
    wait(lambda: "runs end" in board.board.console, "")
    with Cable(board.path) as cable:
        time.sleep(2.5)
        assert cable.value("__import__('machine').reset_cause()") == 5
        assert board.board.console.count("runs end") == 1
    with Cable(board.path, watchdog_s=1):  # and then nothing more is heard of the tool
        pass
    wait(lambda: board.board.console.count("runs end") == 2, board.board.console)


def test_a_trial_of_an_update_ends_and_what_the_calibration_found_stays(boards: Boards, tmp_path: Path) -> None:
    board = boards("esp32c3-supermini", CLOCK)
    calibrated = board_description.load("esp32c3-supermini")
    calibrated["movement"]["pulse_us"] = 27_500
    with Cable(board.path) as cable:
        board_install.install(cable, "esp32c3-supermini", firmware=firmware(tmp_path / "0", "0.0"))
        cable.replace("/board.json", json.dumps(calibrated).encode())
        trial = {"active": "a", "trial": "b", "version": "9", "tries": 1}
        cable.replace("/active", json.dumps(trial).encode())
        cable.run("import os\nos.mkdir('/b')")
        done = board_install.install(cable, "esp32c3-supermini", firmware=tmp_path / "0")
        assert done.changed and done.sent == 0  # it was copied on the board, out of the other folder
        assert json.loads(cable.read("/active")) == {"active": "b"}
        assert json.loads(cable.read("/board.json")) == calibrated
        assert not board_install.install(cable, firmware=tmp_path / "0").changed
        cable.restart()
    assert started(board, 1) == "['0.0']"


def test_what_does_not_fit_the_board_is_refused_before_anything_is_written(boards: Boards) -> None:
    small = ((1, 2, 0x9000, 0x6000, "nvs"), (0, 0, 0x10000, 0x1F0000, "factory"), (1, 0x81, 0x210000, 0x10000, "vfs"))
    board = boards("esp32c3-supermini", None, partitions=small)
    with Cable(board.path) as cable:
        for name, app, why in (
            ("esp32-devkit", None, "esp32-devkit is a clock with the chip esp32, but on the cable is an esp32c3"),
            ("esp32c3-supermini", "pendant", "is a clock with the chip esp32c3, .* and a pendant was asked for"),
            (None, "pendant", "no board of boards/ is a pendant with the chip esp32c3"),
            ("toaster", None, "no board 'toaster'; there are: esp32-devkit"),
            (None, None, r"no room on the board: \d+ KiB are needed"),
        ):
            with pytest.raises(Trouble, match=why):
                board_install.install(cable, name, app)
        assert not cable.exists("/active") and not cable.exists("/board.json") and not cable.exists("/main.py")


def test_a_board_with_unsent_notes_does_not_become_a_clock(boards: Boards) -> None:
    pendant = board_description.load("esp32-devkit-pendant")
    files = {"/board.json": json.dumps(pendant).encode(), "/notes/000001-0011223344556677.wav": b"RIFF"}
    board = boards("esp32-devkit", None, files=files)
    with Cable(board.path) as cable:
        with pytest.raises(Trouble, match="backup-notes DIR --delete"):
            board_install.install(cable, "esp32-devkit")
        assert json.loads(cable.read("/board.json")) == pendant


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (((1, 23, 0), "Generic ESP32C3 module with ESP32C3", 774), r"MicroPython 1\.23\.0 is on the board"),
        (((1, 26, 0), "Raspberry Pi Pico W with RP2040", 774), "that is no ESP32"),
    ],
)
def test_another_micropython_or_another_chip_is_told_apart(says: Any, why: str) -> None:
    class Says:
        run = staticmethod(lambda program: "")
        value = staticmethod(lambda expression: says)

    with pytest.raises(Trouble, match=why):
        board_install.about(Says())  # type: ignore[arg-type]


def test_the_chip_is_known_by_the_names_that_micropython_gives_it() -> None:
    for machine, chip in (
        ("Generic ESP32 module with ESP32", "esp32"),
        ("Generic ESP32C3 module with ESP32C3", "esp32c3"),
        ("Generic ESP32S3 module with Octal-SPIRAM with ESP32S3", "esp32s3"),
        ("Seeed XIAO ESP32S3 with ESP32-S3", "esp32s3"),
        ("LOLIN_C3_MINI with ESP32-C3FH4", "esp32c3"),
        ("ESP32 PICO with ESP32-PICO-D4", "esp32"),
    ):

        class Says:
            run = staticmethod(lambda program: "")
            value = staticmethod(lambda expression, machine=machine: ((1, 25, 0), machine, 774))

        assert board_install.about(Says()).chip == chip, machine  # type: ignore[arg-type]
