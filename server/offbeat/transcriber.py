"""Speech to text: faster-whisper in this process, or an OpenAI-compatible endpoint elsewhere."""

import ctypes
import gc
import io
import json
import os
import random
import re
import threading
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from offbeat import log, models, sound
from offbeat.models import ModelError
from offbeat.settings import Settings
from offbeat.store import storable

if TYPE_CHECKING:
    import numpy as np
    import requests
    from faster_whisper import WhisperModel

# CTranslate2's threads wait for each other in a loop, and on a busy machine so long that each holds up the other (ten
# times slower on two cores). OpenMP's library (GNU's) reads this when it is loaded, so it is set before; 1000 turns is
# its own choice where it counts more threads than processors. What is set already stays.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# How long to wait until the model is tried again, s: the first entry after the first failure, the last one for ever.
MODEL_BACKOFF_S = (5, 15, 60, 300)
CONNECT_TIMEOUT_S = 10.0
# For an answer of an endpoint to begin, and for all of it.
ANSWER_TIMEOUT_S = 600.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
WORDS_CHARACTERS = 200
# What an endpoint answers where it is not the note that is wrong: trying again helps, by itself or after a change.
NOT_NOW = (408, 425, 429)
NOT_SO = (401, 403, 404, 405)
BAD_SOUND = (413, 415)
# OpenAI's endpoint tells a language by its name: those that its documentation lists, with their codes (ISO 639-1).
LANGUAGES = (
    "afrikaans:af arabic:ar armenian:hy azerbaijani:az belarusian:be bosnian:bs bulgarian:bg catalan:ca chinese:zh "
    "croatian:hr czech:cs danish:da dutch:nl english:en estonian:et finnish:fi french:fr galician:gl german:de "
    "greek:el hebrew:he hindi:hi hungarian:hu icelandic:is indonesian:id italian:it japanese:ja kannada:kn kazakh:kk "
    "korean:ko latvian:lv lithuanian:lt macedonian:mk malay:ms marathi:mr maori:mi nepali:ne norwegian:no persian:fa "
    "polish:pl portuguese:pt romanian:ro russian:ru serbian:sr slovak:sk slovenian:sl spanish:es swahili:sw "
    "swedish:sv tagalog:tl tamil:ta thai:th turkish:tr ukrainian:uk urdu:ur vietnamese:vi welsh:cy"
)

__all__ = ["ModelError", "RemoteTranscriber", "Transcriber", "Transcript", "TranscriptionError", "make_transcriber"]


class TranscriptionError(Exception):
    """This note could not be transcribed, for a reason that another try may or may not change."""


@dataclass(frozen=True)
class Transcript:
    """`text` is empty for silence, `language` a code such as `en` or None for silence.

    `words` holds {"start_s", "end_s", "word", "probability"} each; `probability` is None where nobody told it."""

    text: str
    language: str | None
    words: list[dict[str, Any]]


class AnyTranscriber(Protocol):
    """What the pipeline wants of one."""

    def transcribe(self, path: Path, begin: Callable[[], None]) -> Transcript:
        """Transcribes a sound file. `begin` is called once its turn has come, before what could kill the process.

        Raises ModelError (nothing is wrong with the note), sound.SoundError (it will never work), and others."""

    def expect(self) -> None:
        """A note is on its way: what takes time may begin. Returns at once; may be called from any thread."""


def make_transcriber(settings: Settings) -> AnyTranscriber:
    """The transcriber that the settings ask for; nothing is loaded yet."""
    if settings.transcriber_url:
        return RemoteTranscriber(
            settings.transcriber_url,
            settings.transcriber_key,
            settings.model,
            settings.language,
            prompt=", ".join(text for text in (settings.prompt, settings.hot_words) if text),
        )
    return Transcriber(
        settings.model,
        settings.language,
        settings.models,
        device=settings.model_device,
        compute_type=settings.model_compute,
        prompt=settings.prompt,
        hot_words=settings.hot_words,
        idle_s=settings.model_idle_s,
    )


