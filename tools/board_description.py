"""The boards in `boards/`: check them, draw their wiring, list their parts.

    check [NAME …]       what is wrong with a board.json, with the reason
    draw [NAME …]        writes wiring.svg and README.md beside each board.json
    resistor --coil 600  the series resistor for a coil of so many ohms

What a pin can do is from Espressif's data sheets; the tables are the firmware's own (`device.config`).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

ROOT = Path(__file__).resolve().parents[1]
BOARDS = ROOT / "boards"
if str(ROOT / "firmware") not in sys.path:
    sys.path.append(str(ROOT / "firmware"))

from device import config  # noqa: E402

SUPPLY_MV = 3300
MOVEMENT_MV = 1500  # one cell, what a quartz movement is made for
E24 = (10, 11, 12, 13, 15, 16, 18, 20, 22, 24, 27, 30, 33, 36, 39, 43, 47, 51, 56, 62, 68, 75, 82, 91)  # IEC 60063
OUTPUTS = ("light", "microphone_sck", "microphone_ws", "microphone_power")
ANALOG = {"esp32": range(32, 40), "esp32c3": range(5), "esp32s3": range(1, 11)}  # of ADC1: ADC2 is the radio's
# Pins that can wake the chip from deep sleep.
WAKING = {"esp32": {0, 2, 4, *range(12, 16), *range(25, 28), *range(32, 40)}, "esp32c3": range(6), "esp32s3": range(22)}
INPUT_ONLY = {"esp32": range(34, 40), "esp32c3": range(0), "esp32s3": range(0)}  # without a pull-up, too


def names() -> list[str]:
    """The folders of `boards/` that hold a board.json, sorted."""
    return sorted(path.parent.name for path in BOARDS.glob("*/board.json"))


def load(name: str) -> dict[str, Any]:
    """A board's description. ValueError with all that is wrong with it."""
    path = BOARDS / name / "board.json"
    try:
        board = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no board {name!r}; there are: {', '.join(names())}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if wrong := check(board):
        raise ValueError(f"{path}:\n" + "\n".join(wrong))
    return dict(board)


