"""The reader of the notes' files, on files that are whole, cut off, and wrong."""

import io
import random

import pytest
from device_client import BLOCK_BYTES, silence, wav_bytes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from offbeat import wav


def read(content: bytes) -> wav.Recording:
    return wav.read(io.BytesIO(content), len(content))


def test_whole() -> None:
    content = wav_bytes(bytes(BLOCK_BYTES) * 4, 2000, {"id": "p7-0", "counter": "01234567", "start_ms": 5, "lost": 7})
    recording = read(content)
    assert (recording.rate_hz, recording.samples, recording.duration_ms) == (16000, 2000, 125)
    assert recording.metadata["counter"] == "01234567"
    assert (recording.integer("start_ms"), recording.integer("lost")) == (5, 7)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_sizes_not_written_back(size: int) -> None:
    content = wav_bytes(bytes(BLOCK_BYTES) * 4, size)
    place = content.index(b"data") + 4
    assert read(content[:place] + size.to_bytes(4, "little") + content[place + 4 :]).samples == 4 * 505


def test_cut_off_at_every_byte() -> None:
    content = wav_bytes(bytes(BLOCK_BYTES) * 3, 3 * 505)
    sound = content.index(b"data") + 8
    for length in range(len(content)):
        if length < sound:
            with pytest.raises(ValueError):
                read(content[:length])
        else:
            blocks, rest = divmod(length - sound, BLOCK_BYTES)
            assert read(content[:length]).samples == blocks * 505 + max(0, (rest - 4) * 2 + 1 if rest > 4 else 0)


@pytest.mark.parametrize("metadata", [b"", b"[]", b"{", b"\xff", b'"x"', b"[" * 50_000])
def test_metadata_that_is_none(metadata: bytes) -> None:
    content = wav_bytes(bytes(BLOCK_BYTES), 505, {})
    place = content.index(b"LIST")
    info = b"INFO" + b"ICMT" + len(metadata).to_bytes(4, "little") + metadata + b"\0" * (len(metadata) % 2)
    end = content.index(b"data")
    content = content[:place] + b"LIST" + len(info).to_bytes(4, "little") + info + content[end:]
    assert read(content).metadata == {}
    assert read(content).samples == 505


def test_integers_of_the_metadata() -> None:
    for value in (-1, 1.5, "5", True, None, [], 2**60):
        assert read(wav_bytes(bytes(BLOCK_BYTES), 505, {"start_ms": value})).integer("start_ms") is None


def test_random_damage_is_never_more_than_a_ValueError() -> None:
    chance = random.Random(3)
    content = silence(0.2)
    survived = 0
    for _ in range(3000):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(120)] = chance.randrange(256)
        try:
            recording = read(bytes(damaged))
        except ValueError:
            continue
        survived += 1
        assert 0 <= recording.samples <= 2 * len(content)
    assert survived > 100


CHUNKS = st.tuples(
    st.sampled_from([b"fmt ", b"fact", b"LIST", b"data", b"junk"]),
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),  # None: its true length
    st.one_of(
        st.binary(max_size=60),
        st.tuples(st.sampled_from([0x11, 1]), st.integers(0, 2**16 - 1)).map(
            lambda one: wav_bytes(b"", 0)[20:28].replace(b"\x11", bytes([one[0]])) + one[1].to_bytes(4, "little") * 3
        ),
        st.binary(max_size=40).map(lambda text: b"INFOICMT" + len(text).to_bytes(4, "little") + text),
    ),
)


@settings(max_examples=400, deadline=None)
@given(chunks=st.lists(CHUNKS, max_size=6), rest=st.binary(max_size=20))
@example(chunks=[(b"fmt ", None, wav_bytes(b"", 0)[20:40]), (b"data", 2**32 - 1, b"x" * 60)], rest=b"")
def test_fuzzed_chunks_are_read_or_refused(chunks: list[tuple[bytes, int | None, bytes]], rest: bytes) -> None:
    content = b"RIFF\0\0\0\0WAVE"
    for name, size, body in chunks:
        content += name + (len(body) if size is None else size).to_bytes(4, "little") + body + bytes(len(body) % 2)
    content += rest
    try:
        recording = read(content)
    except ValueError:
        return
    assert recording.rate_hz > 0 and 0 <= recording.samples <= 2 * len(content)
    assert recording.duration_ms >= 0 and isinstance(recording.metadata, dict)
