"""The server's figures: what it adds to bare faster-whisper, with a model of `base`'s layers and random weights.

Both sides run on one machine, one after the other, with the same model, sound and fixed length of the output. The
vocabulary is the demonstration model's, 2,230 words in place of 51,865. PyPI's wyoming-faster-whisper is not measured:
it is not among the locked packages.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import requests
from demo_model import export
from server_process import DEMO_MODEL, ROOT, ServerProcess, WebhookReceiver
from tokenizers import Tokenizer

LATENCY_NOTES = 15
BACKLOG_NOTES = 100
NEW_TOKENS = 24
WIDTH, HEADS, LAYERS, MELS, WINDOW, LENGTH = 512, 8, 6, 80, 1500, 448
SPEECH = ROOT / "tests" / "server" / "remind_me.wav"
# The server as it is, but for the length of the output.
PROGRAM = f"""
import faster_whisper
real = faster_whisper.WhisperModel.transcribe
def fixed(self, *values, **options):
    return real(self, *values, **{{**options, "max_new_tokens": {NEW_TOKENS}}})
faster_whisper.WhisperModel.transcribe = fixed
"""


class RandomWeights(Mapping[str, Any]):
    """Arrays of the shapes that a name asks for."""

    def __init__(self, words: int) -> None:
        self._random = np.random.default_rng(1)
        self._words = words

    def __getitem__(self, name: str) -> Any:
        shape: tuple[int, ...] = (WIDTH,) if name.endswith("bias") or "norm" in name else (WIDTH, WIDTH)
        if name.startswith("conv"):
            shape = (WIDTH, MELS if name.startswith("conv1") else WIDTH, 3) if name.endswith("weight") else (WIDTH,)
        elif "feed_in" in name:
            shape = (4 * WIDTH, WIDTH) if name.endswith("weight") else (4 * WIDTH,)
        elif "feed_out" in name and name.endswith("weight"):
            shape = (WIDTH, 4 * WIDTH)
        elif name == "embedding.weight":
            shape = (self._words, WIDTH)
        elif name.endswith("_positions"):
            shape = (WINDOW if name.startswith("encoder") else LENGTH, WIDTH)
        if "norm" in name and name.endswith("weight"):
            return np.ones(shape, np.float32)
        return self._random.normal(0, 0.02, shape).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def random_model(folder: Path) -> Path:
    """A model of `base`'s width and layers."""
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    words = len(json.loads((DEMO_MODEL / "vocabulary.json").read_text()))
    export.export(folder, RandomWeights(words), tokenizer, export.Layout(HEADS, LAYERS, LAYERS))
    return folder


class Bare:
    """Bare faster-whisper. It gets the spans of speech for nothing: finding them is the server's work."""

    def __init__(self, folder: Path) -> None:
        from faster_whisper import WhisperModel, decode_audio
        from faster_whisper.vad import VadOptions, get_speech_timestamps

        self._model = WhisperModel(str(folder), compute_type="auto", local_files_only=True)
        options = VadOptions(min_silence_duration_ms=500, speech_pad_ms=200)
        spans = get_speech_timestamps(decode_audio(str(SPEECH)), options)
        self._clips_s = [span[end] / 16_000 for span in spans for end in ("start", "end")]
        self.seconds()  # warm

    def seconds(self) -> float:
        """How long one note takes, s."""
        from faster_whisper import decode_audio

        began_s = time.monotonic()
        segments, _ = self._model.transcribe(
            decode_audio(str(SPEECH)),
            language="en",
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
            clip_timestamps=self._clips_s,
            max_new_tokens=NEW_TOKENS,
        )
        for _segment in segments:
            pass
        return time.monotonic() - began_s


def server() -> list[str]:
    """The lines to print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model(folder / "model")
        (folder / "sitecustomize.py").write_text(PROGRAM)
        path = os.pathsep.join([str(folder), str(ROOT / "server")])
        bare = Bare(model)
        bare_one = []
        with (
            ServerProcess(folder / "data", model=model, PYTHONPATH=path) as running,
            WebhookReceiver() as receiver,
        ):
            running.add_destination(receiver.url)
            told = json.loads(running.command("token", "create", "bench", "--scope", "notes").stdout)
            session = requests.Session()
            session.headers["Authorization"] = f"Bearer {told['token']}"
            sound = SPEECH.read_bytes()

            def upload(note: str) -> None:
                answer = session.post(
                    f"{running.url}/api/notes",
                    params={"id": note},
                    data=sound,
                    headers={"Content-Type": "audio/wav"},
                    timeout=60,
                )
                assert answer.status_code in (200, 201, 202), answer.text

            upload("warm")
            receiver.wait(1, 60)
            taken = []
            for number in range(LATENCY_NOTES):  # by turns, so that both see the same load of the machine
                bare_one.append(bare.seconds())
                began_s = time.monotonic()
                upload(f"latency-{number}")
                while len(receiver.received) < number + 2:
                    time.sleep(0.001)
                    assert time.monotonic() - began_s < 60, "no webhook"
                taken.append(time.monotonic() - began_s)
                time.sleep(0.3)
            done = len(receiver.received)
            bare_s = sum(bare.seconds() for _ in range(BACKLOG_NOTES // 2))
            began_s = time.monotonic()
            for number in range(BACKLOG_NOTES):
                upload(f"backlog-{number}")
            receiver.wait(done + BACKLOG_NOTES, 1200)
            backlog_s = time.monotonic() - began_s
            session.close()
        bare_s += sum(bare.seconds() for _ in range(BACKLOG_NOTES - BACKLOG_NOTES // 2))
    added_ms = (statistics.median(taken) - statistics.median(bare_one)) * 1000
    return [
        f"from the upload to the webhook, less bare faster-whisper: {added_ms:.0f} ms in the median of "
        f"{LATENCY_NOTES} notes (limit 150)",
        f"throughput of a backlog of {BACKLOG_NOTES} notes: {bare_s / backlog_s:.2f} of a bare loop (limit 0.95)",
        f"(bare: {statistics.median(bare_one) * 1000:.0f} ms a note of 3 s here)",
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BACKLOG_NOTES = int(sys.argv[1])
    for line in server():
        print(f"server: {line}")
