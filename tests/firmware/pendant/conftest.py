"""A small server of docs/protocol.md that can be made to misbehave, and a pendant on the simulated board beside it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loopback_http
import numpy as np
import pendant_simulation
import pytest
from sim.board import FIRMWARE, Board

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "t" * 43


class FakeServer:
    """Notes as they arrive, by id, and what was asked of it. Faults are set from outside, at any time."""

    def __init__(self, certificate: Callable[..., tuple[Path, Path, bytes]]) -> None:
        chain, key, self.der = certificate()
        self.stored: dict[str, bytearray] = {}
        self.digests: dict[str, str] = {}
        self.complete: set[str] = set()
        self.requests: list[str] = []
        self.refused: list[str] = []  # why a request was not as the protocol says
        self.connections = 0
        self.check_ins: list[dict[str, Any]] = []
        self.cut_every_bytes = 0  # close the connection after so many bytes of a body
        self.answers: list[tuple[int, bytes]] = []  # instead of the next answers to PATCH
        self.taken: set[str] = set()  # ids that belong to another note
        self.all_taken = False
        self.update: tuple[str, dict[str, bytes]] | None = None  # offered: version; path → content
        owner = self

        class Handler(_Handler):
            server_of_notes = owner

        class Listener(loopback_http.Server):
            def get_request(self) -> tuple[Any, Any]:
                owner.connections += 1
                return super().get_request()

        self._server = Listener(Handler, (chain, key))
        self.port = self._server.server_port

    def close(self) -> None:
        self._server.close()

    def notes(self) -> dict[str, bytes]:
        """The notes that were confirmed."""
        return {note: bytes(self.stored[note]) for note in self.complete}


class _Handler(loopback_http.Handler):
    server_of_notes: FakeServer

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: Any = None) -> None:
        self.answer(status, headers, b"" if body is None else json.dumps(body).encode())

    def _begin(self) -> str:
        server = self.server_of_notes
        server.requests.append(f"{self.command} {self.path}")
        if self.headers["Authorization"] != "Bearer " + TOKEN or self.headers["Host"] != "offbeat":
            server.refused.append(f"headers of {self.command}")
        return self.path.rsplit("/", 1)[1]

    def do_HEAD(self) -> None:
        server, note = self.server_of_notes, self._begin()
        data = server.stored.get(note)
        if note in server.taken or server.all_taken:
            length = {"Upload-Offset": "7", "Upload-Complete": "?1", "Upload-Length": "7"}
            self._answer(204, length | {"Repr-Digest": "sha-256=:AAAA:"})
        elif data is None:
            self._answer(404)
        elif note in server.complete:
            full = {"Upload-Offset": str(len(data)), "Upload-Complete": "?1", "Upload-Length": str(len(data))}
            self._answer(204, full | {"Repr-Digest": server.digests[note]})
        else:
            self._answer(204, {"Upload-Offset": str(len(data)), "Upload-Complete": "?0"})

    def do_PATCH(self) -> None:
        server, note = self.server_of_notes, self._begin()
        length, offset = int(self.headers["Content-Length"]), int(self.headers["Upload-Offset"])
        body = b""
        data = server.stored.setdefault(note, bytearray())
        wanted = server.cut_every_bytes or length
        while len(body) < min(length, wanted):
            piece = self.rfile.read(min(1024, min(length, wanted) - len(body)))
            if not piece:
                break
            body += piece
        if offset == len(data) and note not in server.complete:
            data += body
        if len(body) < length:
            self.close_connection = True
            return
        if server.answers:
            status, raw = server.answers.pop(0)
            self.wfile.write(raw) if raw else self._answer(status, body={"detail": "as the test wants it"})
            self.close_connection = bool(raw)
            return
        if offset + len(body) != len(data):
            self._answer(409, {"Upload-Offset": str(len(data))})
        elif self.headers["Upload-Complete"] == "?0":
            self._answer(204, {"Upload-Offset": str(len(data)), "Upload-Complete": "?0"})
        else:
            digest = hashlib.sha256(data)
            announced = "sha-256=:" + base64.b64encode(digest.digest()).decode() + ":"
            if self.headers["Repr-Digest"] != announced or int(self.headers["Upload-Length"]) != len(data):
                server.refused.append("digest or length of a whole note")
                self._answer(422)
                data.clear()
                return
            server.complete.add(note)
            server.digests[note] = announced
            self._answer(200, body={"id": note, "length": len(data), "sha256": digest.hexdigest()})

    def do_GET(self) -> None:
        server, digest = self.server_of_notes, self._begin()
        assert server.update is not None
        version, files = server.update
        by_digest = {hashlib.sha256(content).hexdigest(): (path, content) for path, content in files.items()}
        headers = {}
        if digest == version:
            listed = [[path, len(content), sha256] for sha256, (path, content) in by_digest.items()]
            manifest = {"version": version, "app": "pendant", "mpy": server.check_ins[-1]["mpy"], "files": listed}
            body = json.dumps(manifest).encode()
            key = hashlib.sha256(TOKEN.encode()).digest()
            headers["Offbeat-HMAC"] = hmac.new(key, body, "sha256").hexdigest()
        else:
            body = by_digest[digest][1]
        self.answer(200, headers, body)

    def do_POST(self) -> None:
        self._begin()
        self.server_of_notes.check_ins.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        answer: dict[str, Any] = {"time_ms": time.time_ns() // 1_000_000, "revision": 0}
        if self.server_of_notes.update is not None:
            answer["update"] = {"version": self.server_of_notes.update[0]}
        self._answer(200, body=answer)


@pytest.fixture
def server(certificate: Any) -> Iterator[FakeServer]:
    server = FakeServer(certificate)
    yield server
    server.close()


@pytest.fixture
def pendant(tmp_path: Path, server: FakeServer) -> Iterator[Callable[..., Board]]:
    """pendant(**options of Board): a pendant beside `server`, not yet started. The test fails if one writes to its
    flash while it records.
    """
    boards: list[Board] = []

    def make(**options: Any) -> Board:
        options.setdefault("board", json.loads((ROOT / "boards/xiao-esp32s3/board.json").read_text()))
        config = {
            "app": "pendant",
            "device": "p7",
            "token": TOKEN,
            "server": {"host": "127.0.0.1", "port": server.port},
            "wifi": [{"ssid": "home", "password": "secret-password"}],
        } | options.pop("config", {})
        files = {"server.der": server.der} | options.pop("files", {})
        firmware = pendant_simulation.watched(options.pop("firmware", FIRMWARE), tmp_path / f"firmware-{len(boards)}")
        options["firmware"] = firmware
        board = Board(tmp_path / f"board-{len(boards)}", config=config, files=files, **options)
        boards.append(board)
        return board

    yield make
    for board in boards:
        board.close()
    for board in boards:
        assert pendant_simulation.FLASHED not in board.console


@pytest.fixture
def sound(tmp_path: Path) -> Callable[[float], tuple[Path, Any]]:
    """sound(seconds): a WAV of a sweep with pauses, and its samples, int16 at 16 kHz."""

    def make(seconds: float) -> tuple[Path, Any]:
        t = np.arange(round(seconds * 16000)) / 16000
        envelope = 0.5 * (np.sin(2 * np.pi * 1.3 * t) > -0.5)
        samples = (envelope * 20000 * np.sin(2 * np.pi * (300 * t + 400 * t**2 / max(seconds, 1)))).astype("<i2")
        path = tmp_path / f"sound-{seconds}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(samples.tobytes())
        return path, samples

    return make
