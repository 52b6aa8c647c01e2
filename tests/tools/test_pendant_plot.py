"""`pendant.py plot`: what it says of a note's level, and where it marks gaps and clipping."""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pendant_encode
import pendant_plot
import pytest

SVG = "{http://www.w3.org/2000/svg}"


def note(amplitude: float, seconds: float = 2.0) -> bytes:
    t = np.arange(round(16_000 * seconds)) / 16_000
    return pendant_encode.note(amplitude * np.sin(2 * np.pi * 300 * t))


def marks(svg: str, name: str) -> list[Any]:
    return [item for item in ET.fromstring(svg).iter() if item.get("class") == name]


@pytest.mark.parametrize(
    ("amplitude", "words"),
    [(0.3, "Good"), (0.85, "Nearly too loud"), (1.6, "Too loud"), (0.02, "Too quiet"), (0.0, "Silence")],
)
def test_the_verdict(amplitude: float, words: str) -> None:
    level = pendant_plot.measure(note(amplitude))
    assert pendant_plot.verdict(level).startswith(words), (level.loudest_db, pendant_plot.verdict(level))
    assert bool(level.clipped_s) == bool(marks(pendant_plot.draw("n", level), "clip")) == (amplitude > 1)


def test_raised_as_it_says_a_quiet_note_is_good() -> None:
    level = pendant_plot.measure(note(0.02))
    advice = pendant_plot.verdict(level)
    raise_db = int(advice.split("Raise gain_db by ")[1].split(",")[0])
    t = np.arange(32_000) / 16_000
    louder = pendant_encode.note(0.02 * np.sin(2 * np.pi * 300 * t), raise_db)
    assert pendant_plot.verdict(pendant_plot.measure(louder)).startswith("Good")


def test_level_is_in_dbfs_where_the_sound_is() -> None:
    t = np.arange(48_000) / 16_000
    sound = 0.25 * np.sin(2 * np.pi * 300 * t) * (t >= 1) * (t < 2)
    level = pendant_plot.measure(pendant_encode.note(sound))
    third = len(level.peak_db) // 3
    assert level.peak_db[third + 5 : 2 * third - 5] == pytest.approx(20 * np.log10(0.25), abs=1)
    assert level.rms_db[third + 5 : 2 * third - 5] == pytest.approx(20 * np.log10(0.25) - 3, abs=1)
    assert level.peak_db[: third - 5].max() < -60


def test_clipping_is_marked_where_it_is() -> None:
    t = np.arange(48_000) / 16_000
    sound = 0.2 * np.sin(2 * np.pi * 300 * t) * np.where((t >= 2.0) & (t < 2.1), 10, 1)
    level = pendant_plot.measure(pendant_encode.note(sound))
    assert level.clipped_s and min(level.clipped_s) >= 1.98 and max(level.clipped_s) <= 2.12


def test_what_was_cut_off_and_what_was_lost_is_shown() -> None:
    whole = note(0.3)
    cut = whole[: len(whole) // 2]
    level = pendant_plot.measure(cut)
    assert level.duration_s + level.missing_s == pytest.approx(2.0, abs=0.05) and level.missing_s > 0.9
    svg = pendant_plot.draw("n", level)
    assert len(marks(svg, "gap")) == 1 and "cut off" in svg
    assert marks(pendant_plot.draw("n", pendant_plot.measure(whole)), "gap") == []
    lost = whole.replace(b'"lost":0,', b'"lost":8,')
    assert pendant_plot.measure(lost).lost_s == 8 / 16_000
    assert "lost while recording" in pendant_plot.draw("n", pendant_plot.measure(lost))


def test_the_command_writes_a_picture_and_refuses_what_is_no_note(tmp_path: Path, capsys: Any) -> None:
    parser = argparse.ArgumentParser()
    pendant_plot.add_arguments(parser)

    def run(path: Path) -> int:
        return pendant_plot.run(parser.parse_args([str(path), "--out", str(tmp_path / "level.svg")]))

    good = tmp_path / "a & <b>.wav"
    good.write_bytes(note(0.3, 0.5))
    assert run(good) == 0
    svg = (tmp_path / "level.svg").read_text()
    assert ET.fromstring(svg).tag == SVG + "svg" and "prefers-color-scheme: dark" in svg
    assert "Good" in capsys.readouterr().out
    (tmp_path / "level.svg").unlink()
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"nothing")
    for path, words in ((bad, "is no note"), (tmp_path / "missing.wav", "No such file")):
        assert run(path) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "level.svg").exists()
