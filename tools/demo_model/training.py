"""The training loop: from examples to a network, within a budget of minutes or of steps."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional

from . import grammar
from .evaluate import word_errors
from .examples import FRAME_RATE_HZ, MEL_COUNT, Example
from .network import Network, Shape
from .tokens import IGNORED_TARGET, Targets

CHARACTERS = "abcdefghijklmnopqrstuvwxyz "
BLANK = 0
STAND_INS = 40
# Batches are of about equal cost: long windows come in smaller ones.
FRAMES_PER_BATCH = 16 * 400
BATCH_MAX = 16
BUCKET = 2048
# The first part of training hears single phrases only: learning to listen starts from the easy ones.
EASY_PART = 0.2
EASY_SECONDS = 5.0
WARM_UP_STEPS = 200


@dataclass(frozen=True)
class Plan:
    """How long and how to train. With `steps` the result does not depend on the machine's speed.

    `resume` goes on from the checkpoint, with a new budget and a new fall of the learning rate.
    """

    minutes: float
    steps: int | None = None
    learning_rate: float = 1.4e-3
    threads: int = 2
    seed: int = 0
    bf16: bool = True
    resume: bool = False


@dataclass(frozen=True)
class Batch:
    """`mels` (batch, 80, frames), `tokens` and `targets` (batch, n); CTC labels joined, and lengths."""

    mels: Tensor
    tokens: Tensor
    targets: Tensor
    frames: Tensor
    characters: Tensor
    character_counts: Tensor
    words: Tensor
    word_counts: Tensor


class Batcher:
    """Draws batches of similar length, and masks features (after Park et al., "SpecAugment", 2019)."""

    def __init__(self, examples: Sequence[Example], targets: Targets, seed: int) -> None:
        self.examples = examples
        self.targets = targets
        self.chance = random.Random(seed)
        self.word_ids = {word: index for index, word in enumerate(grammar.vocabulary(), start=1)}
        self.character_ids = {letter: index for index, letter in enumerate(CHARACTERS, start=1)}

    def epoch(self, seconds_max: float) -> Iterator[list[Example]]:
        """Each example up to that length once, in random batches; all of them if none is so short."""
        frames_max = seconds_max * FRAME_RATE_HZ
        pool = [one for one in self.examples if len(one.features) <= frames_max] or list(self.examples)
        self.chance.shuffle(pool)
        batches: list[list[Example]] = []
        for start in range(0, len(pool), BUCKET):
            bucket = sorted(pool[start : start + BUCKET], key=lambda one: len(one.features), reverse=True)
            while bucket:
                size = min(BATCH_MAX, max(4, FRAMES_PER_BATCH // len(bucket[0].features)))
                batches.append(bucket[:size])
                del bucket[:size]
        self.chance.shuffle(batches)
        yield from batches

    def collate(self, examples: Sequence[Example], masking: bool) -> Batch:
        """Pads with zeros, as faster-whisper does."""
        longest = max(len(one.features) for one in examples) + self.chance.randrange(8, 60)
        mels = np.zeros((len(examples), MEL_COUNT, longest // 2 * 2), np.float32)
        samples = []
        for row, one in zip(mels, examples, strict=True):
            features = one.features.T.astype(np.float32)
            row[:, : features.shape[1]] = self._masked(features) if masking else features
            earlier = self.chance.choice(self.examples).segments if self.chance.random() < 0.1 else ()
            samples.append(self.targets.sample(one.segments, earlier, self.chance))
        texts = [one.text for one in examples]
        return Batch(
            torch.from_numpy(mels),
            _padded([tokens for tokens, _ in samples], self.targets.end),
            _padded([targets for _, targets in samples], IGNORED_TARGET),
            torch.tensor([len(one.features) // 2 for one in examples]),
            torch.tensor([self.character_ids[letter] for text in texts for letter in text], dtype=torch.long),
            torch.tensor([len(text) for text in texts]),
            torch.tensor([self.word_ids[word] for text in texts for word in text.split()], dtype=torch.long),
            torch.tensor([len(text.split()) for text in texts]),
        )

    def _masked(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(80, frames): another level, another tilt of the spectrum, and bands and spans blotted out."""
        chance = self.chance
        if chance.random() < 0.5:
            features = features + np.float32(chance.uniform(-0.3, 0.3))
        if chance.random() < 0.5:
            ends = chance.uniform(-0.2, 0.2), chance.uniform(-0.2, 0.2)
            features = features + np.linspace(*ends, MEL_COUNT, dtype=np.float32)[:, None]
        mean = features.mean()
        for _ in range(chance.randrange(3)):
            height = chance.randrange(1, 12)
            bottom = chance.randrange(MEL_COUNT - height)
            features[bottom : bottom + height] = mean
        for _ in range(chance.randrange(3)):
            width = chance.randrange(1, 10)
            start = chance.randrange(max(1, features.shape[1] - width))
            features[:, start : start + width] = mean
        return features


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def _loss(network: Network, batch: Batch, bf16: bool) -> tuple[Tensor, float]:
    """(loss to descend, its cross-entropy part)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        encoded = network.encode(batch.mels, STAND_INS)
        scores = network.decode(batch.tokens, encoded)
        heard = encoded.states[:, : encoded.positions]
        character_scores, word_scores = network.character_head(heard), network.word_head(heard)
    entropy = functional.cross_entropy(
        scores.float().flatten(0, 1),
        batch.targets.flatten(),
        ignore_index=IGNORED_TARGET,
        label_smoothing=0.02,
    )
    loss = entropy
    if len(batch.words):
        frames = batch.frames.clamp(max=encoded.positions)
        for ctc_scores, labels, counts in (
            (character_scores, batch.characters, batch.character_counts),
            (word_scores, batch.words, batch.word_counts),
        ):
            chances = functional.log_softmax(ctc_scores.float(), -1).transpose(0, 1)
            loss = loss + 0.5 * functional.ctc_loss(chances, labels, frames, counts, blank=BLANK, zero_infinity=True)
    return loss, float(entropy.detach())


@torch.no_grad()
def transcribe(network: Network, batch: Batch, targets: Targets, tokens_max: int = 40) -> list[str]:
    """The most probable tokens, one by one, without timestamps: quick, to see how training goes."""
    network.eval()
    encoded = network.encode(batch.mels, STAND_INS)
    tokens = torch.tensor([[targets.start, targets.no_timestamps]] * len(batch.mels))
    ended = torch.zeros(len(batch.mels), dtype=torch.bool)
    for _ in range(tokens_max):
        best = network.decode(tokens, encoded)[:, -1].argmax(-1)
        best[ended] = targets.end
        tokens = torch.cat([tokens, best[:, None]], dim=1)
        ended |= best == targets.end
        if ended.all():
            break
    network.train()
    return [targets.text(row) for row in tokens.tolist()]


def _check(network: Network, batcher: Batcher, held_out: Sequence[Example]) -> float:
    """Word error rate on a few held-out examples. It is shown; nothing is decided by it."""
    wrong = total = 0
    for start in range(0, len(held_out), 20):
        examples = held_out[start : start + 20]
        texts = transcribe(network, batcher.collate(examples, masking=False), batcher.targets)
        for one, text in zip(examples, texts, strict=True):
            wrong += word_errors(one.text, text)
            total += len(one.text.split())
    return wrong / max(1, total)


def _optimizer(network: Network, rate: float) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in network.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def _rate_factor(step: int, done: float) -> float:
    """A short rise, then half a cosine down to almost nothing."""
    rise = min(1.0, (step + 1) / WARM_UP_STEPS)
    return rise * max(0.01, 0.5 * (1 + math.cos(math.pi * done)))


def train(
    plan: Plan, examples: Sequence[Example], held_out: Sequence[Example], targets: Targets, checkpoint: Path
) -> dict[str, NDArray[np.float32]]:
    """The trained weights by name, as float32 arrays; `checkpoint` lets a run that was cut off go on."""
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    batcher = Batcher(examples, targets, plan.seed)
    words = len(grammar.vocabulary())
    network = Network(Shape(targets.size), characters=len(CHARACTERS) + 1, words=words + 1)
    optimizer = _optimizer(network, plan.learning_rate)
    if plan.resume:
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        # Other batches than the first time.
        batcher.chance.seed(plan.seed + state["steps"])
    easy_part = 0.0 if plan.resume else EASY_PART
    step, done, started_s = 0, 0.0, time.monotonic()
    batches: Iterator[list[Example]] = iter(())
    entropy = math.nan
    with Progress(refresh_per_second=1) as progress:
        task = progress.add_task("Training", total=1.0)
        while done < 1:
            chosen = next(batches, None)
            if chosen is None:
                batches = batcher.epoch(EASY_SECONDS if done < easy_part else math.inf)
                continue
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * _rate_factor(step, done)
            loss, latest = _loss(network, batcher.collate(chosen, masking=True), plan.bf16)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
            entropy = latest if math.isnan(entropy) else 0.98 * entropy + 0.02 * latest
            elapsed_s = time.monotonic() - started_s
            done = step / plan.steps if plan.steps else elapsed_s / (60 * plan.minutes)
            progress.update(task, completed=min(1.0, done), description=f"Training, step {step}")
            if step % 300 == 0:
                _save(checkpoint, network, optimizer, step)
                progress.console.print(
                    f"step {step}, {elapsed_s / 60:.1f} min, {1000 * elapsed_s / step:.0f} ms a step, "
                    f"cross-entropy {entropy:.3f}, word errors {_check(network, batcher, held_out):.1%}"
                )
    _save(checkpoint, network, optimizer, step)
    return weights_of(network)


def weights_of(network: Network) -> dict[str, NDArray[np.float32]]:
    """Every weight by its name in `Network`, the CTC heads left out."""
    return {
        name: tensor.detach().float().numpy()
        for name, tensor in network.state_dict().items()
        if not name.startswith(("character_head", "word_head"))
    }


def _save(path: Path, network: Network, optimizer: torch.optim.Optimizer, steps: int) -> None:
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "steps": steps}
    partial = path.with_name(f"partial-{path.name}")
    torch.save(state, partial)
    partial.replace(path)
