"""What usually goes wrong, looked at one after the other; each finding says what to do.

Changes nothing, but that an object store gets a small object, which is removed again."""

import fcntl
import os
import shutil
import socket
import sqlite3
import ssl
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from offbeat import models
from offbeat.destinations import MAX_DESTINATIONS
from offbeat.settings import Settings
from offbeat.storage import ObjectStorage
from offbeat.store import connect, deliveries, destinations, devices, notes, now_ms

CONNECT_TIMEOUT_S = 5.0
FEW_BYTES, TOO_FEW_BYTES = 2 * 10**9, 200 * 10**6
CERTIFICATE_SOON = timedelta(days=365)
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Finding:
    """`level` is `ok`, `warn` (it works, but look at it) or `bad` (it does not work)."""

    level: str
    what: str
    text: str


def look(settings: Settings) -> Iterator[Finding]:
    """All findings. A check that breaks down is a finding itself."""
    checks: list[tuple[str, Callable[[Settings], Iterator[Finding]]]] = [
        ("programs", _programs),
        ("data folder", _folder),
        ("database", _database),
        ("storage", _storage),
        ("server", _server),
        ("certificate", _certificate),
        ("transcription", _model),
    ]
    for what, check in checks:
        try:
            yield from check(settings)
        except Exception as error:  # of whatever kind: the others are to be looked at all the same
            yield Finding("bad", what, f"could not be looked at: {type(error).__name__}: {error}")


def _programs(settings: Settings) -> Iterator[Finding]:
    python = ".".join(str(part) for part in sys.version_info[:3])
    if not settings.database_url and sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42):
        yield Finding(
            "bad",
            "SQLite",
            f"{sqlite3.sqlite_version}: with Python {python} it must be 3.42 or later. Use Python 3.11.",
        )
    else:
        yield Finding("ok", "programs", f"Python {python}, SQLite {sqlite3.sqlite_version}")


def _folder(settings: Settings) -> Iterator[Finding]:
    data = settings.data
    if not data.is_dir():
        yield Finding("warn", "data folder", f"OFFBEAT_DATA={str(data)!r} is not there yet: `offbeat serve` makes it")
        return
    for path in (data, settings.notes, settings.cache, settings.models):
        if path.is_dir() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            owner = path.stat().st_uid
            yield Finding(
                "bad", "data folder", f"{path} cannot be written by user {os.getuid()}; it belongs to {owner}. chown it"
            )
            return
    for path in (data, settings.database, data / "certificate.pem"):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding("warn", "data folder", f"{path} can be read by others: chmod go= {path}")
    free = shutil.disk_usage(data).free
    text = f"{free / 1e9:.1f} GB free in {data}"
    if free < TOO_FEW_BYTES:
        yield Finding("bad", "disk", f"{text}: devices keep their notes until there is room. Make room")
    elif free < FEW_BYTES:
        yield Finding("warn", "disk", f"{text}: make room soon")
    else:
        yield Finding("ok", "disk", text)


def _database(settings: Settings) -> Iterator[Finding]:
    if not settings.database_url and not settings.database.exists():
        yield Finding("warn", "database", f"{settings.database} is not there yet: `offbeat serve` makes it")
        return
    engine = connect(settings)
    shown = "PostgreSQL" if settings.database_url else str(settings.database)
    try:
        with engine.connect() as connection:
            if not settings.database_url:
                answer = connection.exec_driver_sql("PRAGMA quick_check").scalar()
                if answer != "ok":
                    yield Finding("bad", "database", f"{shown} is damaged ({answer}): restore a backup")
                    return
            elif not sa.inspect(connection).has_table("notes"):
                yield Finding("warn", "database", f"{shown} is empty yet: `offbeat serve` makes the tables")
                return
            yield Finding("ok", "database", f"{shown} works")
            yield from _rows(connection, settings)
    except sa.exc.SQLAlchemyError as error:
        words = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
        remedy = "Check OFFBEAT_DATABASE_URL and that it runs" if settings.database_url else "Start the server once"
        yield Finding("bad", "database", f"{shown} cannot be used: {words}. {remedy}")
    finally:
        engine.dispose()


