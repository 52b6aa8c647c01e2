"""`offbeat models`: names, folders, and a model fetched from a hub (a small one of our own, on loopback)."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from device_client import DeviceClient
from server_process import DEMO_MODEL, ServerProcess, WebhookReceiver

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(folder: Path, repository: str) -> Iterator[str]:
    """A model hub with one repository: as much of its HTTP interface as fetching a snapshot needs."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, content: bytes, **headers: str) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            listing = [{"type": "file", "path": name, "size": len(content)} for name, content in files.items()]
            if path.startswith(f"/api/models/{repository}/tree/"):
                entries = [{**one, "oid": hashlib.sha1(files[str(one["path"])]).hexdigest()} for one in listing]
                self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
            elif path.startswith(f"/api/models/{repository}"):
                told = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                self.answer(200, json.dumps(told).encode(), Content_Type="application/json")
            elif path.startswith(f"/{repository}/resolve/") and (name := path.rpartition("/")[2]) in files:
                content = files[name]
                digest = hashlib.sha256(content).hexdigest()
                self.answer(200, content, ETag=f'"{digest}"', X_Repo_Commit=COMMIT)
            else:
                self.answer(404, b"{}", X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


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
