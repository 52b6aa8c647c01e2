"""`offbeat-board flash`. The images are synthesised, for no registry has a real one: headers, digests, table and
description as ESP-IDF has them, and no program. No chip was there either: a model of one stands in for esptool's."""

from __future__ import annotations

import functools
import hashlib
import operator
import struct
import subprocess
import sys
from pathlib import Path
from unittest import mock

import board_flash
import esptool
import pytest
from board_port import Trouble
from esp_idf_defs import PartitionTable

CHIP_IDS = {"esp32": 0, "esp32s2": 2, "esp32c3": 5, "esp32s3": 9}
NAMES = {
    "esp32": "ESP32_GENERIC-20250415-v1.25.0.bin",
    "esp32c3": "ESP32_GENERIC_C3-20250415-v1.25.0.bin",
    "esp32s3": "ESP32_GENERIC_S3-SPIRAM_OCT-20250415-v1.25.0.bin",
}
FOUR_MB = 2  # flash size in a header
STOCK = """
nvs,      data, nvs,     0x9000,  0x6000,
phy_init, data, phy,     0xf000,  0x1000,
factory,  app,  factory, 0x10000, 0x1F0000,
"""  # MicroPython's partitions-4MiBplus.csv


def part(chip_id: int, payload: bytes) -> bytes:
    """An image of ESP-IDF with one segment: header, segment, checksum, digest."""
    header = struct.pack("<BBBBI4sHBHH4sB", 0xE9, 1, 2, FOUR_MB << 4, 0x4037_0000, bytes(4), chip_id, 0, 0, 0xFFFF,
                         bytes(4), 1)  # fmt: skip
    payload += bytes(-len(payload) % 4)
    body = header + struct.pack("<II", 0x3C00_0020 if chip_id else 0x3F40_0020, len(payload)) + payload
    body += bytes(15 - len(body) % 16) + bytes([functools.reduce(operator.xor, payload, 0xEF)])
    return body + hashlib.sha256(body).digest()


def image(
    chip: str = "esp32c3",
    version: str = "v1.25.0",
    project: str = "micropython",
    program: str | None = None,
    table: str = STOCK,
    calls_itself: bytes = b"Generic module",
) -> bytes:
    """What MicroPython's makeimg.py joins: bootloader, partition table, program. program: the chip that one is for."""
    texts = (version.encode(), project.encode(), b"12:00:00", b"Apr 15 2025", b"v5.4.1", bytes(32))
    description = struct.pack("<II8x32s32s16s16s32s32s80x", 0xABCD5432, 0, *texts)
    at = 0x1000 if chip == "esp32" else 0
    data = part(CHIP_IDS[chip], b"bootloader" * 100).ljust(0x8000 - at, b"\xff")
    data += PartitionTable.from_csv(table).to_binary()
    data = data.ljust(0x10000 - at, b"\xff")
    return data + part(CHIP_IDS[program or chip], description + calls_itself + bytes(70_000))


