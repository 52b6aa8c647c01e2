"""Updates over the air: the versions that were added, and which device is offered which (docs/updates.md)."""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from offbeat.protocol import CheckIn
from offbeat.store import Store, devices, now_ms, update_files, updates

MAX_MANIFEST_BYTES = 16 * 1024
MAX_FILE_BYTES = 256 * 1024
VERSION = r"[A-Za-z0-9_.+-]{1,64}"
#: As the firmware checks it: no empty part, none that begins with a dot, four at most.
_PATH = re.compile(r"(?:[A-Za-z0-9_+-][A-Za-z0-9_.+-]*/){0,3}[A-Za-z0-9_+-][A-Za-z0-9_.+-]*\.(?:mpy|py)")
_MAX_PATH = 100

Length = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class UpdateError(Exception):
    """It cannot be added or offered; the text says why and what to do."""


class Manifest(BaseModel):
    """What a version consists of: its files as (path, bytes, SHA-256 in hexadecimal)."""

    version: Annotated[str, StringConstraints(pattern=f"^{VERSION}$")]
    app: Literal["pendant", "clock"]
    mpy: Annotated[int, Field(ge=0, le=0xFFFF)]
    files: Annotated[list[tuple[str, Length, Sha256]], Field(min_length=1)]


def add(store: Store, folder: Path) -> Manifest:
    """Takes in a package of tools/package.py: `manifest.json` and the files that it names. May be repeated.

    Raises UpdateError.
    """
    try:
        body = (folder / "manifest.json").read_bytes()
        manifest = Manifest.model_validate_json(body)
        contents = {sha256: (folder / path).read_bytes() for path, _, sha256 in manifest.files if _checked(path)}
    except (OSError, ValidationError) as error:
        raise UpdateError(f"{folder} is no package of tools/package.py: {error}") from error
    if len(body) > MAX_MANIFEST_BYTES or not body.isascii():
        raise UpdateError(f"{folder}: the manifest is not ASCII, or has over {MAX_MANIFEST_BYTES} bytes")
    if len({path for path, _, _ in manifest.files}) != len(manifest.files):
        raise UpdateError(f"{folder}: the manifest names a file twice")
    for path, length, sha256 in manifest.files:
        if len(contents[sha256]) != length or hashlib.sha256(contents[sha256]).hexdigest() != sha256:
            raise UpdateError(f"{folder}: {path} is not what the manifest says: pack it anew")
    key = {"app": manifest.app, "mpy": manifest.mpy, "version": manifest.version}
    with store.write() as connection:
        known = connection.scalar(sa.select(updates.c.manifest).filter_by(**key))
        if known is not None:
            if known != body:
                raise UpdateError(
                    f"{manifest.app} {manifest.version} is here with other files. Give the new one another VERSION "
                    "in firmware/device/config.py and pack it anew."
                )
            return manifest
        connection.execute(sa.insert(updates).values(**key, manifest=body, added_ms=now_ms()))
        there = set(connection.scalars(sa.select(update_files.c.sha256).where(update_files.c.sha256.in_(contents))))
        for sha256, content in contents.items():
            if sha256 not in there:
                connection.execute(sa.insert(update_files).values(sha256=sha256, content=content))
    return manifest


def _checked(path: str) -> bool:
    if len(path) > _MAX_PATH or not _PATH.fullmatch(path) or path in ("main.py", "main.mpy"):
        raise UpdateError(f"the manifest has a path that no device takes: {path!r}")
    return True


def offer(store: Store, device_id: str, version: str) -> None:
    """Offers a version to a device, which hears of it at its next check-in. Raises UpdateError."""
    with store.write() as connection:
        known = sa.select(devices).where(devices.c.id == device_id, devices.c.revoked_ms.is_(None))
        device = connection.execute(known).one_or_none()
        if device is None:
            raise UpdateError(f"there is no device {device_id!r}; `offbeat device list` shows them")
        mpy = reported_mpy(device)
        if mpy is None:
            raise UpdateError(f"{device_id} has not said yet which files it can load: wait for its check-in")
        if _manifest(connection, device.app, mpy, version) is None:
            raise UpdateError(
                f"there is no {device.app} {version!r} for mpy {mpy}. Pack it with "
                f"`python tools/package.py {device.app} {mpy} FOLDER` and add it with `offbeat update add FOLDER`."
            )
        connection.execute(sa.update(devices).where(devices.c.id == device_id).values(update_version=version))


def withdraw(store: Store, device_id: str) -> None:
    """Offers a device nothing any more. What it has taken already stays. Raises UpdateError."""
    with store.write() as connection:
        known = sa.update(devices).where(devices.c.id == device_id, devices.c.revoked_ms.is_(None))
        if not connection.execute(known.values(update_version=None)).rowcount:
            raise UpdateError(f"there is no device {device_id!r}; `offbeat device list` shows them")


def offered(connection: sa.Connection, device: sa.Row[Any], report: CheckIn) -> dict[str, str] | None:
    """`update` of the answer to a check-in: what the device does not run yet, can load, and has not gone back from."""
    version = device.update_version
    if version is None or version in (report.version, report.update_failed) or report.mpy is None:
        return None
    if _manifest(connection, device.app, report.mpy, version) is None:
        return None
    return {"version": version}


def manifest_for(connection: sa.Connection, device: sa.Row[Any], version: str) -> tuple[bytes, str] | None:
    """(manifest, its HMAC in hexadecimal with this device's key), or None where it is not offered to the device."""
    mpy = reported_mpy(device)
    if mpy is None or device.update_version != version:
        return None
    body = _manifest(connection, device.app, mpy, version)
    if body is None:
        return None
    return body, hmac.new(bytes.fromhex(device.token_hash), body, hashlib.sha256).hexdigest()


def file_for(connection: sa.Connection, device: sa.Row[Any], version: str, sha256: str) -> bytes | None:
    """One file of a version that is offered to the device, or None."""
    found = manifest_for(connection, device, version)
    if found is None or all(file[2] != sha256 for file in Manifest.model_validate_json(found[0]).files):
        return None
    return connection.scalar(sa.select(update_files.c.content).where(update_files.c.sha256 == sha256))


def reported_mpy(device: sa.Row[Any]) -> int | None:
    """The `.mpy` files that it can load, as of its last check-in."""
    mpy = (device.report or {}).get("mpy")
    return mpy if isinstance(mpy, int) else None


def _manifest(connection: sa.Connection, app: str, mpy: int, version: str) -> bytes | None:
    return connection.scalar(sa.select(updates.c.manifest).filter_by(app=app, mpy=mpy, version=version))
