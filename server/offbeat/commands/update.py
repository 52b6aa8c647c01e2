"""`offbeat update`: versions of the firmware, and which device is offered which."""

from pathlib import Path
from typing import Annotated

import typer

from offbeat import updates
from offbeat.commands import fail, opened

group = typer.Typer(no_args_is_help=True, help="Updates of the devices' firmware over the air.")


@group.command("add")
def update_add(folder: Annotated[Path, typer.Argument(help="What tools/package.py wrote.")]) -> None:
    """Takes in a version of the firmware. No device is offered it yet."""
    with opened() as store:
        try:
            manifest = updates.add(store, folder)
        except updates.UpdateError as error:
            fail(error)
    print(f"{manifest.app} {manifest.version} for mpy {manifest.mpy}: {len(manifest.files)} files")


@group.command("offer")
def update_offer(
    device: Annotated[str, typer.Argument(help="Its id.")],
    version: Annotated[str, typer.Argument(help="A version that was added.")],
) -> None:
    """Offers a version to a device, which takes it at a check-in, when it has nothing else to do."""
    with opened() as store:
        try:
            updates.offer(store, device, version)
        except updates.UpdateError as error:
            fail(error)


@group.command("withdraw")
def update_withdraw(device: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    """Takes an offer back. A version that the device has taken already stays there."""
    with opened() as store:
        try:
            updates.withdraw(store, device)
        except updates.UpdateError as error:
            fail(error)


def add_to(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(group, name="update")
