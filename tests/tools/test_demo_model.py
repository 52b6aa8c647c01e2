"""The demonstration model that is carried here: small, good enough, never tested on what it was taught."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from demo_model import degrade, evaluate, export, grammar, speech, tokens
from demo_model.errors import TrainingError
from faster_whisper import WhisperModel
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tools" / "demo_model" / "model"
SIZE_LIMIT_BYTES = 2_000_000
SPOKEN_CLIPS = 40
WRONG_WORDS_LIMIT = 1 / 20


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    return evaluate.load(MODEL, threads=2)


@pytest.fixture
def espeak() -> None:
    """Skips where espeak-ng is missing, with what helps; in CI a missing part is a failure."""
    try:
        speech.espeak_command()
    except TrainingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


def test_the_model_is_small_and_complete() -> None:
    assert export.size_bytes(MODEL) <= SIZE_LIMIT_BYTES
    everything = sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file())
    assert everything <= SIZE_LIMIT_BYTES


def test_held_out_phrases_and_voices_are_never_trained_on() -> None:
    assert not set(grammar.TRAINING_VOICES) & set(grammar.HELD_OUT_VOICES)
    assert not set(grammar.TRAINING_VARIANTS) & set(grammar.HELD_OUT_VARIANTS)
    chance = random.Random(5)
    words = grammar.vocabulary()
    trained = [speech.random_utterance(chance, words) for _ in range(3000)]
    assert not any(grammar.held_out(one.text) for one in trained)
    assert {one.voice for one in trained} <= set(grammar.TRAINING_VOICES)
    held_out = speech.held_out_utterances(500, seed=6)
    assert not {one.text for one in held_out} & {one.text for one in trained}
    assert {one.voice for one in held_out} <= set(grammar.HELD_OUT_VOICES)
    assert all(grammar.held_out(phrase) for phrase in grammar.CANONICAL)


def test_held_out_phrases_are_the_same_for_the_same_seed() -> None:
    once = list(grammar.held_out_phrases(50, seed=1))
    assert once == list(grammar.held_out_phrases(50, seed=1))
    assert once != list(grammar.held_out_phrases(50, seed=2))
    assert len(set(once)) == 50


def test_the_vocabulary_covers_the_grammar(model: WhisperModel) -> None:
    words = set(grammar.vocabulary())
    chance = random.Random(7)
    spoken = {word for _ in range(5000) for word in grammar.random_phrase(chance).split()}
    assert spoken == words
    assert {word for phrase in grammar.CANONICAL for word in phrase.split()} <= words
    # The model that is carried knows each word as one token, as the tokenizer made today does.
    for word in words:
        assert len(model.hf_tokenizer.encode(f" {word}").ids) == 1, word
        assert len(tokens.build_tokenizer().encode(f" {word}").ids) == 1, word


def test_word_errors_are_counted() -> None:
    assert evaluate.word_errors("buy milk and eggs", "buy milk and eggs") == 0
    assert evaluate.word_errors("buy milk and eggs", "buy silk eggs") == 2
    assert evaluate.word_errors("buy milk", "") == 2
    assert evaluate.word_errors("", "buy milk now") == 3


@pytest.mark.usefixtures("espeak")
def test_held_out_speech_through_adpcm_is_understood(model: WhisperModel) -> None:
    wrong = total = 0
    for utterance in speech.held_out_utterances(SPOKEN_CLIPS, seed=40):
        samples = degrade.through_adpcm(evaluate.framed(speech.speak(utterance)))
        wrong += evaluate.word_errors(utterance.text, evaluate.hear(model, samples))
        total += len(utterance.text.split())
    assert wrong <= total * WRONG_WORDS_LIMIT, f"{wrong} wrong words of {total}"


@pytest.mark.usefixtures("espeak")
@pytest.mark.parametrize("voice", grammar.PLAIN_VOICES)
def test_the_canonical_sentences_are_understood(model: WhisperModel, voice: str) -> None:
    wrong = total = 0
    for phrase in grammar.CANONICAL:
        samples = degrade.through_adpcm(evaluate.framed(speech.speak(speech.Utterance(phrase, voice))))
        wrong += evaluate.word_errors(phrase, evaluate.hear(model, samples))
        total += len(phrase.split())
    assert wrong <= total * WRONG_WORDS_LIMIT, f"{wrong} wrong words of {total}"


def test_where_nobody_speaks_no_text_is_invented(model: WhisperModel) -> None:
    for name, samples in evaluate.sounds_without_speech(np.random.default_rng(0)):
        assert evaluate.hear(model, samples) == "", name


def _random_weights(vocabulary_size: int) -> dict[str, NDArray[np.float32]]:
    """Arrays of the smallest network that the exporter takes: width 6, one head, one layer on each side."""
    generator = np.random.default_rng(0)
    width = 6
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (width, 80, 3),
        "conv1.bias": (width,),
        "conv2.weight": (width, width, 3),
        "conv2.bias": (width,),
        "encoder_positions": (1500, width),
        "embedding.weight": (vocabulary_size, width),
        "decoder_positions": (448, width),
    }
    norms = ["encoder_norm", "decoder_norm"]
    for side, kinds in (("encoder", ("self",)), ("decoder", ("self", "cross"))):
        layer = f"{side}.0"
        norms += [f"{layer}.feed_norm", *(f"{layer}.{kind}_norm" for kind in kinds)]
        for kind in kinds:
            for matrix in ("query", "key", "value", "output"):
                shapes[f"{layer}.{kind}_attention.{matrix}.weight"] = (width, width)
                shapes[f"{layer}.{kind}_attention.{matrix}.bias"] = (width,)
        shapes |= {f"{layer}.feed_in.weight": (8, width), f"{layer}.feed_in.bias": (8,)}
        shapes |= {f"{layer}.feed_out.weight": (width, 8), f"{layer}.feed_out.bias": (width,)}
    for norm in norms:
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def test_what_the_exporter_writes_is_loaded_by_faster_whisper(tmp_path: Path) -> None:
    tokenizer = tokens.build_tokenizer()
    size = tokens.Targets(tokenizer).size
    layout = export.Layout(heads=1, encoder_layers=1, decoder_layers=1)
    export.export(tmp_path / "model", _random_weights(size), tokenizer, layout)
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(export.MODEL_FILES)
    model = evaluate.load(tmp_path / "model")
    assert not model.model.is_multilingual
    evaluate.hear(model, np.zeros(16_000, np.float32), max_new_tokens=5)


def test_targets_hold_the_text_and_close_with_the_end() -> None:
    targets = tokens.Targets(tokens.build_tokenizer())
    segments = (tokens.Segment(0.2, 1.0, "buy milk"), tokens.Segment(1.5, 2.0, "stop"))
    for seed in range(20):
        read, said = targets.sample(segments, (), random.Random(seed))
        assert len(read) == len(said)
        assert said[-1] == targets.end
        assert targets.text([one for one in said if one >= 0]) == "buy milk stop"
    _, said = targets.sample((), (), random.Random(0))
    assert said == [targets.no_speech, targets.end]


@pytest.mark.usefixtures("espeak")
def test_adpcm_keeps_the_speech_and_its_length() -> None:
    samples = evaluate.framed(speech.speak(speech.Utterance("this is a test", "en-us")))
    coded = degrade.through_adpcm(samples)
    assert len(coded) == len(samples)
    error = np.mean((coded - samples) ** 2)
    assert 10 * np.log10(np.mean(samples**2) / error) > 15