def _speech(audio: "np.ndarray") -> list[dict[str, int]]:
    """The spans of speech, in samples: {"start", "end"} each. Whisper invents words for silence."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    spans: list[dict[str, int]] = get_speech_timestamps(
        audio, VadOptions(min_silence_duration_ms=500, speech_pad_ms=200)
    )
    return spans


class _Pauses:
    """Longer and longer pauses after failures that are not the notes', shared by all notes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._reason: str | None = None
        self._next_s = 0.0  # on the monotonic clock

    def check(self) -> None:
        """Raises ModelError with the last reason while it pauses."""
        with self._lock:
            wait_s = self._next_s - time.monotonic()
            if self._reason is not None and wait_s > 0:
                # The next one to try should find the others still waiting, not each of them trying for itself.
                raise ModelError(self._reason, wait_s + random.uniform(0.1, 1.0))

    def failed(self, error: ModelError) -> None:
        """Begins a pause and sets the error's `retry_s` to its length."""
        with self._lock:
            backoff_s = float(MODEL_BACKOFF_S[min(self._failures, len(MODEL_BACKOFF_S) - 1)])
            error.retry_s = max(error.retry_s, backoff_s)
            self._failures += 1
            self._reason = error.reason
            self._next_s = time.monotonic() + error.retry_s
        log.get().warning("model not available", reason=error.reason, retry_s=error.retry_s)

    def worked(self) -> None:
        with self._lock:
            self._failures = 0
            self._reason = None


class Transcriber:
    """faster-whisper. Loads the model when a note is expected and frees it when none has come for a while."""

    def __init__(
        self,
        model: str,
        language: str,
        cache: Path,
        *,
        device: str = "auto",
        compute_type: str = "auto",
        prompt: str = "",
        hot_words: str = "",
        idle_s: float = 0,
    ) -> None:
        """Arguments as in the settings; `cache`: where a model that has a name is kept; `idle_s`: 0 is never."""
        self._name = model
        self._language = language or None
        self._cache = cache
        self._device = device
        self._compute_type = compute_type
        self._prompt = prompt or None
        self._hot_words = hot_words or None
        self._idle_s = idle_s
        self._lock = threading.Lock()  # held while the model is loaded, used or freed
        self._model: WhisperModel | None = None
        self._pauses = _Pauses()
        self._state = threading.Lock()
        self._users = 0
        self._expecting = False
        self._idle: threading.Timer | None = None

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    def expect(self) -> None:
        """Loads the model in a thread of its own, unless that is done, under way, or paused after a failure."""
        with self._state:
            if self._model is not None or self._expecting:
                return
            self._expecting = True

        def load() -> None:
            try:
                self._using(self._loaded)
            except ModelError:
                pass  # it is logged, and the note will say so
            finally:
                with self._state:
                    self._expecting = False

        threading.Thread(target=load, name="model", daemon=True).start()

    def transcribe(self, path: Path, begin: Callable[[], None]) -> Transcript:
        """As of AnyTranscriber. Waits until other notes are done: parallel transcription in one process leaks memory
        (faster-whisper, issue 1055)."""

        def work() -> Transcript:
            model = self._loaded()
            begin()
            return self._transcribe(model, path)

        return self._using(work)

    def _using(self, work: Callable[[], Any]) -> Any:
        """Does the work in its turn. Idleness begins when the last one that uses or waits for the model has ended."""
        with self._state:
            self._users += 1
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
        try:
            with self._lock:
                return work()
        finally:
            with self._state:
                self._users -= 1
                if self._users == 0 and self._idle_s and self._model is not None:
                    self._idle = threading.Timer(self._idle_s, self._free)
                    self._idle.daemon = True
                    self._idle.start()

    def _free(self) -> None:
        with self._state:
            if self._users:
                return  # it came while the timer went off
            model, self._model = self._model, None
        if model is None:
            return
        with self._lock:
            del model
            gc.collect()
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc: gives the memory back to the system
            if trim is not None:
                trim(0)
        log.get().info("model released", model=self._name, idle_s=self._idle_s)

    def _loaded(self) -> "WhisperModel":
        if self._model is not None:
            return self._model
        self._pauses.check()
        began_s = time.monotonic()
        try:
            self._model = self._load()
        except ModelError as error:
            self._pauses.failed(error)
            raise
        self._pauses.worked()
        log.get().info("model loaded", model=self._name, seconds=round(time.monotonic() - began_s, 2))
        return self._model

    def _load(self) -> "WhisperModel":
        folder = models.folder_of(self._name, self._cache)
        try:
            model = self._warmed(folder, self._device)
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            if self._device != "auto":
                raise ModelError(f"The model in {folder} cannot be loaded: {error}") from error
            # A graphics card that is there but lacks a library shows that only when it is used.
            log.get().warning("model not usable as it is, trying the CPU", model=self._name, error=str(error))
            try:
                model = self._warmed(folder, "cpu")
            except (RuntimeError, ValueError, OSError, MemoryError) as again:
                raise ModelError(f"The model in {folder} cannot be loaded: {again}") from again
        if self._language is not None and self._language not in model.supported_languages:
            raise ModelError(
                f"OFFBEAT_LANGUAGE={self._language!r} is not a language of the model {self._name}. Set another one, "
                "or none, and start the server again."
            )
        return model

    def _warmed(self, folder: Path, device: str) -> "WhisperModel":
        """The model, after it has done a second of silence once: what is made at first use is made now."""
        # Late: it takes a second and 100 MB that an idle server needs not.
        import numpy as np
        from faster_whisper import WhisperModel

        model = WhisperModel(str(folder), device=device, compute_type=self._compute_type, local_files_only=True)
        silence = np.zeros(sound.RATE_HZ, np.float32)
        _speech(silence)
        language = self._language if self._language in model.supported_languages else model.supported_languages[0]
        segments, _ = model.transcribe(silence, language=language, beam_size=1, temperature=0.0, max_new_tokens=1)
        for _segment in segments:
            pass
        return model

    def _transcribe(self, model: "WhisperModel", path: Path) -> Transcript:
        audio = sound.samples(path)
        # The spans of speech go in as clips: faster-whisper's own vad_filter would glue them together.
        spans = _speech(audio)
        if not spans:
            return Transcript("", None, [])
        clips_s = [span[end] / sound.RATE_HZ for span in spans for end in ("start", "end")]
        # Temperature 0: the same sound gives the same text. Each clip for itself: an error does not spread.
        segments, info = model.transcribe(
            audio,
            language=self._language,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
            clip_timestamps=clips_s,
            initial_prompt=self._prompt,
            hotwords=self._hot_words,
        )
        texts: list[str] = []
        words: list[dict[str, Any]] = []
        for segment in segments:
            texts.append(segment.text.strip())
            words += [_word(word.start, word.end, word.word, float(word.probability)) for word in segment.words or []]
        return Transcript(" ".join(text for text in texts if text), info.language, words)


