"""The server's figures: what it adds to bare faster-whisper, beside what PyPI's wyoming-faster-whisper adds.

All run on one machine and by turns, with the same model, sound and fixed length of the output. The model has the
layers, width and vocabulary of `base`, and random weights. Each server is compared with faster-whisper called in a
loop for the same work: for this one decoding, voice activity detection, text and times of words; for
wyoming-faster-whisper text only, for without more ado it does no more. That one delivers no webhook and stores
nothing, either: its time ends with the text on the connection that the sound came on.
"""

import asyncio
import base64
import hashlib
import http.client
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from demo_model import export, tokens
from server_process import DEMO_MODEL, ROOT, Device, Received, ServerProcess, WebhookReceiver, free_port, until
from tokenizers import Tokenizer

LATENCY_NOTES = 15
BACKLOG_NOTES = 100
ADDED_LIMIT_MS = 150
THROUGHPUT_LIMIT = 0.95
NEW_TOKENS = 24  # CTranslate2 says at most half of them: as many as the sentence has
NOTE_TIMEOUT_S = 300.0
PAUSE_S = 0.3  # between notes, for what a server does after the last one
# Of OpenAI's `base`, as its config.json has them.
BASE_WIDTH, BASE_HEADS, BASE_LAYERS, BASE_WORDS = 512, 8, 6, 51_865
MELS, WINDOW, LENGTH = 80, 1500, 448
SPEECH = ROOT / "tests" / "server" / "remind_me.wav"
WYOMING = Path(os.environ.get("OFFBEAT_CACHE", ROOT / ".cache")) / "wyoming"
CHUNK_BYTES = 2048
# The servers as they are, but for the length of the output and one decoding in place of up to six: what random weights
# say is never probable enough.
PROGRAM = f"""
import contextlib
with contextlib.suppress(ImportError):
    import offbeat.transcriber  # first, for what it settles before faster-whisper is loaded
import faster_whisper
real = faster_whisper.WhisperModel.transcribe
def fixed(self, *values, **options):
    return real(self, *values, **{{**options, "max_new_tokens": {NEW_TOKENS}, "temperature": 0.0}})
faster_whisper.WhisperModel.transcribe = fixed
"""


