"""The command `offbeat`. Every command works with the server running or stopped."""

import asyncio
import base64
import binascii
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import rich
import sqlalchemy as sa
import typer
from rich.table import Table

from offbeat import __version__, certificate, log, updates
from offbeat.certificate import Certificate
from offbeat.delivery import check_url
from offbeat.protocol import DEVICE_ID
from offbeat.settings import Settings, SettingsError, load
from offbeat.store import Store, StoreError, destinations, devices, iso, now_ms, only_server
from offbeat.tokens import new_token, token_hash

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
device_app = typer.Typer(no_args_is_help=True, help="The devices that may talk to this server.")
destination_app = typer.Typer(no_args_is_help=True, help="Where the notes' text is sent.")
app.add_typer(device_app, name="device")
app.add_typer(destination_app, name="destination")
certificate_app = typer.Typer(no_args_is_help=True, help="The certificate by which the devices know this server.")
app.add_typer(certificate_app, name="certificate")
update_app = typer.Typer(no_args_is_help=True, help="Updates of the devices' firmware over the air.")
app.add_typer(update_app, name="update")


class App(StrEnum):
    """What a device is."""

    pendant = "pendant"
    clock = "clock"


def fail(text: object) -> NoReturn:
    """Ends the command with an error."""
    print(f"offbeat: {text}", file=sys.stderr)
    raise SystemExit(1)


@contextmanager
def opened() -> Iterator[Store]:
    """The data folder of the settings."""
    try:
        store = Store(load())
    except (SettingsError, StoreError) as error:
        fail(error)
    try:
        yield store
    finally:
        store.close()


