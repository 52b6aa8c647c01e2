"""What a cheap microphone, a room and a codec do to speech. All take and give (n,) float32 at 16 kHz."""

import io
import random
from collections.abc import Callable

import av
import numpy as np

from .signals import Samples, convolved, resampled, with_pole, with_zero
from .speech import SAMPLE_RATE_HZ

_TINY = 1e-9


def through_adpcm(samples: Samples, rate_hz: int = SAMPLE_RATE_HZ) -> Samples:
    """Encodes to IMA ADPCM WAV, the pendant's format, with FFmpeg's encoder, and decodes it again."""
    if rate_hz != SAMPLE_RATE_HZ:
        samples = resampled(samples, rate_hz, SAMPLE_RATE_HZ)
    pcm = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(pcm[np.newaxis], format="s16p", layout="mono")
    frame.sample_rate = rate_hz
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("adpcm_ima_wav", rate=rate_hz, layout="mono")
        assert isinstance(stream, av.AudioStream)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    buffer.seek(0)
    # Not by faster-whisper's `decode_audio`: it collects garbage each time, which takes far longer.
    with av.open(buffer, "r") as source:
        blocks = [block.to_ndarray()[0] for block in source.decode(audio=0)]
    decoded = (np.concatenate(blocks)[: len(pcm)] / 32768).astype(np.float32)
    if rate_hz != SAMPLE_RATE_HZ:
        decoded = resampled(decoded, SAMPLE_RATE_HZ, rate_hz)
    return decoded


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def white_noise(count: int, generator: np.random.Generator) -> Samples:
    """(count,) of level 1."""
    return generator.standard_normal(count, dtype=np.float32)


def with_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Adds the noise so far below the speech; the speech's level is taken over the whole clip."""
    level = (_rms(samples) + 1e-5) * 10 ** (-snr_db / 20)
    return samples + noise * np.float32(level / (_rms(noise) + _TINY))


def _hum(count: int, chance: random.Random, generator: np.random.Generator) -> Samples:
    seconds = np.arange(count) / SAMPLE_RATE_HZ
    base_hz = chance.choice((50, 60, 100, 120))
    tones = [
        np.sin(2 * np.pi * base_hz * harmonic * seconds + chance.uniform(0, 6)) / harmonic for harmonic in (1, 2, 3, 5)
    ]
    hum: Samples = np.sum(tones, axis=0).astype(np.float32)
    return hum + np.float32(0.3) * white_noise(count, generator)


def _rustle(count: int, generator: np.random.Generator) -> Samples:
    envelope = np.repeat(generator.random(count // 800 + 1), 800)[:count]
    hiss = with_zero(with_pole(white_noise(count, generator), 0.5), 0.7)
    return (hiss * envelope).astype(np.float32)


def random_noise(count: int, chance: random.Random, generator: np.random.Generator) -> Samples:
    """(count,) of one of five kinds: white, rumbling, warm, mains hum, rustling."""
    kinds: tuple[Callable[[], Samples], ...] = (
        lambda: white_noise(count, generator),
        lambda: with_pole(white_noise(count, generator), 0.97),
        lambda: with_pole(white_noise(count, generator), 0.9),
        lambda: _hum(count, chance, generator),
        lambda: _rustle(count, generator),
    )
    return chance.choice(kinds)()


def clicks_and_beeps(count: int, chance: random.Random) -> Samples:
    """(count,) of sounds that are no speech, such as a finger on the case."""
    sound = np.zeros(count, np.float32)
    for _ in range(chance.randint(1, 6)):
        start = chance.randrange(count - 400)
        length = chance.randint(20, min(count - start, 6000))
        steps = np.arange(length)
        tone = np.sin(steps * chance.uniform(0.02, 1.5)) * np.exp(-4 * steps / length)
        sound[start : start + length] += (tone * chance.uniform(0.01, 0.5)).astype(np.float32)
    return sound


def _reverb(samples: Samples, chance: random.Random, generator: np.random.Generator) -> Samples:
    length = int(SAMPLE_RATE_HZ * chance.uniform(0.05, 0.35))
    echo = generator.standard_normal(length) * np.exp(-6 * np.arange(length) / length)
    echo[0] = chance.uniform(3, 12)
    return convolved(samples, echo / np.abs(echo).max())


def degraded(samples: Samples, chance: random.Random, generator: np.random.Generator, speech: bool) -> Samples:
    """A random mixture of the above. `speech` says whether the level may be set: silence stays silent."""
    if chance.random() < 0.2:
        samples = _reverb(samples, chance, generator)
    if speech:
        peak_db = chance.uniform(-28, -0.5)
        samples = samples * np.float32(10 ** (peak_db / 20) / (np.abs(samples).max() + _TINY))
    if chance.random() < 0.3:
        samples = with_zero(samples, chance.uniform(-0.6, 0.6))
    if chance.random() < 0.6:
        noise = random_noise(len(samples), chance, generator)
        samples = with_noise(samples, noise, chance.uniform(6, 40))
    if chance.random() < 0.05:
        samples = np.clip(samples * 3, -1, 1)
    telephone = chance.random() < 0.2
    rate_hz = SAMPLE_RATE_HZ // 2 if telephone else SAMPLE_RATE_HZ
    if chance.random() < 0.4:
        samples = through_adpcm(samples, rate_hz)
    elif telephone:
        samples = resampled(resampled(samples, 1, 2), 2, 1)
    if chance.random() < 0.8:
        samples = (np.rint(np.clip(samples, -1, 1) * 32767) / 32768).astype(np.float32)
    return samples
