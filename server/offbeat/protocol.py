"""The wire format between a device and the server: docs/protocol.md. Pure: text in, values out."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

MAX_NOTE_BYTES = 64 * 1024 * 1024
MAX_CHECK_IN_BYTES = 16 * 1024
POSITIONS = 43_200

DEVICE_ID = re.compile(r"[a-z][a-z0-9]{0,31}")
NOTE_ID = re.compile(r"([a-z][a-z0-9]{0,31})-[0-9a-f]{16}")
_INTEGER = re.compile(r"[0-9]{1,15}")
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
_COUNTER = re.compile(r"([0-9a-f]{8}) ([0-9]{1,15}) ([0-9]{1,15})")
_TOKEN = re.compile(r"Bearer ([A-Za-z0-9_-]{43})")


def token_of(authorization: str | None) -> str | None:
    """The token of an `Authorization` header, or None where there is none that could be one."""
    match = _TOKEN.fullmatch(authorization or "")
    return match[1] if match else None


def digest_header(sha256: str) -> str:
    """The `Repr-Digest` of a SHA-256 given in hexadecimal."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def _header(headers: Mapping[str, str], name: str, pattern: re.Pattern[str], example: str) -> re.Match[str]:
    value = headers.get(name)
    match = pattern.fullmatch(value or "")
    if match is None:
        raise ValueError(f"{name} should be like {example}, and is {value[:100]!r}" if value else f"{name} is missing")
    return match


@dataclass(frozen=True)
class Append:
    """The headers of a `PATCH`: lengths and offsets in bytes, `sha256` in hexadecimal, `now_ms` on `counter`,
    of which `asleep_ms` were spent asleep."""

    offset: int
    complete: bool
    length: int
    sha256: str
    counter: str
    now_ms: int
    asleep_ms: int
    body_length: int

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> "Append":
        """Raises ValueError, naming the header."""
        kind = headers.get("Content-Type")
        if kind != "application/partial-upload":
            raise ValueError("Content-Type should be application/partial-upload")
        if "Transfer-Encoding" in headers:
            raise ValueError("chunked coding is not used here: send a Content-Length")
        try:
            digest = base64.b64decode(_header(headers, "Repr-Digest", _DIGEST, "sha-256=:BASE64:")[1], validate=True)
        except binascii.Error as error:
            raise ValueError("Repr-Digest is not base64") from error
        counter = _header(headers, "Offbeat-Counter", _COUNTER, "0123abcd 4711 0")
        append = cls(
            offset=int(_header(headers, "Upload-Offset", _INTEGER, "0")[0]),
            complete=_header(headers, "Upload-Complete", re.compile(r"\?[01]"), "?1")[0] == "?1",
            length=int(_header(headers, "Upload-Length", _INTEGER, "4711")[0]),
            sha256=digest.hex(),
            counter=counter[1],
            now_ms=int(counter[2]),
            asleep_ms=int(counter[3]),
            body_length=int(_header(headers, "Content-Length", _INTEGER, "4711")[0]),
        )
        if append.length == 0:
            raise ValueError("Upload-Length is 0: there is no such note")
        return append

    def check_reach(self) -> None:
        """Raises ValueError where the body would not end where the headers say."""
        end = self.offset + self.body_length
        if end > self.length:
            raise ValueError(f"the body would end at {end}, beyond Upload-Length {self.length}")
        if self.complete and end != self.length:
            raise ValueError(f"Upload-Complete is ?1, but the body ends at {end} and not at {self.length}")


MAX_WAIT_MS = 20_000

Milliseconds = Annotated[int, Field(ge=0, le=60_000)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=32)]


_Reading = Annotated[str, StringConstraints(pattern=r"^([01]?[0-9]|2[0-3]):[0-5]?[0-9]:[0-5]?[0-9]$")]
# JSON knows no integers: 6.0 is one.
_INTEGRAL = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
_STRICT = ConfigDict(extra="forbid", strict=True)


def _setting() -> Any:
    """A setting may be left out, which is not the same as null."""
    return Field(default_factory=lambda: None)


