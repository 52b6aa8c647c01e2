"""`offbeat-board flash`: MicroPython's own image onto the chip, for a clock with the partition of its journal.

The image is the one that you downloaded from micropython.org. It is checked before a byte is written: its name, the
chip in its headers, its digests, its version, and the build for the PSRAM that the boards of the pendant have.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import board_description
import esptool
from board_port import Trouble, add_port, find
from mp_image_tool_esp32.firmware import Firmware
from mp_image_tool_esp32.firmware_fileio import BOOTLOADER_OFFSET
from mp_image_tool_esp32.image_header import ImageHeader
from mp_image_tool_esp32.partition_table import PART_MAGIC, PartitionEntry, PartitionError, PartitionTable

#: By chip: the images that fit a board of boards/, as (name, variant) of MicroPython's download pages.
IMAGES = {
    "esp32": (("ESP32_GENERIC", None),),
    "esp32c3": (("ESP32_GENERIC_C3", None),),
    "esp32s3": (("ESP32_GENERIC_S3", "SPIRAM_OCT"), ("SEEED_XIAO_ESP32S3", None)),
}
#: What the build for an ESP32-S3 without octal PSRAM calls itself, in its own bytes: 267 kB of heap instead of 8 MB.
WITHOUT_OCTAL = re.compile(rb"Generic ESP32S3 module with ESP32")
NAME = re.compile(r"([A-Z0-9_]+)(?:-([A-Z][A-Z0-9_]*))?-\d{8}-v(\d+)\.(\d+)[\w.-]*\.bin")
OLDEST = (1, 24)
TABLE = slice(0x8000, 0x9000)  # where the partition table is in the flash
APP_DESCRIPTION_AT, APP_DESCRIPTION_MAGIC = 32, 0xABCD5432  # esp_app_desc_t of ESP-IDF, in the app
TICKS, TICKS_SUBTYPE, TICKS_BYTES = "ticks", 0x40, 0x10000


class Image(NamedTuple):
    """A checked image. at: its address in the flash. flash_bytes: what its header takes the flash for."""

    data: bytes
    chip: str
    at: int
    flash_bytes: int
    version: str


class Chip(Protocol):
    """A chip in its ROM loader. `name` as in board.json; `flash_bytes` of the flash that is there."""

    name: str
    features: list[str]
    flash_bytes: int

    def read(self, at: int, length: int) -> bytes: ...

    def write(self, at: int, data: bytes, erase_all: bool) -> None: ...


def check(path: Path) -> Image:
    """Read an image and check it. Trouble says what is wrong with it, and which one to take instead."""
    logging.getLogger("mp_image_tool_esp32").setLevel(logging.ERROR)  # it warns of every table as MicroPython has it
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Trouble(f"{path} cannot be read: {error.strerror}") from error
    try:
        header = ImageHeader.from_bytes(data[:24])
        header.validate()
    except ValueError as error:
        raise Trouble(
            f"{path.name} is no image of an ESP32 ({error}): take a .bin from https://micropython.org/download/, "
            "not one of the .app-bin, .elf or .uf2 files beside it"
        ) from error
    chip = header.chip_name
    if chip not in IMAGES:
        raise Trouble(f"{path.name} is for an {chip}, and no board of boards/ has that. There are {', '.join(IMAGES)}")
    at = BOOTLOADER_OFFSET[chip]
    named = _check_name(path.name, chip)
    table = _table(path.name, data, at)
    app_at = table.app_part.offset - at
    _check_part(path.name, "bootloader", data[: TABLE.start - at], chip)
    _check_part(path.name, "program", data[app_at:], chip)
    project, version = _app_description(data[app_at:])
    if project != "micropython":
        raise Trouble(f"{path.name} holds {project or 'an unknown program'} and not MicroPython")
    found = re.match(r"v?(\d+)\.(\d+)", version)
    told = (int(found[1]), int(found[2])) if found else named
    if told < OLDEST:
        raise Trouble(f"{path.name} is MicroPython {told[0]}.{told[1]}, and 1.24 or later is needed")
    if chip == "esp32s3" and WITHOUT_OCTAL.search(data):
        raise Trouble(
            f"{path.name} is the build without octal PSRAM, whatever its name says: a pendant needs ESP32_GENERIC_S3-"
            'SPIRAM_OCT ("Support for Octal-SPIRAM"), or it has 267 kB of memory instead of 8 MB'
        )
    return Image(data, chip, at, header.flash_size, f"{told[0]}.{told[1]}")


def _check_name(name: str, chip: str) -> tuple[int, int]:
    """The version in an image's name. Trouble for one that fits no board here."""
    wanted = " or ".join("-".join(part for part in image if part) + "-DATE-vVERSION.bin" for image in IMAGES[chip])
    found = NAME.fullmatch(name)
    if found is None or (found[1], found[2]) not in IMAGES[chip]:
        raise Trouble(
            f"{name} is not the image for a board of boards/ with the chip {chip}. Take {wanted}, under the name that "
            "it has at https://micropython.org/download/"
        )
    return int(found[3]), int(found[4])


