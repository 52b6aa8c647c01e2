"""HTTP/1.1 over verified TLS to the one server that the device is paired with; the connection is kept and reused.

The server is verified against its pinned certificate with the host name `offbeat`, whatever address is dialled
(docs/protocol.md). Everything that comes back is bounded, and every wait has a time-out. A call may be repeated with no
harm, so a request to which nothing of an answer came over the kept connection, because it was closed or for a time-out,
is sent once more over a new one: it may wait twice for each of them.
"""

import asyncio
import gc

TYPE_CHECKING = False  # for the type checker alone: the chip has no `typing`
if TYPE_CHECKING:
    from typing import Any

NAME = "offbeat"  # in the certificate, and in `Host`
CONNECT_S = 15  # the handshake alone blocks for most of a second on the chip
STEP_S = 10  # for each piece written
ANSWER_S = 30  # for a whole answer; the server syncs to disk and commits before it answers
PIECE_BYTES = 2048
HEAD_BYTES = 2048  # longest answer head
BODY_BYTES = 4096  # longest answer body that is returned
SLOWEST_BYTES_PER_S = 4096  # of a longer one: it is given so much longer


class LinkError(OSError):
    """No answer, or one that is not to be trusted. The connection is closed; try again later."""


class Unverified(LinkError):
    """The server has not the certificate that it should have."""


