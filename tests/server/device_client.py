"""A device as docs/protocol.md has it, over a plain socket: what the tests of the device port speak."""

import base64
import hashlib
import http.client
import json
import math
import secrets
import ssl
import struct
from dataclasses import dataclass
from typing import Any

from server_process import Device, ServerProcess

BLOCK_BYTES, BLOCK_SAMPLES = 256, 505
COUNTER = "0123abcd"
NOW_MS = 100_000


def wav_bytes(blocks: bytes, samples: int, metadata: dict[str, Any] | None = None) -> bytes:
    """A note's file around ADPCM blocks."""
    values = {"id": "x", "counter": COUNTER, "start_ms": NOW_MS - 60_000, "lost": 0, "asleep_ms": 0}
    comment = json.dumps(values if metadata is None else metadata).encode()
    comment += b" " * (len(comment) % 2)
    form = struct.pack("<4sIHHIIHHHH", b"fmt ", 20, 0x11, 1, 16000, 8110, BLOCK_BYTES, 4, 2, BLOCK_SAMPLES)
    fact = struct.pack("<4sII", b"fact", 4, samples)
    info = b"INFO" + struct.pack("<4sI", b"ICMT", len(comment)) + comment
    rest = b"WAVE" + form + fact + struct.pack("<4sI", b"LIST", len(info)) + info
    rest += struct.pack("<4sI", b"data", len(blocks)) + blocks
    return struct.pack("<4sI", b"RIFF", len(rest)) + rest


def silence(duration_s: float) -> bytes:
    """A note of pure silence."""
    blocks = math.ceil(duration_s * 16000 / BLOCK_SAMPLES)
    return wav_bytes(bytes(BLOCK_BYTES) * blocks, int(duration_s * 16000))


def encoded(samples: Any) -> bytes:
    """A note of 16-bit samples at 16,000 Hz, encoded by ffmpeg's own encoder (PyAV)."""
    import io

    import av
    import numpy as np

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("adpcm_ima_wav", rate=16000, layout="mono", options={"block_size": "256"})
        whole = np.pad(samples, (0, -len(samples) % BLOCK_SAMPLES)).astype(np.int16)
        for start in range(0, len(whole), BLOCK_SAMPLES):
            frame = av.AudioFrame.from_ndarray(whole[None, start : start + BLOCK_SAMPLES], "s16p", "mono")
            frame.sample_rate = 16000
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = buffer.getvalue()
    start = content.index(b"data") + 8
    blocks = content[start : start + int.from_bytes(content[start - 4 : start], "little")]
    return wav_bytes(blocks, len(samples))


@dataclass(frozen=True)
class Answer:
    """What the server said; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def read_answer(connection: ssl.SSLSocket, method: str) -> Answer:
    """One answer off a connection."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    body = response.read()
    return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, body)


class DeviceClient:
    """A device's side of the protocol, one connection a request unless one is given."""

    def __init__(self, server: ServerProcess, device: Device) -> None:
        self.server = server
        self.device = device

    def new_id(self) -> str:
        return f"{self.device.id}-{secrets.token_hex(8)}"

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        token: str | None = None,
    ) -> Answer:
        with self.server.connect() as connection:
            connection.sendall(self.head(method, path, headers or {}, token) + body)
            return read_answer(connection, method)

    def head(self, method: str, path: str, headers: dict[str, str], token: str | None = None) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: offbeat"]
        if "Authorization" not in headers:
            lines.append(f"Authorization: Bearer {token or self.device.token}")
        lines += [f"{key}: {value}" for key, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def append_headers(self, note: bytes, offset: int, body: bytes, **changes: str | None) -> dict[str, str]:
        """The headers of a PATCH; a change is the header's name with `_` for `-`, None leaves it out."""
        digest = base64.b64encode(hashlib.sha256(note).digest()).decode()
        headers: dict[str, str | None] = {
            "Content-Type": "application/partial-upload",
            "Upload-Offset": str(offset),
            "Upload-Complete": "?1" if offset + len(body) == len(note) else "?0",
            "Upload-Length": str(len(note)),
            "Repr-Digest": f"sha-256=:{digest}:",
            "Offbeat-Counter": f"{COUNTER} {NOW_MS} 0",
            "Content-Length": str(len(body)),
        }
        headers |= {key.replace("_", "-"): value for key, value in changes.items()}
        return {key: value for key, value in headers.items() if value is not None}

    def patch(
        self, note_id: str, note: bytes, offset: int = 0, body: bytes | None = None, **changes: str | None
    ) -> Answer:
        body = note[offset:] if body is None else body
        headers = self.append_headers(note, offset, body, **changes)
        return self.request("PATCH", f"/api/device/notes/{note_id}", headers, body)

    def standing(self, note_id: str) -> Answer:
        return self.request("HEAD", f"/api/device/notes/{note_id}")
