"""What the tests of the pendant on the simulated board share."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from sim.board import FIRMWARE, Board

LIGHT, USB = 21, 5


def with_pins(**pins: int) -> dict[str, Any]:
    """The description of the pendant's board with further pins."""
    board = json.loads((FIRMWARE.parent / "boards/xiao-esp32s3/board.json").read_text())
    return board | {"pins": board["pins"] | pins}


def samples_of(note: bytes) -> Any:
    with av.open(io.BytesIO(note)) as container:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]).astype(float)


def likeness(note: bytes, spoken: Any) -> float:
    """Correlation, 0 to 1, of the note with what was spoken, at the best shift."""
    heard = samples_of(note)
    size = len(heard) + len(spoken)
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(spoken.astype(float), size)), size)
    return float(np.abs(product).max() / np.sqrt((heard**2).sum() * (spoken.astype(float) ** 2).sum()))


def meta_of(note: bytes) -> dict[str, Any]:
    n = struct.unpack("<I", note[68:72])[0]
    return dict(json.loads(note[72 : 72 + n]))


def stored_ids(board: Any) -> list[str]:
    return re.findall(r"^stored (p7-[0-9a-f]{16})$", board.console, re.MULTILINE)


def say(board: Any, path: Any, seconds: float) -> None:
    board.speak(path)
    board.press()
    board.run(seconds)
    board.release()


def flashes_ms(board: Any, since_us: int) -> list[int]:
    """How long the light (active low) was on, each time since then."""
    edges = [edge for edge in board.edges if edge.pin == LIGHT and edge.t_us >= since_us]
    return [(off.t_us - on.t_us) // 1000 for on, off in pairwise(edges) if (on.level, off.level) == (0, 1)]


def changed(tmp_path: Path, *changes: tuple[str, str, str]) -> Path:
    """The firmware in a folder of its own with lines put in: (file, the line before which, the new lines)."""
    firmware = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, firmware)
    for name, marker, lines in changes:
        text = (firmware / name).read_text()
        assert text.count(marker) == 1, marker
        indent = marker[: len(marker) - len(marker.lstrip())]
        put_in = "".join(f"{indent}{line}\n" for line in lines.splitlines())
        (firmware / name).write_text(text.replace(marker, put_in + marker))
    return firmware


def files_on_flash(board: Any, tmp_path: Path, folder: str) -> dict[str, bytes]:
    """The files of a folder on a board that is switched off, read by another program on the same flash."""
    reader = tmp_path / "reader"
    reader.mkdir(exist_ok=True)
    (reader / "main.py").write_text(
        "import binascii, os, time\n"
        f"for name in os.listdir({folder!r}):\n"
        f"    with open({folder + '/'!r} + name, 'rb') as file:\n"
        "        print('file', name, binascii.hexlify(file.read()).decode())\n"
        "print('all read')\n"
        "while True:\n"
        "    time.sleep(1)\n"
    )
    before = len(board.console)  # the folder's, to which the other one appends
    with Board(board.folder, board=board.board, config={}, firmware=reader) as other:
        other.start()
        other.run_until(lambda: "all read" in other.console[before:], timeout_s=10)
        found = re.findall(r"^file (\S+) ([0-9a-f]*)$", other.console[before:], re.MULTILINE)
    return {name: bytes.fromhex(data) for name, data in found}


def started(board: Any) -> Any:
    board.start()
    board.run_until(lambda: "ready:" in board.console, timeout_s=10)
    board.run(0.5)
    return board
