"""Speech to text with faster-whisper: one model, loaded once, one note at a time."""

import errno
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbeat import log, sound

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

# How long to wait until the model is tried again, s: the first entry after the first failure, the last one for ever.
MODEL_BACKOFF_S = (5, 15, 60, 300)
# What faster-whisper needs in a folder; without the tokenizer's file it would go to the hub.
MODEL_FILES = ("model.bin", "config.json", "tokenizer.json")
HUB_FILES = ["config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*"]
# Of an error's own words, so many are shown.
WORDS_CHARACTERS = 200
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class ModelError(Exception):
    """The model cannot be used now. `reason` says why and what to do; `retry_s` when it is worth another try."""

    def __init__(self, reason: str, retry_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_s = retry_s


@dataclass(frozen=True)
class Transcript:
    """`text` is empty for silence, `language` a code such as `en` or None for silence.

    `words` holds {"start_s", "end_s", "word", "probability"} each."""

    text: str
    language: str | None
    words: list[dict[str, Any]]


def is_folder(model: str) -> bool:
    """Whether the setting means a folder, which is never looked for in the network, and not a name."""
    return model.startswith(("/", ".", "~")) or os.path.isdir(model)


class Transcriber:
    """Loads the model at first need."""

    def __init__(self, model: str, language: str, cache: Path) -> None:
        """`model` and `language` as in the settings; `cache`: where a model that has a name is kept."""
        self._name = model
        self._language = language or None
        self._cache = cache
        self._lock = threading.Lock()
        self._model: WhisperModel | None = None
        self._failures = 0
        self._failed: ModelError | None = None
        self._next_load_s = 0.0  # on the monotonic clock

    def transcribe(self, path: Path, begin: Callable[[], None]) -> Transcript:
        """Transcribes a sound file. `begin` is called once its turn has come and the model is loaded.

        Waits until other notes are done: parallel transcription in one process leaks memory (faster-whisper,
        issue 1055). Raises ModelError and sound.SoundError."""
        with self._lock:
            model = self._loaded()
            begin()
            return self._transcribe(model, path)

    def _loaded(self) -> "WhisperModel":
        if self._model is not None:
            return self._model
        wait_s = self._next_load_s - time.monotonic()
        if self._failed is not None and wait_s > 0:
            # The next one to load it should find the others still waiting, not each of them going to the hub.
            raise ModelError(self._failed.reason, wait_s + random.uniform(0.1, 1.0))
        try:
            began_s = time.monotonic()
            self._model = self._load()
        except ModelError as error:
            backoff_s = MODEL_BACKOFF_S[min(self._failures, len(MODEL_BACKOFF_S) - 1)]
            self._failures += 1
            self._failed = error
            self._next_load_s = time.monotonic() + backoff_s
            error.retry_s = float(backoff_s)
            log.get().warning("model not available", model=self._name, reason=error.reason, retry_s=backoff_s)
            raise
        self._failures = 0
        self._failed = None
        log.get().info("model loaded", model=self._name, seconds=round(time.monotonic() - began_s, 2))
        return self._model

    def _load(self) -> "WhisperModel":
        folder = self._folder()
        from faster_whisper import (
            WhisperModel,
        )  # late: it takes a second and 100 MB that an idle server needs not

        try:
            model = WhisperModel(str(folder), compute_type="auto", local_files_only=True)
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            raise ModelError(f"The model in {folder} cannot be loaded: {error}") from error
        if self._language is not None and self._language not in model.supported_languages:
            raise ModelError(
                f"OFFBEAT_LANGUAGE={self._language!r} is not a language of the model {self._name}. Set another one, "
                "or none, and start the server again."
            )
        return model

    def _folder(self) -> Path:
        if not is_folder(self._name):
            return self._fetched()
        folder = Path(self._name).expanduser()
        missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"OFFBEAT_MODEL={self._name!r} lacks {', '.join(missing)}. Put the model there (a Whisper model "
                "converted for CTranslate2), or set OFFBEAT_MODEL to another folder or a name."
            )
        return folder

    def _fetched(self) -> Path:
        """The folder of a model by name; fetches it, with a progress bar on the terminal, if it is not here yet."""
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import huggingface_hub
        from faster_whisper import available_models
        from faster_whisper.utils import _MODELS as REPOSITORIES  # its download_model shows no progress
        from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

        repository = self._name if "/" in self._name else REPOSITORIES.get(self._name)
        if repository is None:
            raise ModelError(
                f"OFFBEAT_MODEL={self._name!r} is not a model's name. Names are "
                f"{', '.join(available_models())}; or owner/name on the hub, or a folder (/… or ./…)."
            )

        def snapshot(**more: Any) -> Path:
            return Path(
                huggingface_hub.snapshot_download(repository, cache_dir=self._cache, allow_patterns=HUB_FILES, **more)
            )

        try:
            folder = snapshot(local_files_only=True)
            if all((folder / name).is_file() for name in MODEL_FILES):
                return folder
        except LocalEntryNotFoundError:
            pass  # not fetched yet: the ordinary case at first use
        log.get().info("fetching the model", model=self._name, repository=repository)
        try:
            return snapshot()
        except RepositoryNotFoundError as error:
            raise ModelError(
                f"OFFBEAT_MODEL={self._name!r}: the model hub has no {repository}. Check the name."
            ) from error
        except Exception as error:  # three libraries below it raise errors of their own when the network fails
            log.get().warning("fetching failed", model=self._name, error=f"{type(error).__name__}: {error}")
            words = " ".join(str(error).split())[:WORDS_CHARACTERS]
            # By the words: what fetches large files (hf_xet) raises RuntimeError for all of it.
            if any(os.strerror(number) in words for number in STORAGE_ERRORS):
                trouble, remedy = "cannot be stored", f"Make room in {self._cache}, or let the server write there"
            else:
                trouble, remedy = "cannot be fetched from the model hub", "Give this machine network"
            raise ModelError(
                f"The model {self._name!r} is not here yet and {trouble} ({type(error).__name__}: {words}). {remedy}, "
                "or set OFFBEAT_MODEL=/path/to/folder with a model that you have. The note waits and is tried again "
                "by itself."
            ) from error

    def _transcribe(self, model: "WhisperModel", path: Path) -> Transcript:
        from faster_whisper.vad import VadOptions, get_speech_timestamps

        audio = sound.samples(path)
        # The spans of speech go in as clips. faster-whisper's own vad_filter would glue them together, and Whisper
        # invents words for silence.
        spans = get_speech_timestamps(audio, VadOptions(min_silence_duration_ms=500, speech_pad_ms=200))
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
        )
        texts: list[str] = []
        words: list[dict[str, Any]] = []
        for segment in segments:
            texts.append(segment.text.strip())
            words += [
                {
                    "start_s": round(float(word.start), 2),
                    "end_s": round(float(word.end), 2),
                    "word": word.word.strip(),
                    "probability": round(float(word.probability), 3),
                }
                for word in segment.words or []
            ]
        return Transcript(" ".join(text for text in texts if text), info.language, words)
