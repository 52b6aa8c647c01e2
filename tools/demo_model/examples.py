"""Training examples: clips put together into short windows, degraded, and turned into Whisper's features."""

import functools
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faster_whisper.feature_extractor import FeatureExtractor
from numpy.typing import NDArray

from .degrade import clicks_and_beeps, degraded, random_noise
from .signals import Samples
from .speech import SAMPLE_RATE_HZ, Clip, as_float, load_clips
from .tokens import Segment

MEL_COUNT = 80
FRAME_RATE_HZ = 100

Features = NDArray[np.float16]


@dataclass(frozen=True)
class Example:
    """`features`: (frames, 80) float16, 100 frames a second; `segments`: empty if nobody speaks."""

    features: Features
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


@dataclass(frozen=True)
class Recipe:
    """Which example to make. The same recipe makes the same example on any machine."""

    clips: Path
    seed: int
    phrases_max: int
    seconds_max: float


@functools.cache
def _extractor() -> FeatureExtractor:
    return FeatureExtractor()


@functools.cache
def _clips(path: Path) -> list[Clip]:
    # Once in each worker process.
    return load_clips(path)


def features_of(samples: Samples) -> Features:
    """(frames, 80), by faster-whisper's own code and without its last frame, which it does not use either."""
    mels: NDArray[np.float32] = _extractor()(samples)[:, :-1]
    return mels.T.astype(np.float16)


def _silence(seconds: float) -> Samples:
    return np.zeros(int(SAMPLE_RATE_HZ * seconds), np.float32)


def _without_speech(recipe: Recipe, chance: random.Random, generator: np.random.Generator) -> Samples:
    count = int(SAMPLE_RATE_HZ * chance.uniform(0.5, recipe.seconds_max))
    kind = chance.random()
    if kind < 0.25:
        samples = np.zeros(count, np.float32)
    else:
        level_db = chance.uniform(-60, -6)
        samples = random_noise(count, chance, generator) * np.float32(0.25 * 10 ** (level_db / 20))
    if kind > 0.7:
        samples = samples + clicks_and_beeps(count, chance)
    return samples


def _lead_s(chance: random.Random) -> float:
    """Silence before the first word: mostly short, sometimes somebody who thinks first."""
    kind = chance.random()
    if kind < 0.65:
        return chance.uniform(0, 0.5)
    return chance.uniform(0.3, 1.0) if kind < 0.85 else chance.uniform(1.0, 3.0)


def _with_speech(recipe: Recipe, chance: random.Random) -> tuple[Samples, tuple[Segment, ...]]:
    clips = _clips(recipe.clips)
    parts = [_silence(_lead_s(chance))]
    count = len(parts[0])
    segments: list[Segment] = []
    for index in range(chance.randint(1, recipe.phrases_max)):
        clip = chance.choice(clips)
        gap = _silence(chance.uniform(0.3, 1.2)) if index else _silence(0)
        end_s = (count + len(gap) + len(clip.samples)) / SAMPLE_RATE_HZ
        if index and end_s > recipe.seconds_max:
            break
        gain = np.float32(10 ** (chance.uniform(-4, 4) / 20))
        parts += [gap, as_float(clip.samples) * gain]
        count += len(gap) + len(clip.samples)
        segments.append(Segment(end_s - len(clip.samples) / SAMPLE_RATE_HZ, end_s, clip.text))
    parts.append(_silence(chance.uniform(0, 1.2)))
    return np.concatenate(parts), tuple(segments)


def make_example(recipe: Recipe) -> Example:
    """One example; seven in a hundred are without speech."""
    chance = random.Random(recipe.seed)
    generator = np.random.default_rng(recipe.seed)
    segments: tuple[Segment, ...] = ()
    if chance.random() < 0.07:
        samples = _without_speech(recipe, chance, generator)
    else:
        samples, segments = _with_speech(recipe, chance)
    samples = degraded(samples, chance, generator, speech=bool(segments))
    return Example(features_of(samples), segments)


def save_examples(folder: Path, examples: list[Example]) -> None:
    """features.npy (all frames joined) and segments.json."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "features.npy", np.concatenate([example.features for example in examples]))
    rows = [
        {
            "frames": len(example.features),
            "segments": [[part.start_s, part.end_s, part.text] for part in example.segments],
        }
        for example in examples
    ]
    (folder / "segments.json").write_text(json.dumps(rows), encoding="utf-8")


def load_examples(folder: Path) -> list[Example]:
    """The examples that `save_examples` wrote; the features stay on disk until used."""
    frames = np.load(folder / "features.npy", mmap_mode="r")
    examples = []
    start = 0
    for row in json.loads((folder / "segments.json").read_text(encoding="utf-8")):
        end = start + row["frames"]
        segments = tuple(Segment(*part) for part in row["segments"])
        examples.append(Example(frames[start:end], segments))
        start = end
    return examples
