"""The devices, as people see them. What devices themselves ask is on their own port, in offbeat/devices.py."""

from dataclasses import asdict
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from offbeat import registry
from offbeat.api.access import NO_NUL, Here, Instant, needs, problems
from offbeat.protocol import DEVICE_ID, ClockSettings, PendantSettings
from offbeat.store import Store, desired, devices, iso
from offbeat.twin import Missing, Unknown

router = APIRouter(prefix="/api/devices", tags=["devices"])

UNKNOWN = "There is no such device."
DeviceId = Annotated[str, StringConstraints(max_length=32, pattern=f"^{DEVICE_ID.pattern}$")]


class Device(BaseModel):
    """A pendant or a clock."""

    id: str
    name: str
    app: str
    contact_at: Instant | None
    reported_ms: int | None = Field(description="When `report` came, ms since 1970-01-01 UTC.")
    report: dict[str, Any] | None = Field(description="Its last check-in, as docs/protocol.md has it.")
    errors: list[str] = Field(description="Of the last report that had any.")
    errors_ms: int | None
    desired: dict[str, Any] = Field(description="The settings that are desired of it.")
    revision: int = Field(description="Of the newest of them; `report.revision` is how far it has come.")
    zone: str | None = Field(description="Of a clock: the name of its time zone, where it was given by name.")
    update_version: str | None = Field(description="The version of the firmware that it is offered.")


class NewDevice(BaseModel):
    """What a device is to be added with."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NO_NUL)]
    app: registry.App


class AddedDevice(BaseModel):
    """All that its board must know; the token is shown this once."""

    id: str
    token: str
    certificate: str = Field(description="The server's own, DER in base64, against which the device verifies it.")
    port: int = Field(description="The device port, TLS only.")


class AnySettings(ClockSettings, PendantSettings):
    """A clock's, or a pendant's."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})


class Desire(BaseModel):
    """Settings that are desired of a device, by name: docs/protocol.md, "Settings: the twin"."""

    model_config = ConfigDict(extra="forbid")

    settings: AnySettings


class Desired(BaseModel):
    """The revision that a device will report when it has taken them."""

    revision: int


def devices_of(store: Store) -> list[Device]:
    """The devices in the order in which they were added."""
    with store.read() as connection:
        chosen = sa.select(devices).where(devices.c.revoked_ms.is_(None)).order_by(devices.c.created_ms)
        rows = connection.execute(chosen).all()
        wanted = connection.execute(sa.select(desired)).all()
    return [
        Device(
            id=row.id,
            name=row.name,
            app=row.app,
            contact_at=iso(row.contact_ms),
            reported_ms=row.reported_ms,
            report=row.report,
            errors=row.errors or [],
            errors_ms=row.errors_ms,
            desired={one.setting: one.value for one in wanted if one.device_id == row.id},
            revision=row.revision,
            update_version=row.update_version,
            zone=row.zone,
        )
        for row in rows
    ]


@router.get("", dependencies=[needs("read")])
def list_devices(here: Here) -> list[Device]:
    """The devices, each with its last report, and the errors of the last one that had any."""
    return devices_of(here.store)


@router.post("", status_code=201, dependencies=[needs("admin")])
def add_device(new: NewDevice, here: Here) -> AddedDevice:
    """Adds a device. Its token is in this answer and in no other."""
    return AddedDevice(**asdict(registry.add(here.store, new.name, new.app)))


@router.patch(
    "/{device_id}",
    dependencies=[needs("write")],
    responses=problems({404: UNKNOWN, 409: "It is of another kind, which has no such setting."}),
)
def desire(device_id: DeviceId, body: Desire, here: Here) -> Desired:
    """Desires settings of a device. It takes them with its next check-in, at once where it waits for them."""
    settings = body.settings.model_dump(exclude_unset=True)
    if not settings:
        raise HTTPException(422, "settings: none are named")
    try:
        return Desired(revision=here.twins.desire(device_id, settings))
    except Unknown as error:
        raise HTTPException(404, str(error)) from None
    except Missing as error:
        raise HTTPException(409, str(error)) from None
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


@router.delete("/{device_id}", status_code=204, dependencies=[needs("admin")], responses=problems({404: UNKNOWN}))
def revoke_device(device_id: DeviceId, here: Here) -> None:
    """Ends a device's token, at once and for good. Its notes stay."""
    if not registry.revoke(here.store, device_id):
        raise HTTPException(404, "there is no such device")
