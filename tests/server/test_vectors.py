"""The golden vectors of docs/protocol.md, which the firmware's tests read too, against the real server."""

import hashlib
import io
import json
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np
from device_client import read_answer
from house import House
from offbeat import sound, wav

VECTORS = Path(__file__).parent.parent / "vectors"


def vector(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def test_upload(house: House) -> None:
    upload = vector("upload.json")
    server = house.server
    assert server.add_device(upload["device"], "pendant").id == upload["device"]
    # The vectors bring their own token: the device gets it in place of the one that was made for it.
    connection = sqlite3.connect(server.data / "offbeat.sqlite", isolation_level=None, timeout=10)
    digest = hashlib.sha256(upload["token"].encode()).hexdigest()
    connection.execute("UPDATE devices SET token_hash = ? WHERE id = ?", (digest, upload["device"]))
    connection.close()
    exchanges = upload["exchanges"]
    assert len(exchanges) >= 5
    with server.connect() as connection:
        for exchange in exchanges:
            request = exchange["request"]
            connection.sendall(request.encode("ascii") + bytes.fromhex(exchange["body_hex"]))
            answer = read_answer(connection, request.split()[0])
            wanted = exchange["response"]
            assert answer.status == wanted["status"], request
            for name, value in wanted["headers"].items():
                assert answer.headers.get(name) == value, request
            if "upload-offset" not in wanted["headers"]:
                assert "upload-offset" not in answer.headers, request
            if wanted["json"] is not None and "time_ms" in wanted["json"]:
                assert type(answer.json["time_ms"]) is int
                assert {**answer.json, "time_ms": wanted["json"]["time_ms"]} == wanted["json"]
            elif wanted["json"] is not None:
                assert answer.json == wanted["json"], request


def test_note(tmp_path: Path) -> None:
    note = vector("note.json")
    content = bytes.fromhex(note["file_hex"])
    assert hashlib.sha256(content).hexdigest() == note["sha256"]
    recording = wav.read(io.BytesIO(content), len(content))
    spoken = bytes.fromhex(note["samples_hex"])
    assert recording.samples == len(spoken) // 2
    assert recording.rate_hz == 16000
    assert recording.metadata == {
        key: note[key] for key in ("id", "counter", "start_ms", "lost", "asleep_ms", "anchor", "after_ms")
    }
    path = tmp_path / "note.wav"
    path.write_bytes(content)
    decoded = np.concatenate(list(sound.decode(path)))
    assert len(decoded) == recording.samples
    original = np.array(struct.unpack(f"<{recording.samples}h", spoken), np.float64)
    # Each block begins with a sample as it was; between, the encoding loses a little, and here full-scale jumps.
    place = content.index(b"data") + 8
    heads = [struct.unpack_from("<h", content, place + start)[0] for start in range(0, len(content) - place, 256)]
    assert list(decoded[::505]) == heads == list(original[::505])
    noise = np.mean((decoded - original) ** 2)
    assert 10 * np.log10(np.mean(original**2) / noise) > 6
