"""A small S3 on loopback: as much of it as obstore uses, with faults on demand."""

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Self

import loopback_http


class ObjectStore:
    """Keeps objects in `objects`, by `/bucket/key`. `fault(method, path)` may return a status to answer instead."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fault: Callable[[str, str], int | None] = lambda _method, _path: None
        self.checked = 0  # uploads that came with a digest, and it was right
        store = self

        class Handler(loopback_http.Handler):
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
                    return self.answer(200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
                if self.command == "POST" and self.path.endswith("?delete"):
                    keys = re.findall(rb"<Key>([^<]+)</Key>", body)
                    for key in keys:
                        store.objects.pop(f"{path.rstrip('/')}/{key.decode()}", None)
                    done = b"".join(b"<Deleted><Key>" + key + b"</Key></Deleted>" for key in keys)
                    xml = b"<DeleteResult>" + done + b"</DeleteResult>"
                    return self.answer(200, {"Content-Type": "text/xml"}, xml)
                if path not in store.objects:
                    return self.answer(404)
                content = store.objects[path]
                etag = f'"{hashlib.md5(content).hexdigest()}"'
                headers = {"ETag": etag, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
                return self.answer(200, headers, content)

            do_GET = do_PUT = do_HEAD = do_POST = handle_one

        self._server = loopback_http.Server(Handler)

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
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