def base_tokenizer() -> Tokenizer:
    """The demonstration model's, with words that nobody says up to the size of `base`'s vocabulary."""
    told = json.loads((DEMO_MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    # In Whisper's order: words, the special tokens, the timestamps (which have no entry here).
    first = BASE_WORDS - tokens.TIMESTAMP_COUNT - len(told["added_tokens"])
    for index, token in enumerate(told["added_tokens"]):
        token["id"] = first + index
    added = {token["content"] for token in told["added_tokens"]}
    texts = [word for word in sorted(words, key=words.__getitem__) if word not in added]
    texts += [f"{tokens.BARE_SPACE}nobody{index}" for index in range(first - len(texts))]
    told["model"]["vocab"] = {word: index for index, word in enumerate(texts)}
    return Tokenizer.from_str(json.dumps(told))


class RandomWeights(Mapping[str, Any]):
    """Arrays of the shapes that a name asks for, in Whisper's form.

    The last layer is all but deaf, so that what is said hangs on the seed and not on the sound, and it says no
    timestamps and no end: every side decodes as often and as long."""

    def __init__(self, width: int, silent: range) -> None:
        """`silent`: the ids that are not to be said."""
        self._random = np.random.default_rng(1)
        self._width = width
        self._silent = silent

    def __getitem__(self, name: str) -> Any:
        width = self._width
        shape: tuple[int, ...] = (width,) if name.endswith("bias") or "norm" in name else (width, width)
        if name.startswith("conv") and name.endswith("weight"):
            shape = (width, MELS if name.startswith("conv1") else width, 3)
        elif "feed_in" in name:
            shape = (4 * width, width) if name.endswith("weight") else (4 * width,)
        elif "feed_out" in name and name.endswith("weight"):
            shape = (width, 4 * width)
        elif name == "embedding.weight":
            shape = (self._silent.stop, width)
        elif name.endswith("_positions"):
            shape = (WINDOW if name.startswith("encoder") else LENGTH, width)
        if name == "decoder_norm.bias":
            return np.ones(shape, np.float32)
        if name == "decoder_norm.weight":
            return np.full(shape, 0.01, np.float32)
        if "norm" in name and name.endswith("weight"):
            return np.ones(shape, np.float32)
        values = self._random.normal(0, 0.02, shape).astype(np.float32)
        if name == "embedding.weight":
            values[self._silent.start :] -= 50 / width
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def random_model(folder: Path, width: int = BASE_WIDTH, heads: int = BASE_HEADS, layers: int = BASE_LAYERS) -> Path:
    """A model of `base`'s size, or of another width and depth with `base`'s vocabulary."""
    tokenizer = base_tokenizer()
    weights = RandomWeights(width, range(tokenizer.get_vocab()[tokens.END], BASE_WORDS))
    export.export(folder, weights, tokenizer, export.Layout(heads, layers, layers))
    return folder


class Bare:
    """faster-whisper and nothing around it. Each of the two calls returns the text; it has run once before."""

    def __init__(self, model: Path, plain: Path) -> None:
        """`plain`: the speech as wyoming-faster-whisper keeps it, PCM."""
        from faster_whisper import WhisperModel

        self._model = WhisperModel(str(model), compute_type="auto", local_files_only=True)
        self._plain = plain
        self.as_offbeat()
        self.as_wyoming()

    def as_offbeat(self) -> str:
        """The work that this server does on a note."""
        from faster_whisper import decode_audio
        from faster_whisper.vad import VadOptions, get_speech_timestamps

        audio = decode_audio(str(SPEECH))
        # Not by `vad_filter=True`, which glues the spans together: other sound would lead to another number of windows.
        spans = get_speech_timestamps(audio, VadOptions(min_silence_duration_ms=500, speech_pad_ms=200))
        return self._text(
            audio,
            condition_on_previous_text=False,
            word_timestamps=True,
            clip_timestamps=[span[end] / 16_000 for span in spans for end in ("start", "end")],
        )

    def as_wyoming(self) -> str:
        """The work that wyoming-faster-whisper does."""
        return self._text(str(self._plain))

    def _text(self, audio: Any, **options: Any) -> str:
        segments, _ = self._model.transcribe(
            audio, language="en", temperature=0.0, max_new_tokens=NEW_TOKENS, **options
        )
        return " ".join(segment.text.strip() for segment in segments)


class Offbeat:
    """The server, a receiver of its webhooks, and two ways to send a note, which return when its last byte went, s."""

    def __init__(self, running: ServerProcess, receiver: WebhookReceiver) -> None:
        receiver.answers = self._receive
        self._running = running
        self._arrived: list[tuple[float, str]] = []
        self._sound = SPEECH.read_bytes()
        self._digest = base64.b64encode(hashlib.sha256(self._sound).digest()).decode()
        running.add_destination(receiver.url)
        self._device: Device = running.add_device("bench", "pendant")
        self._token = json.loads(running.command("token", "create", "bench", "--scope", "notes").stdout)["token"]

    def _receive(self, got: Received) -> int:
        self._arrived.append((time.monotonic(), got.json["data"]["text"]))
        return 204

    def from_device(self) -> float:
        """Over the device port, as a pendant does."""
        connection = http.client.HTTPConnection("offbeat")
        connection.sock = self._running.connect()
        length = str(len(self._sound))
        headers = {
            "Authorization": f"Bearer {self._device.token}",
            "Content-Type": "application/partial-upload",
            "Upload-Offset": "0",
            "Upload-Complete": "?1",
            "Upload-Length": length,
            "Repr-Digest": f"sha-256=:{self._digest}:",
            "Offbeat-Counter": "0123abcd 100000 0",
        }
        note = f"{self._device.id}-{secrets.token_hex(8)}"
        return self._send(connection, "PATCH", f"/api/device/notes/{note}", headers)

    def from_api(self) -> float:
        """Over the page's port, as a script does."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "audio/wav"}
        path = f"/api/notes?id=bench-{secrets.token_hex(8)}"  # without an id, the same sound is the same note
        return self._send(http.client.HTTPConnection("127.0.0.1", self._running.port), "POST", path, headers)

    def _send(self, connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> float:
        connection.timeout = NOTE_TIMEOUT_S
        try:
            connection.request(method, path, self._sound, headers)
            sent_s = time.monotonic()
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status not in (200, 201, 202):
            raise RuntimeError(f"{method} {path} was answered with {answer.status}: {body[:500]!r}")
        return sent_s

    def latency_s(self, send: Callable[[], float]) -> float:
        """From a note's last byte to its webhook, s, with nothing else to do."""
        before = len(self._arrived)
        sent_s = send()
        until(lambda: len(self._arrived) > before, NOTE_TIMEOUT_S, "the note's webhook")
        return self._arrived[-1][0] - sent_s

    def backlog_s(self) -> float:
        """From the first byte of a backlog to its last webhook, s."""
        began_s, before = time.monotonic(), len(self._arrived)
        for _ in range(BACKLOG_NOTES):
            self.from_device()
        until(lambda: len(self._arrived) >= before + BACKLOG_NOTES, BACKLOG_NOTES * NOTE_TIMEOUT_S, "the webhooks")
        return self._arrived[-1][0] - began_s

    def texts(self) -> set[str]:
        """What the webhooks said."""
        return {text for _, text in self._arrived}


class Wyoming:
    """wyoming-faster-whisper and a client of it."""

    def __init__(self, uri: str, pcm: bytes) -> None:
        self._uri = uri
        self._pcm = pcm

    def note(self) -> tuple[float, float, str]:
        """One note, on a connection of its own: when its last byte was sent and when the text came, s, and the text."""
        return asyncio.run(asyncio.wait_for(self._note(), NOTE_TIMEOUT_S))

    async def _note(self) -> tuple[float, float, str]:
        from wyoming.asr import Transcribe, Transcript
        from wyoming.audio import AudioChunk, AudioStart, AudioStop
        from wyoming.client import AsyncClient

        form = {"rate": 16_000, "width": 2, "channels": 1}
        async with AsyncClient.from_uri(self._uri) as client:
            await client.write_event(Transcribe(language="en").event())
            await client.write_event(AudioStart(**form).event())
            for start in range(0, len(self._pcm), CHUNK_BYTES):
                chunk = self._pcm[start : start + CHUNK_BYTES]
                await client.write_event(AudioChunk(audio=chunk, **form).event())
            await client.write_event(AudioStop().event())
            sent_s = time.monotonic()
            while (event := await client.read_event()) is not None:
                if Transcript.is_type(event.type):
                    return sent_s, time.monotonic(), Transcript.from_event(event).text
        raise RuntimeError("wyoming-faster-whisper ended the connection without a transcript")

    def latency_s(self) -> float:
        """From a note's last byte to its text, s."""
        sent_s, came_s, _ = self.note()
        return came_s - sent_s

    def backlog_s(self) -> float:
        """A backlog one by one, for it has no queue, s."""
        return seconds(lambda: [self.note() for _ in range(BACKLOG_NOTES)])


@contextmanager
def wyoming_process(model: Path, folder: Path, pcm: bytes) -> Iterator[Wyoming]:
    """Starts it with as many threads as faster-whisper chooses by itself, and ends it."""
    sys.path.append(str(WYOMING))  # last: all but its own packages are the ones of here
    uri = f"tcp://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "wyoming_faster_whisper", "--uri", uri, "--model", str(model)]
    command += ["--data-dir", str(folder), "--language", "en", "--local-files-only", "--cpu-threads", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(WYOMING)])}
    with open(folder / "wyoming.log", "w+") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wyoming = Wyoming(uri, pcm)

            def answers() -> bool:
                if process.poll() is not None:
                    raise RuntimeError(f"it ended with {process.returncode}: {(folder / 'wyoming.log').read_text()}")
                try:
                    return bool(wyoming.note())
                except ConnectionRefusedError:
                    return False

            until(answers, NOTE_TIMEOUT_S, "wyoming-faster-whisper's first text")
            yield wyoming
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, s."""
    began_s = time.monotonic()
    work()
    return time.monotonic() - began_s


def throughput(bare: Callable[[], object], backlog_s: Callable[[], float]) -> float:
    """A bare loop's time over a backlog's; half of the loop runs before it and half after."""
    half = BACKLOG_NOTES // 2
    before_s = seconds(lambda: [bare() for _ in range(half)])
    took_s = backlog_s()
    return (before_s + seconds(lambda: [bare() for _ in range(BACKLOG_NOTES - half)])) / took_s


def added_ms(taken_s: list[float], bare_s: list[float]) -> float:
    """The median of what each note took longer than the bare one of its round, ms."""
    return statistics.median(one - other for one, other in zip(taken_s, bare_s, strict=True)) * 1000


def report(
    device_ms: float, api_ms: float, backlog: float, bare_ms: float, wyoming: tuple[float, float, float] | None
) -> list[str]:
    """The lines to print. The first two are what is added to bare faster-whisper, ms, `backlog` is the throughput as a
    part of a bare loop's, `bare_ms` a bare note. `wyoming`: the same three of wyoming-faster-whisper, None without."""
    lines = [
        f"device port, last byte to webhook, less bare faster-whisper: {device_ms:.0f} ms in the median of "
        f"{LATENCY_NOTES} notes (limit {ADDED_LIMIT_MS})",
        f"POST /api/notes, the same: {api_ms:.0f} ms (limit {ADDED_LIMIT_MS})",
        f"throughput of a backlog of {BACKLOG_NOTES} notes: {backlog:.2f} of a bare loop (limit {THROUGHPUT_LIMIT})",
        f"(a bare note of 3 s takes {bare_ms:.0f} ms here, with VAD and times of words)",
    ]
    if wyoming is None:
        return [*lines, "wyoming-faster-whisper is not here to compare with: `make bench` brings it"]
    added, part, one = wyoming
    return [
        *lines,
        f"wyoming-faster-whisper, last byte to text (no webhook, nothing stored), less bare: {added:.0f} ms",
        f"wyoming-faster-whisper, the same backlog one by one: {part:.2f} of its bare loop",
        f"(its bare note takes {one:.0f} ms: no VAD, no times of words)",
    ]


