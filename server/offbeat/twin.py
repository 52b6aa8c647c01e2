"""What is desired of the devices and what they report: docs/protocol.md, "Settings: the twin"."""

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ValidationError

from offbeat import log
from offbeat.protocol import CheckIn, ClockSettings, PendantSettings
from offbeat.registry import Emit
from offbeat.store import Store, desired, devices, now_ms
from offbeat.zones import posix_tz

ORDERS = ("hands", "steps")
# The files of the zones are not read anew for each check-in.
RULE_KEPT_NS = 300 * 10**9


class Unknown(Exception):
    """There is no such device."""


class Missing(Exception):
    """This gadget has no such setting; the text says which ones it has."""


# The device has the last word on a value, and reports what it refuses.
SETTINGS: dict[str, type[BaseModel]] = {"clock": ClockSettings, "pendant": PendantSettings}


def _possible(app: str, key: str, value: Any) -> bool:
    """Whether the value of one of this gadget's settings can be right."""
    try:
        SETTINGS[app].model_validate({key: value})
    except ValidationError:
        return False
    return True


class Twins:
    """All devices' twins. Its methods block and may be called in any thread, but for `waiting`."""

    def __init__(self, store: Store, emit: Emit) -> None:
        self._store = store
        self._emit = emit
        self._waiting: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}
        self._lock = threading.Lock()

    def desire(self, device_id: str, settings: dict[str, Any]) -> int:
        """Desires these settings of a device; their revision. `timezone` may be a zone's name. Raises Unknown,
        Missing, and ValueError for a value that cannot be right."""
        zone = settings.get("timezone")
        rule = posix_tz(zone) if isinstance(zone, str) else zone
        with self._store.write() as connection:
            known_device = sa.select(devices).where(devices.c.id == device_id, devices.c.revoked_ms.is_(None))
            device = connection.execute(known_device).one_or_none()
            if device is None:
                raise Unknown(f"there is no device {device_id!r}")
            known = SETTINGS[device.app].model_fields
            for key, value in settings.items():
                if key not in known:
                    raise Missing(f"{key!r} is no setting of a {device.app}; there are: {', '.join(known)}")
                if not _possible(device.app, key, value):
                    raise ValueError(f"{key}: {str(value)[:80]!r} cannot be right: see docs/protocol.md")
            revision = int(device.revision)
            now = now_ms()
            for key in sorted(settings, key=lambda key: key not in ORDERS):  # what is desired with an order outlasts it
                value = rule if key == "timezone" else settings[key]
                revision = _put(connection, device_id, key, value, revision, now)
            if "hands" in settings and "hold" not in settings:
                # The clock ends a hold then: it must not come again.
                connection.execute(_delete(device_id, "hold"))
            if "timezone" in settings:
                named = sa.update(devices).where(devices.c.id == device_id)
                connection.execute(named.values(zone=zone if zone != rule else None))
        self._wake(device_id)
        return revision

    def report(self, device_id: str, report: CheckIn) -> None:
        """Keeps what a device reports. What was changed at the device, and not here after that, is desired from now
        on."""
        now = now_ms()
        values: dict[str, Any] = {
            "report": report.model_dump(exclude_unset=True),
            "reported_ms": now,
            "contact_ms": now,
        }
        if report.errors:
            values |= {"errors": report.errors, "errors_ms": now}
        with self._store.read() as connection:
            zone = connection.scalar(sa.select(devices.c.zone).where(devices.c.id == device_id))
        rule = None if zone is None else _rule(zone, time.monotonic_ns() // RULE_KEPT_NS)
        with self._store.write() as connection:
            device = connection.execute(sa.select(devices).where(devices.c.id == device_id)).one()
            revision = _caught_up(connection, device, report.revision)
            done = (desired.c.device_id == device_id) & (desired.c.revision <= report.revision)
            # A device that has lost its memory reports revision 0, and must not be given old orders then.
            connection.execute(sa.delete(desired).where(done, desired.c.setting.in_(ORDERS)))
            known = SETTINGS[device.app].model_fields
            for key, age_ms in report.changed.items():
                if key not in known or key in ORDERS or key not in report.settings:
                    continue
                value = report.settings[key]
                if not _possible(device.app, key, value):
                    log.get().warning("a device's own change is impossible", device=device_id, setting=key)
                elif not _newer_here(connection, device_id, key, age_ms, report.revision, now):
                    revision = _put(connection, device_id, key, value, revision, now - (age_ms or 0))
                    if key == "timezone" and value != rule:
                        values["zone"] = rule = None  # the name stands for another one
            is_known = rule is not None and zone == device.zone
            if is_known and rule != _desired(connection, device_id, "timezone"):
                log.get().info("the rule of a zone has changed", device=device_id, zone=zone, rule=rule)
                _put(connection, device_id, "timezone", rule, revision, now)
            connection.execute(sa.update(devices).where(devices.c.id == device_id).values(values))
            if report.battery_low and not (device.report or {}).get("battery_low"):
                payload = {"device": device_id, "name": device.name, "app": device.app}
                self._emit(connection, "device.battery_low", {**payload, "battery_mv": report.battery_mv})

    def newer(self, device_id: str, revision: int) -> tuple[int, dict[str, Any]]:
        """(revision, the desired settings above `revision` up to that one): the newest, or as far as one answer goes.

        A device applies an answer's settings, then its orders, in any order: a hold or another order that was desired
        after an order waits for the next answer.
        """
        with self._store.read() as connection:
            newest = connection.scalar(sa.select(devices.c.revision).where(devices.c.id == device_id))
            chosen = sa.select(desired).where(desired.c.device_id == device_id, desired.c.revision > revision)
            rows = connection.execute(chosen.order_by(desired.c.revision)).all()
        settings: dict[str, Any] = {}
        for row in rows:
            if row.setting in (*ORDERS, "hold") and not settings.keys().isdisjoint(ORDERS):
                return revision, settings
            settings[row.setting] = row.value
            revision = row.revision
        return newest or 0, settings

    @asynccontextmanager
    async def waiting(self, device_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when something new is desired of the device, or when it waits here a second time: what
        was there before is most likely a dead connection."""
        mine = (asyncio.get_running_loop(), asyncio.Event())
        self._wake(device_id)
        with self._lock:
            self._waiting[device_id] = mine
        try:
            yield mine[1]
        finally:
            with self._lock:
                if self._waiting.get(device_id) is mine:
                    del self._waiting[device_id]

    def _wake(self, device_id: str) -> None:
        with self._lock:
            waiting = self._waiting.get(device_id)
            if waiting is not None:
                loop, event = waiting
                loop.call_soon_threadsafe(event.set)


def _delete(device_id: str, key: str) -> sa.Delete:
    return sa.delete(desired).where(desired.c.device_id == device_id, desired.c.setting == key)


def _put(connection: sa.Connection, device_id: str, key: str, value: Any, revision: int, changed_ms: int) -> int:
    """Writes one desired setting; its revision, the one after `revision`."""
    revision += 1
    connection.execute(_delete(device_id, key))
    connection.execute(
        sa.insert(desired).values(
            device_id=device_id,
            setting=key,
            value=value if value is not None else sa.JSON.NULL,
            revision=revision,
            changed_ms=changed_ms,
        )
    )
    connection.execute(sa.update(devices).where(devices.c.id == device_id).values(revision=revision))
    return revision


def _caught_up(connection: sa.Connection, device: sa.Row[Any], reported: int) -> int:
    """The device's revision here, raised to the one that it reports where that is higher.

    Then this server was set back to a backup. What is desired gets revisions above the one reported: else the device
    would never be sent it, and orders would pass for done."""
    if reported <= device.revision:
        return int(device.revision)
    log.get().warning("this server is behind its device", device=device.id, revision=device.revision, reported=reported)
    of_it = desired.c.device_id == device.id
    for setting in list(connection.scalars(sa.select(desired.c.setting).where(of_it).order_by(desired.c.revision))):
        reported += 1
        connection.execute(sa.update(desired).where(of_it, desired.c.setting == setting).values(revision=reported))
    connection.execute(sa.update(devices).where(devices.c.id == device.id).values(revision=reported))
    return reported


@functools.lru_cache(maxsize=64)
def _rule(zone: str, _period: int) -> str | None:
    """What a zone's name stands for in this period; None where this machine no longer knows: the last rule stays."""
    try:
        rule = posix_tz(zone)
    except ValueError:
        return None
    return None if rule == zone else rule


def _desired(connection: sa.Connection, device_id: str, key: str) -> Any:
    chosen = sa.select(desired.c.value).where(desired.c.device_id == device_id, desired.c.setting == key)
    return connection.scalar(chosen)


def _newer_here(
    connection: sa.Connection, device_id: str, key: str, age_ms: int | None, reported: int, now: int
) -> bool:
    """Whether a setting was changed here after it was changed at the device, as far as that is known.

    Hands that were set here end a hold, too.
    """
    keys = (key, "hands") if key == "hold" else (key,)
    chosen = sa.select(desired).where(desired.c.device_id == device_id, desired.c.setting.in_(keys))
    rows = connection.execute(chosen).all()
    return any(row.revision > reported if age_ms is None else row.changed_ms > now - age_ms for row in rows)
