"""The boards' descriptions: schema, legal pins, and pictures that are up to date."""

import copy
from typing import Any
from xml.etree import ElementTree

import board_description as boards
import pytest

ALL = boards.names()


def test_there_are_boards_for_both_gadgets() -> None:
    loaded = [boards.load(name) for name in ALL]
    assert {(board["app"], board["chip"]) for board in loaded} == {
        ("pendant", "esp32s3"),
        ("clock", "esp32c3"),
        ("clock", "esp32"),
        ("pendant", "esp32"),
    }
    assert len({board["name"] for board in loaded}) == len(ALL) == 5


@pytest.mark.parametrize("name", ALL)
def test_the_picture_and_the_page_are_up_to_date(name: str) -> None:
    for path, text in boards.files(name).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run tools/board_description.py draw"


@pytest.mark.parametrize("name", ALL)
def test_the_picture_shows_every_pin(name: str) -> None:
    board = boards.load(name)
    picture = ElementTree.fromstring((boards.BOARDS / name / "wiring.svg").read_text(encoding="utf-8"))
    texts = {"".join(element.itertext()).strip() for element in picture.iter() if element.tag.endswith("text")}
    wired = {key: value for key, value in board["pins"].items() if key not in board.get("on_board", ())}
    for pin in (pin for value in wired.values() for pin in (value if isinstance(value, list) else [value])):
        assert boards.pin_text(board, pin) in texts


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("esp32-devkit", {"pins.coil": [32, 12]}, "strapping"),
        ("esp32-devkit", {"pins.coil": [32, 34]}, "input only"),
        ("esp32-devkit", {"pins.coil": [32, 14]}, "pulled up at the start"),
        ("esp32-devkit", {"pins.button": 34}, "input only"),
        ("esp32-devkit", {"on_board": []}, "strapping"),  # an LED of one's own on pin 2
        ("esp32-devkit", {"movement": None}, "movement"),
        ("esp32c3-supermini", {"pins.coil": [3, 9]}, "strapping"),
        ("esp32c3-supermini", {"pins.coil": [3, 22]}, "not there"),
        ("esp32c3-supermini", {"pins.coil": [3]}, "too short"),
        ("xiao-esp32s3", {"pins.microphone_sd": 33}, "flash or the PSRAM"),
        ("xiao-esp32s3", {"pins.microphone_sck": 43}, "console"),
        ("xiao-esp32s3", {"pins.button": 38}, "cannot wake"),
        ("xiao-esp32s3", {"pins.usb": 38}, "pins.usb: pin 38 cannot wake"),
        ("xiao-esp32s3", {"pins.button": 7}, "has that pin"),
        ("xiao-esp32s3", {"pins.battery": 12}, "measures voltage"),
        ("xiao-esp32s3", {"pins.microphone_sck": None}, "required"),
        ("xiao-esp32s3", {"pins.horn": 5}, "horn"),
        ("xiao-esp32s3", {"on_board": ["horn"]}, "no such pin"),
        ("xiao-esp32s3", {"chip": "esp8266"}, "esp8266"),
        ("xiao-esp32s3", {"parts": []}, "parts"),
    ],
)
def test_what_would_not_work_is_refused_with_the_reason(name: str, change: dict[str, Any], why: str) -> None:
    board: dict[str, Any] = copy.deepcopy(boards.load(name))
    assert boards.check(board) == []
    for key, value in change.items():
        *way, last = key.split(".")
        place = board
        for part in way:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    wrong = boards.check(board)
    assert wrong and any(why in line for line in wrong), wrong


def test_the_series_resistor() -> None:
    assert boards.series_resistor_ohm(600) == 750  # 720 Ω wanted
    assert boards.series_resistor_ohm(200) == 240  # exactly
    for coil_ohm in (150, 400, 1000, 2000):
        current_ma = boards.SUPPLY_MV / (coil_ohm + boards.series_resistor_ohm(coil_ohm))
        assert 0.9 * boards.MOVEMENT_MV / coil_ohm < current_ma <= boards.MOVEMENT_MV / coil_ohm


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert boards.main(["check"]) == 0
    assert capsys.readouterr().out.count(": good") == len(ALL)
    assert boards.main(["check", "toaster"]) == 1
    assert "there are: esp32-devkit," in capsys.readouterr().err
    assert boards.main(["resistor", "--coil", "3"]) == 2
    assert "cut free" in capsys.readouterr().err
