"""Measures a model folder through faster-whisper: held-out phrases and voices, and sounds without speech."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_whisper import WhisperModel
from rich.console import Console
from rich.progress import track
from rich.table import Table

from . import grammar
from .degrade import through_adpcm, white_noise, with_noise
from .signals import Samples
from .speech import SAMPLE_RATE_HZ, Clip, Utterance, as_float, held_out_utterances, speak

EVALUATION_SEED = 2026

Change = Callable[[Samples], Samples]


@dataclass(frozen=True)
class Score:
    """What came of one series of clips."""

    name: str
    clips: int
    exact: int
    words: int
    wrong_words: int
    seconds_per_clip: float
    mistakes: list[tuple[str, str]]

    @property
    def word_error_rate(self) -> float:
        return self.wrong_words / max(1, self.words)


@dataclass(frozen=True)
class Report:
    """`invented` is what was heard where nobody spoke: it should be empty."""

    scores: list[Score]
    sounds: int
    invented: dict[str, str]


def word_errors(reference: str, heard: str) -> int:
    """The least number of words to insert, delete or replace (Levenshtein, 1965)."""
    expected, got = reference.split(), heard.split()
    costs = list(range(len(got) + 1))
    for row, word in enumerate(expected, start=1):
        before, costs[0] = costs[0], row
        for column, other in enumerate(got, start=1):
            replaced = before + (word != other)
            before = costs[column]
            costs[column] = min(replaced, costs[column] + 1, costs[column - 1] + 1)
    return costs[-1]


def load(folder: Path, threads: int = 1) -> WhisperModel:
    """The model in the folder; no hub is asked for anything."""
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)


def hear(model: WhisperModel, samples: Samples, **options: Any) -> str:
    """The text of a clip, in one piece. Temperature 0: no second tries with dice."""
    segments, _ = model.transcribe(samples, temperature=0, **options)
    return " ".join(segment.text.strip() for segment in segments).strip()


def framed(clip: Clip, before_s: float = 0.2, after_s: float = 0.4) -> Samples:
    """The clip with a little silence around it, as a recording has."""
    edges = round(before_s * SAMPLE_RATE_HZ), round(after_s * SAMPLE_RATE_HZ)
    return np.pad(as_float(clip.samples), edges)


def sounds_without_speech(generator: np.random.Generator) -> Iterator[tuple[str, Samples]]:
    """Name and samples of sounds in which nobody speaks."""
    second = SAMPLE_RATE_HZ
    yield "silence, 3 s", np.zeros(3 * second, np.float32)
    yield "silence, 30 s", np.zeros(30 * second, np.float32)
    yield "soft noise, 5 s", white_noise(5 * second, generator) * np.float32(0.001)
    yield "loud noise, 5 s", white_noise(5 * second, generator) * np.float32(0.1)
    yield "tone, 3 s", (0.3 * np.sin(0.2 * np.arange(3 * second))).astype(np.float32)
    yield "50 ms of silence", np.zeros(second // 20, np.float32)


def score(
    model: WhisperModel, name: str, clips: Sequence[Clip], change: Change, console: Console, **options: Any
) -> Score:
    """Transcribes each clip after `change`, and counts."""
    exact = words = wrong_words = 0
    mistakes = []
    started_s = time.perf_counter()
    for clip in track(clips, description=name, console=console, transient=True):
        heard = hear(model, change(framed(clip)), **options)
        wrong = word_errors(clip.text, heard)
        wrong_words += wrong
        words += len(clip.text.split())
        exact += wrong == 0
        if wrong:
            mistakes.append((clip.text, heard))
    seconds = (time.perf_counter() - started_s) / max(1, len(clips))
    return Score(name, len(clips), exact, words, wrong_words, seconds, mistakes)


def pairs(clips: Sequence[Clip], gap_s: float = 0.6) -> list[Clip]:
    """Each clip with the one after it: notes of two sentences."""
    gap = np.zeros(round(gap_s * SAMPLE_RATE_HZ), np.int16)
    return [
        Clip(f"{first.text} {second.text}", first.voice, np.concatenate([first.samples, gap, second.samples]))
        for first, second in zip(clips[::2], clips[1::2], strict=False)
    ]


def evaluate(folder: Path, count: int, console: Console) -> Report:
    """The whole measurement. `count`: how many held-out clips; the same ones each time."""
    model = load(folder)
    generator = np.random.default_rng(EVALUATION_SEED)
    utterances = held_out_utterances(count, EVALUATION_SEED)
    clips = [speak(one) for one in track(utterances, "Speaking", console=console, transient=True)]
    plain = [
        speak(Utterance(one.text, grammar.PLAIN_VOICES[index % len(grammar.PLAIN_VOICES)]))
        for index, one in enumerate(utterances)
    ]
    canonical = [
        speak(Utterance(text, voice))
        for text in grammar.CANONICAL
        for voice in (*grammar.PLAIN_VOICES, "en-us+f4", "en-gb+m5", "en-gb-scotland+Andrea")
    ]
    series: list[tuple[str, Sequence[Clip], Change, dict[str, Any]]] = [
        ("held-out voices", clips, lambda samples: samples, {}),
        ("held-out voices, ADPCM", clips, through_adpcm, {}),
        ("held-out voices, ADPCM, beam 1", clips, through_adpcm, {"beam_size": 1}),
        ("held-out voices, ADPCM, without timestamps", clips, through_adpcm, {"without_timestamps": True}),
        ("held-out voices, ADPCM at 8 kHz", clips, lambda samples: through_adpcm(samples, 8000), {}),
        (
            "held-out voices, white noise at 20 dB",
            clips,
            lambda samples: with_noise(samples, white_noise(len(samples), generator), 20),
            {},
        ),
        (
            "held-out voices, 2 s of silence first",
            clips,
            lambda samples: np.pad(samples, (2 * SAMPLE_RATE_HZ, 0)),
            {},
        ),
        ("held-out voices, two sentences", pairs(clips), lambda samples: samples, {}),
        ("plain voices (trained on), ADPCM", plain, through_adpcm, {}),
        ("canonical sentences, ADPCM", canonical, through_adpcm, {}),
    ]
    scores = [score(model, name, chosen, change, console, **options) for name, chosen, change, options in series]
    sounds = list(sounds_without_speech(generator))
    heard = {name: hear(model, samples) for name, samples in sounds}
    return Report(scores, len(sounds), {name: text for name, text in heard.items() if text})


def show(report: Report, console: Console) -> None:
    """Prints the report."""
    table = Table("held-out phrases", "word errors", "words", "exact", "ms a clip")
    for one in report.scores:
        table.add_row(
            one.name,
            f"{one.word_error_rate:.1%} ({one.wrong_words})",
            str(one.words),
            f"{one.exact}/{one.clips}",
            f"{1000 * one.seconds_per_clip:.0f}",
        )
    console.print(table)
    for expected, heard in report.scores[1].mistakes[:8]:
        console.print(f"  said  {expected}\n  heard {heard or '(nothing)'}", highlight=False)
    silent = report.sounds - len(report.invented)
    console.print(f"Sounds without speech: {silent} of {report.sounds} give an empty text.")
    for name, text in report.invented.items():
        console.print(f"  {name}: {text!r}")


def save(report: Report, path: Path) -> None:
    """The report as JSON, every mistake included."""
    path.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
