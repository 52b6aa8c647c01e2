"""`mpremote mip install` of firmware/package.json, with the real mpremote onto the simulated serial board."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import board_description
import loopback_http
import mip_package
import pytest
from sim.serial_board import SerialBoard

ROOT = Path(__file__).parents[2]


def test_it_lists_what_there_is() -> None:
    kept = (ROOT / "firmware" / "package.json").read_text()
    assert kept == mip_package.content(), "firmware/package.json is out of date: run tools/mip_package.py"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass  # mpremote says what it fetched


@pytest.fixture
def address() -> Iterator[str]:
    """Of a web server on loopback that serves the firmware's folder."""
    handler = functools.partial(Quiet, directory=str(ROOT))
    with loopback_http.Server(handler) as server:
        yield f"http://127.0.0.1:{server.server_port}/firmware"


def mpremote(port: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mpremote", "connect", port, *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


def test_the_real_mpremote_puts_all_of_it_on_a_board(tmp_path: Path, address: str) -> None:
    """From a web server; and two files of it, changed, from a folder."""
    files = {name: (ROOT / "firmware" / name).read_bytes() for name, _ in json.loads(mip_package.content())["urls"]}
    folder = tmp_path / "firmware"
    changed = {"main.py": b"print('started')", "device/log.py": b"1"}
    for name, data in changed.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "package.json").write_text(mip_package.content(folder))
    with SerialBoard(tmp_path / "board", board_description.load("esp32c3-supermini")) as board:
        board.start()
        mpremote(board.path, "mip", "install", "--target", "/", address)
        assert digests(board, files) == [hashlib.sha256(data).hexdigest() for data in files.values()]
        mpremote(board.path, "mip", "install", "--target", "/", str(folder / "package.json"))
        assert digests(board, changed) == [hashlib.sha256(data).hexdigest() for data in changed.values()]


def digests(board: SerialBoard, names: Iterable[str]) -> list[str]:
    program = "import hashlib\nfor name in %r: print(hashlib.sha256(open('/' + name, 'rb').read()).digest().hex())"
    return mpremote(board.path, "resume", "exec", program % list(names)).split()
