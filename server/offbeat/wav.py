"""Reads what a note's file says about itself: docs/protocol.md, "A note's file". Pure; decodes no sound."""

import json
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

IMA_ADPCM = 0x0011
MAX_METADATA_BYTES = 65_536
UNKNOWN_SIZES = (0, 0xFFFFFFFF)


@dataclass(frozen=True)
class Recording:
    """What the head of a note's file says.

    `samples` is the number of samples that are really there, also in a file that ends early."""

    rate_hz: int
    samples: int
    metadata: dict[str, Any]

    @property
    def duration_ms(self) -> int:
        return self.samples * 1000 // self.rate_hz

    def integer(self, key: str) -> int | None:
        """An integer of the metadata, or None where there is none of that name and type, 0 to 2^53."""
        value = self.metadata.get(key)
        return value if type(value) is int and 0 <= value < 2**53 else None


def read(file: BinaryIO, length_bytes: int) -> Recording:
    """Reads a WAV file of `length_bytes` from its beginning. Raises ValueError where it is not a note."""
    riff = file.read(12)
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        raise ValueError("not a WAV file")
    layout: tuple[int, int, int] | None = None  # rate in Hz, bytes in a block, samples in a block
    announced: int | None = None
    metadata: dict[str, Any] = {}
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        start = file.tell()
        if name == b"data":
            if layout is None:
                raise ValueError("the sound comes before its format")
            return _recording(layout, announced, metadata, length_bytes - start, size)
        if name == b"fmt ":
            layout = _layout(file.read(20))
        elif name == b"fact" and size >= 4:
            announced = int.from_bytes(file.read(4), "little")
        elif name == b"LIST" and size <= MAX_METADATA_BYTES:
            metadata = _comment(file.read(size))
        file.seek(start + size + size % 2)
    raise ValueError("it has no sound")


def _layout(chunk: bytes) -> tuple[int, int, int]:
    if len(chunk) < 20:
        raise ValueError("its format is cut off")
    kind, channels, rate_hz, _, align_bytes, bits, _, block_samples = struct.unpack("<HHIIHHHH", chunk[:20])
    if (kind, channels, bits) != (IMA_ADPCM, 1, 4):
        raise ValueError(f"its format is {kind:#06x} with {channels} channels of {bits} bits, not mono IMA ADPCM")
    if rate_hz == 0 or align_bytes <= 4 or block_samples != (align_bytes - 4) * 2 + 1:
        raise ValueError("its block size is impossible")
    return rate_hz, align_bytes, block_samples


def _comment(chunk: bytes) -> dict[str, Any]:
    """The JSON object of the `ICMT` in a `LIST` chunk of type `INFO`, or an empty one."""
    place = 4
    while chunk[:4] == b"INFO" and place + 8 <= len(chunk):
        name, size = struct.unpack("<4sI", chunk[place : place + 8])
        if name == b"ICMT":
            try:
                value = json.loads(chunk[place + 8 : place + 8 + size].rstrip(b" \0"))
            except (ValueError, RecursionError):
                return {}  # a note without metadata is a note all the same
            return value if isinstance(value, dict) else {}
        place += 8 + size + size % 2
    return {}


def _recording(
    layout: tuple[int, int, int], announced: int | None, metadata: dict[str, Any], there_bytes: int, size: int
) -> Recording:
    rate_hz, align_bytes, block_samples = layout
    sound_bytes = there_bytes if size in UNKNOWN_SIZES else min(size, there_bytes)
    blocks, rest_bytes = divmod(max(sound_bytes, 0), align_bytes)
    samples = blocks * block_samples
    if rest_bytes > 4:
        samples += (rest_bytes - 4) * 2 + 1
    if announced is not None and announced not in UNKNOWN_SIZES:
        samples = min(samples, announced)
    return Recording(rate_hz, samples, metadata)
