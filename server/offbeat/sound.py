"""Decodes the notes' sound with PyAV, whatever the format."""

import os
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# PyAV and numpy are imported where they are used: an idle server that plays nothing needs their 40 MB not.
RATE_HZ = 16_000


class SoundError(Exception):
    """The file holds no sound that can be decoded; the text says why."""


def decode(path: Path) -> Iterator["np.ndarray"]:
    """The samples in pieces: 16 bits signed, mono, 16,000 Hz. Raises SoundError."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    got_any = False
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise SoundError("the file holds no sound")
            packets = container.demux(container.streams.audio[0])
            for packet in packets:
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    continue  # a damaged block stays a gap of its own; what follows it is whole
                for frame in frames:
                    for part in resampler.resample(frame):
                        got_any = True
                        yield part.to_ndarray().reshape(-1)
            for part in resampler.resample(None) if got_any else []:
                yield part.to_ndarray().reshape(-1)
    except (av.error.FFmpegError, OSError) as error:
        raise SoundError(f"the sound cannot be decoded: {error.strerror or error}") from error
    if not got_any:
        raise SoundError("the file holds no sound")


def samples(path: Path) -> "np.ndarray":
    """All samples as float32, -1 to 1, mono, 16,000 Hz. Raises SoundError."""
    import numpy as np

    return np.concatenate(list(decode(path))).astype(np.float32) / 32768


def playable(path: Path, cache: Path) -> Path:
    """A WAV of the sound in plain PCM, which every browser plays; made once and kept in the folder `cache`.

    Raises SoundError."""
    made = cache / f"{path.stem}.pcm.wav"
    if made.exists():
        os.utime(made)  # old ones are removed by their time
        return made
    descriptor, part = tempfile.mkstemp(dir=cache, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file, wave.open(file, "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(2)
            writer.setframerate(RATE_HZ)
            for piece in decode(path):
                writer.writeframesraw(piece.tobytes())
        os.replace(part, made)
    except BaseException:
        os.unlink(part)
        raise
    return made
