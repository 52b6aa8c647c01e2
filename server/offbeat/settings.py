"""Settings, from the environment. docs/server.md has the table; a test compares the two."""

import re
from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "OFFBEAT_"


class SettingsError(Exception):
    """A setting has a value that cannot be used; the text names the key and the value."""


class Settings(BaseSettings):
    """Every field is the environment variable `OFFBEAT_` + its name in capitals. An empty variable is unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    data: Path = Field(default=Path("~/.local/share/offbeat"), description="Folder of everything kept")
    host: str = Field(default="127.0.0.1", description="Address to listen on, for people and for devices")
    port: int = Field(default=8080, ge=1, le=65535, description="Port of the page and its API (plain HTTP)")
    device_port: int = Field(default=8443, ge=1, le=65535, description="Port for devices (TLS only)")
    model: str = Field(default="base", description="Whisper model: a name, or a folder")
    language: str = Field(default="", description="Language of the notes, such as `en`; empty: detected")

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
    def models(self) -> Path:
        return self.data / "models"


def load() -> Settings:
    """Reads the settings. Raises SettingsError, with one line for each key that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"{PREFIX}{str(item['loc'][0]).upper()}={item['input']!r}: {item['msg']}" for item in error.errors()]
        raise SettingsError("\n".join(lines)) from None
