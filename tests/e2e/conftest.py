"""The whole of it: the real server, the real firmware on simulated boards, and a webhook receiver."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess, WebhookReceiver
from sim.board import Board

ROOT = Path(__file__).parents[2]
NETWORK = {"ssid": "home", "password": "a good password"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: WebhookReceiver) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server") / "data") as server:
        server.add_destination(receiver.url)
        yield server


@pytest.fixture(scope="module")
def make_pendant(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Board]]:
    """make(name, port=…) -> a pendant that is added to the server, in jump time; not yet started."""
    with ExitStack() as stack:

        def make(name: str, port: int | None = None, **options: Any) -> Board:
            device = server.add_device(name, "pendant")
            board = Board(
                tmp_path_factory.mktemp(name),
                board=json.loads((ROOT / "boards" / "xiao-esp32s3" / "board.json").read_text()),
                config={
                    "app": "pendant",
                    "device": device.id,
                    "token": device.token,
                    "server": {"host": "127.0.0.1", "port": port or server.device_port},
                    "wifi": [NETWORK],
                },
                files={"server.der": device.certificate},
                **options,
            )
            stack.callback(board.close)
            return board

        yield make
