"""kill -9 at random instants while notes are uploaded, transcribed and delivered: none is lost, none comes twice under
two ids, no id with two bodies. The short form is in every run; the long ones, with 100 kills over 500 notes, are soak.

The uploading side does as docs/protocol.md wants of a device: HEAD, go on from there, delete only what is confirmed.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from device_client import DeviceClient
from server_process import ServerProcess, WebhookReceiver, until
from test_postgres import Worker, check_bodies, database_url, postgresql, signed

__all__ = ["database_url", "postgresql"]  # fixtures

RETRY_S = 0.2
PIECE_BYTES = 9000


class Uploader(threading.Thread):
    """Gives away notes one after the other, in pieces, and does not give up."""

    def __init__(self, client: DeviceClient, note_ids: list[str], note: bytes, pause_s: float) -> None:
        super().__init__(daemon=True)
        self.client, self.waiting, self.note, self.pause_s = client, list(note_ids), note, pause_s
        self.confirmed: list[str] = []
        self.problems: list[str] = []

    def run(self) -> None:
        while self.waiting:
            try:
                if self.give(self.waiting[0]):
                    self.confirmed.append(self.waiting.pop(0))
                    time.sleep(self.pause_s)
            except OSError:
                time.sleep(RETRY_S)  # the server is dead

    def give(self, note_id: str) -> bool:
        standing = self.client.standing(note_id)
        if standing.status not in (204, 404):
            self.problems.append(f"HEAD {standing.status}")
            return False
        if standing.headers.get("upload-complete") == "?1":
            return True
        offset = int(standing.headers.get("upload-offset", 0))
        while True:  # all of it may be there, and the end not told: then with an empty piece
            piece = self.note[offset : offset + PIECE_BYTES]
            answer = self.client.patch(note_id, self.note, offset, piece)
            if answer.status == 200:
                return bool(answer.json["id"] == note_id)
            if answer.status != 204:
                if answer.status not in (409, 503):
                    self.problems.append(f"PATCH {answer.status} {answer.body!r}")
                return False
            offset = int(answer.headers["upload-offset"])
        return False


def instants(chance: random.Random, count: int, at_most_s: float) -> Iterator[float]:
    for _ in range(count):
        yield chance.uniform(0.0, at_most_s)


def finish(
    server: ServerProcess, uploader: Uploader, receiver: WebhookReceiver, note_ids: list[str], s: float, good: list[str]
) -> None:
    uploader.join(s)
    assert not uploader.is_alive() and uploader.problems == []
    until(lambda: {got.json["data"]["id"] for got in receiver.received} == set(note_ids), s, "all notes")
    check_bodies(receiver, set(note_ids), good)

    def rows() -> list[Any]:
        found: list[Any] = []
        before = None
        for _ in range(len(note_ids) // 200 + 2):
            page = server.get("/api/notes", params={"limit": 200, **({"before": before} if before else {})}).json()
            found += page["notes"]
            before = page["next"]
            if before is None:
                break
        return found

    until(lambda: [one for one in rows() if one["state"] != "delivered"] == [], 30, "all delivered")
    assert len(rows()) == len(note_ids)


@pytest.mark.parametrize(
    ("kills", "count"), [(4, 24), pytest.param(100, 500, marks=pytest.mark.soak)], ids=["short", "long"]
)
def test_kills_of_the_only_process(tmp_path: Path, spoken: bytes, kills: int, count: int) -> None:
    chance = random.Random(20)
    with ServerProcess(tmp_path / "data") as server, WebhookReceiver() as receiver:
        good = signed(receiver, server.add_destination(receiver.url))
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        note_ids = [client.new_id() for _ in range(count)]
        uploader = Uploader(client, note_ids, spoken, pause_s=0.05)
        uploader.start()
        for alive_s in instants(chance, kills, 3.0):
            time.sleep(alive_s)
            server.kill()
            server.start()
        finish(server, uploader, receiver, note_ids, 60 + count, good)
        repeated = len(receiver.received) - count
        print(f"{kills} kills over {count} notes: 0 lost, {repeated} webhooks came again under their id")


@pytest.mark.parametrize(("kills", "count"), [pytest.param(100, 500, marks=pytest.mark.soak)], ids=["long"])
def test_kills_of_workers_on_postgresql(
    tmp_path: Path, spoken: bytes, database_url: str, kills: int, count: int
) -> None:
    """Two workers beside the server are killed in turn, and then one for good."""
    chance = random.Random(21)
    with (
        ServerProcess(tmp_path / "data", OFFBEAT_DATABASE_URL=database_url) as server,
        WebhookReceiver() as receiver,
        ExitStack() as stack,
    ):
        good = signed(receiver, server.add_destination(receiver.url))
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        note_ids = [client.new_id() for _ in range(count)]
        uploader = Uploader(client, note_ids, spoken, pause_s=0.05)
        uploader.start()
        workers = [stack.enter_context(Worker(server, f"worker-{number}")) for number in range(2)]
        for number, alive_s in enumerate(instants(chance, kills, 2.0)):
            time.sleep(alive_s)
            which = chance.randrange(3)
            if which == 2:
                server.kill()
                server.start()
            else:
                workers[which].process.kill()
                workers[which].process.wait(10)
                workers[which] = stack.enter_context(Worker(server, f"worker-again-{number}"))
        workers[0].process.kill()
        workers[0].process.wait(10)
        finish(server, uploader, receiver, note_ids, 60 + count, good)
        print(f"{kills} kills over {count} notes: 0 lost, {len(receiver.received) - count} webhooks came again")