def _table(name: str, data: bytes, at: int) -> PartitionTable:
    try:
        table = PartitionTable.from_bytes(data[TABLE.start - at : TABLE.stop - at])
        table.app_part  # noqa: B018  raises where there is none
    except (PartitionError, ValueError, struct.error) as error:
        raise Trouble(f"{name} has no partition table ({error}): is the download complete?") from error
    return table


def _check_part(name: str, part: str, data: bytes, chip: str) -> None:
    """The bootloader, or the program: of the same chip, and as long as it says, with the digest that it carries."""
    try:
        header = ImageHeader.from_bytes(data[:24])
        header.validate()
        if header.chip_name != chip:
            raise Trouble(f"the {part} in {name} is for an {header.chip_name}, but the image for an {chip}")
        _, digest, carried = header.check_image_hash(data)
    except ValueError as error:
        raise Trouble(f"the {part} in {name} is broken ({error}): download it again") from error
    if header.hash_appended and digest != carried:
        raise Trouble(f"the {part} in {name} is not what its digest says: download it again")


def _app_description(app: bytes) -> tuple[str, str]:
    """(project, version) as ESP-IDF's esp_app_desc_t has them; empty where there is none."""
    magic, _, version, project = struct.unpack_from("<I12s32s32s", app, APP_DESCRIPTION_AT)
    if magic != APP_DESCRIPTION_MAGIC:
        return "", ""
    return project.split(b"\0")[0].decode(errors="replace"), version.split(b"\0")[0].decode(errors="replace")


def with_ticks(image: Image) -> Image:
    """The image with a partition for the clock's journal before the file system, which then has to be listed, too.

    Both are within what the image's header takes the flash for. Trouble if there is no room.
    """
    ticks = TICKS.encode().ljust(16, b"\0")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.bin"
        path.write_bytes(image.data)
        firmware = Firmware(str(path))
        with contextlib.closing(firmware.file):
            table = firmware.table
            if table.find(TICKS) is not None:
                return image
            if (vfs := table.find("vfs")) is not None:
                table.remove(vfs)
            at = table.next_part_offset()
            table.append(PartitionEntry(PART_MAGIC, 1, TICKS_SUBTYPE, at, TICKS_BYTES, ticks, 0))
            try:
                table.add_part("vfs", "fat", 0)
                table.check()
            except PartitionError as error:
                raise Trouble(f"no room for the clock's journal in the image's table: {error}") from error
            firmware.write_table(table)
        return image._replace(data=path.read_bytes())


def app_for(chip: str, board: str | None, app: str | None) -> str:
    """Which gadget the chip is to be, from what was said and from what boards/ has. Trouble if that leaves a choice."""
    if board is not None:
        try:
            description = board_description.load(board)
        except ValueError as error:
            raise Trouble(str(error)) from error
        if description["chip"] != chip:
            raise Trouble(f"the image is for an {chip}, but {board} has an {description['chip']}")
        if app not in (None, description["app"]):
            raise Trouble(f"{board} is a {description['app']}, and not a {app}")
        return str(description["app"])
    boards = [board_description.load(name) for name in board_description.names()]
    apps = {str(description["app"]) for description in boards if description["chip"] == chip}
    if app is not None:
        if app not in apps:
            raise Trouble(f"no board of boards/ is a {app} with the chip {chip}")
        return app
    if len(apps) > 1:
        raise Trouble(f"the image is for an {chip}: is it for a clock or for a pendant? Say --app")
    return apps.pop()


