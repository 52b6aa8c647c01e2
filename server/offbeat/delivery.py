"""One try to deliver one body to one webhook, signed as Standard Webhooks has it."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import requests
import urllib3
from standardwebhooks import Webhook

from offbeat import __version__

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
ANSWER_BYTES = 1024


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


def post(url: str, secret: str, webhook_id: str, body: str) -> Outcome:
    """Posts the body and returns what came of it; it raises nothing that the network or the receiver can cause.

    `webhook_id` must be the same at every try. The time-outs bound the whole to CONNECT_TIMEOUT_S and about twice
    READ_TIMEOUT_S."""
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

    try:
        with requests.post(
            url,
            data=content,
            headers=headers,
            auth=_no_credentials,
            allow_redirects=False,
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            stream=True,
        ) as response:
            return Outcome(took_ms(), response.status_code, _beginning(response))
    except (requests.RequestException, OSError) as error:
        return Outcome(took_ms(), error=_words(error))


def _beginning(response: requests.Response) -> str:
    """The first kB of the answer, or what came of it in time: the status is what counts."""
    until_s = time.monotonic() + READ_TIMEOUT_S
    answer = b""
    try:
        while len(answer) < ANSWER_BYTES and time.monotonic() < until_s:
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
        return f"no answer within {READ_TIMEOUT_S:.0f} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate cannot be verified"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"failed ({type(error).__name__})"
