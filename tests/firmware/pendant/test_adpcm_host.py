"""The encoder and its decoder formula against FFmpeg's, by way of PyAV."""

from __future__ import annotations

import io
import json
import struct
import subprocess
from array import array
from pathlib import Path
from typing import Any

import av
import host_programs
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pendant import adpcm, wav
from programs import needed
from sim.board import _samples

SPEECH = Path(__file__).resolve().parents[2] / "speech"
VECTORS = Path(__file__).resolve().parents[2] / "vectors"
BLOCK = adpcm.BLOCK_SAMPLES
STAMP = {"counter": "00000000", "start_ms": 0, "asleep_ms": 0}
SETTLED = 150  # samples of one level, in which the step comes down from the longest to the shortest


def ffmpeg_decode(file: bytes) -> Any:
    with av.open(io.BytesIO(file)) as container:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])


def ffmpeg_decode_cut(file: bytes) -> list[int]:
    """What FFmpeg gives of a file that ends anywhere; of the scraps of a last block it may make an error."""
    pieces: list[int] = []
    with av.open(io.BytesIO(file)) as container:
        try:
            for frame in container.decode(audio=0):
                pieces += frame.to_ndarray().reshape(-1).tolist()
        except av.error.InvalidDataError:
            pass
    return pieces


def ffmpeg_encode(samples: Any) -> bytes:
    """The same samples by FFmpeg's own encoder, in the same blocks."""
    out = io.BytesIO()
    with av.open(out, "w", format="wav") as container:
        stream = container.add_stream("adpcm_ima_wav", rate=16000, layout="mono", options={"block_size": "256"})
        for at in range(0, len(samples), BLOCK):
            frame = av.AudioFrame.from_ndarray(samples[None, at : at + BLOCK], format="s16p", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def encode(samples: Any) -> bytes:
    blocks = len(samples) // BLOCK
    out = bytearray(blocks * adpcm.BLOCK_BYTES)
    state = adpcm.new_state(0)
    for block in range(blocks):
        state[adpcm.OFFSET] = block * adpcm.BLOCK_BYTES
        adpcm.encode(array("h", samples[block * BLOCK : (block + 1) * BLOCK].tolist()), out, state)
    return wav.header("p7-0123456789abcdef", STAMP, 0, blocks) + bytes(out)


def snr_db(samples: Any, decoded: Any) -> float:
    error = samples.astype(float) - decoded.astype(float)
    return float(10 * np.log10((samples.astype(float) ** 2).sum() / (error**2).sum()))


def standard(predictor: int, index: int, code: int) -> tuple[int, int]:
    step = adpcm.STEPS[index]
    change = (step >> 3) + sum(step >> shift for bit, shift in ((4, 0), (2, 1), (1, 2)) if code & bit)
    predictor += -change if code & 8 else change
    return max(-32768, min(32767, predictor)), max(0, min(88, index + (-1, -1, -1, -1, 2, 4, 6, 8)[code & 7]))


def test_ffmpeg_decodes_every_step_and_nibble_by_the_standards_formula() -> None:
    blocks, expected = b"", []
    for index in range(89):
        for code in range(16):
            for predictor in (0, -32768 if code & 8 else 32767):
                blocks += struct.pack("<hBB", predictor, index, 0) + bytes([code]) + bytes(251)
                state = (predictor, index)
                for later in [code, *[0] * 503]:
                    expected.append(state[0])
                    state = standard(*state, later)
                expected.append(state[0])
    count = len(blocks) // 256
    decoded = ffmpeg_decode(wav.header("p7-0123456789abcdef", STAMP, 0, count) + blocks)
    assert decoded.tolist() == expected


def test_golden_note_decodes_in_ffmpeg() -> None:
    vector = json.loads((VECTORS / "note.json").read_text())
    samples = np.frombuffer(bytes.fromhex(vector["samples_hex"]), "<i2")
    decoded = ffmpeg_decode(bytes.fromhex(vector["file_hex"]))
    assert len(decoded) == len(samples) == 1515
    assert np.abs(decoded[:300].astype(int)).max() <= 16  # silence
    assert snr_db(samples[300:700], decoded[300:700]) > 15  # a tone in noise


def test_a_note_that_was_cut_at_any_byte_still_decodes() -> None:
    file = encode((8000 * np.sin(np.arange(BLOCK * 5) / 7)).astype(np.int16))
    whole = ffmpeg_decode(file)
    assert len(whole) == BLOCK * 5
    head_bytes = len(file) - 5 * 256
    for length in range(head_bytes + 512, len(file)):
        blocks = (length - head_bytes) // 256 - 1  # PyAV may give up the last whole one with the scraps after it
        cut = ffmpeg_decode_cut(file[:length])
        assert len(cut) <= len(whole) and cut[: BLOCK * blocks] == whole[: BLOCK * blocks].tolist(), length


def test_full_scale_squares_come_out_of_ffmpeg_as_the_encoder_believed() -> None:
    """Each block has to come to silence again after its square: from where FFmpeg is, not from beyond full scale."""
    for half_period in (1, 2, 3, 7, 40, 120):
        square = np.where(np.arange(BLOCK) // half_period % 2, 32767, -32768)
        for sign in (1, -1):
            block = np.clip(sign * square, -32768, 32767)
            block[-SETTLED:] = 0
            samples = np.tile(block, 4).astype(np.int16)
            decoded = ffmpeg_decode(encode(samples)).astype(int)
            assert np.abs(decoded[BLOCK - 1 :: BLOCK]).max() <= 16, (half_period, sign)
            if half_period >= 40:
                for at in range(3 * half_period - 1, BLOCK - SETTLED, half_period):
                    assert abs(decoded[at] - int(samples[at])) < 4500, (half_period, at)


def espeak(tmp_path: Path) -> Path:
    """A sentence of a synthetic voice."""
    command = needed(host_programs.espeak_ng)
    path = tmp_path / "espeak.wav"
    subprocess.run([*command, "-w", str(path), "Water the seven plants on Thursday, please."], check=True, timeout=60)
    return path


def test_not_worse_than_ffmpegs_encoder_on_speech(tmp_path: Path) -> None:
    for path in [*sorted(SPEECH.glob("*.wav")), espeak(tmp_path)]:
        speech = _samples(path)
        samples = speech[: len(speech) // BLOCK * BLOCK]
        ours = snr_db(samples, ffmpeg_decode(encode(samples))[: len(samples)])
        theirs = snr_db(samples, ffmpeg_decode(ffmpeg_encode(samples))[: len(samples)])
        print(f"SNR of {path.name}: ours {ours:.2f} dB, FFmpeg's {theirs:.2f} dB")
        assert ours > 12 and ours >= theirs - 0.2, path.name


def test_not_worse_than_ffmpegs_encoder_on_a_voice_like_signal() -> None:
    t = np.arange(BLOCK * 150) / 16000
    random = np.random.default_rng(5)
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / 16000
    voiced = sum(np.sin(k * pitch) / k ** (1 + 0.3 * np.sin(2 * np.pi * 2.1 * t)) for k in range(1, 25))
    envelope = np.clip(np.sin(2 * np.pi * 2.3 * t), 0, 1) ** 2
    samples = (7000 * envelope * voiced + 300 * random.normal(size=len(t))).clip(-32768, 32767).astype(np.int16)
    ours = snr_db(samples, ffmpeg_decode(encode(samples))[: len(samples)])
    theirs = snr_db(samples, ffmpeg_decode(ffmpeg_encode(samples))[: len(samples)])
    print(f"SNR: ours {ours:.2f} dB, FFmpeg's {theirs:.2f} dB")
    assert ours > 15
    assert ours >= theirs - 0.2


@settings(max_examples=100, deadline=None)
@given(
    st.lists(  # plateaus: level and length
        st.tuples(st.sampled_from((-32768, 32767)) | st.integers(-32768, 32767), st.integers(1, 60)),
        min_size=1,
        max_size=20,
    ),
    st.integers(-32768, 32767),
)
def test_predictor_follows_the_decoder(plateaus: list[tuple[int, int]], last: int) -> None:
    """Within one block: the head of the next would set both right. Where the two had parted, the level that the encoder
    believes to have reached at the end would not be the decoder's.
    """
    samples = np.concatenate([np.full(length, level) for level, length in plateaus])[: BLOCK - SETTLED]
    samples = np.concatenate([samples, np.full(BLOCK - len(samples), last)]).astype(np.int16)
    decoded = ffmpeg_decode(encode(samples))
    assert len(decoded) == BLOCK
    assert abs(int(decoded[-1]) - last) <= 16
