"""Whisper's architecture, very small, in PyTorch.

After Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), with two things
added for training only and dropped at export: two CTC heads on the encoder (characters and words), without
which so small a training does not learn to listen in the time given, and the stand-in for padding described
at `Network.encode`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

ENCODER_POSITIONS = 1500
DECODER_POSITIONS = 448


@dataclass(frozen=True)
class Shape:
    """The sizes of a network. `vocabulary` counts all tokens, timestamps included."""

    vocabulary: int
    width: int = 96
    heads: int = 3
    encoder_layers: int = 3
    decoder_layers: int = 2
    feed_forward: int = 384
    mels: int = 80


def sinusoids(positions: int, width: int) -> Tensor:
    """(positions, width): Whisper's fixed position code, sines then cosines."""
    increment = math.log(10_000) / (width // 2 - 1)
    scales = torch.exp(-increment * torch.arange(width // 2))
    angles = torch.arange(positions)[:, None] * scales[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Attention(nn.Module):
    """Multi-head attention; like Whisper's, the key has no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(
        self, queries: Tensor, memory: Tensor | None = None, bias: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """`queries` (batch, n, width) attend to `memory` (batch, m, width), by default to themselves."""
        memory = queries if memory is None else memory
        mixed = functional.scaled_dot_product_attention(
            self._split(self.query(queries)),
            self._split(self.key(memory)),
            self._split(self.value(memory)),
            attn_mask=bias,
            is_causal=causal,
        )
        result: Tensor = self.output(mixed.transpose(1, 2).reshape(queries.shape))
        return result

    def _split(self, inputs: Tensor) -> Tensor:
        batch, count, width = inputs.shape
        return inputs.view(batch, count, self.heads, width // self.heads).transpose(1, 2)


class Layer(nn.Module):
    """A pre-norm transformer layer; a decoder's also attends to the encoder's output."""

    def __init__(self, shape: Shape, decoder: bool, dropout: float) -> None:
        super().__init__()
        self.decoder = decoder
        self.self_norm = nn.LayerNorm(shape.width)
        self.self_attention = Attention(shape.width, shape.heads)
        if decoder:
            self.cross_norm = nn.LayerNorm(shape.width)
            self.cross_attention = Attention(shape.width, shape.heads)
        self.feed_norm = nn.LayerNorm(shape.width)
        self.feed_in = nn.Linear(shape.width, shape.feed_forward)
        self.feed_out = nn.Linear(shape.feed_forward, shape.width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor, memory: Tensor | None, bias: Tensor | None) -> Tensor:
        """(batch, n, width) to the same. `bias` is for the encoder's positions, wherever attended to."""
        self_bias = None if self.decoder else bias
        attended = self.self_attention(self.self_norm(inputs), bias=self_bias, causal=self.decoder)
        inputs = inputs + self.dropout(attended)
        if self.decoder:
            attended = self.cross_attention(self.cross_norm(inputs), memory, bias)
            inputs = inputs + self.dropout(attended)
        hidden = self.dropout(functional.gelu(self.feed_in(self.feed_norm(inputs))))
        result: Tensor = inputs + self.dropout(self.feed_out(hidden))
        return result


@dataclass(frozen=True)
class Encoded:
    """`states` (batch, positions + stand-ins, width); `bias` (1, 1, 1, same) or None; `positions` heard."""

    states: Tensor
    bias: Tensor | None
    positions: int


class Network(nn.Module):
    """The whole model. `characters` and `words` are the sizes of the two CTC alphabets, blank included."""

    encoder_positions: Tensor

    def __init__(self, shape: Shape, characters: int, words: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.shape = shape
        self.conv1 = nn.Conv1d(shape.mels, shape.width, 3, padding=1)
        self.conv2 = nn.Conv1d(shape.width, shape.width, 3, stride=2, padding=1)
        self.register_buffer("encoder_positions", sinusoids(ENCODER_POSITIONS, shape.width))
        self.encoder = nn.ModuleList(Layer(shape, False, 0.0) for _ in range(shape.encoder_layers))
        self.encoder_norm = nn.LayerNorm(shape.width)
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        nn.init.normal_(self.embedding.weight, std=0.05)
        self.decoder_positions = nn.Parameter(sinusoids(DECODER_POSITIONS, shape.width) * 0.1)
        self.decoder = nn.ModuleList(Layer(shape, True, dropout) for _ in range(shape.decoder_layers))
        self.decoder_norm = nn.LayerNorm(shape.width)
        self.dropout = nn.Dropout(dropout)
        self.character_head = nn.Linear(shape.width, characters)
        self.word_head = nn.Linear(shape.width, words)

    def _convolve(self, mels: Tensor) -> Tensor:
        return functional.gelu(self.conv2(functional.gelu(self.conv1(mels)))).transpose(1, 2)

    def encode(self, mels: Tensor, stand_ins: int) -> Encoded:
        """`mels`: (batch, 80, frames), shorter than Whisper's 30 s window.

        The rest of the window would be padding, and attention over 1,500 positions is most of the cost. So
        `stand_ins` padding positions are drawn at random, and each counts for as many as it stands for: the
        logarithm of that number is added to its attention score. The trained model works in full windows.
        """
        states = self._convolve(mels)
        batch, positions, _ = states.shape
        states = states + self.encoder_positions[:positions]
        bias = None
        left_out = ENCODER_POSITIONS - positions
        if 0 < stand_ins < left_out:
            padding = self._convolve(mels.new_zeros(1, mels.shape[1], 16))[:, 4:5]
            drawn = positions + torch.randperm(left_out)[:stand_ins]
            padded = padding + self.encoder_positions[drawn]
            states = torch.cat([states, padded.expand(batch, -1, -1).to(states.dtype)], dim=1)
            weight = math.log(left_out / stand_ins)
            bias = torch.cat([torch.zeros(positions), torch.full((stand_ins,), weight)])
            bias = bias[None, None, None].to(states.dtype)
        for layer in self.encoder:
            states = layer(states, None, bias)
        return Encoded(self.encoder_norm(states), bias, positions)

    def decode(self, tokens: Tensor, encoded: Encoded) -> Tensor:
        """`tokens` (batch, n) of ids to (batch, n, vocabulary) of scores."""
        states = self.dropout(self.embedding(tokens) + self.decoder_positions[: tokens.shape[1]])
        for layer in self.decoder:
            states = layer(states, encoded.states, encoded.bias)
        scores: Tensor = self.decoder_norm(states) @ self.embedding.weight.T
        return scores
