"""The devices, as people see them. What devices themselves ask is on their own port, in offbeat/devices.py."""

from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import BaseModel, Field

from offbeat.api.access import Here, Instant, needs
from offbeat.store import Store, devices, iso

router = APIRouter(prefix="/api/devices", tags=["devices"])


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


def devices_of(store: Store) -> list[Device]:
    """The devices in the order in which they were added."""
    with store.read() as connection:
        rows = connection.execute(sa.select(devices).order_by(devices.c.created_ms)).all()
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
        )
        for row in rows
    ]


@router.get("", dependencies=[needs("read")])
def list_devices(here: Here) -> list[Device]:
    """The devices, each with its last report, and the errors of the last one that had any."""
    return devices_of(here.store)
