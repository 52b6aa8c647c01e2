"""`offbeat device`: the pendants and clocks."""

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import sqlalchemy as sa
import typer

from offbeat import registry
from offbeat.commands import fail, opened, print_table
from offbeat.store import StoreError, devices, iso

group = typer.Typer(no_args_is_help=True, help="The devices that may talk to this server.")


class App(StrEnum):
    """What a device is."""

    pendant = "pendant"
    clock = "clock"


@group.command("add")
def device_add(
    name: Annotated[str, typer.Argument(help="A name for people, such as 'Kitchen clock'.")],
    kind: Annotated[App, typer.Option("--app", help="What it is.")],
) -> None:
    """Adds a device and prints one JSON line: id, token (shown this once), certificate, port."""
    with opened() as store:
        try:
            print(json.dumps(asdict(registry.add(store, name, kind.value))))
        except StoreError as error:
            fail(error)


@group.command("list")
def device_list() -> None:
    """Lists the devices."""
    with opened() as store, store.read() as connection:
        chosen = sa.select(devices).where(devices.c.revoked_ms.is_(None)).order_by(devices.c.created_ms)
        rows = [(row.id, row.name, row.app, iso(row.contact_ms) or "never") for row in connection.execute(chosen)]
    print_table(["id", "name", "app", "last contact"], rows)


@group.command("revoke")
def device_revoke(device: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    """Ends a device's token, at once and for good: for one that was lost. Its notes stay."""
    with opened() as store:
        if not registry.revoke(store, device):
            fail(f"there is no device {device!r}: `offbeat device list` shows them")


def add_to(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(group, name="device")
