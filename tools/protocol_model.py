"""The server's end of docs/protocol.md as a strict model: no network, no disk, no clock. For tests and simulations.

It answers as the protocol says, keeps what it got, and counts what a gadget does that the protocol does not allow.
Runs on MicroPython, too, so that power cuts can be tried in one process with the firmware.
"""

import binascii
import hashlib
import json

TYPE_CHECKING = False  # for the type checker alone: MicroPython has no `typing`
if TYPE_CHECKING:
    from typing import Any

NOTES = "/api/device/notes/"
CHECK_IN = "/api/device/check-in"
_HEX = "0123456789abcdef"


class Note:
    """data: the bytes so far. length, announced: what its PATCHes say of the whole. complete: confirmed."""

    def __init__(self, length: int, announced: str) -> None:
        self.data = bytearray()
        self.length = length
        self.announced = announced
        self.complete = False


class Model:
    """notes: by id, in the order of their arrival. violations: what a gadget did that it must not. full: refuse bytes
    with 507. check_ins: how many. The other attributes are what a check-in's answer brings.
    """

    def __init__(self, device: str, token: str) -> None:
        self.device = device
        self.token = token
        self.notes: dict = {}
        self.violations: list = []
        self.taken: set = set()  # ids that belong to a note of another length and digest
        self.full = False
        self.check_ins = 0
        self.revision = 0
        self.settings: dict = {}  # desired, of that revision
        self.update: Any = None  # the version that is offered, or None

    def clone(self) -> "Model":
        """Another server with the same notes."""
        other = Model(self.device, self.token)
        other.taken = set(self.taken)
        for note_id, note in self.notes.items():
            copy = Note(note.length, note.announced)
            copy.data, copy.complete = bytearray(note.data), note.complete
            other.notes[note_id] = copy
        return other

    def confirmed(self) -> dict:
        """The notes that were confirmed: id → bytes."""
        return {note_id: bytes(note.data) for note_id, note in self.notes.items() if note.complete}

    def answer(
        self, method: str, path: str, headers: dict, body: bytes = b"", time_ms: int = 0, whole: bool = True
    ) -> "Any":
        """(status, headers, body) for a request. headers: names in lower case. time_ms: the server's time. whole: False
        when the connection broke within the body: what arrived is kept, and the answer has nobody to go to.
        """
        if headers.get("authorization") != "Bearer " + self.token:
            self._violated(f"{method} without the token")
            return self._error(401)
        if headers.get("host") != "offbeat":
            self._violated(f"host is {headers.get('host')!r}")
        if method == "POST" and path == CHECK_IN:
            return self._check_in(headers, body, time_ms, whole)
        note_id = path[len(NOTES) :]
        if not path.startswith(NOTES) or method not in ("HEAD", "PATCH") or not self._is_id(note_id):
            self._violated(f"{method} {path}")
            return self._error(400)
        return self._head(note_id) if method == "HEAD" else self._patch(note_id, headers, body, whole)

    def _violated(self, what: str) -> None:
        self.violations.append(what)

    def _is_id(self, text: str) -> bool:
        tail = text[len(self.device) + 1 :]
        return text.startswith(self.device + "-") and len(tail) == 16 and all(c in _HEX for c in tail)

    def _error(self, status: int, headers: "Any" = None) -> "Any":
        return status, headers or {}, b'{"detail": "the model says no"}'

    def _head(self, note_id: str) -> "Any":
        note = self.notes.get(note_id)
        if note_id in self.taken:
            note = Note(1, "sha-256=:AAAA:")
            note.complete = True
        if note is None:
            return 404, {}, b""
        length = str(note.length if note.complete else len(note.data))
        headers = {"upload-offset": length, "upload-complete": "?1" if note.complete else "?0"}
        if note.complete:
            headers["upload-length"] = length
            headers["repr-digest"] = note.announced
        return 204, headers, b""

    def _patch(self, note_id: str, headers: dict, body: bytes, whole: bool) -> "Any":
        try:
            offset, length = int(headers["upload-offset"]), int(headers["upload-length"])
            announced, last = headers["repr-digest"], {"?0": False, "?1": True}[headers["upload-complete"]]
            mark, now_ms, asleep_ms = headers["offbeat-counter"].split(" ")
            good = headers["content-type"] == "application/partial-upload" and announced.startswith("sha-256=:")
            good = good and len(mark) == 8 and 0 <= int(asleep_ms) <= int(now_ms) and offset <= length
            good = good and (not whole or (offset + len(body) == length) == last)
        except (KeyError, ValueError):
            good = False
        if not good:
            self._violated(f"the headers of a PATCH: {headers!r}")
            return self._error(400)
        note = self.notes.get(note_id)
        if note_id in self.taken or (note is not None and (note.length, note.announced) != (length, announced)):
            return self._error(409)
        if self.full:
            return self._error(507)
        if note is None:
            note = self.notes[note_id] = Note(length, announced)
        if note.complete:
            return self._confirm(note_id, note)
        if offset != len(note.data):
            return self._error(409, {"upload-offset": str(len(note.data))})
        note.data.extend(body[: length - offset])
        if len(note.data) < length:
            return 204, {"upload-offset": str(len(note.data)), "upload-complete": "?0"}, b""
        digest = binascii.b2a_base64(hashlib.sha256(note.data).digest()).decode().strip()
        if announced != f"sha-256=:{digest}:":
            self._violated(f"the digest of {note_id}")
            del self.notes[note_id]
            return self._error(422)
        note.complete = True
        return self._confirm(note_id, note)

    def _confirm(self, note_id: str, note: Note) -> "Any":
        sha256 = binascii.hexlify(hashlib.sha256(note.data).digest()).decode()
        return 200, {}, json.dumps({"id": note_id, "length": len(note.data), "sha256": sha256}).encode()

    def _check_in(self, headers: dict, body: bytes, time_ms: int, whole: bool) -> "Any":
        if whole and (not isinstance(json.loads(body), dict) or headers.get("content-type") != "application/json"):
            self._violated("a check-in that is no JSON object")
            return self._error(400)
        self.check_ins += 1
        answer = {"time_ms": time_ms, "revision": self.revision}
        report = json.loads(body) if whole else {}
        if whole and report.get("revision") != self.revision:
            answer["settings"] = self.settings
        if self.update is not None and report.get("version") != self.update:
            answer["update"] = {"version": self.update}
        return 200, {}, json.dumps(answer).encode()
