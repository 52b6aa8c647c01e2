"""`offbeat models`: names, folders, and a model fetched from a hub (a small one of our own, on loopback)."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import loopback_http
from device_client import DeviceClient
from server_process import DEMO_MODEL, ServerProcess, WebhookReceiver

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(folder: Path, repository: str) -> Iterator[str]:
    """A model hub with one repository: as much of its HTTP interface as fetching a snapshot needs."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    as_json = {"Content-Type": "application/json"}

    class Handler(loopback_http.Handler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            listing = [{"type": "file", "path": name, "size": len(content)} for name, content in files.items()]
            if path.startswith(f"/api/models/{repository}/tree/"):
                entries = [{**one, "oid": hashlib.sha1(files[str(one["path"])]).hexdigest()} for one in listing]
                self.answer(200, as_json, json.dumps(entries).encode())
            elif path.startswith(f"/api/models/{repository}"):
                told = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                self.answer(200, as_json, json.dumps(told).encode())
            elif path.startswith(f"/{repository}/resolve/") and (name := path.rpartition("/")[2]) in files:
                content = files[name]
                digest = hashlib.sha256(content).hexdigest()
                self.answer(200, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}, content)
            else:
                self.answer(404, {"X-Error-Code": "RepoNotFound"}, b"{}")

        do_HEAD = do_GET

    with loopback_http.Server(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def test_get_list_and_use(tmp_path: Path, spoken: bytes) -> None:
    with hub(DEMO_MODEL, "somebody/tiny-one") as url:
        server = ServerProcess(tmp_path / "data", model="somebody/tiny-one", HF_ENDPOINT=url)
        assert "1.8 MB" not in server.command("models", "list").stdout
        done = server.command("models", "get", "somebody/tiny-one")
        folder = Path(done.stdout.strip())
        assert (folder / "model.bin").read_bytes() == (DEMO_MODEL / "model.bin").read_bytes()
        assert "100%" in done.stderr, "no progress bar"
        wrong = server.command("models", "get", "somebody/else", check=False)
        assert wrong.returncode == 1 and "has no somebody/else" in wrong.stderr and "Traceback" not in wrong.stderr
    listed = server.command("models", "list").stdout
    line = next(line for line in listed.splitlines() if "tiny-one (used)" in line)
    assert " MB" in line and "Systran/faster-whisper-base" in listed
    # The hub is gone: what was fetched is used without it.
    with server, WebhookReceiver() as receiver:
        server.add_destination(receiver.url)
        client = DeviceClient(server, server.add_device("p7", "pendant"))
        assert client.patch(client.new_id(), spoken).status == 200
        assert receiver.wait()[0].json["data"]["text"] == "remind me to buy milk tomorrow"


def test_what_is_no_model(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    done = server.command("models", "get", "enormous", check=False)
    assert done.returncode == 1 and "'enormous' is not a model's name" in done.stderr
    done = server.command("models", "get", str(tmp_path), check=False)
    assert done.returncode == 1 and "lacks model.bin" in done.stderr
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with hub(tmp_path / "other", "somebody/other") as url:
        server = ServerProcess(tmp_path / "data", HF_ENDPOINT=url)
        done = server.command("models", "get", "somebody/other", check=False)
    assert done.returncode == 1 and "is no Whisper model converted for CTranslate2" in done.stderr


def test_a_long_path_leaves_room_for_the_rest_of_the_list(tmp_path: Path) -> None:
    model = tmp_path / ("m" * 100)
    listed = ServerProcess(tmp_path / "data", model=str(model)).command("models", "list").stdout
    assert "a folder" in listed and "".join(re.findall("m{2,}", listed)).count("m") >= 100