def shown_host(host: str) -> str:
    """A host name or address under which the page can be opened from elsewhere, when it listens everywhere."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which address would be used
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def sign_in_link(store: Store) -> str:
    """A fresh link that signs in once. The token is behind the `#`, so no log ever sees it."""
    from offbeat.page import make_sign_in  # late: only this command needs the web framework

    settings = store.settings
    return f"http://{shown_host(settings.host)}:{settings.port}/sign-in#{make_sign_in(store)}"


@app.command()
def serve() -> None:
    """Runs the server until SIGTERM or Ctrl-C."""
    try:
        settings = load()
        with only_server(settings):
            _serve(settings)
    except (SettingsError, StoreError) as error:
        fail(error)


def _serve(settings: Settings) -> NoReturn:
    from offbeat import devices as device_port
    from offbeat import http_server, page
    from offbeat.pipeline import Pipeline
    from offbeat.transcriber import Transcriber
    from offbeat.twin import Twins

    log.configure()
    sockets = []
    for key, port in (("OFFBEAT_PORT", settings.port), ("OFFBEAT_DEVICE_PORT", settings.device_port)):
        try:
            sockets.append(http_server.listen(settings.host, port))
        except OSError as error:
            raise StoreError(f"{key}={port} with OFFBEAT_HOST={settings.host!r}: {error.strerror or error}") from error
    store = Store(settings)
    own_certificate = Certificate(store)
    pipeline = Pipeline(store, Transcriber(settings.model, settings.language, settings.models))
    twins = Twins(store)
    if store.is_new:
        print(f"Sign in once, within a day: {sign_in_link(store)}", flush=True)
    log.get().info(
        "serving",
        version=__version__,
        page=f"http://{shown_host(settings.host)}:{settings.port}",
        device_port=settings.device_port,
        data=str(settings.data),
    )
    asyncio.run(
        http_server.serve(
            page.make_app(store, twins),
            sockets[0],
            device_port.make_app(store, pipeline, twins),
            sockets[1],
            own_certificate.server_context(),
        )
    )
    all_done = pipeline.close()
    log.get().info("stopped", left_in_work=not all_done)
    # The engine's threads do not end by themselves. What was in work is taken up at the next start.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@app.command("sign-in")
def sign_in() -> None:
    """Prints a fresh link that signs you in to the page, once, within a day."""
    with opened() as store:
        print(sign_in_link(store))


@device_app.command("add")
def device_add(
    name: Annotated[str, typer.Argument(help="A name for people, such as 'Kitchen clock'.")],
    kind: Annotated[App, typer.Option("--app", help="What it is.")],
) -> None:
    """Adds a device and prints one JSON line: id, token (shown this once), certificate, port."""
    token = new_token()
    with opened() as store:
        own_certificate = Certificate(store)
        with store.write() as connection:
            taken = set(connection.scalars(sa.select(devices.c.id)))
            device_id = free_id(name, kind, taken)
            connection.execute(
                sa.insert(devices).values(
                    id=device_id, name=name, app=kind.value, token_hash=token_hash(token), created_ms=now_ms()
                )
            )
        line = {
            "id": device_id,
            "token": token,
            "certificate": base64.b64encode(own_certificate.der).decode(),
            "port": store.settings.device_port,
        }
    print(json.dumps(line))


def free_id(name: str, kind: str, taken: set[str]) -> str:
    """A device id made from a name: its small letters and digits, and a number where that is taken."""
    base = re.sub(r"[^a-z0-9]", "", name.lower())
    base = re.sub(r"^[0-9]+", "", base)[:28] or kind
    candidates = (base if number == 1 else f"{base}{number}" for number in range(1, len(taken) + 2))
    found = next(one for one in candidates if one not in taken)
    assert DEVICE_ID.fullmatch(found)
    return found


@device_app.command("list")
def device_list() -> None:
    """Lists the devices."""
    table = Table("id", "name", "app", "last contact")
    with opened() as store, store.read() as connection:
        for row in connection.execute(sa.select(devices).order_by(devices.c.created_ms)):
            table.add_row(row.id, row.name, row.app, iso(row.contact_ms) or "never")
    rich.print(table)


@certificate_app.command("next")
def certificate_next() -> None:
    """Makes the certificate that the server will change to. The devices get it with their next check-ins."""
    with opened() as store:
        certificate.make_next(store)
        _print_not_told(store)


@certificate_app.command("switch")
def certificate_switch(
    force: Annotated[bool, typer.Option(help="Lock out the devices that have not been told.")] = False,
) -> None:
    """Changes to the next certificate, which the server then serves after its restart."""
    with opened() as store:
        if certificate.next_der(store) is None:
            fail("there is no next certificate: `offbeat certificate next` makes one")
        if certificate.not_told(store) and not force:
            _print_not_told(store)
            fail("nothing was changed: wait for their check-ins, or --force; then set them up again afterwards")
        certificate.switch(store)
    print("changed: restart the server, so that it serves the new certificate")


def _print_not_told(store: Store) -> None:
    waiting = certificate.not_told(store)
    print("not told yet: " + ", ".join(waiting) if waiting else "every device has been told")


@destination_app.command("add")
def destination_add(
    url: Annotated[str, typer.Argument(help="Where to post the notes.")],
    secret: Annotated[
        str | None, typer.Option(help="Secret to sign with, whsec_…; made where it is not given.")
    ] = None,
) -> None:
    """Adds a webhook and prints one JSON line: id, url, secret."""
    secret = secret or f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    try:
        check_url(url)
        check_secret(secret)
    except ValueError as error:
        fail(error)
    destination_id = f"d{secrets.token_hex(8)}"
    with opened() as store, store.write() as connection:
        connection.execute(
            sa.insert(destinations).values(id=destination_id, url=url, secret=secret, created_ms=now_ms())
        )
    print(json.dumps({"id": destination_id, "url": url, "secret": secret}))


def check_secret(secret: str) -> None:
    """Raises ValueError where it is no secret of Standard Webhooks; the message does not contain it."""
    wanted = "--secret should be whsec_ and 24 to 64 bytes in base64"
    if not secret.startswith("whsec_"):
        raise ValueError(wanted)
    try:
        length = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except binascii.Error:
        raise ValueError(wanted) from None
    if not 24 <= length <= 64:
        raise ValueError(wanted)


@update_app.command("add")
def update_add(folder: Annotated[Path, typer.Argument(help="What tools/package.py wrote.")]) -> None:
    """Takes in a version of the firmware. No device is offered it yet."""
    with opened() as store:
        try:
            manifest = updates.add(store, folder)
        except updates.UpdateError as error:
            fail(error)
    print(f"{manifest.app} {manifest.version} for mpy {manifest.mpy}: {len(manifest.files)} files")


@update_app.command("offer")
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
