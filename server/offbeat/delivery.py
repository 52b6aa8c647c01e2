"""One try to deliver one body: to a webhook, signed as Standard Webhooks has it, or into a folder of Markdown files.

Addresses of the machine itself and of the home network are allowed, for that is where assistants live. Link-local
addresses and those where clouds keep their metadata are refused, after the name was looked up, and the connection
goes to the very address that was judged. Redirects are not followed, and proxies of the environment are not used."""

import contextlib
import ipaddress
import json
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from standardwebhooks import Webhook
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from offbeat import __version__
from offbeat.store import sync_folder

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
# What is read of an answer. The log of tries keeps LOGGED_BYTES of it.
ANSWER_BYTES = 16 * 1024
LOGGED_BYTES = 1024
MAX_RETRY_AFTER_S = 86_400.0
ADDRESSES_TRIED = 4

# Beside the link-local ones, which are most clouds': AWS by IPv6, Google by IPv6, Alibaba, Oracle, Azure's wire server.
METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class Outcome:
    """What came of a try: an HTTP status with the beginning of the answer, or an error."""

    took_ms: int
    status: int | None = None
    answer: str | None = None
    error: str | None = None
    # All of the body was handed over to the network.
    sent: bool = False
    # What the answer's Retry-After asks for, 0 to MAX_RETRY_AFTER_S.
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver wants no more deliveries, for ever."""
        return self.status == 410

    @property
    def in_doubt(self) -> bool:
        """It may have arrived all the same: nothing was answered, or a gateway knows no more than we."""
        return self.sent and self.status in (None, 502, 504)

    @property
    def trouble(self) -> str:
        """What went wrong, in words."""
        if self.status is None:
            return self.error or "no answer"
        if 300 <= self.status < 400:
            return f"answered {self.status}, and redirects are not followed"
        return f"answered {self.status}"

    @property
    def logged(self) -> str | None:
        """The first LOGGED_BYTES of the answer."""
        return None if self.answer is None else self.answer.encode()[:LOGGED_BYTES].decode("utf-8", "ignore")


def place(url: str) -> str:
    """Scheme, host and port of a URL: what may be shown and logged of it, since its path is often a secret.

    A folder is shown whole."""
    parts = urlsplit(url)
    return url if parts.scheme == "file" else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def check_url(url: str) -> None:
    """Raises ValueError when a URL is not one to post to."""
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError where it is no number
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a destination's URL begins with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise ValueError("no user and password in the URL: a recipe asks for them, or give a header Authorization")
    try:
        refusal = refused_address(parts.hostname)
    except ValueError:
        return  # a name, which is judged when it is looked up
    if refusal:
        raise ValueError(refusal)


def refused_address(address: str) -> str | None:
    """Why nothing is sent to an IP address, or None. Raises ValueError where it is none."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return refused_address(str(inner))
        ip = ipaddress.IPv6Address(int(ip))  # without its scope
    if ip.is_link_local or ip in METADATA:
        return f"{ip} is a link-local or metadata address, and nothing is sent to those"
    if not ip.is_loopback and (ip.is_unspecified or ip.is_multicast or (ip.version == 4 and ip.is_reserved)):
        return f"{ip} is not the address of one machine"
    return None


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An authentication that adds nothing."""
    return request


class _Deadline(HTTPAdapter):
    """Makes connections to addresses that are allowed, and shuts them down some time after they were made, whatever
    is going on on them.

    The time-outs of `requests` are of each single read: they never end a receiver that sends a byte now and then."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self.passed = False
        self.refusal: str | None = None
        self.sent_bytes = 0  # of the body
        self._timeout_s = timeout_s
        self._connections: list[tuple[socket.socket, threading.Timer]] = []

    def get_connection_with_tls_context(self, *args: Any, **more: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **more)
        deadline = self

        class Connection(pool.ConnectionCls):
            def _new_conn(self) -> socket.socket:
                made = deadline._connect(self)
                deadline._watch(made)
                return made

            def endheaders(self, *args: Any, **more: Any) -> None:
                super().endheaders(*args, **more)
                deadline.sent_bytes = 0  # so far it was the head

            def send(self, data: Any) -> None:
                super().send(data)
                deadline.sent_bytes += len(data)

        pool.ConnectionCls = Connection
        return pool

    def _connect(self, wanted: Any) -> socket.socket:
        """A connection to the first address of the host that is allowed and answers."""
        try:
            found = socket.getaddrinfo(wanted.host.strip("[]"), wanted.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            known = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            raise NameResolutionError(wanted.host, wanted, known) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        # A name in a home network often has a link-local address beside its other one.
        allowed = [address for address in addresses if refused_address(address) is None]
        if not allowed:
            self.refusal = refused_address(addresses[0])
            raise NewConnectionError(wanted, str(self.refusal))
        last: OSError | None = None
        for address in allowed[:ADDRESSES_TRIED]:
            try:
                return create_connection(
                    (address, wanted.port), CONNECT_TIMEOUT_S, socket_options=wanted.socket_options
                )
            except OSError as error:
                last = error
        if isinstance(last, TimeoutError):
            raise ConnectTimeoutError(wanted, "timed out") from last
        raise NewConnectionError(wanted, str(last)) from last

    def _watch(self, connection: socket.socket) -> None:
        # A duplicate: TLS detaches the first one, and it stays valid when the other is closed.
        duplicate = connection.dup()
        timer = threading.Timer(self._timeout_s, self._shut, (duplicate,))
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
            timer.join(self._timeout_s)  # at once: it is done or cancelled
            connection.close()
        super().close()


def post(
    url: str,
    secret: str,
    webhook_id: str,
    body: str,
    headers: dict[str, str] | None = None,
    authorization: str | None = None,
    timeout_s: float | None = None,
) -> Outcome:
    """Posts the body and returns what came of it; it raises nothing that the network or the receiver can cause.

    `webhook_id` must be the same at every try. It takes at most CONNECT_TIMEOUT_S for each of ADDRESSES_TRIED addresses
    of the host and `timeout_s` (READ_TIMEOUT_S where it is not given) for all the rest; only the looking up of the name
    is the system's."""
    timeout_s = READ_TIMEOUT_S if timeout_s is None else timeout_s
    no_answer = f"no answer within {timeout_s:g} s"
    now = datetime.now(UTC)
    content = body.encode("utf-8")
    all_headers = {
        "Content-Type": "application/json",
        "User-Agent": f"Offbeat/{__version__}",
        **(headers or {}),
        **({"Authorization": authorization} if authorization else {}),
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, now, body),
    }
    began_s = time.monotonic()

    def took_ms() -> int:
        return round((time.monotonic() - began_s) * 1000)

    def failed(error: str) -> Outcome:
        return Outcome(took_ms(), error=error, sent=0 < len(content) <= deadline.sent_bytes)

    deadline = _Deadline(timeout_s)
    with NoRedirects() as session:
        session.trust_env = False  # no proxy, which would look the name up itself, and no .netrc
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        session.mount("http://", deadline)
        session.mount("https://", deadline)
        try:
            with session.post(
                url,
                data=content,
                headers=all_headers,
                auth=_no_credentials,
                allow_redirects=False,
                timeout=(CONNECT_TIMEOUT_S, timeout_s),
                stream=True,
            ) as response:
                if deadline.passed:  # the head may have been cut off, which http.client takes for its end
                    return failed(no_answer)
                retry_after_s = retry_after(response.headers.get("Retry-After"), now)
                answer = _beginning(response)
                return Outcome(took_ms(), response.status_code, answer, sent=True, retry_after_s=retry_after_s)
        except (requests.RequestException, OSError) as error:
            return failed(deadline.refusal or (no_answer if deadline.passed else _words(error, no_answer)))


