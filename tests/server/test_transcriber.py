"""The two transcribers: the model in this process, and an endpoint elsewhere."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from device_client import silence
from offbeat import transcriber
from offbeat.settings import Settings
from offbeat.sound import SoundError
from offbeat.transcriber import ModelError, RemoteTranscriber, Transcriber, TranscriptionError, make_transcriber
from server_process import DEMO_MODEL, Received, WebhookReceiver, until

SENTENCE = "remind me to buy milk tomorrow"
SPOKEN = Path(__file__).parent / "remind_me.wav"


def nothing() -> None:
    pass


def local(tmp_path: Path, **more: Any) -> Transcriber:
    return Transcriber(str(DEMO_MODEL), more.pop("language", "en"), tmp_path, **more)


def test_words_language_and_silence(tmp_path: Path) -> None:
    one = local(tmp_path, language="")
    got = one.transcribe(SPOKEN, nothing)
    assert got.text == SENTENCE and got.language == "en"
    assert [word["word"] for word in got.words] == SENTENCE.split()
    assert all(0 <= word["start_s"] <= word["end_s"] <= 4 and 0 <= word["probability"] <= 1 for word in got.words)
    (tmp_path / "silence.wav").write_bytes(silence(3))
    assert one.transcribe(tmp_path / "silence.wav", nothing) == transcriber.Transcript("", None, [])


def test_prompt_and_hot_words_reach_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        data=tmp_path, model=str(DEMO_MODEL), language="en", prompt="a list", hot_words="milk", model_compute="int8"
    )
    from faster_whisper import WhisperModel

    asked: list[dict[str, Any]] = []
    real = WhisperModel.transcribe

    def watched(self: Any, audio: Any, **options: Any) -> Any:
        asked.append(options)
        return real(self, audio, **options)

    monkeypatch.setattr(WhisperModel, "transcribe", watched)
    assert make_transcriber(settings).transcribe(SPOKEN, nothing).text
    assert (asked[-1]["initial_prompt"], asked[-1]["hotwords"], asked[-1]["language"]) == ("a list", "milk", "en")


def test_loaded_once_warmed_early_and_released_after_the_last_use(tmp_path: Path) -> None:
    one = local(tmp_path, idle_s=0.5)
    loads: list[float] = []
    real = one._load
    one._load = lambda: loads.append(time.monotonic()) or real()  # type: ignore[func-returns-value, method-assign]
    one.expect()
    one.expect()
    until(lambda: one.loaded, 20, "the model, before a note is whole")
    # Two users at a time; idleness begins at the end of the last one, not of the first.
    ends: list[float] = []
    threads = [threading.Thread(target=lambda: (one.transcribe(SPOKEN, nothing), ends.append(time.monotonic())))]
    threads += [threading.Thread(target=lambda: (one.transcribe(SPOKEN, lambda: time.sleep(0.7)), None))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert one.loaded and len(loads) == 1
    until(lambda: not one.loaded, 5, "its release")
    gc.collect()
    assert one.transcribe(SPOKEN, nothing).text == SENTENCE and len(loads) == 2


def test_a_model_that_cannot_be_loaded_pauses_for_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (folder / name).write_bytes(b"{}")
    one = Transcriber(str(folder), "en", tmp_path)
    begun: list[int] = []
    with pytest.raises(ModelError) as first:
        one.transcribe(SPOKEN, lambda: begun.append(1))
    assert "cannot be loaded" in first.value.reason and first.value.retry_s == 5
    began_s = time.monotonic()
    with pytest.raises(ModelError) as second:
        one.transcribe(SPOKEN, lambda: begun.append(1))
    assert time.monotonic() - began_s < 0.1 and 4 < second.value.retry_s < 7
    assert begun == [], "it counts as a start of the note"


class Endpoint(WebhookReceiver):
    """An OpenAI-compatible endpoint: what was asked is in `received`, the answers as of WebhookReceiver."""

    @property
    def base(self) -> str:
        return self.url.replace("/hook", "/v1")


def fields(got: Received) -> dict[str, bytes]:
    """The parts of a multipart body."""
    boundary = got.headers["content-type"].partition("boundary=")[2].encode()
    parts: dict[str, bytes] = {}
    for part in got.body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.strip(b"\r\n").partition(b"\r\n\r\n")
        parts[head.decode("latin-1").partition('name="')[2].partition('"')[0]] = content
    return parts


def answer(value: Any, status: int = 200, **headers: str) -> Callable[[Received], Any]:
    return lambda _got: (
        status,
        {key.replace("_", "-"): text for key, text in headers.items()},
        json.dumps(value).encode(),
    )


VERBOSE = {
    "text": " Buy milk. ",
    "language": "english",
    "words": [
        {"word": "Buy", "start": 0.1, "end": 0.4},
        {"word": "odd"},
        {"word": "milk\ud83d", "start": 0.5, "end": 0.9},
    ],
}


def test_an_endpoint(tmp_path: Path) -> None:
    with Endpoint() as endpoint:
        endpoint.answers = answer(VERBOSE)
        settings = Settings(
            data=tmp_path,
            transcriber_url=endpoint.base,
            transcriber_key="sk-hidden",
            model="whisper-1",
            prompt="a list",
        )
        one = make_transcriber(settings)
        got = one.transcribe(SPOKEN, nothing)
        assert (got.text, got.language) == ("Buy milk.", "en")
        assert [(word["word"], word["start_s"], word["end_s"]) for word in got.words] == [
            ("Buy", 0.1, 0.4),
            ("milk\ufffd", 0.5, 0.9),  # half of a character is not to be kept
        ]
        (asked,) = endpoint.received
        assert asked.path == "/v1/audio/transcriptions"
        assert asked.headers["authorization"] == "Bearer sk-hidden" and "hidden" not in repr(settings)
        told = fields(asked)
        assert told["model"] == b"whisper-1" and told["prompt"] == b"a list" and "language" not in told
        assert told["file"][:4] == b"RIFF" and 90_000 < len(told["file"]) < 100_000  # 3 s of PCM
        (tmp_path / "silence.wav").write_bytes(silence(3))
        assert one.transcribe(tmp_path / "silence.wav", nothing).text == "" and len(endpoint.received) == 1


def test_an_endpoint_without_times(tmp_path: Path) -> None:
    with Endpoint() as endpoint:
        verbose = lambda got: b"verbose_json" in got.body  # noqa: E731
        endpoint.answers = lambda got: answer({"error": "no"}, 400)(got) if verbose(got) else answer({"text": "x"})(got)
        one = RemoteTranscriber(endpoint.base, "", "m", "de")
        assert [one.transcribe(SPOKEN, nothing) for _ in range(2)] == [transcriber.Transcript("x", "de", [])] * 2
        assert [verbose(got) for got in endpoint.received] == [True, False, False]
        assert "authorization" not in endpoint.received[0].headers


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (500, ModelError, "tried again by itself"),
        (429, ModelError, "tried again by itself"),
        (401, ModelError, "Check OFFBEAT_TRANSCRIBER_URL, OFFBEAT_TRANSCRIBER_KEY"),
        (404, ModelError, "OFFBEAT_MODEL"),
        (302, TranscriptionError, "answered 302"),
        (400, TranscriptionError, "answered 400"),
        (413, SoundError, "refused"),
    ],
)
def test_an_endpoint_that_refuses(status: int, error: type[Exception], words: str) -> None:
    with Endpoint() as endpoint:
        endpoint.answers = answer({"error": "sk-hidden is wrong"}, status, Retry_After="77", Location="http://[/")
        with pytest.raises(error, match=words) as raised:
            RemoteTranscriber(endpoint.base, "sk-hidden", "m", "").transcribe(SPOKEN, nothing)
        assert "hidden" not in str(raised.value) and str(status) in str(raised.value)
        if isinstance(raised.value, ModelError):
            assert raised.value.retry_s == (77 if status in (429, 500) else 5)


def test_an_endpoint_that_is_not_there_or_talks_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="cannot be reached") as raised:
        RemoteTranscriber("http://127.0.0.1:9/v1", "", "m", "").transcribe(SPOKEN, nothing)
    assert raised.value.retry_s == 5
    with Endpoint() as endpoint:
        endpoint.answers = lambda _: (200, {}, b"<html>")
        with pytest.raises(ModelError, match="OpenAI-compatible"):
            RemoteTranscriber(endpoint.base, "", "m", "").transcribe(SPOKEN, nothing)
        monkeypatch.setattr(transcriber, "MAX_ANSWER_BYTES", 1000)
        endpoint.answers = answer({"text": "x" * 2000})
        with pytest.raises(ModelError, match="ValueError"):
            RemoteTranscriber(endpoint.base, "", "m", "").transcribe(SPOKEN, nothing)
        monkeypatch.setattr(transcriber, "ANSWER_TIMEOUT_S", 0.3)
        endpoint.answers = lambda _: time.sleep(1) or 204
        with pytest.raises(ModelError, match="ReadTimeout"):
            RemoteTranscriber(endpoint.base, "", "m", "").transcribe(SPOKEN, nothing)


def test_the_threads_of_the_engine_are_told_not_to_spin_before_it_is_loaded() -> None:
    program = (
        "import os, sys, offbeat.transcriber\n"
        "assert os.environ['GOMP_SPINCOUNT'] == '1000', 'not set'\n"
        "assert 'ctranslate2' not in sys.modules, 'too late'"
    )
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment["PYTHONPATH"] = str(Path(transcriber.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
