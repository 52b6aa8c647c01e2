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


class Certified(Link):
    """A link whose server has the certificate `has`; `fails` takes the network away for so many connections."""

    has, fails, tried = b"old", 0, ()

    async def _connect(self):
        self.tried += (self._certificate,)
        if self.fails:
            self.fails -= 1
            raise LinkError("no network")
        if self._certificate != self.has:
            raise ValueError("The certificate is not correctly signed by the trusted CA")  # as mbedTLS has it
        self._stream = Stream(b"HTTP/1.1 204 x\r\nConnection: close\r\n\r\n")

    def get_status(self):
        try:
            return asyncio.run(self.request("GET", "/a"))[0]
        except LinkError as e:
            return type(e).__name__


def test_the_next_certificate_takes_the_place_of_the_pinned_one():
    link = Certified("192.168.1.5", 8443, b"old", "secret")
    told = []
    link.changed = lambda: told.append(link._certificate)
    assert link.get_status() == 204
    link.has = b"other"
    assert link.get_status() == "Unverified"  # nothing to change to
    link.next_der = b"new"
    assert link.get_status() == "Unverified" and link.tried[-2:] == (b"old", b"new")  # somebody else's server
    assert told == [] and link.next_der == b"new"
    link.has = b"old"
    assert link.get_status() == 204 and told == [] and link.tried[-1] == b"old"
    link.has = b"new"
    assert link.get_status() == 204 and told == [b"new"]
    assert link.get_status() == 204 and told == [b"new"] and link.tried[-1] == b"new"


def test_the_change_of_certificate_is_told_also_when_the_network_fails_in_between():
    link = Certified("192.168.1.5", 8443, b"old", "secret")
    told = []
    link.next_der, link.changed, link.has = b"new", lambda: told.append(1), b"new"
    connect = link._connect

    async def failing_second():
        if link.tried == (b"old",):
            link.fails = 1
        await connect()

    link._connect = failing_second
    assert link.get_status() == "LinkError" and told == []
    assert link.get_status() == 204 and told == [1]


def test_a_handshake_waits_until_it_does_no_harm():
    order = []

    async def ready():
        order.append("ready")

    class Connection:
        def write(self, data):
            order.append("first bytes")
            raise OSError(5)

        async def drain(self):
            pass

        s = None

        def close(self):
            pass

    async def open_connection(host, port, **options):
        order.append("connected")
        Connection.s = Connection()
        return Connection(), None

    link = Link("192.168.1.5", 8443, b"", "secret", None, ready)
    link._context = object()
    before, asyncio.open_connection = asyncio.open_connection, open_connection
    try:
        asyncio.run(link.request("GET", "/a"))
    except LinkError:
        pass
    finally:
        asyncio.open_connection = before
    assert order == ["connected", "ready", "first bytes"]


class Pieces(Stream):
    """Gives at most 1000 bytes of its answer at a time, and then says that it is closed."""

    async def readinto(self, view):
        piece = self.answer[: min(1000, len(view))]
        self.answer = self.answer[len(piece) :]
        view[: len(piece)] = piece
        return len(piece)


def got(answer, most_bytes):
    link = Link("192.168.1.5", 8443, b"", "secret")
    link._stream = Pieces(answer)
    link._answering = True
    received = bytearray()
    status, headers = asyncio.run(link.get("/x", received.extend, most_bytes))
    return status, headers, bytes(received)


def test_a_long_body_goes_to_a_sink_in_pieces():
    body = bytes(range(256)) * 40
    head = b"HTTP/1.1 200 x\r\nOffbeat-HMAC: 5\r\nContent-Length: %d\r\n\r\n"
    status, headers, received = got(head % len(body) + body, len(body))
    assert (status, headers["offbeat-hmac"], received) == (200, "5", body)
    assert got(head % 0, 0)[2] == b""
    status, _, received = got(b"HTTP/1.1 404 x\r\nContent-Length: 2\r\n\r\n{}", 1)
    assert (status, received) == (404, b"")  # an error is not for the sink
    for answer, most_bytes in ((head % len(body) + body, len(body) - 1), (head % 5 + body, 5)):
        assert "refused" in refused(got, answer, most_bytes)
    assert "closed" in refused(got, head % len(body) + body[:5000], len(body))
    assert "refused" in refused(got, b"HTTP/1.1 500 x\r\nContent-Length: 4097\r\n\r\n", 1 << 18)