def _word(start_s: float, end_s: float, word: str, probability: float | None) -> dict[str, Any]:
    return {
        "start_s": round(float(start_s), 2),
        "end_s": round(float(end_s), 2),
        "word": word.strip(),
        "probability": None if probability is None else round(probability, 3),
    }


class RemoteTranscriber:
    """An endpoint that speaks OpenAI's `POST …/audio/transcriptions`. The sound goes there as plain PCM in WAV."""

    def __init__(self, url: str, key: str, model: str, language: str, prompt: str = "") -> None:
        """`url` as far as the part before `/audio/transcriptions`; `key` may be empty."""
        self._url = url.rstrip("/") + "/audio/transcriptions"
        self._key = key
        self._model = model
        self._language = language
        self._prompt = prompt
        self._pauses = _Pauses()
        self._verbose = True  # until the endpoint turns out to know no times of words

    def expect(self) -> None:
        """Nothing to load."""

    def transcribe(self, path: Path, begin: Callable[[], None]) -> Transcript:
        """As of AnyTranscriber. Several notes may be there at a time. Silence is not sent."""
        self._pauses.check()
        begin()
        audio = sound.samples(path)
        if not _speech(audio):
            return Transcript("", None, [])
        try:
            answer = self._ask(_wav(audio))
        except ModelError as error:
            self._pauses.failed(error)
            raise
        self._pauses.worked()
        return _transcript(answer, self._language)

    def _authorized(self, request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        """Adds the key; also without one it keeps `requests` from reading the user's .netrc."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _ask(self, content: bytes) -> Any:
        status, answer, words, retry_s = self._post(content)
        if status in (400, 422) and self._verbose:
            # Some (whisper.cpp, the newer models of OpenAI) give no times of words: then the text alone.
            self._verbose = False
            status, answer, words, retry_s = self._post(content)
            self._verbose = status in (400, 422)  # then that was not it
        where = f"OFFBEAT_TRANSCRIBER_URL: {self._url} answered {status} ({words})"
        if status in NOT_NOW or status >= 500:
            raise ModelError(f"{where}. The note waits and is tried again by itself.", retry_s)
        if status in NOT_SO:
            raise ModelError(f"{where}. Check OFFBEAT_TRANSCRIBER_URL, OFFBEAT_TRANSCRIBER_KEY and OFFBEAT_MODEL.")
        if status in BAD_SOUND:
            raise sound.SoundError(f"the transcriber refused it: {where}")
        if status != 200:
            raise TranscriptionError(where)
        if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
            raise ModelError(f"{where}: no transcript. Check that OFFBEAT_TRANSCRIBER_URL is OpenAI-compatible.")
        return answer

    def _post(self, content: bytes) -> tuple[int, Any, str, float]:
        """Status, JSON (None if it is none), its beginning, and the seconds of Retry-After. Raises ModelError."""
        import requests

        from offbeat.delivery import NoRedirects

        data: list[tuple[str, str]] = [("model", self._model), ("temperature", "0")]
        if self._language:
            data.append(("language", self._language))
        if self._prompt:
            data.append(("prompt", self._prompt))
        if self._verbose:
            data += [("response_format", "verbose_json"), ("timestamp_granularities[]", "word")]
        else:
            data.append(("response_format", "json"))
        try:
            with (
                NoRedirects() as session,
                session.post(
                    self._url,
                    data=data,
                    files={"file": ("note.wav", content, "audio/wav")},
                    auth=self._authorized,
                    timeout=(CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S),
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                body = _bounded(response)
                status, after = response.status_code, response.headers.get("Retry-After", "")
        except (requests.RequestException, OSError, ValueError) as error:
            raise ModelError(
                f"OFFBEAT_TRANSCRIBER_URL: {self._url} cannot be reached ({type(error).__name__}). Check the address "
                "and that it runs. The note waits and is tried again by itself."
            ) from error
        words = " ".join(body[:1000].decode("utf-8", "replace").split())[:WORDS_CHARACTERS]
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        retry_s = float(min(int(after[:9]), 3600)) if after.isascii() and after.isdigit() else 0.0
        return status, answer, words.replace(self._key or "\0", "…"), retry_s


def _bounded(response: "requests.Response") -> bytes:
    """The body, at most MAX_ANSWER_BYTES within ANSWER_TIMEOUT_S. Raises ValueError beyond."""
    until_s = time.monotonic() + ANSWER_TIMEOUT_S
    body = bytearray()
    for piece in response.iter_content(65_536):
        body += piece
        if len(body) > MAX_ANSWER_BYTES or time.monotonic() > until_s:
            raise ValueError("the answer does not come to its end")
    return bytes(body)


def _transcript(answer: dict[str, Any], language: str) -> Transcript:
    """What an endpoint's answer says. Times that are not as they should be are left out."""
    words = []
    for one in answer.get("words") or []:
        try:
            words.append(_word(one["start"], one["end"], storable(str(one["word"])), None))
        except (TypeError, ValueError, KeyError, OverflowError):
            continue
    told = answer.get("language")
    return Transcript(answer["text"].strip(), _code(told) if isinstance(told, str) else language or None, words)


def _code(language: str) -> str | None:
    """A language's code, also where the endpoint tells its English name; None for one that is not known here."""
    if re.fullmatch("[a-z]{2,3}", language):
        return language
    return dict(pair.split(":") for pair in LANGUAGES.split()).get(language.lower())


def _wav(audio: "np.ndarray") -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sound.RATE_HZ)
        writer.writeframes((audio * 32767).astype(np.int16).tobytes())
    return buffer.getvalue()
