"""`pendant.py encode`: a sound file through the firmware's own capture path and encoder, as a note."""

from __future__ import annotations

import argparse
import secrets
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from pendant import adpcm, wav
from rich.progress import track

FULL_SCALE_DB = -12  # of the microphone: what full scale of the file stands for, as in the simulated board
_GAIN_BITS = 2  # the firmware's default: the two cancel each other
GAINS_DB = range(-24, 25, 6)


class NoSound(Exception):
    """A file that holds no sound; the text says what to do."""


def samples(path: Path) -> Any:
    """The sound at 16 kHz, one channel: float64, full scale is 1. Any format that FFmpeg reads. Raises NoSound."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise NoSound(f"{path} has no sound in it: give a WAV, MP3, Ogg or other sound file")
            resampler = av.AudioResampler(format="fltp", rate=adpcm.SAMPLE_RATE_HZ)
            pieces = [
                piece.to_ndarray().mean(axis=0)  # FFmpeg's own mix of two channels is 3 dB louder
                for frame in [*container.decode(audio=0), None]
                for piece in resampler.resample(frame)
            ]
    except (OSError, av.error.FFmpegError) as error:
        raise NoSound(f"{path} cannot be read as sound ({error.strerror}): give a WAV, MP3, Ogg or the like") from error
    sound = np.concatenate(pieces) if pieces else np.zeros(0)
    if not len(sound):
        raise NoSound(f"{path} has no sound in it: it is empty")
    return sound.astype(np.float64)


def blocks(sound: Any, gain_db: int = 0) -> Iterator[bytes]:
    """The firmware's blocks of this sound, 256 bytes each; the last one is filled up with silence.

    sound: as of `samples`. gain_db: over the firmware's default, -24 to 24 in steps of 6. The words of the microphone
    hold 24 bits; its settling and its noise are left out.
    """
    state = adpcm.new_state(_GAIN_BITS + gain_db // 6)
    scale = 2**23 * 10 ** (FULL_SCALE_DB / 20)
    conditioned, out = array("h", bytes(2 * adpcm.BLOCK_SAMPLES)), bytearray(adpcm.BLOCK_BYTES)
    for at in range(0, len(sound), adpcm.BLOCK_SAMPLES):
        piece = np.zeros(adpcm.BLOCK_SAMPLES)
        part = sound[at : at + adpcm.BLOCK_SAMPLES]
        piece[: len(part)] = part
        words = np.clip(np.round(piece * scale), -(2**23), 2**23 - 1).astype("<i4") << 8
        adpcm.condition(words.tobytes(), conditioned, state)
        adpcm.encode(conditioned, out, state)
        yield bytes(out)


def note(sound: Any, gain_db: int = 0) -> bytes:
    """A whole note of this sound, with metadata of a recording at the beginning of a counter (docs/protocol.md)."""
    count = -(-len(sound) // adpcm.BLOCK_SAMPLES)
    data = b"".join(track(blocks(sound, gain_db), "encoding", total=count, transient=True, disable=count < 2000))
    stamp = {"counter": secrets.token_hex(4), "start_ms": 0, "asleep_ms": 0}
    head: bytes = wav.header(f"desk-{secrets.token_hex(8)}", stamp, 0, count)
    return head + data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sound", type=Path, metavar="IN.wav", help="a sound file, any rate and number of channels")
    parser.add_argument("out", type=Path, metavar="OUT.wav", help="the note to write: 16 kHz, one channel, IMA ADPCM")
    parser.add_argument(
        "--gain-db", type=int, choices=GAINS_DB, default=0, help="over the firmware's default (default 0)"
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        data = note(samples(arguments.sound), arguments.gain_db)
    except NoSound as error:
        print(f"pendant.py encode: {error}", file=sys.stderr)
        return 2
    try:
        arguments.out.write_bytes(data)
    except OSError as error:
        print(
            f"pendant.py encode: {arguments.out} cannot be written ({error.strerror}): choose another", file=sys.stderr
        )
        return 2
    return 0