class NoRedirects(requests.Session):
    """A session that does not look where a redirect leads: also with `allow_redirects=False` `requests` would read the
    whole of its body for that, however long, and raise ValueError where the place is none."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def retry_after(value: str | None, now: datetime) -> float | None:
    """The seconds that a Retry-After asks for, 0 to MAX_RETRY_AFTER_S; None where it is absent or cannot be read."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), MAX_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max((date - now).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


def _beginning(response: requests.Response) -> str:
    """The first ANSWER_BYTES of the answer, or what came of it in time: the status is what counts."""
    answer = b""
    broken = ""
    try:
        while len(answer) < ANSWER_BYTES:
            part = response.raw.read1(ANSWER_BYTES - len(answer), decode_content=True)
            if not part:
                break
            answer += part
    except (urllib3.exceptions.HTTPError, OSError) as error:  # it was answered all the same
        broken = f" [the answer broke off: {type(error).__name__}]"
    return answer.decode("utf-8", "replace") + broken


def _words(error: Exception, no_answer: str) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_TIMEOUT_S:.0f} s"
    if isinstance(error, requests.Timeout):
        return no_answer
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate cannot be verified"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"failed ({type(error).__name__})"


def answer_of(outcome: Outcome, path: str) -> str | None:
    """The assistant's words in an answer: at a path of keys with dots between in its JSON, or else the whole answer."""
    if not outcome.answer:
        return None
    try:
        found: Any = json.loads(outcome.answer)
    except (ValueError, RecursionError):
        return outcome.answer
    for key in path.split(".") if path else ():
        if not isinstance(found, dict) or key not in found:
            return outcome.answer
        found = found[key]
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def folder_of(url: str, root: Path) -> Path:
    """The folder of a `file:` URL, which must lie in `root`, links followed. Raises ValueError."""
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ValueError("a folder's URL is file:// and its whole path")
    if "\0" in str(path) or not path.is_absolute():
        raise ValueError("a folder's URL is file:// and its whole path")
    folder = path.resolve()
    if not folder.is_relative_to(root.resolve()):
        raise ValueError(f"{folder} is not in {root.resolve()}: set OFFBEAT_EXPORT to a folder that it is in")
    return folder


def write_markdown(url: str, root: Path, body: str) -> Outcome:
    """Writes the note of a webhook's body as a Markdown file, whole or not at all; the same note is the same file."""
    began_s = time.monotonic()
    temporary: Path | None = None
    try:
        folder = folder_of(url, root)
        name, content = markdown(json.loads(body))
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.{threading.get_ident()}.part"
        with open(temporary, "wb") as file:
            file.write(content.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / name)
        sync_folder(folder)
    except (OSError, ValueError) as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        return Outcome(round((time.monotonic() - began_s) * 1000), error=f"cannot be written: {error}")
    return Outcome(round((time.monotonic() - began_s) * 1000), 200, name, sent=True)


def markdown(event: dict[str, Any]) -> tuple[str, str]:
    """The name and the content of the Markdown file of a note."""
    data = event["data"]
    identity = re.sub(r"[^A-Za-z0-9_-]", "_", str(data["id"]))[:80]
    day = str(data.get("recorded_at") or data.get("received_at") or event["timestamp"])[:10]
    # JSON's strings are YAML's, so nothing that was said can end the head.
    head = "".join(
        f"{key}: {json.dumps(value, ensure_ascii=False)}\n"
        for key, value in data.items()
        if key != "text" and value is not None
    )
    return f"{day} {identity}.md", f"---\n{head}---\n\n{data['text']}\n"
