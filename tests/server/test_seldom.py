"""What seldom happens: broken files, revoked devices, a full database, a server that was set back to a backup."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from inside_app import InsideApp
from offbeat import certificate, doctor, metrics, registry, updates
from offbeat import devices as device_port
from offbeat.store import now_ms
from offbeat.twin import Twins
from server_process import free_port

REPORT: dict[str, Any] = {"app": "clock", "version": "1", "mpy": 1}


class Inside(InsideApp):
    """Both ports in this process, with one clock."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.twins = Twins(self.store, emit=lambda *_: 0)
        self.devices = device_port.make_app(self.store, self.pipeline, self.twins)  # type: ignore[arg-type]

    def device(self, name: str) -> tuple[str, TestClient]:
        """Adds a clock: its id, and its way to the server."""
        added = registry.add(self.store, name, "clock")
        headers = {"Authorization": f"Bearer {added.token}"}
        return added.id, TestClient(self.devices, headers=headers, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    inside = Inside(tmp_path_factory.mktemp("inside") / "data")
    yield inside
    inside.store.close()


def test_a_revoked_device_counts_no_more(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    device_id, client = inside.device("lost")
    assert client.post("/api/device/check-in", json=REPORT).status_code == 200
    certificate.make_next(inside.store)
    settings = inside.store.settings.model_copy(update={"port": free_port(), "device_port": free_port()})
    monkeypatch.setattr(doctor, "_model", lambda _settings: iter(()))

    def seen() -> list[bool]:
        warned = any(one.what == "devices" for one in doctor.look(settings))
        return [
            device_id in certificate.not_told(inside.store),
            f'device="{device_id}"' in metrics.exposition(inside.store).decode(),
            warned,
        ]

    assert seen() == [True, True, True]
    with pytest.raises(updates.UpdateError, match="there is no clock"):
        updates.offer(inside.store, device_id, "2.0")
    registry.revoke(inside.store, device_id)
    assert seen() == [False, False, False]
    with pytest.raises(updates.UpdateError, match="there is no device"):
        updates.offer(inside.store, device_id, "2.0")
    (inside.store.settings.data / "certificate-next.pem").unlink()


def test_a_broken_next_certificate_keeps_no_device_from_its_time(inside: Inside) -> None:
    device_id, client = inside.device("punctual")
    path = inside.store.settings.data / "certificate-next.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nhalf of it")
    try:
        answer = client.post("/api/device/check-in", json=REPORT)
    finally:
        path.unlink()
        registry.revoke(inside.store, device_id)
    assert answer.status_code == 200 and abs(answer.json()["time_ms"] - now_ms()) < 60_000
    assert "next_certificate" not in answer.json()