def write(image: Image, chip: Chip, erase: bool) -> None:
    """Write an image to a chip. What is on its file system stays if the partitions do; else Trouble, unless `erase`.

    What is in NVS does not stay, for the image is one piece and lies over it.
    """
    if chip.name != image.chip:
        raise Trouble(f"the image is for an {image.chip}, but on the cable is an {chip.name}")
    if chip.flash_bytes < image.flash_bytes:
        raise Trouble(
            f"the image is for {image.flash_bytes >> 20} MB of flash, and the board has {chip.flash_bytes >> 20}"
        )
    psram = [feature for feature in chip.features if "PSRAM" in feature]
    if chip.name == "esp32s3" and (not psram or "2MB" in psram[0]):
        raise Trouble(
            f"this ESP32-S3 has {psram[0] if psram else 'no PSRAM'}, but the pendant needs one with 8 MB of octal "
            "PSRAM (its module's name ends in R8)"
        )
    new = image.data[TABLE.start - image.at : TABLE.stop - image.at]
    if not erase and chip.read(TABLE.start, TABLE.stop - TABLE.start) != new:
        raise Trouble(
            "its flash is divided otherwise, or holds something else, so all that is on it would be lost, notes, too "
            "(`offbeat-board backup-notes` saves those). If that may be: --erase"
        )
    chip.write(image.at, image.data, erase)


class Loader:
    """The chip on a port, by esptool. Never tried: there was no board (docs/hardware-checklist.md)."""

    def __init__(self, esp: Any) -> None:
        self._esp = esptool.run_stub(esp)
        esptool.attach_flash(self._esp)
        self.name = esp.CHIP_NAME.lower().replace("-", "")
        self.features = list(esp.get_chip_features())
        size = esptool.cmds.detect_flash_size(self._esp)
        if size is None:
            raise Trouble("the size of the board's flash cannot be read: try another cable or port")
        self.flash_bytes = (
            int(size.removesuffix("MB")) << 20 if size.endswith("MB") else int(size.removesuffix("KB")) << 10
        )

    def read(self, at: int, length: int) -> bytes:
        return bytes(esptool.read_flash(self._esp, at, length, no_progress=True))

    def write(self, at: int, data: bytes, erase_all: bool) -> None:
        esptool.write_flash(self._esp, [(at, data)], erase_all=erase_all)
        esptool.reset_chip(self._esp, "hard-reset")


@contextlib.contextmanager
def loader(port: str) -> Iterator[Loader]:
    """The chip on a port, in its loader. Trouble if it does not come there."""
    try:
        with esptool.detect_chip(port) as esp:
            yield Loader(esp)
    except (esptool.util.FatalError, OSError, KeyboardInterrupt) as error:
        raise Trouble(
            f"{port}: {str(error) or 'stopped'}. Hold the board's BOOT button while you plug it in (or while you press "
            "RESET), let go, and run the same command again. An image that is written half does not start, and is "
            "written whole then"
        ) from error


def run(options: argparse.Namespace) -> None:
    image = check(options.image)
    app = app_for(image.chip, options.board, options.app)
    if app == "clock":
        image = with_ticks(image)
    ticks = ", with the partition `ticks`" if app == "clock" else ""
    print(f"{options.image.name}: MicroPython {image.version} for an {image.chip}, {app}{ticks}")
    if options.out is not None:
        options.out.write_bytes(image.data)
        print(f"written to {options.out}, for the address 0x{image.at:x} of the flash; no board was touched")
        return
    port = find(options.port)
    with loader(port) as chip:
        print(f"{port}: {chip.name}, {', '.join(chip.features)}, {chip.flash_bytes >> 20} MB of flash")
        write(image, chip, options.erase)
    print("next: `offbeat-board install`")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("flash", help="write MicroPython's image, which you downloaded, to the chip")
    parser.add_argument("image", type=Path, help="the .bin from https://micropython.org/download/")
    add_port(parser)
    parser.add_argument("--app", choices=("clock", "pendant"), help="which gadget, where the chip leaves a choice")
    parser.add_argument("--board", help=f"which board, a folder of boards/: {', '.join(board_description.names())}")
    parser.add_argument("--erase", action="store_true", help="erase all of the flash before; needed the first time")
    parser.add_argument("--out", type=Path, help="write what would go to the chip to this file instead")
    parser.set_defaults(run=run)
