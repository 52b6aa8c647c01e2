"""One try of a delivery, against receivers that never come to an end."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from offbeat import delivery

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLNQb"
DEADLINE_S = 1.0
TLS_RECORD = b"\x16\x03\x03\x3f\xff"  # a handshake message of 16 kB that never ends


@contextmanager
def trickling(at_once: bytes, byte: bytes) -> Iterator[tuple[int, Callable[[], bool]]]:
    """The port of a receiver that sends something at once, then a byte each tenth of a second for 20 s; and whether
    its connection was ended by the other side."""
    ended, enough = threading.Event(), threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.sendall(at_once)
                for _ in range(200):
                    if enough.wait(0.1):
                        return
                    connection.sendall(byte)
            except OSError:
                ended.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], lambda: ended.wait(5)
        finally:
            enough.set()
            thread.join(30)


@pytest.mark.parametrize(
    ("scheme", "at_once", "byte"),
    [
        ("http", b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        ("http", b"", b"H"),
        ("https", TLS_RECORD, b"x"),
    ],
    ids=["headers", "status line", "TLS handshake"],
)
def test_a_trickling_receiver_is_cut(monkeypatch: pytest.MonkeyPatch, scheme: str, at_once: bytes, byte: bytes) -> None:
    monkeypatch.setattr(delivery, "READ_TIMEOUT_S", DEADLINE_S)
    with trickling(at_once, byte) as (port, ended):
        began_s = time.monotonic()
        outcome = delivery.post(f"{scheme}://127.0.0.1:{port}/", SECRET, "msg_1", "{}")
        took_s = time.monotonic() - began_s
        assert DEADLINE_S <= took_s < DEADLINE_S + 2
        assert (outcome.delivered, outcome.status) == (False, None)
        assert outcome.trouble.startswith("no answer within")
        assert ended()


def test_a_trickling_body_is_cut_and_the_status_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "READ_TIMEOUT_S", DEADLINE_S)
    with trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x") as (port, ended):
        began_s = time.monotonic()
        outcome = delivery.post(f"http://127.0.0.1:{port}/", SECRET, "msg_1", "{}")
        assert time.monotonic() - began_s < DEADLINE_S + 2
        assert outcome.delivered and outcome.answer is not None and outcome.answer.startswith("xxx")
        assert ended()


@pytest.mark.parametrize("location", [b"/elsewhere", b"http://[/"])
def test_a_redirect_is_neither_followed_nor_read(location: bytes) -> None:
    """Nor is it looked at where it leads: `http://[/` is no address."""
    piece, pieces = bytes(1_000_000), 100
    taken: list[int] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(10_000)
            head = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % (location, pieces * len(piece)))
            for _ in range(pieces):
                connection.sendall(piece)
                taken.append(len(piece))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        outcome = delivery.post(f"http://127.0.0.1:{listener.getsockname()[1]}/", SECRET, "msg_1", "{}")
        thread.join(30)
    assert (outcome.status, outcome.delivered, outcome.sent) == (302, False, True)
    assert len(taken) < pieces / 2  # what the two ends' buffers hold


def test_nothing_of_a_try_stays() -> None:
    before = set(threading.enumerate())
    with trickling(b"HTTP/1.1 204 No Content\r\n\r\n", b"") as (port, _):
        delivery.post(f"http://127.0.0.1:{port}/", SECRET, "msg_1", "{}")
        left = [thread for thread in set(threading.enumerate()) - before if isinstance(thread, threading.Timer)]
        assert left == []


@pytest.mark.parametrize(
    ("value", "wanted_s"),
    [
        (None, None),
        ("soon", None),
        ("7", 7.0),
        ("9" * 400, delivery.MAX_RETRY_AFTER_S),
        ("Fri, 02 Jan 2026 00:00:07 GMT", 7.0),
        ("Fri, 02 Jan 2026 00:00:07 -0000", 7.0),
        ("Fri, 31 Dec 9999 23:59:59 -1200", delivery.MAX_RETRY_AFTER_S),
        ("Mon, 01 Jan 0001 00:00:00 +1200", 0.0),
        ("Fri, 02 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Fri, 02 Jan 2026 00:00:00 +99999999999999", None),
    ],
)
def test_retry_after(value: str | None, wanted_s: float | None) -> None:
    assert delivery.retry_after(value, datetime(2026, 1, 2, tzinfo=UTC)) == wanted_s
