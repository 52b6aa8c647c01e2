"""The real server as a process of its own, and a webhook receiver: for the demonstration, tests/server and tests/e2e.

with ServerProcess(folder, model=DEMO_MODEL) as server, WebhookReceiver() as receiver:
    server.add_destination(receiver.url)
    pendant = server.add_device("p7", "pendant")
"""

import base64
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import loopback_http
import requests

ROOT = Path(__file__).resolve().parents[1]
DEMO_MODEL = ROOT / "tools" / "demo_model" / "model"
LOG_TAIL_CHARACTERS = 4000


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first truthy value of the condition. Raises TimeoutError, which says `what` was waited for."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        time.sleep(0.05)
    return value


@dataclass(frozen=True)
class Device:
    """What `offbeat device add` printed; `certificate` is DER."""

    id: str
    token: str
    certificate: bytes
    port: int


class ServerProcess:
    """`offbeat serve` on free ports of 127.0.0.1. Everything goes through the command line and HTTP."""

    def __init__(self, data_folder: Path, model: Path | str = DEMO_MODEL, **environment: str) -> None:
        """Starts nothing yet: `start`, or use it as a context manager. More environment as keywords."""
        self.data = Path(data_folder)
        self.port = free_port()
        self.device_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = self.data.parent / f"{self.data.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._certificate: bytes | None = None
        self._session: requests.Session | None = None
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("OFFBEAT_")},
            "PYTHONPATH": str(ROOT / "server"),
            "OFFBEAT_SETTINGS": "",
            "OFFBEAT_DATA": str(self.data),
            "OFFBEAT_HOST": "127.0.0.1",
            "OFFBEAT_PORT": str(self.port),
            "OFFBEAT_DEVICE_PORT": str(self.device_port),
            "OFFBEAT_MODEL": str(model),
            "OFFBEAT_LANGUAGE": "en",
            **environment,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(f"--- the server's log\n{self.log()[-LOG_TAIL_CHARACTERS:]}")
        if self._session is not None:
            self._session.close()
        self.stop()

    def start(self, timeout_s: float = 30.0) -> None:
        """Starts the server and returns when /healthz answers. Raises TimeoutError or RuntimeError with its log."""
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "offbeat", "serve"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until(self._answers, timeout_s, "the server's /healthz")
        except TimeoutError as error:
            self.kill()
            raise TimeoutError(f"{error}\n{self.log()[-LOG_TAIL_CHARACTERS:]}") from None

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the server ended with {self._process.returncode}:\n{self.log()}")
        try:
            return requests.get(f"{self.url}/healthz", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None

    def stop(self, timeout_s: float = 15.0) -> int | None:
        """SIGTERM. Returns the exit status, None if it did not run. Raises when it does not end in time."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)
            raise

    def log(self) -> str:
        """All that the server printed since the folder was made."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `offbeat WORDS` with the server's settings."""
        done = subprocess.run(
            [sys.executable, "-m", "offbeat", *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"offbeat {' '.join(words)} ended with {done.returncode}: {done.stderr}")
        return done

    def add_device(self, name: str, app: str) -> Device:
        """`offbeat device add NAME --app APP`."""
        line = json.loads(self.command("device", "add", name, "--app", app).stdout)
        device = Device(line["id"], line["token"], base64.b64decode(line["certificate"]), line["port"])
        self._certificate = device.certificate
        return device

    def add_destination(self, url: str, secret: str | None = None) -> str:
        """`offbeat destination add URL --empty-texts`. Returns its secret."""
        words = ["destination", "add", url, "--empty-texts", *(["--secret", secret] if secret else [])]
        return str(json.loads(self.command(*words).stdout)["secret"])

    @property
    def certificate(self) -> bytes:
        """The certificate that devices verify the server against, DER."""
        if self._certificate is None:
            pem = (self.data / "certificate.pem").read_text()
            self._certificate = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE") :])
        return self._certificate

    def sign_in(self) -> requests.Session:
        """A session that is signed in to the page, by a link of `offbeat sign-in`."""
        link = self.command("sign-in").stdout
        match = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/sign-in#(\S{43})\n", link)
        assert match is not None, link
        session = requests.Session()
        session.headers["Origin"] = self.url
        answer = session.post(f"{self.url}/api/sign-in", json={"token": match[2]}, timeout=10)
        assert answer.status_code == 204, answer.text
        return session

    def get(self, path: str, **options: Any) -> requests.Response:
        """A GET of the page's port, signed in; the session is made at the first call and kept."""
        if self._session is None:
            self._session = self.sign_in()
        return self._session.get(self.url + path, timeout=10, **options)

    def connect(self, timeout_s: float = 20.0) -> ssl.SSLSocket:
        """A TLS connection to the device port, verified as a device does."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.certificate)
        plain = socket.create_connection(("127.0.0.1", self.device_port), timeout=timeout_s)
        try:
            return context.wrap_socket(plain, server_hostname="offbeat")
        except BaseException:
            plain.close()
            raise


@dataclass(frozen=True)
class Received:
    """One request that the receiver got; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class WebhookReceiver:
    """An HTTP server on a free port of 127.0.0.1 that records what is posted to it.

    `answers` is asked for each request and returns a status, or (status, headers, body); it may sleep."""

    def __init__(self, port: int = 0) -> None:
        self.received: list[Received] = []
        self.answers: Callable[[Received], Any] = lambda _received: 204
        receiver = self

        class Handler(loopback_http.Handler):
            protocol_version = "HTTP/1.0"  # a kept connection would outlive it, and what is gone would go on answering

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                got = Received(self.path, {key.lower(): value for key, value in self.headers.items()}, body)
                receiver.received.append(got)
                answer = receiver.answers(got)
                status, headers, content = answer if isinstance(answer, tuple) else (answer, {}, b"")
                self.answer(status, headers, content)

        self._server = loopback_http.Server(Handler, port=port)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    def wait(self, count: int = 1, timeout_s: float = 30.0) -> list[Received]:
        """Returns when that many requests have come. Raises TimeoutError."""
        until(lambda: len(self.received) >= count, timeout_s, f"{count} webhooks ({len(self.received)} came)")
        return list(self.received)
