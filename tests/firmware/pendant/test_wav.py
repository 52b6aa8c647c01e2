"""The note's file: the golden one, and what a power cut leaves of it."""

import binascii
import hashlib
import json
import struct

from pendant import wav

VECTORS = __file__.rsplit("/", 3)[0] + "/vectors/"


def golden():
    with open(VECTORS + "note.json") as file:
        vector = json.load(file)
    data = bytes.fromhex(vector["file_hex"])
    blocks = (len(vector["samples_hex"]) // 4) // 505
    return vector, data, wav.header(vector["id"], vector, vector["lost"], blocks)


def test_golden_header():
    vector, data, header = golden()
    assert data[: len(header)] == header
    assert len(data) == len(header) + 3 * 256
    assert binascii.hexlify(hashlib.sha256(data).digest()).decode() == vector["sha256"]


def test_offsets_are_the_protocols():
    for note_id in ("a-0123456789abcdef", "ab-0123456789abcdef"):  # metadata of odd and of even length
        header = wav.header(note_id, {"counter": "00000000", "start_ms": 5, "asleep_ms": 3}, 0, 7)
        n = struct.unpack("<I", header[68:72])[0]
        assert n % 2 == 0
        assert len(header) == 80 + n
        assert header[:4] == b"RIFF" and header[8:12] == b"WAVE"
        assert struct.unpack("<I", header[4:8])[0] == len(header) + 7 * 256 - 8
        assert header[12:16] == b"fmt " and struct.unpack("<I", header[16:20])[0] == 20
        assert struct.unpack("<HHIIHHHH", header[20:40]) == (0x11, 1, 16000, 8110, 256, 4, 2, 505)
        assert header[40:44] == b"fact" and struct.unpack("<II", header[44:52]) == (4, 7 * 505)
        assert header[52:56] == b"LIST" and struct.unpack("<I", header[56:60])[0] == 12 + n
        assert header[60:68] == b"INFOICMT"
        meta = {"id": note_id, "counter": "00000000", "start_ms": 5, "lost": 0, "asleep_ms": 3}
        assert json.loads(header[72 : 72 + n]) == meta
        assert header[72 + n : 76 + n] == b"data" and struct.unpack("<I", header[76 + n :])[0] == 7 * 256


def test_read_back():
    vector, data, header = golden()
    note = wav.read(data[: wav.HEAD_BYTES], len(data))
    keys = ("id", "counter", "start_ms", "lost", "asleep_ms", "anchor", "after_ms")
    assert note.meta == {key: vector[key] for key in keys}
    assert (note.data_offset, note.blocks, note.samples, note.cut) == (len(header), 3, 1515, False)


def test_every_cut_is_recognised():
    _, data, header = golden()
    for length in range(len(data)):
        note = wav.read(data[: min(length, wav.HEAD_BYTES)], length)
        if length < len(header):
            assert note is None, length
        else:
            assert note.cut and note.blocks == (length - len(header)) // 256, length


def test_other_files_are_refused():
    _, data, _ = golden()
    for at in (0, 8, 20, 22, 24, 32, 34, 52):
        broken = bytearray(data)
        broken[at] ^= 1
        assert wav.read(bytes(broken[: wav.HEAD_BYTES]), len(broken)) is None, at
    assert wav.read(b"", 0) is None
    huge = bytearray(data)
    huge[68:72] = b"\xff\xff\xff\xff"
    assert wav.read(bytes(huge[: wav.HEAD_BYTES]), len(huge)) is None
    bad_json = bytearray(data)
    bad_json[72] = 0x5B
    assert wav.read(bytes(bad_json[: wav.HEAD_BYTES]), len(bad_json)) is None
