"""Speech from text by espeak-ng, as 16 kHz mono samples."""

import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import debian
import host_programs
import numpy as np
from numpy.typing import NDArray

from . import grammar
from .errors import TrainingError
from .signals import Samples, resampled

SAMPLE_RATE_HZ = 16_000
ESPEAK_RATE_HZ = 22_050
_QUIET_LEVEL = 150
_EDGE_SAMPLES = 80


@dataclass(frozen=True)
class Clip:
    """One spoken phrase. `samples`: (n,) int16 at 16 kHz, silence trimmed off both ends."""

    text: str
    voice: str
    samples: NDArray[np.int16]


@dataclass(frozen=True)
class Utterance:
    """What espeak-ng is asked to say, and how. Units are espeak-ng's own."""

    text: str
    voice: str
    words_per_minute: int = 175
    pitch: int = 50
    word_gap_10ms: int = 0


def espeak_command() -> list[str]:
    """`espeak-ng` on the PATH, or Debian's in the cache folder; an error that helps if there is none."""
    try:
        return list(host_programs.espeak_ng())
    except debian.Unavailable as error:
        raise TrainingError(str(error)) from error


def speak(utterance: Utterance) -> Clip:
    """Has espeak-ng say it."""
    arguments = [
        "-v", utterance.voice, "-s", str(utterance.words_per_minute), "-p", str(utterance.pitch),
        "-g", str(utterance.word_gap_10ms), "--stdout", utterance.text,
    ]  # fmt: skip
    result = subprocess.run([*espeak_command(), *arguments], capture_output=True, check=False, timeout=60)
    if result.returncode != 0 or not result.stdout:
        reason = result.stderr.decode(errors="replace").strip()
        raise TrainingError(
            f"espeak-ng does not speak as {utterance.voice!r} ({reason}): "
            "see `espeak-ng --voices=variant`, and update espeak-ng to 1.51 or later"
        )
    samples = _wave_samples(result.stdout)
    return Clip(utterance.text, utterance.voice, _trimmed(samples))


def random_utterance(chance: random.Random, words: list[str]) -> Utterance:
    """A training phrase in a training voice; the plain voices weigh more, as they are the usual ones."""
    text = grammar.training_phrase(chance, words)
    plain = chance.random() < 0.15
    voice = chance.choice(grammar.PLAIN_VOICES if plain else grammar.TRAINING_VOICES)
    return _with_manner(chance, text, voice)


def held_out_utterances(count: int, seed: int) -> list[Utterance]:
    """`count` held-out phrases, each in a held-out voice with a speed and pitch of its own."""
    chance = random.Random(seed)
    phrases = grammar.held_out_phrases(count, seed)
    return [_with_manner(chance, text, chance.choice(grammar.HELD_OUT_VOICES)) for text in phrases]


def _with_manner(chance: random.Random, text: str, voice: str) -> Utterance:
    usual_speed, usual_pitch = chance.random() < 0.3, chance.random() < 0.3
    return Utterance(
        text,
        voice,
        words_per_minute=chance.choice((150, 160, 175)) if usual_speed else chance.randint(115, 215),
        pitch=50 if usual_pitch else chance.randint(25, 80),
        word_gap_10ms=0 if chance.random() < 0.8 else chance.randint(1, 6),
    )


def speak_training_clip(seed: int) -> Clip:
    """The training clip of this number: always the same one."""
    return speak(random_utterance(random.Random(seed), grammar.vocabulary()))


def _wave_samples(wave: bytes) -> NDArray[np.int16]:
    # espeak-ng cannot seek in a pipe, so the lengths in its header are wrong and `wave` would refuse it.
    rate_hz = int.from_bytes(wave[24:28], "little")
    start = wave.find(b"data") + 8
    end = len(wave) - (len(wave) - start) % 2
    samples = np.frombuffer(wave[start:end], dtype="<i2").astype(np.float32)
    if rate_hz == ESPEAK_RATE_HZ:
        samples = resampled(samples, 320, 441)
    elif rate_hz != SAMPLE_RATE_HZ:
        raise TrainingError(f"espeak-ng speaks at {rate_hz} Hz, expected {ESPEAK_RATE_HZ}: update espeak-ng")
    return np.clip(np.rint(samples), -32768, 32767).astype(np.int16)


def _trimmed(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > _QUIET_LEVEL)
    if not len(loud):
        raise TrainingError("espeak-ng answered with silence: try `espeak-ng --stdout hello > hello.wav`")
    return samples[max(0, loud[0] - _EDGE_SAMPLES) : loud[-1] + _EDGE_SAMPLES]


def as_float(samples: NDArray[np.int16]) -> Samples:
    """int16 samples as float32 in -1 to 1, which is what Whisper takes."""
    return (samples.astype(np.float32) / 32768).astype(np.float32)


def load_clips(path: Path) -> list[Clip]:
    """The clips that `save_clips` wrote."""
    with np.load(path) as stored:
        joined, ends = stored["samples"], stored["ends"]
        parts = np.split(joined, ends[:-1])
        return [
            Clip(str(text), str(voice), part)
            for text, voice, part in zip(stored["texts"], stored["voices"], parts, strict=True)
        ]


def save_clips(path: Path, clips: list[Clip]) -> None:
    """One file: the samples joined, with where each clip ends."""
    np.savez(
        path,
        samples=np.concatenate([clip.samples for clip in clips]),
        ends=np.cumsum([len(clip.samples) for clip in clips]),
        texts=np.array([clip.text for clip in clips]),
        voices=np.array([clip.voice for clip in clips]),
    )
