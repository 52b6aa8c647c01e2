"""A small S3 on loopback: as much of it as obstore uses, with faults on demand."""

import base64
import hashlib
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class ObjectStore:
    """Keeps objects in `objects`, by `/bucket/key`. `fault(method, path)` may return a status to answer instead."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fault: Callable[[str, str], int | None] = lambda _method, _path: None
        self.checked = 0  # uploads that came with a digest, and it was right
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.partition("?")[0]
                status = store.fault(self.command, path)
                if status is not None:
                    return self.answer(status)
                if "Credential=test-key/" not in self.headers.get("Authorization", ""):
                    return self.answer(403)
                if self.command == "PUT":
                    told = self.headers.get("x-amz-checksum-sha256")
                    if told is not None:
                        if base64.b64decode(told) != hashlib.sha256(body).digest():
                            return self.answer(400)
                        store.checked += 1
                    store.objects[path] = body
                    return self.answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
                if self.command == "POST" and self.path.endswith("?delete"):
                    keys = re.findall(rb"<Key>([^<]+)</Key>", body)
                    for key in keys:
                        store.objects.pop(f"{path.rstrip('/')}/{key.decode()}", None)
                    done = b"".join(b"<Deleted><Key>" + key + b"</Key></Deleted>" for key in keys)
                    return self.answer(200, b"<DeleteResult>" + done + b"</DeleteResult>", Content_Type="text/xml")
                if path not in store.objects:
                    return self.answer(404)
                content = store.objects[path]
                etag = f'"{hashlib.md5(content).hexdigest()}"'
                return self.answer(200, content, ETag=etag, Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")

            do_GET = do_PUT = do_HEAD = do_POST = handle_one

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What AWS's own tools, and Offbeat, take from the environment."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