@cache
def schema() -> jsonschema.Draft202012Validator:
    """boards/schema.json."""
    found = json.loads((BOARDS / "schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def check(board: Any) -> list[str]:
    """All that is wrong with a board's description, each with its key and the reason; empty if all is well."""
    wrong = [f"{error.json_path[2:] or 'the whole'}: {error.message}" for error in schema().iter_errors(board)]
    if wrong:
        return wrong
    pins = board["pins"]
    for name, value in pins.items():
        if name == "coil":
            continue  # the firmware's own check, below
        why = _unfit(board["chip"], name, value, name in board.get("on_board", ()))
        if why:
            wrong.append(f"pins.{name}: pin {value} of an {board['chip']} is {why}")
    for name in ("button", "usb") if board["app"] == "pendant" else ():
        if name in pins and pins[name] not in WAKING[board["chip"]]:
            wrong.append(f"pins.{name}: pin {pins[name]} cannot wake an {board['chip']} from deep sleep")
    if unknown := set(board.get("on_board", ())) - set(pins):
        wrong.append(f"on_board: no such pin: {', '.join(sorted(unknown))}")
    try:
        config.check_board(board)
    except config.ConfigError as error:
        wrong.append(str(error))
    return wrong


def _unfit(chip: str, name: str, pin: int, on_board: bool) -> str:
    """Why a pin cannot serve as `name`; an empty text if it can."""
    if pin > config.MOST_PIN[chip]:
        return "not there"
    if pin in INPUT_ONLY[chip] and (name in OUTPUTS or name == "button"):
        return "an input only, without a pull-up"
    if name == "battery" and pin not in ANALOG[chip]:
        return "not one that measures voltage while the radio is on"
    for pins, reason in config.UNFIT[chip]:
        if pin in pins and reason != "an input only":
            if on_board and reason == config.STRAPPING:
                return ""  # the maker of the board has seen to it that the level at the start is right
            if reason in (config.STRAPPING, config.FLASH, config.CONSOLE, config.USB, "not there"):
                return reason
    return ""


def series_resistor_ohm(coil_ohm: float) -> int:
    """The series resistor for a coil: the current through both at 3.3 V is that of 1.5 V through the coil alone.

    The next larger value of the E24 series: too weak shows in the calibration, too strong only in years.
    """
    wanted = coil_ohm * (SUPPLY_MV - MOVEMENT_MV) / MOVEMENT_MV
    decade = 1
    while decade * E24[-1] < wanted:
        decade *= 10
    return next(decade * value for value in E24 if decade * value >= wanted)


# The picture


def pin_text(board: dict[str, Any], pin: int) -> str:
    """What a person looks for on the board: its label and the chip's number."""
    label = board["labels"].get(str(pin))
    return f"{label} (GPIO {pin})" if label else f"GPIO {pin}"


def draw(board: dict[str, Any]) -> str:
    """The wiring as SVG."""
    import schemdraw
    from schemdraw import elements as elm

    schemdraw.use("svg")
    schemdraw.svgconfig.text = "text"  # letters stay letters: they can be searched, and the file is small
    pins = board["pins"]
    wired = [name for name in pins if name not in board.get("on_board", ()) and name != "coil"]
    right = [name for name in wired if name.startswith("microphone")]
    left = [name for name in wired if name not in right]
    coil = pins.get("coil", [])
    rows = max(len(left) + 2, len(right) + 2, 5)
    with schemdraw.Drawing(show=False, transparent=False) as drawing:
        drawing.config(fontsize=11, lw=1.4, bgcolor="white", color="#1b1b1b")
        chip_pins = [elm.IcPin(name="5V / USB", side="left", slot=f"{rows}/{rows}", anchorname="supply")]
        for number, name in enumerate(left):
            chip_pins.append(
                elm.IcPin(
                    name=pin_text(board, pins[name]), side="left", slot=f"{rows - 1 - number}/{rows}", anchorname=name
                )
            )
        chip_pins.append(elm.IcPin(name="GND", side="left", slot=f"1/{rows}", anchorname="ground"))
        for number, pin in enumerate([pins[name] for name in right] + list(coil)):
            chip_pins.append(
                elm.IcPin(
                    name=pin_text(board, pin), side="right", slot=f"{rows - number}/{rows}", anchorname=f"right{number}"
                )
            )
        if right:
            chip_pins.append(elm.IcPin(name="GND", side="right", slot=f"1/{rows}", anchorname="ground2"))
        size = (7, rows * 1.15 + 0.6)
        chip = drawing.add(elm.Ic(size=size, pins=chip_pins, lblsize=11).label(board["name"], loc="top", fontsize=13))
        _draw_left(drawing, elm, chip, left)
        if right:
            _draw_microphone(drawing, elm, chip, right)
        if coil:
            _draw_coil(drawing, elm, chip)
        text = drawing.get_imagedata("svg").decode()
    title = f"Wiring of {board['name']}"
    return re.sub(r"(<svg[^>]*>)", rf"\1<title>{title}</title>", text, count=1)


def _draw_left(drawing: Any, elm: Any, chip: Any, left: list[str]) -> None:
    drawing.add(elm.Line().at(chip.supply).left().length(1))
    drawing.add(elm.Dot(open=True).label("5 V from USB", loc="left"))
    ground = drawing.add(elm.Line().at(chip.ground).left().length(6.5))
    drawing.add(elm.Ground().at(ground.end))
    for name in left:
        start = getattr(chip, name)
        if name == "button":
            drawing.add(elm.Button().at(start).left().length(3).label("button", loc="top"))
            drawing.add(elm.Line().left().length(3.5))
        elif name == "light":
            drawing.add(elm.Resistor().at(start).left().length(3).label("470 Ω", loc="top"))
            drawing.add(elm.LED().left().length(3.5).label("light", loc="top"))
        elif name == "battery":
            drawing.add(elm.Resistor().at(start).left().length(3).label("220 kΩ", loc="top"))
            drawing.add(elm.Line().left().length(0.6))
            drawing.add(elm.Dot(open=True).label("battery +, and 220 kΩ from the pin to GND", loc="left"))
            continue
        else:
            drawing.add(elm.Line().at(start).left().length(1))
            drawing.add(elm.Dot(open=True).label(name, loc="left"))
            continue
        end = drawing.here
        drawing.add(elm.Line().at(end).toy(ground.end))
        drawing.add(elm.Dot())


def _draw_microphone(drawing: Any, elm: Any, chip: Any, right: list[str]) -> None:
    words = {"microphone_sck": "SCK", "microphone_ws": "WS", "microphone_sd": "SD", "microphone_power": "VDD"}
    rows = len(right) + 2
    pins = [
        elm.IcPin(name=words[name], side="left", slot=f"{rows - number}/{rows}", anchorname=name)
        for number, name in enumerate(right)
    ]
    pins.append(elm.IcPin(name="L/R", side="left", slot=f"2/{rows}", anchorname="channel"))
    pins.append(elm.IcPin(name="GND", side="left", slot=f"1/{rows}", anchorname="ground"))
    first = chip.right0
    box = elm.Ic(size=(2.6, rows * 1.15 + 0.6), pins=pins, lblsize=11).label("INMP441", loc="top", fontsize=13)
    box = drawing.add(box.theta(0).anchor(right[0]).at((first[0] + 5, first[1])))
    for number, name in enumerate(right):
        start, end = getattr(chip, f"right{number}"), getattr(box, name)
        middle = start[0] + 4.2 - number * 0.45
        drawing.add(elm.Line().at(start).to((middle, start[1])))
        drawing.add(elm.Line().at((middle, start[1])).to((middle, end[1])))
        drawing.add(elm.Line().at((middle, end[1])).to(end))
    ground = chip.ground2
    drawing.add(elm.Line().at(ground).to((ground[0] + 1.6, ground[1])))
    drawing.add(elm.Line().at((ground[0] + 1.6, ground[1])).to((ground[0] + 1.6, box.ground[1])))
    drawing.add(elm.Line().at((ground[0] + 1.6, box.ground[1])).to(box.ground))
    drawing.add(elm.Line().at(box.channel).to((box.channel[0] - 0.4, box.channel[1])))
    drawing.add(elm.Line().at((box.channel[0] - 0.4, box.channel[1])).to((box.channel[0] - 0.4, box.ground[1])))
    drawing.add(elm.Dot().at((box.channel[0] - 0.4, box.ground[1])))


def _draw_coil(drawing: Any, elm: Any, chip: Any) -> None:
    one, other = chip.right0, chip.right1
    drawing.add(elm.Resistor().at(one).right().length(4).label("series resistor", loc="top"))
    corner = drawing.here
    drawing.add(elm.Line().at(other).to((corner[0], other[1])))
    drawing.add(elm.Inductor2(loops=4).at(corner).to((corner[0], other[1])).label("coil", loc="bottom"))


def parts_table(board: dict[str, Any]) -> str:
    """The parts list as a Markdown table."""
    rows = [f"| {part['part']} | {part['value']} | {part['why']} |" for part in board["parts"]]
    return "\n".join(["| part | value | why |", "| --- | --- | --- |", *rows])


def pins_table(board: dict[str, Any]) -> str:
    """What is wired to which pin, as a Markdown table."""
    rows = []
    for name, value in board["pins"].items():
        here = " (on the board)" if name in board.get("on_board", ()) else ""
        where = " and ".join(pin_text(board, pin) for pin in (value if isinstance(value, list) else [value]))
        rows.append(f"| {name.replace('_', ' ')} | {where}{here} |")
    return "\n".join(["| what | pin |", "| --- | --- |", *rows])


def readme(board: dict[str, Any], kept: str) -> str:
    """The board's page: what is generated, and the notes of `kept`, the page as it was, from its `## Notes` on."""
    _, mark, notes = kept.partition("## Notes\n")
    guide = board["app"]
    movement = (
        "\n## The movement\n\n"
        "It must tick once a second, not sweep. How to open it, reach its coil and cut that free of its own circuit:\n"
        "[build-clock, step 2](../../docs/build-clock.md#2-open-the-movement). The pulses in `board.json` are a "
        "beginning,\n"
        "found on no movement: the [calibration](../../docs/clock.md#the-movement-and-its-calibration) finds what "
        "yours needs.\n"
    )
    return (
        f"# {board['name']}\n\n"
        f"A {board['app']} on an {board['chip']}. Step by step: [build-{guide}](../../docs/build-{guide}.md).\n"
        "All but the notes on this page is written by `tools/board_description.py draw` from `board.json`.\n\n"
        f"![wiring](wiring.svg)\n\n## Wires\n\n{pins_table(board)}\n\n## Parts\n\n{parts_table(board)}\n"
        + (movement if guide == "clock" else "")
        + (f"\n## Notes\n{notes}" if mark else "")
    )


def files(name: str) -> dict[Path, str]:
    """What is generated for a board: contents by path."""
    board = load(name)
    page = BOARDS / name / "README.md"
    kept = page.read_text(encoding="utf-8") if page.exists() else ""
    return {BOARDS / name / "wiring.svg": draw(board), page: readme(board, kept)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command, what in (("check", "say what is wrong"), ("draw", "write the wiring picture and the page")):
        commands.add_parser(command, help=what).add_argument("names", nargs="*", metavar="NAME")
    commands.add_parser("resistor", help="the series resistor").add_argument(
        "--coil", type=float, required=True, metavar="OHM", help="resistance of the coil, measured at its ends"
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "resistor":
        if not 50 <= chosen.coil <= 5000:
            print(
                "--coil: the coil of a quartz movement has 150 to 2,000 Ω; was it measured cut free?", file=sys.stderr
            )
            return 2
        value = series_resistor_ohm(chosen.coil)
        print(f"{value} Ω: {SUPPLY_MV / (chosen.coil + value):.1f} mA at {SUPPLY_MV / 1000} V")
        return 0
    failed = 0
    for name in chosen.names or names():
        try:
            if chosen.command == "draw":
                for path, text in files(name).items():
                    path.write_text(text, encoding="utf-8")
            else:
                load(name)
            print(f"{name}: good")
        except ValueError as error:
            print(error, file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
