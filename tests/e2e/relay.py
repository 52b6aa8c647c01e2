"""A TCP relay on loopback that misbehaves as told: cuts connections after so many bytes, or falls silent."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Relay:
    """Forwards to a port of this machine. `cut_after_bytes`: of what the client sends, a connection; None: never."""

    def __init__(self, target_port: int) -> None:
        self.cut_after_bytes: int | None = None
        self.connections = 0
        self.cuts = 0
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Relay:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self._listener.close()

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._target_port), timeout=10)
            for end in (client, server):
                end.settimeout(0.1)
            for source, target, limited in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._forward, args=(source, target, limited))
                self._threads.append(thread)
                thread.start()

    def _forward(self, source: socket.socket, target: socket.socket, limited: bool) -> None:
        """Until either side ends, or the limit: then both ends go at once, with what was sent delivered."""
        passed = 0
        while not self._stopped.is_set():
            limit = self.cut_after_bytes if limited else None
            if limit is not None and passed >= limit:
                self.cuts += 1
                break
            try:
                data = source.recv(1024 if limit is None else min(1024, limit - passed))
            except TimeoutError:
                continue
            except OSError:
                break
            if not data:
                break
            try:
                target.sendall(data)
            except OSError:
                break
            passed += len(data)
        for end in (source, target):
            with contextlib.suppress(OSError):  # the other direction has closed it already
                end.shutdown(socket.SHUT_RDWR)
            end.close()
