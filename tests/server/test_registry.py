"""Devices as people add and remove them, and what destinations are told of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from device_client import DeviceClient
from inside_app import InsideApp
from offbeat import registry
from offbeat.protocol import CheckIn
from offbeat.store import devices, now_ms
from offbeat.twin import Twins
from server_process import Device, ServerProcess, WebhookReceiver, until

HOUR_MS = 3_600_000


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[InsideApp]:
    inside = InsideApp(tmp_path / "data")
    yield inside
    inside.store.close()


def test_added_on_the_page_it_talks_and_revoked_it_does_not(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        page = server.sign_in()
        headers = {"Origin": server.url}
        made = page.post(
            f"{server.url}/api/devices", json={"name": "My p7", "app": "pendant"}, headers=headers, timeout=10
        )
        assert made.status_code == 201
        added = made.json()
        assert set(added) == {"id", "token", "certificate", "port"} and added["id"] == "myp7"
        pendant = DeviceClient(server, Device(added["id"], added["token"], server.certificate, added["port"]))
        assert pendant.standing(pendant.new_id()).status == 404
        assert added["token"] not in server.log() and added["token"] not in page.get(f"{server.url}/api/devices").text
        for expected in (204, 404):
            gone = page.delete(f"{server.url}/api/devices/myp7", headers=headers, timeout=10)
            assert gone.status_code == expected
        assert pendant.standing(pendant.new_id()).status == 401
        assert page.get(f"{server.url}/api/devices", timeout=10).json() == []
        again = server.add_device("My p7", "pendant")
        assert again.id == "myp72"  # an id is never given twice: the notes name it
        server.command("device", "revoke", again.id)
        assert "there is no device" in server.command("device", "revoke", again.id, check=False).stderr


def test_the_scopes(inside: InsideApp) -> None:
    new = {"name": "x", "app": "clock"}
    assert inside.client("write").post("/api/devices", json=new).status_code == 403
    assert inside.client("admin").post("/api/devices", json=new).status_code == 201
    assert inside.client("write").delete("/api/devices/x").status_code == 403
    for bad in ({"name": "", "app": "clock"}, {"name": "x", "app": "toaster"}, {"name": "x"}, {**new, "id": "y"}):
        assert inside.client("admin").post("/api/devices", json=bad).status_code == 422


def test_silence_is_told_once_a_silence(inside: InsideApp) -> None:
    told: list[tuple[str, str]] = []
    up_ms = now_ms() - 30 * 24 * HOUR_MS

    def emit(_connection: sa.Connection, event: str, payload: dict[str, Any]) -> int:
        told.append((event, payload["device"]))
        return 1

    def heard(device_id: str, ago_ms: int) -> None:
        with inside.store.write() as connection:
            connection.execute(sa.update(devices).where(devices.c.id == device_id).values(contact_ms=now_ms() - ago_ms))

    for name, app in (("wall", "clock"), ("p7", "pendant"), ("never", "clock"), ("lost", "clock")):
        registry.add(inside.store, name, app)  # type: ignore[arg-type]
    heard("wall", HOUR_MS // 2)
    heard("p7", 2 * HOUR_MS)
    heard("lost", 2 * HOUR_MS)
    registry.revoke(inside.store, "lost")
    registry.tell_silent(inside.store, emit, up_ms)
    assert told == []
    heard("wall", HOUR_MS + 1000)
    registry.tell_silent(inside.store, emit, now_ms() - HOUR_MS // 2)
    assert told == [], "the server itself was down, and it has not had the time to call"
    registry.tell_silent(inside.store, emit, up_ms)
    registry.tell_silent(inside.store, emit, up_ms)
    assert told == [("device.silent", "wall")]
    heard("p7", 8 * 24 * HOUR_MS)
    registry.tell_silent(inside.store, emit, up_ms)
    assert told[1:] == [("device.silent", "p7")]
    told.clear()
    heard("wall", 0)
    with inside.store.write() as connection:  # told an hour and more ago, heard of since, and silent again
        connection.execute(sa.update(devices).values(silent_ms=now_ms() - 3 * HOUR_MS))
    heard("wall", 2 * HOUR_MS)
    registry.tell_silent(inside.store, emit, up_ms)
    assert told == [("device.silent", "wall")]


def test_a_low_battery_is_told_when_it_becomes_low(inside: InsideApp) -> None:
    told: list[dict[str, Any]] = []
    twins = Twins(inside.store, lambda _connection, event, payload: told.append({"event": event, **payload}) or 1)
    device_id = registry.add(inside.store, "p7", "pendant").id
    for low in (False, True, True, False, True):
        twins.report(device_id, CheckIn(app="pendant", version="1", battery_low=low, battery_mv=3500))
    assert [one["event"] for one in told] == ["device.battery_low"] * 2
    assert told[0]["device"] == "p7" and told[0]["battery_mv"] == 3500


def test_a_low_battery_reaches_a_destination_that_asks_for_it(tmp_path: Path) -> None:
    with WebhookReceiver() as receiver, ServerProcess(tmp_path / "data") as server:
        server.command("destination", "add", receiver.url, "--event", "device.battery_low")
        pendant = DeviceClient(server, server.add_device("p7", "pendant"))
        body = b'{"app": "pendant", "version": "1", "battery_low": true, "battery_mv": 3480}'
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        assert pendant.request("POST", "/api/device/check-in", headers, body).status == 200
        until(lambda: receiver.received, 15, "the event")
        (got,) = receiver.received
        assert got.json["type"] == "device.battery_low"
        assert got.json["data"]["text"] == "The battery of p7 is low." and got.json["data"]["battery_mv"] == 3480
