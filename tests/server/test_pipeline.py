"""From received to delivered, against real receivers, with everything that goes wrong on the way."""

import json
import random
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from device_client import DeviceClient, silence
from house import House
from server_process import DEMO_MODEL, Received, ServerProcess, WebhookReceiver, until
from standardwebhooks import Webhook

SENTENCE = "remind me to buy milk tomorrow"


def note_of(server: ServerProcess, note_id: str) -> Any:
    return server.get(f"/api/notes/{note_id}").json()


def database(server: ServerProcess, statement: str) -> None:
    """Changes the database of a server that is not running."""
    connection = sqlite3.connect(server.data / "offbeat.sqlite", isolation_level=None)
    connection.execute(statement)
    connection.close()


def test_spoken_note_is_delivered_signed(house: House, spoken: bytes) -> None:
    note_id = house.pendant.new_id()
    assert house.pendant.patch(note_id, spoken).status == 200
    until(lambda: house.bodies_of(note_id), 30, "the delivery")
    (got,) = [got for got in house.receiver.received if got.json["data"]["id"] == note_id]
    # The library takes the body as it came over the wire; a changed byte must not pass.
    assert Webhook(house.secret).verify(got.body, got.headers) == got.json
    with pytest.raises(Exception, match="signature"):
        Webhook(house.secret).verify(got.body.replace(b"milk", b"silk"), got.headers)
    assert got.headers["content-type"] == "application/json"
    assert set(got.json) == {"type", "timestamp", "data"}
    assert got.json["type"] == "note.transcribed"
    data = got.json["data"]
    assert data["text"] == SENTENCE
    assert (data["device"], data["language"]) == ("p1", "en")
    assert 2 < data["duration_s"] < 4
    assert data["recorded_at"] < data["received_at"] <= got.json["timestamp"]
    note = until(lambda: (row := note_of(house.server, note_id))["state"] == "delivered" and row, 10, "delivered")
    assert [word["word"] for word in note["words"]] == SENTENCE.split()
    starts_s = [word["start_s"] for word in note["words"]]
    assert starts_s == sorted(starts_s) and starts_s[-1] < data["duration_s"]
    (delivery,) = note["deliveries"]
    assert delivery["webhook_id"] == got.headers["webhook-id"]
    assert [entry["status"] for entry in delivery["log"]] == [204]


def test_silence_is_delivered_as_an_empty_text(house: House) -> None:
    note_id = house.pendant.new_id()
    house.pendant.patch(note_id, silence(5))
    (body,) = until(lambda: house.bodies_of(note_id), 20, "the delivery")
    data = json.loads(body)["data"]
    assert (data["text"], data["language"], data["duration_s"]) == ("", None, 5.0)


def test_what_is_no_sound_is_set_aside_and_the_others_go_on(house: House) -> None:
    bad, good = house.pendant.new_id(), house.pendant.new_id()
    junk = random.Random(1).randbytes(3000)
    assert house.pendant.patch(bad, junk).status == 200  # the device may delete it: it is kept here
    assert house.pendant.patch(good, silence(1)).status == 200
    until(lambda: house.bodies_of(good), 20, "the note after it")
    row = until(lambda: (row := note_of(house.server, bad))["set_aside"] and row, 10, "set aside")
    assert "cannot be decoded" in row["trouble"]
    assert str(house.server.data) not in row["trouble"]
    assert (house.server.data / "notes" / f"{bad}.wav").read_bytes() == junk
    assert house.bodies_of(bad) == []


def test_destinations_that_fail_redirect_hang_up_and_end(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path / "data") as server,
        WebhookReceiver() as flaky,
        WebhookReceiver() as gone,
        WebhookReceiver() as elsewhere,
    ):
        secret = server.add_destination(flaky.url)
        server.add_destination(gone.url)
        flaky.answers = lambda _: (503, {}, b"busy " * 1000) if len(flaky.received) == 1 else 204
        gone.answers = lambda _: 410
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        first, second = client.new_id(), client.new_id()
        client.patch(first, silence(1))
        flaky.wait(1)
        row = until(lambda: (row := note_of(server, first))["deliveries"][0]["trouble"] and row, 10, "the trouble")
        (to_flaky,) = [one for one in row["deliveries"] if one["to"].endswith(str(flaky.port))]
        assert "answered 503" in to_flaky["trouble"] and to_flaky["next_at"] is not None
        assert to_flaky["log"][0]["answer"] == ("busy " * 1000)[:1024]
        once, again = flaky.wait(2)
        assert once.headers["webhook-id"] == again.headers["webhook-id"]
        assert once.body == again.body
        for got in (once, again):
            Webhook(secret).verify(got.body, got.headers)
        row = until(lambda: (row := note_of(server, first))["state"] == "delivered" and row, 10, "delivered")
        # 410 ended the other destination: it is told, and the next note does not go there.
        (ended,) = [one for one in row["deliveries"] if one["state"] == "ended"]
        assert "410" in ended["trouble"]
        # A redirect is not followed, and counts as a failure.
        flaky.answers = lambda _: (302, {"Location": elsewhere.url}, b"")
        client.patch(second, silence(1))
        flaky.wait(3)
        row = until(lambda: (row := note_of(server, second))["deliveries"][0]["trouble"] and row, 10, "the trouble")
        assert "redirects are not followed" in row["deliveries"][0]["trouble"]
        assert len(row["deliveries"]) == 1
        assert len(gone.received) == 1
        assert elsewhere.received == []
        overview = server.get("/api/overview").json()
        assert [one["ended"] is not None for one in overview["destinations"]] == [False, True]


