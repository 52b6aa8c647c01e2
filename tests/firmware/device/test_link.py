"""What a link takes for an answer, and the bytes that it sends."""

import asyncio

from device.link import Link, LinkError, body_length, parse_head


def refused(work, *arguments):
    try:
        work(*arguments)
    except LinkError as e:
        return str(e)
    raise AssertionError(f"accepted: {arguments}")


def test_request_head():
    link = Link("192.168.1.5", 8443, b"", "secret")
    assert link._head("HEAD", "/a", (), None) == (
        b"HEAD /a HTTP/1.1\r\nHost: offbeat\r\nAuthorization: Bearer secret\r\n\r\n"
    )
    common = b"Host: offbeat\r\nAuthorization: Bearer secret\r\nX: 1\r\n"
    assert link._head("POST", "/b", (("X", 1),), b"12") == (
        b"POST /b HTTP/1.1\r\n" + common + b"Content-Length: 2\r\n\r\n"
    )
    assert link._head("PATCH", "/b", (("X", 1),), (None, 7, 0)).endswith(b"X: 1\r\nContent-Length: 0\r\n\r\n")


def test_good_heads():
    assert parse_head(b"HTTP/1.1 204 No Content") == (204, {})
    status, headers = parse_head(b"HTTP/1.1 200 \r\nContent-Length:  12 \r\nUpload-Complete: ?1\r\nX:")
    assert status == 200 and headers == {"content-length": "12", "upload-complete": "?1", "x": ""}
    assert parse_head(b"HTTP/1.1 503")[0] == 503


def test_bad_heads_are_refused():
    for head in (b"", b"HTTP/1.0 200 OK", b"HTTP/1.1", b"HTTP/1.1 20", b"HTTP/1.1 2000 x", b"HTTP/1.1 abc OK",
                 b"<html>", b"HTTP/1.1 200 OK\r\nno colon", b"HTTP/1.1 200 OK\r\n: x", b"HTTP/1.1 200 OK\r\n folded: x",
                 b"HTTP/1.1 200 OK\r\nspaced : x", b"HTTP/1.1 200 OK\r\nX: \xff\xff",
                 b"HTTP/1.1 101 x", b"HTTP/1.1 100 Continue", b"HTTP/1.1 600 x"):  # fmt: skip
        assert "refused" in refused(parse_head, head)
    for status in (300, 301, 302, 303, 307, 308):
        assert "redirect" in refused(parse_head, b"HTTP/1.1 %d x\r\nLocation: https://elsewhere/" % status)


def test_body_lengths():
    assert body_length("HEAD", 200, {"content-length": "99999"}) == 0
    assert body_length("PATCH", 204, {}) == 0
    assert body_length("POST", 200, {"content-length": "4096"}) == 4096
    assert body_length("POST", 200, {"content-length": "0"}) == 0
    for headers in ({}, {"content-length": "4097"}, {"content-length": "-1"}, {"content-length": "1e3"},
                    {"content-length": "9999999999999999999"}, {"content-length": ""},
                    {"transfer-encoding": "chunked"},
                    {"transfer-encoding": "chunked", "content-length": "5"}):  # fmt: skip
        assert "refused" in refused(body_length, "POST", 200, headers)


class Stream:
    """Stands for a connection: `answer` is what comes back, b"" from one that was closed."""

    def __init__(self, answer):
        self.sent, self.answer, self.s = b"", answer, self

    def write(self, data):
        self.sent += bytes(data)

    async def drain(self):
        pass

    async def readinto(self, view):
        view[: len(self.answer)] = self.answer
        return len(self.answer)

    def close(self):
        pass


def test_headers_are_made_when_the_connection_is_there():
    """A kept connection turns out to be closed: the second head is not the first one once more."""
    now = [100]
    closed, fresh = Stream(b""), Stream(b"HTTP/1.1 204 x\r\n\r\n")

    class Slow(Link):
        async def _connect(self):
            now[0] += 9000
            self._stream = fresh

    link = Slow("192.168.1.5", 8443, b"", "secret")
    link._stream = closed
    status, _, _ = asyncio.run(link.request("PATCH", "/a", lambda: (("Now", now[0]),), b"x"))
    assert status == 204
    assert b"\r\nNow: 100\r\n" in closed.sent and b"\r\nNow: 9100\r\n" in fresh.sent
