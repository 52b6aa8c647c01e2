"""Decodes the notes' sound with PyAV, whatever the format."""

import os
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from av.audio.stream import AudioStream
    from av.container import InputContainer

# PyAV and numpy are imported where they are used: an idle server that plays nothing needs their 40 MB not.
RATE_HZ = 16_000
# Of what is decoded: to resample from 500 MHz would take for ever, from 1 Hz all memory.
MIN_RATE_HZ, MAX_RATE_HZ = 2_000, 768_000
# A file's head may say nothing of its duration, or lie. A little more than MAX_NOTE_BYTES of a device last (2.3 h).
MAX_DECODED_S = 9_000

# What may be opened, with its media type: FFmpeg's playlists would read other files of this machine, and addresses.
MEDIA_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "flac": "audio/flac",
    "aac": "audio/aac",
    "mov": "audio/mp4",
    "matroska": "audio/webm",
    "amr": "audio/amr",
    "aiff": "audio/aiff",
    "caf": "audio/x-caf",
    "au": "audio/basic",
    "asf": "audio/x-ms-wma",
    "avi": "video/x-msvideo",
    "mpegts": "video/mp2t",
    "w64": "application/octet-stream",
    "wv": "application/octet-stream",
}


def _open(path: Path) -> "InputContainer":
    import av

    return av.open(str(path), metadata_errors="ignore", options={"format_whitelist": ",".join(MEDIA_TYPES)})


class SoundError(Exception):
    """The file holds no sound that can be decoded; the text says why."""


def _stream(container: "InputContainer") -> "AudioStream":
    """The first sound of a file. Raises SoundError."""
    if not container.streams.audio:
        raise SoundError("the file holds no sound")
    stream = container.streams.audio[0]
    # PyAV 17 ends the process with a segmentation fault where it decodes what it has no decoder for.
    if stream.codec_context is None:
        raise SoundError("the sound is in a format that is not known here")
    if not MIN_RATE_HZ <= stream.codec_context.sample_rate <= MAX_RATE_HZ:
        raise SoundError(f"its rate of {stream.codec_context.sample_rate} Hz is none of sound")
    return stream


def decode(path: Path) -> Iterator["np.ndarray"]:
    """The samples in pieces: 16 bits signed, mono, 16,000 Hz, MAX_DECODED_S at most. Raises SoundError."""
    count = 0
    for piece in _decode(path):
        count += len(piece)
        if count > MAX_DECODED_S * RATE_HZ:
            raise SoundError(f"it lasts longer than {MAX_DECODED_S // 60} minutes")
        yield piece


def _decode(path: Path) -> Iterator["np.ndarray"]:
    """As `decode`, without an end."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    got_any = False
    try:
        with _open(path) as container:
            packets = container.demux(_stream(container))
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

    content = bytearray()  # grows in place: of an hour there is one array of 230 MB, and no second one
    for piece in decode(path):
        content += (piece.astype(np.float32) / 32768).tobytes()
    return np.frombuffer(content, np.float32)


def probe(path: Path) -> tuple[int | None, str]:
    """Duration in ms, None where only decoding would tell, and media type. Raises SoundError."""
    import av

    try:
        with _open(path) as container:
            stream = _stream(container)
            name = container.format.name.split(",")[0]
            duration_us = container.duration
            next(frame for frame in container.decode(stream))
    except StopIteration:
        raise SoundError("the file holds no sound") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SoundError(f"the sound cannot be decoded: {getattr(error, 'strerror', None) or error}") from error
    duration_ms = None if duration_us is None or duration_us < 0 else duration_us // 1000
    return duration_ms, MEDIA_TYPES[name]


def playable_path(note_id: str, cache: Path) -> Path:
    """Where `playable` keeps the sound of a note."""
    return cache / f"{note_id}.pcm.wav"


def playable(path: Path, cache: Path) -> Path:
    """A WAV of the sound in plain PCM, which every browser plays; made once and kept in the folder `cache`.

    Raises SoundError."""
    made = playable_path(path.stem, cache)
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
