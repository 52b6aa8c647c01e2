"""`pendant.py encode`: any sound in, a note out."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pendant_encode
import pytest
from offbeat import wav as server_wav
from pendant import wav


def tone(path: Path, rate_hz: int, channels: int, hz: float = 440, amplitude: float = 0.3) -> Path:
    t = np.arange(rate_hz) / rate_hz
    samples = np.repeat((32767 * amplitude * np.sin(2 * np.pi * hz * t)).astype("<i2"), channels)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())
    return path


def run(*words: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    pendant_encode.add_arguments(parser)
    return pendant_encode.run(parser.parse_args(words))


def decoded(data: bytes) -> Any:
    with av.open(io.BytesIO(data)) as container:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]).astype(float)


@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1)])
def test_any_rate_and_channels_become_a_note_that_sounds_the_same(tmp_path: Path, rate_hz: int, channels: int) -> None:
    out = tmp_path / "note.wav"
    assert run(str(tone(tmp_path / "in.wav", rate_hz, channels)), str(out)) == 0
    data = out.read_bytes()
    note = wav.read(data[: wav.HEAD_BYTES], len(data))
    assert note is not None and not note.cut
    assert {"id", "counter", "start_ms", "lost", "asleep_ms"} <= set(note.meta)
    assert abs(note.samples - 16_000) <= 505
    heard = decoded(data)[4000:12000]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert abs(spectrum.argmax() * 16_000 / len(heard) - 440) <= 2
    assert abs(20 * np.log10(np.sqrt((heard**2).mean()) / (0.3 * 32767 / np.sqrt(2)))) < 0.2


def test_the_gain_is_the_firmwares(tmp_path: Path) -> None:
    source = tone(tmp_path / "in.wav", 16_000, 1)
    levels = []
    for gain_db in ("-12", "0", "6", "24"):
        assert run(str(source), str(tmp_path / "out.wav"), "--gain-db", gain_db) == 0
        levels.append(float(np.abs(decoded((tmp_path / "out.wav").read_bytes())).max()))
    assert levels[0] == pytest.approx(levels[1] / 4, rel=0.03)
    assert levels[2] == pytest.approx(levels[1] * 2, rel=0.03)
    assert 32_000 < levels[3] <= 32_768  # saturated, not wrapped: a wrapped tone would have changed its pitch
    heard = decoded((tmp_path / "out.wav").read_bytes())[4000:12000]
    assert abs(np.abs(np.fft.rfft(heard)).argmax() * 16_000 / 8000 - 440) <= 2


def test_the_server_can_read_it(tmp_path: Path) -> None:
    out = tmp_path / "note.wav"
    assert run(str(tone(tmp_path / "in.wav", 16_000, 1)), str(out)) == 0
    data = out.read_bytes()
    recording = server_wav.read(io.BytesIO(data), len(data))
    assert recording.rate_hz == 16_000 and abs(recording.duration_ms - 1000) <= 32
    assert recording.integer("start_ms") == 0 and recording.integer("lost") == 0


def test_what_is_no_sound_is_refused_with_what_to_do(tmp_path: Path, capsys: Any) -> None:
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    for source in (text, tmp_path / "missing.wav"):
        assert run(str(source), str(tmp_path / "out.wav")) == 2
        error = capsys.readouterr().err
        assert str(source) in error and "give a WAV" in error
    assert not (tmp_path / "out.wav").exists()
    assert run(str(tone(tmp_path / "in.wav", 16_000, 1)), str(tmp_path / "no" / "out.wav")) == 2
    assert "cannot be written" in capsys.readouterr().err