def written(folder: Path, data: bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("chip", NAMES)
def test_the_synthesised_images_are_taken_by_esptool_and_here(tmp_path: Path, chip: str) -> None:
    path = written(tmp_path, image(chip), NAMES[chip])
    checked = board_flash.check(path)
    assert (checked.chip, checked.version, checked.flash_bytes) == (chip, "1.25", 4 << 20)
    assert checked.at == (0x1000 if chip == "esp32" else 0)
    app = written(tmp_path, checked.data[0x10000 - checked.at :], "app.bin")
    told = subprocess.run(
        [sys.executable, "-m", "esptool", "image-info", str(app)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "App version: v1.25.0" in told and "Project name: micropython" in told, told
    assert told.count("(valid)") == 2, told  # checksum and digest


@pytest.mark.parametrize("chip", ["esp32", "esp32c3"])
def test_a_clocks_table_as_esp_idfs_own_parser_reads_it(tmp_path: Path, chip: str) -> None:
    stock = board_flash.check(written(tmp_path, image(chip), NAMES[chip]))
    out = tmp_path / "out.bin"
    tool = Path(board_flash.__file__).parent / "offbeat-board"
    done = subprocess.run(
        [str(tool), "flash", str(tmp_path / NAMES[chip]), "--app", "clock", "--out", str(out)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "with the partition `ticks`" in done.stdout, done
    data = out.read_bytes()
    here = slice(0x8000 - stock.at, 0x9000 - stock.at)
    table = PartitionTable.from_binary(data[here])
    table.verify()
    table.verify_size_fits(4 << 20)
    assert [(row.name, row.type, row.subtype, row.offset, row.size) for row in table] == [
        ("nvs", 1, 2, 0x9000, 0x6000),
        ("phy_init", 1, 1, 0xF000, 0x1000),
        ("factory", 0, 0, 0x10000, 0x1F0000),
        ("ticks", 1, 0x40, 0x200000, 0x10000),
        ("vfs", 1, 0x81, 0x210000, 0x1F0000),
    ]
    assert data[: here.start] == stock.data[: here.start] and data[here.stop :] == stock.data[here.stop :]
    assert board_flash.with_ticks(stock._replace(data=data)).data == data  # once is enough


def test_a_listed_file_system_makes_room_for_the_journal(tmp_path: Path) -> None:
    listed = STOCK + "vfs, data, fat, 0x200000, 0x200000,\n"
    stock = board_flash.check(written(tmp_path, image(table=listed), NAMES["esp32c3"]))
    table = PartitionTable.from_binary(board_flash.with_ticks(stock).data[0x8000:0x9000])
    assert [(row.name, row.offset) for row in table][3:] == [("ticks", 0x200000), ("vfs", 0x210000)]
    full = STOCK.replace("0x1F0000", "0x3F0000")
    stock = board_flash.check(written(tmp_path, image(table=full), NAMES["esp32c3"]))
    with pytest.raises(Trouble, match="no room for the clock's journal"):
        board_flash.with_ticks(stock)


@pytest.mark.parametrize(
    ("data", "name", "why"),
    [
        (image("esp32"), NAMES["esp32c3"], r"not the image .* with the chip esp32\. Take ESP32_GENERIC-DATE"),
        (image(), "firmware.bin", r"Take ESP32_GENERIC_C3-DATE-vVERSION\.bin, under the name"),
        (image("esp32s2"), "ESP32_GENERIC_S2-20250415-v1.25.0.bin", "for an esp32s2, and no board of boards/ has that"),
        (image(program="esp32s3"), NAMES["esp32c3"], "program in .* is for an esp32s3, but the image for an esp32c3"),
        (image(version="v1.23.0"), NAMES["esp32c3"], r"is MicroPython 1\.23, and 1\.24 or later"),
        (image(version="1"), "ESP32_GENERIC_C3-20240602-v1.23.0.bin", r"is MicroPython 1\.23"),
        (image(project="blink"), NAMES["esp32c3"], "holds blink and not MicroPython"),
        (image("esp32s3"), "ESP32_GENERIC_S3-20250415-v1.25.0.bin", "Take ESP32_GENERIC_S3-SPIRAM_OCT-DATE"),
        (
            image("esp32s3", calls_itself=b"Generic ESP32S3 module with ESP32S3"),
            NAMES["esp32s3"],
            "the build without octal PSRAM, whatever its name says",
        ),
        (image()[:100_000], NAMES["esp32c3"], "the program in .* is broken"),
        (image()[:70_000] + b"?" + image()[70_001:], NAMES["esp32c3"], "not what its digest says"),
        (image()[:0x8000], NAMES["esp32c3"], "has no partition table"),
        (b"\x7fELF" + bytes(100), NAMES["esp32c3"], "is no image of an ESP32"),
    ],
)  # fmt: skip
def test_an_image_that_does_not_fit_is_refused_with_the_one_that_does(
    tmp_path: Path, data: bytes, name: str, why: str
) -> None:
    with pytest.raises(Trouble, match=why):
        board_flash.check(written(tmp_path, data, name))


def test_a_preview_and_an_image_without_octal_in_its_name_for_a_known_board_are_taken(tmp_path: Path) -> None:
    path = written(
        tmp_path, image(version="v1.26.0-preview"), "ESP32_GENERIC_C3-20250701-v1.26.0-preview.300.gabc1234.bin"
    )
    assert board_flash.check(path).version == "1.26"
    own = b"Seeed XIAO ESP32S3 with ESP32-S3"
    path = written(tmp_path, image("esp32s3", calls_itself=own), "SEEED_XIAO_ESP32S3-20261001-v1.29.0.bin")
    assert board_flash.check(path).chip == "esp32s3"


def test_which_gadget_an_image_is_for() -> None:
    assert board_flash.app_for("esp32c3", None, None) == "clock"
    assert board_flash.app_for("esp32s3", None, None) == "pendant"
    assert board_flash.app_for("esp32", "esp32-devkit-pendant", None) == "pendant"
    assert board_flash.app_for("esp32", None, "clock") == "clock"
    for chip, board, app, why in (
        ("esp32", None, None, "Say --app"),
        ("esp32c3", None, "pendant", "no board of boards/ is a pendant with the chip esp32c3"),
        ("esp32c3", "esp32-devkit", None, "the image is for an esp32c3, but esp32-devkit has an esp32"),
        ("esp32", "esp32-devkit", "pendant", "esp32-devkit is a clock, and not a pendant"),
    ):
        with pytest.raises(Trouble, match=why):
            board_flash.app_for(chip, board, app)


class ModelChip:
    """A chip in its loader, with its flash in memory."""

    def __init__(self, name: str, features: list[str], flash_bytes: int = 4 << 20) -> None:
        self.name, self.features, self.flash_bytes = name, features, flash_bytes
        self.flash = bytearray(b"\xff" * flash_bytes)
        self.writes = 0

    def read(self, at: int, length: int) -> bytes:
        return bytes(self.flash[at : at + length])

    def write(self, at: int, data: bytes, erase_all: bool) -> None:
        if erase_all:
            self.flash[:] = b"\xff" * self.flash_bytes
        self.flash[at : at + len(data)] = data
        self.writes += 1


def test_the_chip_is_written_only_if_the_image_is_for_it_and_its_files_stay_where_they_are(tmp_path: Path) -> None:
    ready = board_flash.with_ticks(board_flash.check(written(tmp_path, image("esp32"), NAMES["esp32"])))
    for chip, why in (
        (ModelChip("esp32c3", []), "the image is for an esp32, but on the cable is an esp32c3"),
        (ModelChip("esp32", [], 2 << 20), "for 4 MB of flash, and the board has 2"),
        (ModelChip("esp32", []), "would be lost, notes, too"),
    ):
        with pytest.raises(Trouble, match=why):
            board_flash.write(ready, chip, erase=False)
        assert not chip.writes
    chip.flash[0x300000:0x300004] = b"note"
    board_flash.write(ready, chip, erase=True)
    assert chip.flash[0x1000 : 0x1000 + len(ready.data)] == ready.data and chip.flash[0] == 0xFF
    assert chip.flash[0x300000] == 0xFF
    chip.flash[0x300000:0x300004] = b"note"
    board_flash.write(ready, chip, erase=False)  # a newer MicroPython with the same table
    assert chip.flash[0x300000:0x300004] == b"note"


@pytest.mark.parametrize(
    ("features", "taken"),
    [
        (["Wi-Fi", "Embedded PSRAM 8MB (AP_3v3)"], True),
        (["Wi-Fi", "Embedded PSRAM 2MB (AP_3v3)"], False),
        (["Wi-Fi"], False),
    ],
)
def test_a_chip_without_octal_psram_is_refused_for_a_pendant(tmp_path: Path, features: list[str], taken: bool) -> None:
    ready = board_flash.check(written(tmp_path, image("esp32s3"), NAMES["esp32s3"]))
    chip = ModelChip("esp32s3", features, 8 << 20)
    if taken:
        board_flash.write(ready, chip, erase=True)
    else:
        with pytest.raises(Trouble, match="8 MB of octal PSRAM"):
            board_flash.write(ready, chip, erase=True)
    assert chip.writes == taken


def test_esptool_is_called_as_its_own_signatures_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run_stub", "attach_flash", "read_flash", "write_flash", "reset_chip"):
        monkeypatch.setattr(esptool, name, mock.create_autospec(getattr(esptool, name)))
    monkeypatch.setattr(esptool.cmds, "detect_flash_size", mock.create_autospec(esptool.cmds.detect_flash_size))
    esptool.cmds.detect_flash_size.return_value = "4MB"
    esptool.read_flash.return_value = b"there"
    chip = board_flash.Loader(mock.Mock(CHIP_NAME="ESP32-C3", get_chip_features=lambda: ["Wi-Fi"]))
    assert (chip.name, chip.features, chip.flash_bytes) == ("esp32c3", ["Wi-Fi"], 4 << 20)
    assert chip.read(0x8000, 5) == b"there"
    chip.write(0x1000, b"image", True)
    stub = esptool.run_stub.return_value
    esptool.write_flash.assert_called_once_with(stub, [(0x1000, b"image")], erase_all=True)


def test_a_port_without_a_loader_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Trouble, match="Hold the board's BOOT button"), board_flash.loader(str(tmp_path / "none")):
        raise AssertionError("there is none")


def test_a_writing_that_is_stopped_says_that_the_board_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esptool, "detect_chip", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(Trouble, match=r"COM3: stopped.*written half does not start"), board_flash.loader("COM3"):
        raise AssertionError("it was stopped")
