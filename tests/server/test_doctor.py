"""`offbeat doctor` finds what was broken on purpose, and says what to do."""

import datetime
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from offbeat import doctor
from offbeat.settings import Settings
from offbeat.store import Store, metadata, now_ms
from server_process import DEMO_MODEL, ServerProcess, WebhookReceiver, free_port


def settings_of(tmp_path: Path, **more: Any) -> Settings:
    values = {"data": tmp_path / "data", "port": free_port(), "device_port": free_port(), "model": str(DEMO_MODEL)}
    return Settings(**{**values, **more})


def findings(settings: Settings, level: str = "bad") -> str:
    return "\n".join(f"{one.what}: {one.text}" for one in doctor.look(settings) if one.level == level)


def test_before_running_and_stopped(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    done = server.command("doctor")
    assert "is not there yet" in done.stdout and not (tmp_path / "data").exists()
    with server:
        done = server.command("doctor")
        assert "runs and answers at http://127.0.0.1" in done.stdout and "bad" not in done.stdout
    lock = (server.data / "lock").read_text(), (server.data / "lock").stat().st_mtime_ns
    done = server.command("doctor")
    assert "is not running" in done.stdout and "is free" in done.stdout
    assert lock == ((server.data / "lock").read_text(), (server.data / "lock").stat().st_mtime_ns), "it changes nothing"


def test_what_is_broken_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Callable[..., tuple[Path, Path, bytes]]
) -> None:
    settings = settings_of(tmp_path)
    store = Store(settings)
    assert findings(settings) == ""

    with WebhookReceiver() as receiver:
        values = {"secret": "whsec_hidden", "created_ms": 1}
        with store.write() as connection:
            destinations = metadata.tables["destinations"]
            connection.execute(sa.insert(destinations).values(id="d1", url=receiver.url, **values))
            gone = f"http://127.0.0.1:{free_port()}/secret-path"
            connection.execute(sa.insert(destinations).values(id="d2", url=gone, **values))
        found = findings(settings)
        assert found.count("destination:") == 1 and "cannot be reached" in found
        assert "hidden" not in found and "secret-path" not in found
        with store.write() as connection:
            connection.execute(sa.delete(destinations).where(destinations.c.id == "d2"))
        assert findings(settings) == ""
        with store.write() as connection:
            connection.execute(sa.delete(destinations))

    with socket.create_server(("127.0.0.1", settings.port)):
        assert f"OFFBEAT_PORT={settings.port}" in findings(settings)

    chain, _, _ = certificate(days_before=30, days_after=-1)
    shutil.copy(chain, settings.data / "certificate.pem")
    assert "no device can connect" in findings(settings)
    chain, _, _ = certificate(days_before=1, days_after=100)
    shutil.copy(chain, settings.data / "certificate.pem")
    assert "hand the next one" in findings(settings, "warn")
    (settings.data / "certificate.pem").write_text("junk")
    assert "certificate: could not be looked at" in findings(settings)
    (settings.data / "certificate.pem").unlink()

    settings.data.chmod(0o755)
    assert "can be read by others" in findings(settings, "warn")
    settings.data.chmod(0o700)

    usage = shutil.disk_usage(settings.data)
    monkeypatch.setattr("offbeat.doctor.shutil.disk_usage", lambda _path: usage._replace(free=10_000))
    assert "Make room" in findings(settings)
    monkeypatch.undo()

    assert "lacks model.bin" in findings(settings_of(tmp_path, model=str(tmp_path)))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "offbeat models get base" in findings(settings_of(tmp_path, model="base"))
    assert "transcriber:" in findings(settings_of(tmp_path, transcriber_url="http://127.0.0.1:9/v1"))

    with store.write() as connection:
        notes = metadata.tables["notes"]
        values = {"length_bytes": 1, "sha256": "0", "state": "received"}
        later = now_ms() + int(datetime.timedelta(days=9).total_seconds() * 1000)
        connection.execute(sa.insert(notes).values(id="up_1", created_ms=later, set_aside=True, **values))
    assert "clock is behind" in findings(settings)
    assert "1 set aside" in findings(settings, "warn")
    store.close()

    settings.database.write_bytes(settings.database.read_bytes()[:20_000])
    assert "database:" in findings(settings)
    hidden = "postgresql://somebody:hidden@127.0.0.1:9/offbeat"
    found = findings(settings_of(tmp_path, database_url=hidden))
    assert "Check OFFBEAT_DATABASE_URL" in found and "hidden" not in found