def test_without_the_model_a_note_waits_and_then_goes_on(tmp_path: Path, spoken: bytes) -> None:
    folder = tmp_path / "model"
    with ServerProcess(tmp_path / "data", model=folder) as server, WebhookReceiver() as receiver:
        server.add_destination(receiver.url)
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        note_id = client.new_id()
        assert client.patch(note_id, spoken).status == 200
        row = until(lambda: (row := note_of(server, note_id))["trouble"] and row, 10, "the reason")
        assert row["state"] == "received" and not row["set_aside"]
        assert f"OFFBEAT_MODEL={str(folder)!r} lacks model.bin" in row["trouble"]
        shutil.copytree(DEMO_MODEL, folder)
        assert receiver.wait(1, 30)[0].json["data"]["text"] == SENTENCE
        row = note_of(server, note_id)
        assert row["trouble"] is None


def test_without_the_hub_the_note_says_what_to_do(tmp_path: Path) -> None:
    # Port 9 of 127.0.0.1 refuses: a hub that cannot be reached.
    hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_ETAG_TIMEOUT": "2"}
    with ServerProcess(tmp_path / "data", model="base", **hub) as server:
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        note_id = client.new_id()
        client.patch(note_id, silence(1))
        row = until(lambda: (row := note_of(server, note_id))["trouble"] and row, 30, "the reason")
        assert "cannot be fetched from the model hub" in row["trouble"] and "Connection refused" in row["trouble"]
        assert "OFFBEAT_MODEL=/path/to/folder" in row["trouble"]
        assert row["state"] == "received" and not row["set_aside"]
        # It is tried again by itself.
        until(lambda: server.log().count('"event": "model not available"') >= 2, 30, "the second try")


def test_lost_jobs_and_repeated_crashes(tmp_path: Path, spoken: bytes) -> None:
    """The notes' table is the truth: without the engine's rows the note is taken up all the same; and a note that
    was begun five times without an end is set aside."""
    folder = tmp_path / "model"
    with ServerProcess(tmp_path / "data", model=folder) as server, WebhookReceiver() as receiver:
        server.add_destination(receiver.url)
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        lost, deadly = client.new_id(), client.new_id()
        for note_id in (lost, deadly):
            assert client.patch(note_id, spoken).status == 200
        server.kill()
        database(server, "PRAGMA foreign_keys=ON")
        database(server, "DELETE FROM workflow_status")
        database(server, f"UPDATE notes SET starts = 5, state = 'transcribing' WHERE id = '{deadly}'")
        shutil.copytree(DEMO_MODEL, folder)
        server.start()
        assert [got.json["data"]["id"] for got in receiver.wait(1)] == [lost]
        row = until(lambda: (row := note_of(server, deadly))["set_aside"] and row, 10, "set aside")
        assert "5 times" in row["trouble"]
        assert len(receiver.received) == 1


def test_kills_and_stops_lose_nothing(tmp_path: Path, spoken: bytes) -> None:
    """Killed in an upload, at a random instant of the transcription, between a delivery and the server's knowing of
    it, and stopped in order: every note comes out, with its one id and its one body."""
    chance = random.Random(7)
    with ServerProcess(tmp_path / "data") as server, WebhookReceiver() as receiver:
        server.add_destination(receiver.url)
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        note_ids = []

        def upload(count: int) -> None:
            for _ in range(count):
                note_ids.append(client.new_id())
                assert client.patch(note_ids[-1], spoken).status == 200

        # In the middle of an upload, with the rest of it on the way.
        half = len(spoken) // 2
        cut_id = client.new_id()
        assert client.patch(cut_id, spoken, 0, spoken[:half]).status == 204
        with server.connect() as connection:
            headers = client.append_headers(spoken, half, spoken[half:])
            head = client.head("PATCH", f"/api/device/notes/{cut_id}", headers)
            connection.sendall(head + spoken[half : half + 2000])
            server.kill()
        server.start()
        offset = int(client.standing(cut_id).headers["upload-offset"])
        assert half <= offset <= half + 2000
        assert client.patch(cut_id, spoken, offset).status == 200
        assert (server.data / "notes" / f"{cut_id}.wav").read_bytes() == spoken
        note_ids.append(cut_id)

        upload(3)
        time.sleep(chance.uniform(0.0, 1.0))
        server.kill()
        server.start()

        asked, dead = threading.Event(), threading.Event()
        killed_id = ""

        def answer_to_the_dead(got: Received) -> int:
            nonlocal killed_id
            if not asked.is_set():
                killed_id = got.headers["webhook-id"]
                asked.set()
                dead.wait(20)
            return 204

        upload(2)
        receiver.answers = answer_to_the_dead
        assert asked.wait(30)
        server.kill()
        dead.set()
        server.start()

        upload(4)
        began_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began_s < 8
        server.start()

        until(lambda: {got.json["data"]["id"] for got in receiver.received} == set(note_ids), 60, "all notes")
        until(
            lambda: all(note_of(server, note_id)["state"] == "delivered" for note_id in note_ids),
            30,
            "delivered",
        )
        ids_of: dict[str, set[str]] = {}
        bodies_of: dict[str, set[bytes]] = {}
        for got in receiver.received:
            ids_of.setdefault(got.json["data"]["id"], set()).add(got.headers["webhook-id"])
            bodies_of.setdefault(got.headers["webhook-id"], set()).add(got.body)
            assert got.json["data"]["text"] == SENTENCE
        assert all(len(ids) == 1 for ids in ids_of.values())
        assert all(len(bodies) == 1 for bodies in bodies_of.values())
        # The one that was answered to a dead server came again, under the same id.
        assert [got.headers["webhook-id"] for got in receiver.received].count(killed_id) >= 2
