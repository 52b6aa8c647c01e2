"""One try to deliver one body to one webhook, signed as Standard Webhooks has it."""

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from standardwebhooks import Webhook

from offbeat import __version__

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
ANSWER_BYTES = 1024
NO_ANSWER = f"no answer within {READ_TIMEOUT_S:.0f} s"


@dataclass(frozen=True)
class Outcome:
    """What came of a try: an HTTP status with the beginning of the answer, or an error."""

    took_ms: int
    status: int | None = None
    answer: str | None = None
    error: str | None = None

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver wants no more deliveries, for ever."""
        return self.status == 410

    @property
    def trouble(self) -> str:
        """What went wrong, in words."""
        if self.status is None:
            return self.error or "no answer"
        if 300 <= self.status < 400:
            return f"answered {self.status}, and redirects are not followed"
        return f"answered {self.status}"


def place(url: str) -> str:
    """Scheme, host and port of a URL: what may be shown and logged of it, since its path is often a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def check_url(url: str) -> None:
    """Raises ValueError when a URL is not one to post to."""
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError where it is no number
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a destination's URL begins with http:// or https:// and a host")


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An authentication that adds nothing, and so keeps `requests` from reading the user's .netrc."""
    return request


class _Deadline(HTTPAdapter):
    """Makes connections that are shut down READ_TIMEOUT_S after they were made, whatever is going on on them.

    The time-outs of `requests` are of each single read: they never end a receiver that sends a byte now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = False
        self._connections: list[tuple[socket.socket, threading.Timer]] = []

    def get_connection_with_tls_context(self, *args: Any, **more: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **more)
        deadline = self

        class Connection(pool.ConnectionCls):
            def _new_conn(self) -> socket.socket:
                made: socket.socket = super()._new_conn()
                deadline._watch(made)
                return made

        pool.ConnectionCls = Connection
        return pool

    def _watch(self, connection: socket.socket) -> None:
        # A duplicate: TLS detaches the first one, and it stays valid when the other is closed.
        duplicate = connection.dup()
        timer = threading.Timer(READ_TIMEOUT_S, self._shut, (duplicate,))
        timer.daemon = True
        self._connections.append((duplicate, timer))
        timer.start()

    def _shut(self, connection: socket.socket) -> None:
        self.passed = True
        with contextlib.suppress(OSError):  # it ended by itself
            connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the watch; the session calls it at its end."""
        for connection, timer in self._connections:
            timer.cancel()
            timer.join(READ_TIMEOUT_S)  # at once: it is done or cancelled
            connection.close()
        super().close()


def post(url: str, secret: str, webhook_id: str, body: str) -> Outcome:
    """Posts the body and returns what came of it; it raises nothing that the network or the receiver can cause.

    `webhook_id` must be the same at every try. It takes at most CONNECT_TIMEOUT_S for each address of the host and
    READ_TIMEOUT_S for all the rest; only the looking up of the name is the system's."""
    now = datetime.now(UTC)
    content = body.encode("utf-8")
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"Offbeat/{__version__}",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, now, body),
    }
    began_s = time.monotonic()

    def took_ms() -> int:
        return round((time.monotonic() - began_s) * 1000)

    deadline = _Deadline()
    with requests.Session() as session:
        session.mount("http://", deadline)
        session.mount("https://", deadline)
        try:
            with session.post(
                url,
                data=content,
                headers=headers,
                auth=_no_credentials,
                allow_redirects=False,
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                stream=True,
            ) as response:
                if deadline.passed:  # the head may have been cut off, which http.client takes for its end
                    return Outcome(took_ms(), error=NO_ANSWER)
                return Outcome(took_ms(), response.status_code, _beginning(response))
        except (requests.RequestException, OSError) as error:
            return Outcome(took_ms(), error=NO_ANSWER if deadline.passed else _words(error))


def _beginning(response: requests.Response) -> str:
    """The first kB of the answer, or what came of it in time: the status is what counts."""
    answer = b""
    try:
        while len(answer) < ANSWER_BYTES:
            part = response.raw.read1(ANSWER_BYTES - len(answer), decode_content=True)
            if not part:
                break
            answer += part
    except (urllib3.exceptions.HTTPError, OSError) as error:  # it was answered all the same
        return answer.decode("utf-8", "replace") + f" [the answer broke off: {type(error).__name__}]"
    return answer.decode("utf-8", "replace")


def _words(error: Exception) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_TIMEOUT_S:.0f} s"
    if isinstance(error, requests.Timeout):
        return NO_ANSWER
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate cannot be verified"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"failed ({type(error).__name__})"
