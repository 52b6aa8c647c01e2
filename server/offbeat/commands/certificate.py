"""`offbeat certificate`: the change to another certificate, by which no device is locked out."""

from typing import Annotated

import typer

from offbeat import certificate
from offbeat.commands import fail, opened
from offbeat.store import Store, StoreError

group = typer.Typer(no_args_is_help=True, help="The certificate by which the devices know this server.")


@group.command("next")
def certificate_next() -> None:
    """Makes the certificate that the server will change to. The devices get it with their next check-ins."""
    with opened() as store:
        try:
            certificate.make_next(store)
            _print_not_told(store)
        except StoreError as error:
            fail(error)


@group.command("switch")
def certificate_switch(
    force: Annotated[bool, typer.Option(help="Lock out the devices that have not been told.")] = False,
) -> None:
    """Changes to the next certificate, which the server then serves after its restart."""
    with opened() as store:
        try:
            if certificate.next_der(store) is None:
                fail("there is no next certificate: `offbeat certificate next` makes one")
            if certificate.not_told(store) and not force:
                _print_not_told(store)
                fail("nothing was changed: wait for their check-ins, or --force; then set them up again afterwards")
        except StoreError as error:
            fail(error)
        certificate.switch(store)
    print("changed: restart the server, so that it serves the new certificate")


def _print_not_told(store: Store) -> None:
    waiting = certificate.not_told(store)
    print("not told yet: " + ", ".join(waiting) if waiting else "every device has been told")


def add_to(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(group, name="certificate")
