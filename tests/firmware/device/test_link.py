"""What a link takes for an answer, and the bytes that it sends."""

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
