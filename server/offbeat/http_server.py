"""What uvicorn lacks for this server: nothing else here but a protocol class and the start of two servers."""

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# Where the last bytes of a body are found that came together with the end of the connection.
TAIL = "offbeat.tail"
GRACE_S = 3


class Protocol(H11Protocol):
    """Hands over what arrived before a connection broke, and ends connections that never ask anything.

    uvicorn drops bytes that arrived but were not yet taken when the connection ends. For an upload those bytes are
    the progress: a device behind a link that breaks every few kB would never come to an end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end_when_idle()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._end_when_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.body:
            self.cycle.scope["extensions"] = {TAIL: {"body": bytes(self.cycle.body)}}
        super().connection_lost(exc)

    def _end_when_idle(self) -> None:
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # there are two of them; `serve` below catches the signals for both


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    return socket.create_server((host, port), family=family, backlog=256)


async def serve(
    page: Any, page_socket: socket.socket, device: Any, device_socket: socket.socket, tls: ssl.SSLContext
) -> None:
    """Serves both applications until SIGTERM or SIGINT, and then GRACE_S more for the requests in work."""

    def server(app: Any, keep_alive_s: int, tls: ssl.SSLContext | None = None) -> _Server:
        return _Server(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=keep_alive_s,
                timeout_graceful_shutdown=GRACE_S,
                ssl_context_factory=(lambda _config, _default: tls) if tls else None,
            )
        )

    # A device's handshake costs it most of a second: its connection is kept for the minute until it asks again.
    servers = [server(page, 20), server(device, 90, tls)]

    def stop() -> None:
        for one in servers:
            one.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await asyncio.gather(servers[0].serve([page_socket]), servers[1].serve([device_socket]))
