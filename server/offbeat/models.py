"""The models: where one is, and how it comes here."""

import errno
import os
from pathlib import Path
from typing import Any

from offbeat import log

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


def is_folder(model: str) -> bool:
    """Whether the setting means a folder, which is never looked for in the network, and not a name."""
    return model.startswith(("/", ".", "~")) or os.path.isdir(model)


def names() -> dict[str, str]:
    """The short names and the hub's repository of each."""
    from faster_whisper.utils import _MODELS as REPOSITORIES  # its download_model shows no progress

    return dict(REPOSITORIES)


def folder_of(model: str, cache: Path) -> Path:
    """The folder of a model by name or folder, fetched from the hub if it is not here yet. Raises ModelError."""
    if not is_folder(model):
        return here(model, cache) or fetch(model, cache)
    folder = Path(model).expanduser()
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"OFFBEAT_MODEL={model!r} lacks {', '.join(missing)}. Put the model there (a Whisper model "
            "converted for CTranslate2), or set OFFBEAT_MODEL to another folder or a name."
        )
    return folder


def here(model: str, cache: Path) -> Path | None:
    """The folder of a model by name if it has been fetched whole, without the network. Raises ModelError."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(_repository(model), cache, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return folder if all((folder / name).is_file() for name in MODEL_FILES) else None


def fetch(model: str, cache: Path) -> Path:
    """Fetches a model by name, with a progress bar on the terminal, and returns its folder. Raises ModelError."""
    from huggingface_hub.errors import RepositoryNotFoundError

    repository = _repository(model)
    log.get().info("fetching the model", model=model, repository=repository)
    try:
        folder = _snapshot(repository, cache)
    except RepositoryNotFoundError as error:
        raise ModelError(f"OFFBEAT_MODEL={model!r}: the model hub has no {repository}. Check the name.") from error
    except Exception as error:  # three libraries below it raise errors of their own when the network fails
        log.get().warning("fetching failed", model=model, error=f"{type(error).__name__}: {error}")
        words = " ".join(str(error).split())[:WORDS_CHARACTERS]
        # By the words: what fetches large files (hf_xet) raises RuntimeError for all of it.
        if any(os.strerror(number) in words for number in STORAGE_ERRORS):
            trouble, remedy = "cannot be stored", f"Make room in {cache}, or let the server write there"
        else:
            trouble, remedy = "cannot be fetched from the model hub", "Give this machine network"
        raise ModelError(
            f"The model {model!r} is not here yet and {trouble} ({type(error).__name__}: {words}). {remedy}, "
            "or set OFFBEAT_MODEL=/path/to/folder with a model that you have. The note waits and is tried again "
            "by itself."
        ) from error
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"OFFBEAT_MODEL={model!r}: {repository} on the model hub lacks {', '.join(missing)}: it is no Whisper "
            "model converted for CTranslate2. Choose another one."
        )
    return folder


def _repository(model: str) -> str:
    repository = model if "/" in model else names().get(model)
    if repository is None:
        raise ModelError(
            f"OFFBEAT_MODEL={model!r} is not a model's name. Names are {', '.join(names())}; or owner/name on the "
            "hub, or a folder (/… or ./…)."
        )
    return repository


def _snapshot(repository: str, cache: Path, **more: Any) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub

    return Path(huggingface_hub.snapshot_download(repository, cache_dir=cache, allow_patterns=HUB_FILES, **more))
