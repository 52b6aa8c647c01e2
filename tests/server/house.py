"""What the tests that share one server get."""

from dataclasses import dataclass

from device_client import DeviceClient
from server_process import ServerProcess, WebhookReceiver


@dataclass
class House:
    """A running server, a pendant, a clock, a webhook receiver and the secret it shares with the server."""

    server: ServerProcess
    pendant: DeviceClient
    clock: DeviceClient
    receiver: WebhookReceiver
    secret: str

    def bodies_of(self, note_id: str) -> list[bytes]:
        """The bodies that the receiver got about a note."""
        return [got.body for got in self.receiver.received if got.json["data"]["id"] == note_id]
