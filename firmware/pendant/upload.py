"""Talking to the server as docs/protocol.md has it: notes, resumable and confirmed, and the check-in."""

import asyncio
import binascii
import hashlib
import json

from device import log
from device.link import LinkError

PIECE_BYTES = 32768  # of a note in one request
MOST_STUMBLES = 4  # answers without progress, for one note in one go
_PATH = "/api/device/notes/"
MOST_RENEWED = 8  # notes given a new id in one talk: a server that knows every id already is mad
_REFUSALS = (400, 413)  # of this note
_OF_ALL = (401, 403, 503, 507)  # would be answered to each note


class Refused(Exception):
    """The server will not take this note as it stands; trying again soon does not help. The others may go."""


class Failed(LinkError):
    """The server answered as it should not, perhaps to this note alone."""


class Unavailable(LinkError):
    """The server answered what it would answer to any note."""


class Upload:
    """`link`: device.link.Link; `spool`: the Spool; `now`: called, returns (counter's mark, its milliseconds,
    the part of them asleep).
    """

    def __init__(self, link, spool, now):
        self._link = link
        self._spool = spool
        self._now = now
        self._buffer = memoryview(bytearray(2048))
        self.advances = 0  # how often the server had more than before: a note, or a part of one
        self._furthest = (None, 0)  # the last note, and the most that the server had of it
        self._refused = None  # the last note that was refused: it and those before it are left out
        self._failed = None  # the note at which the last talk ended, though the server was there

    def try_again(self):
        """What the server refused is sent with the rest the next time."""
        self._refused = None

    async def send_all(self):
        """Send all that waits, the oldest first, but what the server refused before. Returns how many were delivered
        and how many refused. LinkError when there is no getting on: what is not delivered waits.

        Where the last talk ended at one note, those behind it come first, so that it cannot block them. A note that
        cannot be read counts as refused.
        """
        while not self._spool.load():
            await asyncio.sleep(0)  # the button may want the board
        delivered = refused = renewed = 0
        behind, self._failed = self._failed, None
        first_pass = behind is not None
        while renewed <= MOST_RENEWED:
            note_id = self._spool.first(behind if first_pass else self._refused)
            if note_id is None:
                if not first_pass:
                    break
                first_pass = False
                continue
            advances = self.advances
            try:
                if await self.send(note_id):
                    log.info("delivered %s" % note_id)
                    delivered += 1
                else:
                    renewed += 1
            except LinkError as e:
                of_all = isinstance(e, Unavailable) or not self._link.reached or self.advances != advances
                if isinstance(e, Failed) or not of_all:
                    self._failed = note_id
                raise
            except (Refused, OSError) as e:
                log.error("%s stays here" % note_id, e)
                self._refused = behind = note_id
                refused += 1
        return delivered, refused

    def stuck(self) -> bool:
        """Whether the last talk ended at one note, though the server was there."""
        return self._failed is not None

    async def send(self, note_id: str) -> bool:
        """Bring one note to the server. True: confirmed and deleted here. False: the server has another note under this
        id, so it was given a new one and waits. LinkError: try later. Refused: the note is kept.
        """
        with open(self._spool.path(note_id), "rb") as file:
            digest, length = await self._digest(file)
            answer = await self._upload(note_id, file, digest, length)
        if answer is None:
            self._spool.renew(note_id)
            return False
        if not self._spool.confirm(note_id, length, binascii.hexlify(digest).decode(), answer):
            raise Failed("the server confirmed something else than %s" % note_id)
        self.advances += 1
        return True

    def _reached(self, note_id, headers):
        """The offset that the server tells. What it drops and takes once more does not count as an advance."""
        offset = _offset(headers)
        last, furthest = self._furthest
        if note_id != last:
            self._furthest = (note_id, offset)
        elif offset > furthest:
            self._furthest = (note_id, offset)
            self.advances += 1
        return offset

    async def _upload(self, note_id, file, digest, length):
        """What the server confirms, as a dict; None if the id is another note's."""
        announced = "sha-256=:%s:" % binascii.b2a_base64(digest).decode().strip()
        path = _PATH + note_id
        status, headers, body = await self._link.request("HEAD", path)
        if status == 404:
            offset = self._reached(note_id, {"upload-offset": "0"})
        elif status == 204 and headers.get("upload-complete") == "?1":
            if headers.get("upload-length") != str(length) or headers.get("repr-digest") != announced:
                return None
            return {"id": note_id, "length": length, "sha256": binascii.hexlify(digest).decode()}
        elif status == 204:
            offset = self._reached(note_id, headers)
        else:
            raise _failure(status, body)
        stumbles = 0
        while offset <= length and stumbles <= MOST_STUMBLES:
            count = min(PIECE_BYTES, length - offset)
            fixed = (
                ("Content-Type", "application/partial-upload"),
                ("Upload-Offset", offset),
                ("Upload-Complete", "?1" if offset + count == length else "?0"),
                ("Upload-Length", length),
                ("Repr-Digest", announced),
            )

            def head(fixed=fixed):  # called when it is sent: connecting first may take 15 s
                return fixed + (("Offbeat-Counter", "%s %d %d" % self._now()),)

            status, headers, body = await self._link.request("PATCH", path, head, (file, offset, count))
            if status == 200:
                return _object(body)
            before = offset
            if status == 204 or (status == 409 and "upload-offset" in headers):
                offset = self._reached(note_id, headers)
            elif status == 409:
                return None
            elif status == 422:
                offset = 0
            else:
                raise _failure(status, body)
            if status != 204 or offset <= before:
                stumbles += 1
        if offset > length:
            return None  # more is stored under this id than this note has: it is another's
        raise Failed("no progress with %s" % note_id)

    async def _digest(self, file):
        """(SHA-256, length) of an open file."""
        digest = hashlib.sha256()
        length = 0
        while True:
            count = file.readinto(self._buffer)
            if not count:
                return digest.digest(), length
            digest.update(self._buffer[:count])
            length += count
            await asyncio.sleep(0)  # the button may want the board


def _offset(headers):
    text = headers.get("upload-offset", "")
    if not text.isdigit() or len(text) > 9:
        raise LinkError("answer refused: Upload-Offset is %r" % text[:20])
    return int(text)


def _object(body):
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise LinkError("answer refused: its body is not a JSON object")
    return value


def _failure(status, body):
    try:
        detail = _object(body).get("detail")
    except LinkError:
        detail = None
    text = "the server answered %d" % status + (": %s" % detail if isinstance(detail, str) else "")
    if status in (401, 403):
        text = "pair this device anew and put its name and token into config.json: " + text
    return (Refused if status in _REFUSALS else Unavailable if status in _OF_ALL else Failed)(text[:160])
