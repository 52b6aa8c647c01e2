"""The table of modes in docs/clock.md, and their picture, are what the modes' own files say.

Run as a program, it writes both.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "clock.md"
PICTURE = ROOT / "docs" / "clock-modes.svg"
RUN = f"run: python {Path(__file__).relative_to(ROOT)}"
BEGIN = "<!-- modes: written by tests/firmware/clock/test_clock_document_host.py from the files -->\n"
END = "<!-- end of modes -->"


def table():
    """The modes in the order of the button, each with the first sentence of its docstring."""
    import clock_plot
    from clock import modes

    lines = ["| | name | what it does |", "| --- | --- | --- |"]
    for number, name in enumerate(modes.files(), 1):
        lines.append(f"| {number} | `{name}` | {clock_plot.sentence(name)} |")
    return "\n".join(lines) + "\n"


def with_table(text):
    head, rest = text.split(BEGIN)
    return head + BEGIN + table() + END + rest.split(END)[1]


def test_the_table_of_modes_is_the_files():
    text = DOCUMENT.read_text()
    assert text == with_table(text), RUN


def write_picture(path):
    command = [sys.executable, ROOT / "tools" / "clock.py", "plot", "--mode", "all", "--out", path]
    subprocess.run(command, check=True, timeout=60)


def test_the_picture_of_the_modes_is_the_code(tmp_path):
    write_picture(tmp_path / "modes.svg")
    assert PICTURE.read_bytes() == (tmp_path / "modes.svg").read_bytes(), RUN
    assert f"({PICTURE.name})" in DOCUMENT.read_text()


def test_every_setting_of_the_clock_is_in_the_document():
    from device import config

    text = DOCUMENT.read_text()
    settings = {*config._REQUIRED["clock"], *config._CONFIG} - {"gain_db", "sleep_after_s"}  # the pendant's
    assert [key for key in sorted(settings) if f"`{key}`" not in text] == []


def test_the_board_is_one_that_the_firmware_takes():
    from clock.movement import Movement
    from device import config

    board = config.check_board(json.loads((ROOT / "boards" / "esp32c3-supermini" / "board.json").read_text()))
    coil = board["pins"]["coil"]
    assert len(coil) == 2
    # ESP32-C3: 2, 8 and 9 are sampled at reset, 11 to 17 belong to the flash, 18 and 19 are USB, 20 and 21 the console.
    assert not set(coil) & {2, 8, 9, *range(11, 22)}
    Movement((None, None), board["movement"], lambda: 0)
    assert f"{3600 // (board['movement']['catch_up_hz'] - 1)} s" in DOCUMENT.read_text()


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "firmware"), str(ROOT / "tools")]
    write_picture(PICTURE)
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