class Link:
    """`certificate_der`: the pinned certificate; `token`: the bearer token, never logged. One request at a time.

    `find`: a coroutine function of (host, port, timeout_ms) that gives a numeric (address, port), for those who cannot
    be held up by a look-up; without it the chip's blocking one is used.
    `ready`: a coroutine function that waits, 5 s at most, for a moment when the TLS handshake, which blocks, does no
    harm. The attribute `next_der`: the certificate that the server will change to, or None. When the pinned one does
    not verify the server and this one does, the two change places, and the function `changed` (or None) is called.
    """

    def __init__(self, host: str, port: int, certificate_der: bytes, token: str, find=None, ready=None):
        self._address = (host, port)
        self._find = find
        self._ready = ready
        self.next_der: Any = None
        self.changed: Any = None
        self._other = False  # the certificate in use is the next one, which has not verified a server yet
        self._token = token
        self._certificate = certificate_der
        self._context: Any = None
        self._stream: Any = None
        self._answering = False  # the first byte of the present answer has come
        self.reached = False  # the last request had a connection, verified, and its head was sent
        self._buffer = memoryview(bytearray(max(PIECE_BYTES, HEAD_BYTES)))

    async def request(self, method: str, path: str, headers=(), body=None, into=None):
        """Send a request and read its answer: (status, headers, body).

        `headers`: pairs in the order in which they are sent, or a function that returns them, called (again) when the
        connection is there. `body`: None, bytes, or (file, offset, length) of an open
        binary file. Returns the status as an int, the headers in a dict with lower-case names, the body as bytes of at
        most 4 kB. Raises LinkError. Cancelling it closes the connection. `into`: None, or (sink, most bytes): the body
        of an answer 200 is handed to the function `sink` in pieces of at most 2 kB instead.
        """
        reused = self._stream is not None
        try:
            answer = await self._exchange(method, path, headers, body, into)
        except Unverified:
            if self.next_der is None:
                raise
            self._take_other()
            try:
                answer = await self._exchange(method, path, headers, body, into)
            except Unverified:
                self._take_other()
                raise
        except LinkError:
            if not reused or self._answering:
                raise
            answer = await self._exchange(method, path, headers, body, into)
        if self._other:
            self._other = False
            if self.changed is not None:
                self.changed()
        return answer

    async def get(self, path: str, sink, most_bytes: int):
        """GET: the body of an answer 200, of at most most_bytes, goes to `sink(piece)`. Returns (status, headers).

        A piece is a memoryview of at most 2 kB, which `sink` must not keep. Raises LinkError: what `sink` was given
        by then is not the whole.
        """
        return (await self.request("GET", path, into=(sink, most_bytes)))[:2]

    def certificates(self) -> tuple:
        """The pinned one, and the next if there is one."""
        return (self._certificate,) if self.next_der is None else (self._certificate, self.next_der)

    def _take_other(self):
        """Try the next certificate in place of the pinned one, or the pinned one again."""
        self._certificate, self.next_der = self.next_der, self._certificate
        self._other = not self._other
        self._context = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as known: the next request most likely needs no handshake."""
        return self._stream is not None

    def close(self):
        """Drop the connection; the next request makes a new one."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            try:
                stream.s.close()
            except OSError:
                pass  # it is gone already, which is what was wanted

    def _head(self, method, path, headers, body):
        lines = [
            "%s %s HTTP/1.1" % (method, path),
            "Host: " + NAME,
            "Authorization: Bearer " + self._token,
        ]
        for name, value in headers() if callable(headers) else headers:
            lines.append("%s: %s" % (name, value))
        if body is not None:
            lines.append("Content-Length: %d" % (body[2] if isinstance(body, tuple) else len(body)))
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def _exchange(self, method, path, headers, body, into):
        finished = False
        self._answering = self.reached = False
        try:
            if self._stream is None:
                await self._bounded(self._connect(), CONNECT_S, "connecting")
            await self._send(self._head(method, path, headers, body))
            self.reached = True
            if isinstance(body, tuple):
                await self._send_file(*body)
            elif body:
                for at in range(0, len(body), PIECE_BYTES):
                    await self._send(body[at : at + PIECE_BYTES])
            seconds = ANSWER_S + (into[1] // SLOWEST_BYTES_PER_S if into else 0)
            status, answered, content, keep = await self._bounded(self._answer(method, into), seconds, "the answer")
            finished = keep
            return status, answered, content
        except LinkError:
            raise
        except ValueError as e:  # so mbedTLS reports a refused certificate, at the first bytes sent
            raise Unverified("%s: %s" % (type(e).__name__, e))
        except (OSError, EOFError) as e:
            raise LinkError("%s: %s" % (type(e).__name__, e))
        finally:
            if not finished:  # whatever ended it, a cancellation included: the state of the connection is not known
                self.close()

    async def _bounded(self, work, seconds, what):
        try:
            return await asyncio.wait_for(work, seconds)
        except asyncio.TimeoutError:
            raise LinkError("%s took over %d s" % (what, seconds))

    async def _connect(self):
        if self._context is None:
            import tls

            context: Any = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
            context.verify_mode = tls.CERT_REQUIRED
            context.load_verify_locations(self._certificate)
            self._context = context
        gc.collect()  # a connection given up while it was made leaves a socket that only the collector closes
        host, port = self._address
        if self._find is not None:
            host = (await self._find(host, port, CONNECT_S * 1000))[0]
        self._stream, _ = await asyncio.open_connection(host, port, ssl=self._context, server_hostname=NAME)
        if self._ready is not None:
            await self._ready()

    async def _send(self, data):
        self._stream.write(data)
        await self._bounded(self._stream.drain(), STEP_S, "sending")

    async def _send_file(self, file, offset, length):
        file.seek(offset)
        while length:
            count = file.readinto(self._buffer[: min(PIECE_BYTES, length)])
            if not count:
                raise LinkError("the file ended %d bytes early" % length)
            await self._send(self._buffer[:count])
            length -= count

    async def _receive(self, view):
        """Some bytes into `view`: how many, at least 1."""
        while True:
            count = await self._stream.readinto(view)
            if count:
                self._answering = True
                return count
            if count == 0:
                raise LinkError("closed by the server")
            # None: TLS took a record that held no data for us

    async def _answer(self, method, into):
        have = 0
        while True:
            if have == HEAD_BYTES:
                raise LinkError("answer refused: its head is over %d bytes" % HEAD_BYTES)
            have += await self._receive(self._buffer[have:HEAD_BYTES])
            received = bytes(self._buffer[:have])
            end = received.find(b"\r\n\r\n")
            if end >= 0:
                break
        status, headers = parse_head(received[:end])
        body = received[end + 4 :]
        sink, most_bytes = into if into and status == 200 else (None, BODY_BYTES)
        length = body_length(method, status, headers, most_bytes)
        if len(body) > length:
            raise LinkError("answer refused: more bytes than it announced")
        if sink:
            length -= len(body)
            sink(body)
            body = b""
            while length:
                have = await self._receive(self._buffer[: min(PIECE_BYTES, length)])
                sink(self._buffer[:have])
                length -= have
        elif len(body) < length:
            rest = memoryview(bytearray(length))
            rest[: len(body)] = body
            have = len(body)
            while have < length:
                have += await self._receive(rest[have:])
            body = bytes(rest)
        return status, headers, body, headers.get("connection", "").lower() != "close"


def parse_head(head: bytes):
    """(status, headers) of an answer's head without its last empty line. LinkError if it is malformed or redirects."""
    lines = head.split(b"\r\n")
    parts = lines[0].split(b" ", 2)
    if len(parts) < 2 or parts[0] != b"HTTP/1.1" or len(parts[1]) != 3 or not parts[1].isdigit():
        raise LinkError("answer refused: not HTTP/1.1")
    status = int(parts[1])
    if not 200 <= status < 600:
        raise LinkError("answer refused: status %d" % status)
    if 300 <= status < 400:
        raise LinkError("answer refused: redirect, status %d" % status)
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise LinkError("answer refused: malformed header")
        try:
            headers[name.decode().lower()] = value.strip().decode()
        except UnicodeError:
            raise LinkError("answer refused: malformed header")
    return status, headers


def body_length(method: str, status: int, headers: dict, most_bytes: int = BODY_BYTES) -> int:
    """Bytes of the body that follows, from 0 to most_bytes. LinkError if it is unknown or longer."""
    if method == "HEAD" or status == 204:
        return 0
    if "transfer-encoding" in headers:
        raise LinkError("answer refused: Transfer-Encoding is not used here")
    text = headers.get("content-length", "")
    if not text.isdigit() or len(text) > 9:
        raise LinkError("answer refused: Content-Length is %r" % text[:20])
    if int(text) > most_bytes:
        raise LinkError("answer refused: %s bytes are over %d" % (text, most_bytes))
    return int(text)
