"""What all tests share: a certificate, short programs on the simulated board, and a real NTP server."""

from __future__ import annotations

import getpass
import socket
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import host_programs
import pytest
from sim.board import Board


class Snippets:
    """Boards that run a few lines of MicroPython as their whole firmware; all are closed at the end of the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boards: list[Board] = []

    def __call__(self, program: str, **options: Any) -> Board:
        """A board, not yet started, whose main.py is `program`. Options as of `Board`."""
        firmware = self._folder / f"firmware-{len(self._boards)}"
        firmware.mkdir()
        (firmware / "main.py").write_text(textwrap.dedent(program))
        options.setdefault("board", {"pins": {"button": 1}})
        options.setdefault("config", {"wifi": [{"ssid": "home", "password": "secret-password"}]})
        board = Board(self._folder / f"board-{len(self._boards)}", firmware=firmware, **options)
        self._boards.append(board)
        return board

    def close(self) -> None:
        for board in self._boards:
            board.close()


@pytest.fixture
def snippet(tmp_path: Path) -> Iterator[Snippets]:
    snippets = Snippets(tmp_path)
    yield snippets
    snippets.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path, bytes]]:
    """make(name, days_before, days_after) -> (certificate PEM, key PEM, certificate DER), self-signed, P-256."""
    import pendant_simulation

    def make(name: str = "offbeat", days_before: float = 1, days_after: float = 30) -> tuple[Path, Path, bytes]:
        return pendant_simulation.make_certificate(
            tmp_path_factory.mktemp("certificate"), name, days_before, days_after
        )

    return make


def asked(port: int) -> bool:
    """Whether an NTP server answers there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.2)
        probe.sendto(b"\x23" + bytes(47), ("127.0.0.1", port))
        try:
            return len(probe.recv(48)) == 48
        except OSError:
            return False


@pytest.fixture
def chrony_port(tmp_path: Path) -> Iterator[int]:
    """A chrony that serves this machine's time on loopback and touches no clock."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = tmp_path / "chrony.conf"
    settings.write_text(
        f"local stratum 3\nport {port}\nbindaddress 127.0.0.1\nallow 127.0.0.1\ncmdport 0\n"
        f"pidfile {tmp_path}/chronyd.pid\n"
    )
    log = tmp_path / "chronyd.log"
    as_this_user = ["-U", "-u", getpass.getuser()]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*host_programs.chronyd(), "-x", "-d", *as_this_user, "-f", str(settings)], stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 10
        while not asked(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)