class ClockSettings(BaseModel):
    """What can be desired of a clock. A device's own check is narrower."""

    model_config = _STRICT

    mode: Annotated[str, StringConstraints(pattern="^[ -~]{1,32}$")] = _setting()
    timezone: Annotated[str, StringConstraints(pattern="^[ -~]{1,63}$")] = _setting()
    morse: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]*$")] = _setting()
    pattern: Annotated[list[Annotated[int, Field(ge=1, le=10_000), _INTEGRAL]], Field(min_length=1, max_length=60)] = (
        _setting()
    )
    hold: _Reading | None = None
    hands: _Reading = _setting()
    steps: Annotated[int, Field(gt=-POSITIONS, lt=POSITIONS), _INTEGRAL] = _setting()


class PendantSettings(BaseModel):
    """What can be desired of a pendant."""

    model_config = _STRICT

    gain_db: Annotated[int, Field(ge=-24, le=24, multiple_of=6), _INTEGRAL] = _setting()
    sleep_after_s: Annotated[int, Field(ge=0, le=3600), _INTEGRAL] = _setting()


class CheckIn(BaseModel):
    """What a device reports. Unknown keys are ignored; units as in docs/protocol.md."""

    model_config = ConfigDict(extra="ignore", strict=True)

    app: Literal["pendant", "clock"]
    version: Annotated[str, StringConstraints(max_length=64)]
    board: Annotated[str, StringConstraints(max_length=64)] | None = None
    mpy: Annotated[int, Field(ge=0, le=0xFFFF)] | None = None
    reset: Annotated[str, StringConstraints(max_length=32)] | None = None
    uptime_ms: Count | None = None
    battery_mv: Annotated[int, Field(ge=0, le=100_000)] | None = None
    battery_low: bool | None = None
    usb: bool | None = None
    memory_free_bytes: Count | None = None
    flash_free_bytes: Count | None = None
    rssi_dbm: Annotated[int, Field(ge=-200, le=100)] | None = None
    waiting: Annotated[int, Field(ge=0, le=2**31)] | None = None
    mode: Annotated[str, StringConstraints(max_length=64)] | None = None
    modes: Annotated[list[Key], Field(max_length=32)] | None = None
    position: Annotated[int, Field(ge=0, lt=POSITIONS)] | None = None
    minute: Annotated[int, Field(ge=0, le=2**31)] | None = None
    utc_offset_s: Annotated[int, Field(ge=-86_400, le=86_400)] | None = None
    plan: Annotated[list[Milliseconds], Field(min_length=60, max_length=60)] | None = None
    uncertainty_ms: Annotated[int, Field(ge=0, le=2**31)] | None = None
    late_ticks: Annotated[int, Field(ge=0, le=2**31)] | None = None
    errors: Annotated[list[Annotated[str, StringConstraints(max_length=200)]], Field(max_length=5)] = []
    revision: Annotated[int, Field(ge=0, le=2**30)] = 0  # the server counts on from there
    settings: Annotated[dict[Key, Any], Field(max_length=32)] = {}
    changed: Annotated[dict[Key, Count | None], Field(max_length=32)] = {}
    refused: Annotated[dict[Key, Annotated[str, StringConstraints(max_length=200)]], Field(max_length=32)] = {}
    update_failed: Annotated[str, StringConstraints(max_length=64)] | None = None
    next_certificate: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None
    wait_ms: Annotated[int, Field(ge=0, le=MAX_WAIT_MS)] = 0


class CheckInAnswer(BaseModel):
    """What a check-in is answered with; what is None is left out."""

    time_ms: int
    revision: int
    settings: dict[str, Any] | None = None
    next_certificate: str | None = None
    update: dict[str, str] | None = None


class Confirmation(BaseModel):
    """What a whole note is confirmed with; `sha256` in hexadecimal, of the stored bytes."""

    id: str
    length: int
    sha256: str


class Refusal(BaseModel):
    """Every error."""

    detail: str