def server() -> list[str]:
    """The lines to print. Takes minutes."""
    from faster_whisper import decode_audio

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = random_model(folder / "model")
        (folder / "sitecustomize.py").write_text(PROGRAM)
        pcm = (decode_audio(str(SPEECH)) * 32767).astype("<i2").tobytes()
        with wave.open(str(folder / "plain.wav"), "wb") as plain:
            plain.setnchannels(1)
            plain.setsampwidth(2)
            plain.setframerate(16_000)
            plain.writeframes(pcm)
        bare = Bare(model, folder / "plain.wav")
        path = os.pathsep.join([str(folder), str(ROOT / "server")])
        running = stack.enter_context(ServerProcess(folder / "data", model=model, PYTHONPATH=path))
        offbeat = Offbeat(running, stack.enter_context(WebhookReceiver()))
        wyoming = stack.enter_context(wyoming_process(model, folder, pcm)) if (WYOMING / "ready").exists() else None

        offbeat.latency_s(offbeat.from_device)  # warm
        sides: dict[str, Callable[[], float]] = {
            "bare": lambda: seconds(bare.as_offbeat),
            "device": lambda: offbeat.latency_s(offbeat.from_device),
            "api": lambda: offbeat.latency_s(offbeat.from_api),
        }
        if wyoming is not None:
            sides |= {"bare wyoming": lambda: seconds(bare.as_wyoming), "wyoming": wyoming.latency_s}
        took: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(LATENCY_NOTES):  # by turns, so that all see the same load of the machine
            for side, measure in sides.items():
                took[side].append(measure())
                time.sleep(PAUSE_S)
        backlog = throughput(bare.as_offbeat, offbeat.backlog_s)
        if offbeat.texts() != {bare.as_offbeat()}:
            raise RuntimeError(f"the server did other work than bare faster-whisper: {offbeat.texts()}")
        beside = None
        if wyoming is not None:
            if wyoming.note()[2].split() != bare.as_wyoming().split():
                raise RuntimeError("wyoming-faster-whisper did other work than bare faster-whisper")
            beside = (
                added_ms(took["wyoming"], took["bare wyoming"]),
                throughput(bare.as_wyoming, wyoming.backlog_s),
                statistics.median(took["bare wyoming"]) * 1000,
            )
        return report(
            added_ms(took["device"], took["bare"]),
            added_ms(took["api"], took["bare"]),
            backlog,
            statistics.median(took["bare"]) * 1000,
            beside,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BACKLOG_NOTES = LATENCY_NOTES = int(sys.argv[1])
    for line in server():
        print(f"server: {line}")
