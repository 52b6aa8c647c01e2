"""Writes the model folder that faster-whisper loads: CTranslate2's Whisper, filled from numpy arrays.

Needs neither torch nor transformers. The arrays have the names of `network.Network`.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import WhisperSpec
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .tokens import BARE_SPACE, ENGLISH, save_tokenizer, vocabulary_list

# How Whisper hears: 80 mel bands, 25 ms windows every 10 ms, 30 s at a time.
FEATURES = {
    "feature_size": 80,
    "sampling_rate": 16000,
    "hop_length": 160,
    "chunk_length": 30,
    "n_fft": 400,
}

Weights = Mapping[str, NDArray[np.float32]]

MODEL_FILES = ("model.bin", "config.json", "vocabulary.json", "tokenizer.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Layout:
    """What the arrays' shapes do not tell."""

    heads: int = 3
    encoder_layers: int = 3
    decoder_layers: int = 2


def _array(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)


def _fill_linear(spec: Any, weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None) -> None:
    spec.weight = _array(weight)
    if bias is not None:
        spec.bias = _array(bias)


def _fill_norm(spec: Any, weights: Weights, name: str) -> None:
    spec.gamma = _array(weights[f"{name}.weight"])
    spec.beta = _array(weights[f"{name}.bias"])


def _fill_attention(spec: Any, weights: Weights, name: str, norm: str, cross: bool) -> None:
    """CTranslate2 wants query, key and value in one matrix, or key and value in one if they are another's."""
    _fill_norm(spec.layer_norm, weights, norm)
    matrices = [weights[f"{name}.{part}.weight"] for part in ("query", "key", "value")]
    query_bias, value_bias = weights[f"{name}.query.bias"], weights[f"{name}.value.bias"]
    biases = [query_bias, np.zeros_like(query_bias), value_bias]
    if cross:
        _fill_linear(spec.linear[0], matrices[0], biases[0])
        _fill_linear(spec.linear[1], np.concatenate(matrices[1:]), np.concatenate(biases[1:]))
    else:
        _fill_linear(spec.linear[0], np.concatenate(matrices), np.concatenate(biases))
    _fill_linear(spec.linear[-1], weights[f"{name}.output.weight"], weights[f"{name}.output.bias"])


def _fill_feed_forward(spec: Any, weights: Weights, name: str) -> None:
    _fill_norm(spec.layer_norm, weights, f"{name}.feed_norm")
    _fill_linear(spec.linear_0, weights[f"{name}.feed_in.weight"], weights[f"{name}.feed_in.bias"])
    _fill_linear(spec.linear_1, weights[f"{name}.feed_out.weight"], weights[f"{name}.feed_out.bias"])


def _fill(spec: Any, weights: Weights) -> None:
    encoder, decoder = spec.encoder, spec.decoder
    for name in ("conv1", "conv2"):
        _fill_linear(getattr(encoder, name), weights[f"{name}.weight"], weights[f"{name}.bias"])
    encoder.position_encodings.encodings = _array(weights["encoder_positions"])
    _fill_norm(encoder.layer_norm, weights, "encoder_norm")
    for index, layer in enumerate(encoder.layer):
        name = f"encoder.{index}"
        _fill_attention(layer.self_attention, weights, f"{name}.self_attention", f"{name}.self_norm", cross=False)
        _fill_feed_forward(layer.ffn, weights, name)
    decoder.embeddings.weight = _array(weights["embedding.weight"])
    decoder.position_encodings.encodings = _array(weights["decoder_positions"])
    _fill_norm(decoder.layer_norm, weights, "decoder_norm")
    _fill_linear(decoder.projection, weights["embedding.weight"])
    for index, layer in enumerate(decoder.layer):
        name = f"decoder.{index}"
        _fill_attention(layer.self_attention, weights, f"{name}.self_attention", f"{name}.self_norm", cross=False)
        _fill_attention(layer.attention, weights, f"{name}.cross_attention", f"{name}.cross_norm", cross=True)
        _fill_feed_forward(layer.ffn, weights, name)


def export(
    folder: Path,
    weights: Weights,
    tokenizer: Tokenizer,
    layout: Layout | None = None,
    quantization: str = "int8",
) -> None:
    """Writes the five files of a model into `folder`, which is made if need be; other files there stay."""
    layout = layout or Layout()
    vocabulary = vocabulary_list(tokenizer)
    spec = WhisperSpec(layout.encoder_layers, layout.heads, layout.decoder_layers, layout.heads)
    _fill(spec, weights)
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [vocabulary.index(BARE_SPACE)]
    spec.config.lang_ids = [vocabulary.index(ENGLISH)]
    # Word times are read off these attention heads.
    spec.config.alignment_heads = [[0, head] for head in range(layout.heads)]
    spec.register_vocabulary(vocabulary)
    spec.validate()
    spec.optimize(quantization=quantization)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    # Without this file faster-whisper would go to the hub for one.
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    (folder / "preprocessor_config.json").write_text(json.dumps(FEATURES) + "\n", encoding="utf-8")


def copy_model(source: Path, target: Path) -> None:
    """Copies the five files and nothing else."""
    target.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        shutil.copyfile(source / name, target / name)


def size_bytes(folder: Path) -> int:
    """The size of the five files together."""
    return sum((folder / name).stat().st_size for name in MODEL_FILES)
