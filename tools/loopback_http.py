"""HTTP servers on loopback, in a thread of their own: what simulations and tests talk to instead of the world."""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Keeps the connection between requests, and says nothing of them."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def answer(self, status: int, headers: Mapping[str, str] | None = None, content: bytes = b"") -> None:
        """With its length; no content after HEAD and with 204."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status != 204 and self.command != "HEAD":
            self.wfile.write(content)


class Server(ThreadingHTTPServer):
    """On 127.0.0.1, answering from the start until `close`, or the end of a `with`.

    certificate: (chain, key) files of PEM; with them it speaks TLS. port: 0 is a free one.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        handler: Callable[..., BaseHTTPRequestHandler],
        certificate: tuple[Path, Path] | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a client that is slow at the handshake keeps none of the others."""
        if self._context is None:
            return super().finish_request(request, client_address)
        request.settimeout(Handler.timeout)
        with self._context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # which is a client that was killed, cut off, or gave up
            super().handle_error(request, client_address)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(5)

    def __exit__(self, *_: object) -> None:
        self.close()
