"""Updates on the server: what is taken in, who is offered what, and what the device port gives (docs/protocol.md)."""

import hashlib
import hmac
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from device_client import Answer, DeviceClient
from offbeat import updates
from offbeat.settings import Settings
from offbeat.store import Store
from offbeat.tokens import new_token
from server_process import ServerProcess

MPY = 11014
FILES = {"device/link.mpy": b"link", "pendant/app.mpy": b"app" * 80_000, "pendant/link2.mpy": b"link"}


def package(folder: Path, contents: dict[str, bytes] = FILES, **changes: Any) -> Path:
    """Writes a package as tools/package.py does."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    listed = [[path, len(content), hashlib.sha256(content).hexdigest()] for path, content in contents.items()]
    manifest = {"version": "2.0", "app": "pendant", "mpy": MPY, "files": listed} | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(Settings(data=tmp_path / "data"))
    yield store
    store.close()


def test_a_package_is_taken_in_once(store: Store, tmp_path: Path) -> None:
    folder = package(tmp_path / "package")
    assert updates.add(store, folder).version == "2.0"
    updates.add(store, folder)
    with pytest.raises(updates.UpdateError, match="another VERSION"):
        updates.add(store, package(folder, FILES | {"device/log.mpy": b"log"}))
    updates.add(store, package(folder, FILES | {"device/log.mpy": b"log"}, version="2.1"))
    updates.add(store, package(folder, mpy=774))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "2/0"},
        {"version": ""},
        {"app": "toaster"},
        {"mpy": 65536},
        {"files": []},
        {"files": [["device/link.mpy", 5, hashlib.sha256(b"link").hexdigest()]]},
        {"files": [["device/link.mpy", 4, "0" * 64]]},
        {"files": [["device/link.mpy", 4, hashlib.sha256(b"link").hexdigest()]] * 2},
        {"files": [["../manifest.json", 4, "0" * 64]]},
        {"files": [["/etc/hostname.py", 4, "0" * 64]]},
        {"files": [["main.py", 4, "0" * 64]]},
        {"files": [["device/none.mpy", 4, "0" * 64]]},
        {"files": [["device/.link.mpy", 4, "0" * 64]]},
        {"files": [["a/b/c/d/link.mpy", 4, "0" * 64]]},
        {"note": "x" * 16_384},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_what_no_device_would_take_is_refused(store: Store, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(updates.UpdateError):
        updates.add(store, package(tmp_path / "package", **changes))


def test_a_folder_without_a_manifest_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(updates.UpdateError, match=r"tools/package\.py"):
        updates.add(store, tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server") / "data") as server:
        yield server


def check_in(client: DeviceClient, **report: Any) -> Answer:
    body = json.dumps({"app": "pendant", "version": "1.0", "mpy": MPY} | report).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return client.request("POST", "/api/device/check-in", headers, body)


def test_from_the_package_to_the_device(server: ServerProcess, tmp_path: Path) -> None:
    device = server.add_device("p9", "pendant")
    client, other = DeviceClient(server, device), DeviceClient(server, server.add_device("p10", "pendant"))
    store = Store(Settings(data=server.data))
    with pytest.raises(updates.UpdateError, match="no device"):
        updates.offer(store, "p8", "2.0")
    with pytest.raises(updates.UpdateError, match="wait for its check-in"):
        updates.offer(store, "p9", "2.0")
    store.close()
    assert "update" not in check_in(client).json
    done = server.command("update", "offer", "p9", "2.0", check=False)
    assert done.returncode == 1 and f"package.py pendant {MPY}" in done.stderr and "Traceback" not in done.stderr
    folder = package(tmp_path / "package")
    assert server.command("update", "add", str(folder)).stdout == f"pendant 2.0 for mpy {MPY}: 3 files\n"
    assert "update" not in check_in(client).json
    server.command("update", "offer", "p9", "2.0")

    # Offered to it alone, while it can load it, does not run it, and has not gone back from it.
    assert check_in(client).json["update"] == {"version": "2.0"}
    assert "update" not in check_in(client, version="2.0").json
    assert "update" not in check_in(client, update_failed="2.0").json
    assert check_in(client, update_failed="1.9").json["update"] == {"version": "2.0"}
    assert "update" not in check_in(other).json
    assert "update" not in check_in(client, mpy=774).json
    assert client.request("GET", "/api/device/updates/2.0").status == 404  # by what it reported last
    check_in(client)

    answer = client.request("GET", "/api/device/updates/2.0")
    assert answer.status == 200 and answer.body == (folder / "manifest.json").read_bytes()
    key = hashlib.sha256(device.token.encode()).digest()
    assert answer.headers["offbeat-hmac"] == hmac.new(key, answer.body, "sha256").hexdigest()
    for path, length, sha256 in answer.json["files"]:
        got = client.request("GET", f"/api/device/updates/2.0/{sha256}")
        assert got.status == 200 and got.body == FILES[path] and got.headers["content-length"] == str(length)
        assert got.headers["content-type"] == "application/octet-stream"
        assert other.request("GET", f"/api/device/updates/2.0/{sha256}").status == 404
    assert other.request("GET", "/api/device/updates/2.0").status == 404
    for path in ("2.1", "2.0/" + "0" * 64, "2.0/x", "..%2f2.0"):
        assert client.request("GET", f"/api/device/updates/{path}").status == 404, path
    assert client.request("GET", "/api/device/updates/2.0", token=new_token()).status == 401

    server.command("update", "withdraw", "p9")
    assert "update" not in check_in(client).json
    assert client.request("GET", "/api/device/updates/2.0").status == 404
    done = server.command("update", "withdraw", "p8", check=False)
    assert done.returncode == 1 and "no device 'p8'" in done.stderr
