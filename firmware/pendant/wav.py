"""A note's file: IMA ADPCM in WAV with the note's metadata, as docs/protocol.md lays it out. Pure."""

import json
import struct

from pendant.adpcm import BLOCK_BYTES, BLOCK_SAMPLES, SAMPLE_RATE_HZ

HEAD_BYTES = 512  # reading so much of a file is enough for `read`
_BYTES_PER_S = SAMPLE_RATE_HZ * BLOCK_BYTES // BLOCK_SAMPLES  # 8110
_FIXED_BYTES = 80  # of the header; the metadata comes on top


class Wav:
    """What a note's file says of itself.

    meta: the metadata, dict. data_offset: where the blocks begin. samples, blocks: what is there, whole blocks only.
    cut: the file ends before the length that its header announces, so a power cut ended it.
    """

    def __init__(self, meta: dict, data_offset: int, blocks: int, cut: bool):
        self.meta = meta
        self.data_offset = data_offset
        self.blocks = blocks
        self.samples = blocks * BLOCK_SAMPLES
        self.cut = cut


def header(note_id: str, stamp: dict, lost: int, blocks: int) -> bytes:
    """Everything before the blocks. stamp: of pendant.times.Times. Keys and units as in docs/protocol.md."""
    # By hand: MicroPython's dicts, and so its JSON, have no order.
    first = (note_id, stamp["counter"], stamp["start_ms"], lost, stamp["asleep_ms"])
    meta = '{"id":"%s","counter":"%s","start_ms":%d,"lost":%d,"asleep_ms":%d' % first
    if "anchor" in stamp:
        meta += ',"anchor":[%d,%d,%d]' % tuple(stamp["anchor"])
    if "after_ms" in stamp:
        meta += ',"after_ms":%d' % stamp["after_ms"]
    meta += "}"
    padded = (meta + " " * (len(meta) & 1)).encode()
    n = len(padded)
    data_bytes = blocks * BLOCK_BYTES
    return b"".join(
        (
            struct.pack("<4sI4s", b"RIFF", _FIXED_BYTES - 8 + n + data_bytes, b"WAVE"),
            struct.pack(
                *("<4sIHHIIHHHH", b"fmt ", 20, 0x11, 1, SAMPLE_RATE_HZ),
                *(_BYTES_PER_S, BLOCK_BYTES, 4, 2, BLOCK_SAMPLES),
            ),
            struct.pack("<4sII", b"fact", 4, blocks * BLOCK_SAMPLES),
            struct.pack("<4sI4s4sI", b"LIST", 12 + n, b"INFO", b"ICMT", n),
            padded,
            struct.pack("<4sI", b"data", data_bytes),
        )
    )


def read(head: bytes, file_bytes: int):
    """What is in a file of `file_bytes` that begins with `head` (its first 512 bytes, or all if it is shorter).

    Returns a Wav, or None when the header is not whole or not a note's: then there is no sound to be had from it.
    """
    if len(head) < _FIXED_BYTES or head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt " or head[52:56] != b"LIST":
        return None
    fmt = struct.unpack("<HHIIHHHH", head[20:40])
    if fmt != (0x11, 1, SAMPLE_RATE_HZ, _BYTES_PER_S, BLOCK_BYTES, 4, 2, BLOCK_SAMPLES):
        return None
    n = struct.unpack("<I", head[68:72])[0]
    if n > HEAD_BYTES - _FIXED_BYTES or len(head) < _FIXED_BYTES + n or head[72 + n : 76 + n] != b"data":
        return None
    try:
        meta = json.loads(head[72 : 72 + n])
    except ValueError:
        return None
    if not isinstance(meta, dict):
        return None
    data_bytes = struct.unpack("<I", head[76 + n : 80 + n])[0]
    there_bytes = min(data_bytes, file_bytes - _FIXED_BYTES - n)
    return Wav(meta, _FIXED_BYTES + n, there_bytes // BLOCK_BYTES, there_bytes < data_bytes)
