"""One server for the tests that need no server of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from device_client import DeviceClient
from house import House
from server_process import ServerProcess, WebhookReceiver


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    data = tmp_path_factory.mktemp("house") / "data"
    with ServerProcess(data) as server, WebhookReceiver() as receiver:
        secret = server.add_destination(receiver.url)
        pendant = DeviceClient(server, server.add_device("p1", "pendant"))
        clock = DeviceClient(server, server.add_device("Kitchen clock", "clock"))
        yield House(server, pendant, clock, receiver, secret)


@pytest.fixture(scope="session")
def spoken() -> bytes:
    """A note in which espeak-ng says SENTENCE."""
    return (Path(__file__).parent / "remind_me.wav").read_bytes()
