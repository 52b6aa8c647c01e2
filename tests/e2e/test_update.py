"""Updates over the air, from the packed folder to the confirmation and back: the real server, and the real firmware as
`.mpy` files on the simulated boards' own file systems, installed there as by cable.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import package
import pytest
from offbeat import updates
from offbeat.settings import Settings
from offbeat.store import Store
from server_process import ServerProcess
from sim.board import Board

ROOT = Path(__file__).parents[2]
MPY = 2822  # MicroPython's unix port on x86-64
BOARDS = {"pendant": "xiao-esp32s3", "clock": "esp32c3-supermini"}
NETWORK = {"ssid": "home", "password": "a good password"}

RAISES = 'raise RuntimeError("broken")\n'
SILENT = """import asyncio, machine
async def main(settings, board):
    watchdog = machine.WDT(timeout=30000)
    while True:
        watchdog.feed()
        await asyncio.sleep(10)
"""
HANGS = "import time\nasync def main(settings, board):\n    while True:\n        time.sleep_ms(1000)\n"


class Gadget:
    """A board whose firmware lies on its own file system, and its server's side."""

    def __init__(self, server: ServerProcess, app: str, folder: Path) -> None:
        self.server, self.app, self.folder = server, app, folder
        self.store = Store(Settings(data=server.data))
        device = server.add_device(f"{app}update", app)
        self.id = device.id
        self.pack("1.0.0")
        package_folder = folder / "package"
        installed = {path.relative_to(package_folder).as_posix(): path for path in package_folder.rglob("*.mpy")}
        config: dict[str, Any] = {
            "app": app,
            "device": device.id,
            "token": device.token,
            "server": {"host": "127.0.0.1", "port": server.device_port},
            "wifi": [NETWORK],
        }
        if app == "clock":
            hands = time.strftime("%I:%M:%S", time.gmtime())  # or it would catch up first
            config |= {"mode": "steady", "seed": 7, "hands": hands, "timezone": "UTC0", "ntp": ["ntp.sim"]}
        self.board = Board(
            folder / "board",
            board=json.loads((ROOT / "boards" / BOARDS[app] / "board.json").read_text()),
            config=config,
            files={
                "server.der": device.certificate,
                "main.py": (package.FIRMWARE / "main.py").read_bytes(),
                **{path: source.read_bytes() for path, source in installed.items()},
            },
            firmware=None,
        )

    def close(self) -> None:
        self.board.close()
        self.store.close()

    def pack(self, version: str, broken: str | None = None) -> Path:
        """Packs this tree's firmware as another version, with an application that is broken, if one is given."""
        firmware, out = self.folder / "firmware", self.folder / "package"
        shutil.copytree(package.FIRMWARE, firmware, dirs_exist_ok=True)
        config = firmware / "device" / "config.py"
        config.write_text(re.sub(r'^VERSION = ".*?"', f'VERSION = "{version}"', config.read_text(), flags=re.MULTILINE))
        if broken is not None:
            (firmware / self.app / "app.py").write_text(broken)
        package.package(self.app, MPY, out, firmware)
        return out

    def offer(self, version: str, broken: str | None = None) -> None:
        """And cuts the power, so that the first check-in of a start tells of it."""
        updates.add(self.store, self.pack(version, broken))
        updates.offer(self.store, self.id, version)
        self.board.cut_power()
        self.board.start()

    def report(self) -> dict[str, Any]:
        rows = self.server.get("/api/devices").json()
        return next(row["report"] for row in rows if row["id"] == self.id) or {}

    def until_it_reports(self, timeout_s: float, **wanted: Any) -> None:
        self.board.run_until(lambda: wanted.items() <= self.report().items(), timeout_s, step_s=1)


@pytest.fixture
def make(server: ServerProcess, tmp_path: Path) -> Iterator[Callable[[str], Gadget]]:
    with ExitStack() as stack:

        def make(app: str) -> Gadget:
            gadget = Gadget(server, app, tmp_path)
            stack.callback(gadget.close)
            return gadget

        yield make


def test_the_pendant_goes_back_from_a_version_that_raises_and_takes_a_good_one(make: Callable[[str], Gadget]) -> None:
    pendant = make("pendant")
    pendant.board.start()
    pendant.until_it_reports(60, version="1.0.0", mpy=MPY)
    assert "update_failed" not in pendant.report()

    pendant.offer("2.0.0", RAISES)
    pendant.until_it_reports(120, version="1.0.0", update_failed="2.0.0")
    assert pendant.board.console.count("RuntimeError: broken") == 1

    pendant.offer("3.0.0")
    pendant.until_it_reports(120, version="3.0.0")  # that answer confirms it
    for _ in range(5):  # confirmed: cuts of power are not counted any more
        pendant.board.cut_power()
        pendant.board.start()
        pendant.board.run(1)
    pendant.board.run(700)  # and the ten minutes of the trial end nothing
    assert pendant.report()["version"] == "3.0.0" and "update_failed" not in pendant.report()
    assert pendant.board.console.count("RuntimeError: broken") == 1


def test_the_clock_goes_back_from_a_version_that_hangs_or_says_nothing(make: Callable[[str], Gadget]) -> None:
    clock = make("clock")
    clock.board.start()
    clock.until_it_reports(60, version="1.0.0", mpy=MPY)

    clock.offer("2.0.0", HANGS)
    before = len(clock.board.exits)
    clock.until_it_reports(300, version="1.0.0", update_failed="2.0.0")
    assert [left["cause"] for left in clock.board.exits[before:]] == [2, 3]  # the update's restart, the watchdog's

    began_us, before = clock.board.now_us, len(clock.board.exits)
    clock.offer("3.0.0", SILENT)
    clock.board.run_until(lambda: len(clock.board.exits) > before, 60, step_s=1)
    clock.board.run(590)
    clock.until_it_reports(300, version="1.0.0", update_failed="3.0.0")  # the hands catch up ten minutes first
    assert [left["cause"] for left in clock.board.exits[before:]] == [2, 2]
    assert clock.board.now_us - began_us > 600e6

    clock.offer("4.0.0")
    clock.until_it_reports(120, version="4.0.0")