def _rows(connection: sa.Connection, settings: Settings) -> Iterator[Finding]:
    newest = connection.scalar(sa.select(sa.func.max(notes.c.created_ms))) or 0
    if newest > now_ms() + DAY_MS or datetime.now(UTC).year < 2025:
        yield Finding("bad", "clock", "this machine's clock is behind: signatures and times are wrong. Set it (NTP)")
    else:
        yield Finding("ok", "clock", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    aside = connection.scalar(sa.select(sa.func.count()).where(notes.c.set_aside.is_(True)))
    if aside:
        yield Finding(
            "warn", "notes", f"{aside} set aside: the page says why, and tries them again where you ask it to"
        )
    late = connection.scalar(
        sa.select(sa.func.count()).where(deliveries.c.state == "pending", deliveries.c.created_ms < now_ms() - DAY_MS)
    )
    if late:
        yield Finding("warn", "deliveries", f"{late} wait for more than a day: the page says why")
    of_devices = sa.select(sa.func.count()).select_from(devices).where(devices.c.revoked_ms.is_(None))
    if connection.scalar(of_devices) and settings.host in ("127.0.0.1", "::1"):
        yield Finding(
            "warn",
            "devices",
            f"OFFBEAT_HOST={settings.host!r} cannot be reached by them: set it to 0.0.0.0 or to an address",
        )
    chosen = sa.select(destinations).where(destinations.c.removed_ms.is_(None)).limit(MAX_DESTINATIONS)
    for row in connection.execute(chosen):
        if row.ended_ms is not None:
            yield Finding("warn", "destination", f"{row.name or row.id} ended: {row.ended_reason}")
        elif str(row.url).startswith(("http://", "https://")):
            yield _reach("destination", str(row.url))


def _reach(what: str, url: str) -> Finding:
    """Whether somebody listens there, and with a good certificate."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((host, port), CONNECT_TIMEOUT_S) as plain:
            if parts.scheme == "https":
                with ssl.create_default_context().wrap_socket(plain, server_hostname=host):
                    pass
    except ssl.SSLCertVerificationError as error:
        return Finding("bad", what, f"{host}:{port} has a certificate that cannot be verified: {error.verify_message}")
    except OSError as error:
        return Finding("bad", what, f"{host}:{port} cannot be reached ({error}). Check the address and the network")
    return Finding("ok", what, f"{host}:{port} can be reached")


def _storage(settings: Settings) -> Iterator[Finding]:
    if not settings.storage:
        return
    try:
        ObjectStorage(settings.storage).check()
        yield Finding("ok", "storage", f"{settings.storage} works")
    except (OSError, ValueError) as error:
        yield Finding(
            "bad",
            "storage",
            f"{error}. Check OFFBEAT_STORAGE, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL",
        )


def _server(settings: Settings) -> Iterator[Finding]:
    if _is_served(settings):
        yield _answers(settings)
        return
    yield Finding("ok", "server", "is not running")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    for key, port in (("OFFBEAT_PORT", settings.port), ("OFFBEAT_DEVICE_PORT", settings.device_port)):
        try:
            socket.create_server((settings.host, port), family=family).close()
            yield Finding("ok", "port", f"{key}={port} is free")
        except OSError as error:
            remedy = "Choose another one, or stop what uses it"
            yield Finding(
                "bad", "port", f"{key}={port} with OFFBEAT_HOST={settings.host!r}: {error.strerror}. {remedy}"
            )


def _is_served(settings: Settings) -> bool:
    """Whether an `offbeat serve` holds the data folder's lock, which stays as it is."""
    try:
        with open(settings.data / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _answers(settings: Settings) -> Finding:
    import requests

    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    url = f"http://{host}:{settings.port}/healthz"
    try:
        status = requests.get(url, timeout=CONNECT_TIMEOUT_S, allow_redirects=False).status_code
    except requests.RequestException as error:
        return Finding("bad", "server", f"runs, but {url} does not answer ({type(error).__name__}): look into its log")
    if status != 200:
        return Finding("bad", "server", f"runs, but {url} answers {status}: look into its log")
    return Finding("ok", "server", f"runs and answers at {url}")


def _certificate(settings: Settings) -> Iterator[Finding]:
    from cryptography import x509

    path = settings.data / "certificate.pem"
    if not path.exists():
        yield Finding("warn", "certificate", f"{path} is not there yet: `offbeat serve` makes it")
        return
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    now, end = datetime.now(UTC), certificate.not_valid_after_utc
    if certificate.not_valid_before_utc > now:
        yield Finding("bad", "certificate", "it is not valid yet: this machine's clock is behind. Set it (NTP)")
    elif end < now:
        yield Finding("bad", "certificate", f"it ended on {end:%Y-%m-%d}: no device can connect. Make a new one")
    elif end < now + CERTIFICATE_SOON:
        yield Finding("warn", "certificate", f"it ends on {end:%Y-%m-%d}: hand the next one to the devices before")
    else:
        yield Finding("ok", "certificate", f"valid until {end:%Y-%m-%d}")


def _model(settings: Settings) -> Iterator[Finding]:
    if settings.transcriber_url:
        yield _reach("transcriber", settings.transcriber_url)
        return
    try:
        if models.is_folder(settings.model):
            folder: Path | None = models.folder_of(settings.model, settings.models)
        else:
            folder = models.here(settings.model, settings.models)
    except models.ModelError as error:
        yield Finding("bad", "model", error.reason)
        return
    if folder is not None:
        yield Finding("ok", "model", f"{settings.model} is in {folder}")
        return
    hub: Any = _reach("model", os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    text = f"{settings.model} is not here yet: `offbeat models get {settings.model}` fetches it, or the first note does"
    if hub.level == "ok":
        yield Finding("warn", "model", text)
    else:
        yield Finding("bad", "model", f"{text}; but {hub.text}, or set OFFBEAT_MODEL=/path/to/folder")
