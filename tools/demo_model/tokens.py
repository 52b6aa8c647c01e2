"""The tokenizer: byte-level BPE in which each word of the grammar, with its leading space, is one token.

One token a word, because faster-whisper suppresses the bare space token by default: a word that began with it
could not be said. After the text tokens come Whisper's special tokens in Whisper's order (end of text first:
everything below it is text), then 1,501 timestamps. The timestamps need no entry in tokenizer.json, which
saves 300 kB.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from . import grammar

END, START, PREVIOUS = "<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>"
NO_SPEECH, NO_TIMESTAMPS = "<|nospeech|>", "<|notimestamps|>"
# An English-only Whisper never uses its language tokens; one stands for the 99.
ENGLISH = "<|en|>"
UNUSED = ("<|translate|>", "<|transcribe|>", "<|startoflm|>")
SPECIAL = (END, START, ENGLISH, *UNUSED, PREVIOUS, NO_SPEECH, NO_TIMESTAMPS)

WINDOW_S = 30
TIMESTAMP_STEP_S = 0.02
TIMESTAMP_COUNT = 1501
# Times are trained in tenths of a second. Finer ones only make the model unsure, and lower its average
# probability, by which faster-whisper judges whether it failed.
TIMESTAMP_GRID = 5
# faster-whisper and CTranslate2 let the first timestamp be one second at most (`max_initial_timestamp`).
FIRST_TIMESTAMP_MAX = 50

BARE_SPACE = "\u0120"
IGNORED_TARGET = -100


@dataclass(frozen=True)
class Segment:
    """A phrase within a window."""

    start_s: float
    end_s: float
    text: str


def build_tokenizer() -> Tokenizer:
    """The same tokenizer each time: it depends on the grammar's words only."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = grammar.vocabulary()
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        special_tokens=[],
    )
    tokenizer.train_from_iterator([f" {word}" for word in words], trainer)
    split = [word for word in words if len(tokenizer.encode(f" {word}").ids) != 1]
    if split:
        raise AssertionError(f"words of several tokens: {split}")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def vocabulary_list(tokenizer: Tokenizer) -> list[str]:
    """Every token in the order of its id, the timestamps last."""
    ids = tokenizer.get_vocab()
    return sorted(ids, key=lambda token: ids[token]) + [
        f"<|{index * TIMESTAMP_STEP_S:.2f}|>" for index in range(TIMESTAMP_COUNT)
    ]


class Targets:
    """Makes what the decoder reads and what it should say from the segments of a window."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        ids = tokenizer.get_vocab()
        self.end, self.start, self.previous = ids[END], ids[START], ids[PREVIOUS]
        self.no_speech, self.no_timestamps = ids[NO_SPEECH], ids[NO_TIMESTAMPS]
        self.first_timestamp = tokenizer.get_vocab_size()
        self.size = self.first_timestamp + TIMESTAMP_COUNT

    def text_ids(self, text: str) -> list[int]:
        """The ids of the words, each with its leading space."""
        return list(self.tokenizer.encode(f" {text}").ids)

    def timestamp_id(self, time_s: float, limit: int = TIMESTAMP_COUNT - 1) -> int:
        """The id of the timestamp on the grid next to `time_s`."""
        step = round(time_s / (TIMESTAMP_STEP_S * TIMESTAMP_GRID)) * TIMESTAMP_GRID
        return int(self.first_timestamp + min(step, limit))

    def transcript_ids(self, segments: Sequence[Segment], timestamps: bool) -> list[int]:
        """The ids of the segments in a row."""
        ids: list[int] = []
        for index, segment in enumerate(segments):
            words = self.text_ids(segment.text)
            if timestamps:
                limit = FIRST_TIMESTAMP_MAX if index == 0 else TIMESTAMP_COUNT - 1
                ids += [self.timestamp_id(segment.start_s, limit), *words, self.timestamp_id(segment.end_s)]
            else:
                ids += words
        return ids

    def sample(
        self, segments: Sequence[Segment], earlier: Sequence[Segment], chance: random.Random
    ) -> tuple[list[int], list[int]]:
        """(input ids, target ids), equally long; with timestamps or without, by chance.

        `earlier` is what came before this window, as faster-whisper passes it on. No loss is taken on what
        faster-whisper forces: the earlier text and the token that says "no timestamps".
        """
        timestamps = chance.random() < 0.6
        prefix: list[int] = []
        if earlier:
            prefix = [self.previous, *self.transcript_ids(earlier, chance.random() < 0.7)]
        sequence = [self.start] if timestamps else [self.start, self.no_timestamps]
        if segments:
            sequence += self.transcript_ids(segments, timestamps)
        elif timestamps:
            sequence.append(self.first_timestamp)
        sequence.append(self.end)
        targets = sequence[1:]
        if not segments:
            targets[0] = self.no_speech
        elif not timestamps:
            targets[0] = IGNORED_TARGET
        return prefix + sequence[:-1], [IGNORED_TARGET] * len(prefix) + targets

    def text(self, ids: Sequence[int]) -> str:
        """The words among the ids."""
        return str(self.tokenizer.decode([index for index in ids if index < self.end])).strip()


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """tokenizer.json, without white space."""
    path.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
