"""Sound that lasts for ever, whatever its head says."""

import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from offbeat import sound
from offbeat.notebook import MAX_DURATION_MS
from offbeat.protocol import MAX_NOTE_BYTES

LONG_S = 1200


class Unseekable:
    """A file that is only written to: its head cannot be completed at the end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()


def silence(path: Path, duration_s: int) -> None:
    """A FLAC of silence of which nothing says how long it lasts; quick to make, at 2 kHz."""
    file = Unseekable(path)
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=2000, layout="mono")
        for _ in range(duration_s):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.int16), format="s16", layout="mono")
            frame.rate = 2000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.close()


def test_what_is_too_long_is_refused_at_flat_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tmp_path / "note.sound", tmp_path / "cache"
    cache.mkdir()
    silence(path, LONG_S)
    assert sound.probe(path)[0] is None and path.stat().st_size < 200_000
    assert len(sound.samples(path)) == pytest.approx(LONG_S * sound.RATE_HZ, rel=0.001)
    monkeypatch.setattr(sound, "MAX_DECODED_S", 60)
    tracemalloc.start()
    try:
        with pytest.raises(sound.SoundError, match="longer than 1 minutes"):
            sound.samples(path)
        with pytest.raises(sound.SoundError, match="longer than 1 minutes"):
            sound.playable(path, cache)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 * 60 * sound.RATE_HZ * 4, "about one array of the minute that is allowed"
    assert list(cache.iterdir()) == []


def test_samples_are_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "note.sound"
    silence(path, LONG_S // 4)
    sound.samples(path)  # what is imported at first does not count
    tracemalloc.start()
    try:
        samples = sound.samples(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert samples.dtype == np.float32 and peak_bytes < 1.5 * samples.nbytes


def test_whatever_is_taken_in_can_be_decoded() -> None:
    longest_samples = MAX_NOTE_BYTES // 256 * 505  # of a device: docs/protocol.md
    assert max(longest_samples / sound.RATE_HZ, MAX_DURATION_MS / 1000) < sound.MAX_DECODED_S
