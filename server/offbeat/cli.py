"""The command `offbeat`. Every command works with the server running or stopped."""

import asyncio
import importlib
import os
import pkgutil
import socket
import sys
from typing import NoReturn

import typer

from offbeat import __version__, commands, log
from offbeat.certificate import Certificate
from offbeat.commands import fail, opened
from offbeat.people import People
from offbeat.settings import Settings, SettingsError, load
from offbeat.store import Store, StoreError, only_server

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for _module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda module: module.name):
    importlib.import_module(f"{commands.__name__}.{_module.name}").add_to(app)


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
    settings = store.settings
    return f"http://{shown_host(settings.host)}:{settings.port}/sign-in#{People(store).make_sign_in()}"


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
    from offbeat import http_server, notebook, page
    from offbeat.pipeline import Pipeline
    from offbeat.transcriber import make_transcriber
    from offbeat.twin import Twins

    log.configure()
    sockets = []
    for key, port in (("OFFBEAT_PORT", settings.port), ("OFFBEAT_DEVICE_PORT", settings.device_port)):
        try:
            sockets.append(http_server.listen(settings.host, port))
        except OSError as error:
            raise StoreError(f"{key}={port} with OFFBEAT_HOST={settings.host!r}: {error.strerror or error}") from error
    store = Store(settings)
    certificate = Certificate(store)
    pipeline = Pipeline(store, make_transcriber(settings), is_server=True)
    notebook.sweep(store)
    twins = Twins(store, pipeline.deliveries.emit)
    if People(store).nobody_yet():
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
            page.make_app(store, pipeline, twins),
            sockets[0],
            device_port.make_app(store, pipeline, twins),
            sockets[1],
            certificate.server_context(),
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
