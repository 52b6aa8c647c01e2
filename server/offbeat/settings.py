"""Settings, from the environment and a file. docs/server.md has the table; a test compares the two."""

import os
import re
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "OFFBEAT_"
FILE = PREFIX + "SETTINGS"  # names the file
USUAL_FILE = "~/.config/offbeat.env"
SECRET = ("transcriber_key", "database_url")


class SettingsError(Exception):
    """A setting has a value that cannot be used; the text names the key and the value."""


class Settings(BaseSettings):
    """Every field is the environment variable `OFFBEAT_` + its name in capitals. An empty variable is unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    data: Path = Field(default=Path("~/.local/share/offbeat"), description="Folder of everything kept")
    host: str = Field(default="127.0.0.1", description="Address to listen on, for people and for devices")
    port: int = Field(default=8080, ge=1, le=65535, description="Port of the page and its API (plain HTTP)")
    device_port: int = Field(default=8443, ge=1, le=65535, description="Port for devices (TLS only)")
    model: str = Field(default="base", description="Whisper model: a name, or a folder")
    language: str = Field(default="", description="Language of the notes, such as `en`; empty: detected")
    prompt: str = Field(default="", max_length=1000, description="Text that the model takes for what came before")
    hot_words: str = Field(default="", max_length=1000, description="Words and names that it should expect")
    model_device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the model runs")
    model_compute: str = Field(default="auto", description="Its arithmetic: int8, float16, …; auto: the fastest here")
    model_idle_s: float = Field(default=600, ge=0, description="Seconds until an idle model is freed; 0: never")
    transcriber_url: str = Field(default="", description="OpenAI-compatible endpoint to transcribe with")
    transcriber_key: str = Field(default="", repr=False, description="Its key")
    database_url: str = Field(default="", repr=False, description="postgresql://…; empty: SQLite in the folder")
    storage: str = Field(default="", description="s3://BUCKET/PREFIX for the sound; empty: the folder")

    export: str = Field(default="", description="Folder that folders of Markdown files lie in; empty: `export`")

    @field_validator("data")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("language")
    @classmethod
    def _language(cls, value: str) -> str:
        if not re.fullmatch(r"([a-z]{2,3})?", value):
            raise ValueError("should be a language's code of two or three small letters, such as en, or empty")
        return value

    @field_validator("model_compute")
    @classmethod
    def _compute(cls, value: str) -> str:
        if not re.fullmatch(r"auto|default|float32|b?float16|int16|int8(_float32|_b?float16)?", value):
            raise ValueError("should be auto, int8, int8_float32, int8_float16, int16, float16, bfloat16 or float32")
        return value

    @field_validator("transcriber_url")
    @classmethod
    def _transcriber_url(cls, value: str) -> str:
        if not re.fullmatch(r"(https?://[^\s/@?#]+(/[^\s?#]*)?)?", value):
            raise ValueError("should be like https://api.openai.com/v1, without name, password and query, or empty")
        return value

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: str) -> str:
        if not re.fullmatch(r"(postgres(ql)?://\S+)?", value):
            raise ValueError("should be postgresql://USER:PASSWORD@HOST/DATABASE, or empty")
        return value

    @field_validator("storage")
    @classmethod
    def _storage(cls, value: str) -> str:
        if not re.fullmatch(r"(s3://[a-z0-9][a-z0-9.-]*(/[^\s?#]*)?|file:///[^\s?#]*)?", value):
            raise ValueError("should be s3://BUCKET or s3://BUCKET/PREFIX, or empty")
        return value

    @property
    def database(self) -> Path:
        return self.data / "offbeat.sqlite"

    @property
    def notes(self) -> Path:
        return self.data / "notes"

    @property
    def cache(self) -> Path:
        return self.data / "cache"

    @property
    def export_folder(self) -> Path:
        """The folder in which destinations may write files."""
        return Path(self.export).expanduser().absolute() if self.export else self.data / "export"

    @property
    def models(self) -> Path:
        return self.data / "models"


def _shown(item: ErrorDetails) -> str:
    """The value that is wrong, unless a password may be in it."""
    return "…" if item["loc"][0] in SECRET else repr(item["input"])


def _file() -> Path | None:
    """The file with settings, `KEY=VALUE` lines, whose keys were checked. Raises SettingsError."""
    named = os.environ.get(FILE)
    if named == "":
        return None
    path = Path(named or USUAL_FILE).expanduser()
    try:
        if named is None and not path.exists():
            return None
        with open(path, encoding="utf-8") as file:
            keys = dotenv_values(stream=file, interpolate=False).keys()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{FILE}={str(path)!r} cannot be read: {error}. Set {FILE} to another file, or empty for none"
        ) from None
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    if unknown := sorted(key for key in keys if key not in known):
        raise SettingsError(f"{FILE}={str(path)!r}: there is no setting {', '.join(unknown)}")
    return path


def load() -> Settings:
    """Reads the settings: those of the environment count before those of the file. Raises SettingsError, with one line
    for each key that is wrong."""
    try:
        return Settings(_env_file=_file(), _env_file_encoding="utf-8")
    except ValidationError as error:
        lines = [f"{PREFIX}{str(item['loc'][0]).upper()}={_shown(item)}: {item['msg']}" for item in error.errors()]
        raise SettingsError("\n".join(lines)) from None
