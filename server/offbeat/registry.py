"""The devices that may talk to this server: adding one, ending its token, noticing that it is silent."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa

from offbeat.certificate import Certificate, only_at_server
from offbeat.protocol import DEVICE_ID
from offbeat.store import Store, desired, devices, iso, now_ms
from offbeat.tokens import new_token, token_hash

App = Literal["pendant", "clock"]
APPS: tuple[App, ...] = get_args(App)
# Without a contact for so long it is silent. A clock checks in all the time, a pendant only when it is used.
SILENT_MS = {"clock": 3_600_000, "pendant": 7 * 86_400_000}
# No longer than that after a start, for a server that is started anew each day should tell of a pendant, too.
MAX_AFTER_START_MS = 12 * 3_600_000

# Sends an event of a device to the destinations that ask for it: `Deliveries.emit`.
Emit = Callable[[sa.Connection, str, dict[str, Any]], int]


@dataclass(frozen=True)
class Added:
    """A new device: all that its board must know. `token` is shown this once; `certificate` is DER in base64."""

    id: str
    token: str
    certificate: str
    port: int


def add(store: Store, name: str, app: App) -> Added:
    """Adds a device. Raises StoreError where the certificate cannot be read, or is on another machine."""
    only_at_server(store)
    token = new_token()
    certificate = Certificate(store)
    with store.write() as connection:
        device_id = free_id(name, app, set(connection.scalars(sa.select(devices.c.id))))
        connection.execute(
            sa.insert(devices).values(
                id=device_id, name=name, app=app, token_hash=token_hash(token), created_ms=now_ms()
            )
        )
    return Added(device_id, token, base64.b64encode(certificate.der).decode(), store.settings.device_port)


def free_id(name: str, app: str, taken: set[str]) -> str:
    """A device id made from a name: its small letters and digits, and a number where that is taken."""
    base = re.sub(r"[^a-z0-9]", "", name.lower())
    base = re.sub(r"^[0-9]+", "", base)[:28] or app
    candidates = (base if number == 1 else f"{base}{number}" for number in range(1, len(taken) + 2))
    found = next(one for one in candidates if one not in taken)
    assert DEVICE_ID.fullmatch(found)
    return found


def revoke(store: Store, device_id: str) -> bool:
    """Ends a device's token for good; its notes stay. Returns False where there is no such device."""
    with store.write() as connection:
        # Nobody knows a token with this hash.
        ended = {"revoked_ms": now_ms(), "token_hash": token_hash(new_token())}
        changed = connection.execute(
            sa.update(devices).where(devices.c.id == device_id, devices.c.revoked_ms.is_(None)).values(ended)
        )
        connection.execute(sa.delete(desired).where(desired.c.device_id == device_id))
    return changed.rowcount == 1


def tell_silent(store: Store, emit: Emit, serving_since_ms: int) -> None:
    """Emits `device.silent` for each device that was heard of once and has been silent for too long, once a silence.

    `serving_since_ms`: since when this server can be reached. Before that the silence may have been its own."""
    now = now_ms()
    with store.write() as connection:
        for app, limit_ms in SILENT_MS.items():
            if now - serving_since_ms < min(limit_ms, MAX_AFTER_START_MS):
                continue
            silent = connection.execute(
                sa.update(devices)
                .where(
                    devices.c.app == app,
                    devices.c.revoked_ms.is_(None),
                    devices.c.contact_ms < now - limit_ms,
                    sa.or_(devices.c.silent_ms.is_(None), devices.c.silent_ms < devices.c.contact_ms),
                )
                .values(silent_ms=now)
                .returning(devices.c.id, devices.c.name, devices.c.contact_ms)
            ).all()
            for row in silent:
                payload = {"device": row.id, "name": row.name, "app": app, "contact_at": iso(row.contact_ms)}
                emit(connection, "device.silent", payload)
