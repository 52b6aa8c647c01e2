"""Nothing is written to the flash while recording. (That nothing is allocated: test_microphone, test_adpcm.)"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from pendant_bench import likeness, meta_of, say


def test_no_flash_operation_while_recording(pendant: Any, server: Any, sound: Any) -> None:
    """Begun while a long note is being stored, and while one is being sent; an operation changes the flash's image. At
    the press itself the fixture tells.
    """
    path, _ = sound(15.0)
    board = pendant()
    board.start()
    board.run_until(lambda: "ready:" in board.console, timeout_s=20)
    board.run(2)

    def image() -> str:
        return hashlib.sha256((board.folder / "flash.img").read_bytes()).hexdigest()

    def record(seconds: float) -> None:
        board.speak(path)
        board.press()
        board.run(0.3)  # the press may find one operation at work
        before = image()
        for _ in range(10):
            board.run((seconds - 0.3) / 10)
            assert image() == before
        board.release()

    record(15.0)
    after_first = image()
    board.run(0.5)
    assert "stored " not in board.console and image() != after_first, "it was not being stored"
    record(3.0)
    board.run_until(lambda: any(server.stored.values()), timeout_s=60, step_s=0.01)
    record(3.0)
    board.run_until(lambda: len(server.complete) == 3, timeout_s=60)


def test_no_flash_operation_when_a_press_ends_an_update(pendant: Any, server: Any, sound: Any) -> None:
    """The file that was being written is closed, and so programmed, before the recording begins: the fixture tells."""
    random = np.random.default_rng(1)
    server.update = ("9.9.9", {f"pendant/m{number}.py": random.bytes(30_000) for number in range(4)})
    board = pendant()
    board.start()
    board.run_until(lambda: sum("GET" in line for line in server.requests) >= 3, timeout_s=30, step_s=0.005)
    path, spoken = sound(2.0)
    say(board, path, 2.0)
    board.run_until(lambda: server.complete, timeout_s=30)
    assert "talking to the server" not in board.console and board.console.count("recorded") == 1
    (note,) = server.notes().values()
    # A press while the flash is being written loses up to 0.1 s of these 2, and says so.
    assert likeness(note, spoken) > 0.85 and meta_of(note)["lost"] < 0.2 * 16000
