"""The device port over real TLS: docs/protocol.md, uploading and check-in."""

import hashlib
import json
import socket
import time
from datetime import datetime
from typing import Any

import pytest
from device_client import Answer, DeviceClient, read_answer, silence
from house import House
from server_process import until


def confirmed(answer: Answer, note_id: str, note: bytes) -> bool:
    wanted = {"id": note_id, "length": len(note), "sha256": hashlib.sha256(note).hexdigest()}
    return answer.status == 200 and answer.json == wanted


def stored(house: House, note_id: str) -> bytes:
    return (house.server.data / "notes" / f"{note_id}.wav").read_bytes()


def check_in(client: DeviceClient, report: Any, **headers: str) -> Answer:
    body = report if isinstance(report, bytes) else json.dumps(report).encode()
    values = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    return client.request("POST", "/api/device/check-in", values, body)


def test_one_piece(house: House) -> None:
    note_id, note = house.pendant.new_id(), silence(1)
    assert house.pendant.standing(note_id).status == 404
    assert confirmed(house.pendant.patch(note_id, note), note_id, note)
    assert stored(house, note_id) == note
    standing = house.pendant.standing(note_id)
    assert standing.status == 204
    assert standing.headers["upload-complete"] == "?1"
    assert standing.headers["upload-offset"] == standing.headers["upload-length"] == str(len(note))


def test_pieces(house: House) -> None:
    note_id, note = house.pendant.new_id(), silence(1)
    for offset in range(0, len(note), 1000):
        answer = house.pendant.patch(note_id, note, offset, note[offset : offset + 1000])
        if offset + 1000 < len(note):
            assert (answer.status, answer.headers["upload-complete"]) == (204, "?0")
            assert answer.headers["upload-offset"] == str(offset + 1000)
            standing = house.pendant.standing(note_id)
            assert (standing.headers["upload-offset"], standing.headers["upload-complete"]) == (
                str(offset + 1000),
                "?0",
            )
    assert confirmed(answer, note_id, note)
    assert stored(house, note_id) == note


def test_last_piece_may_be_empty(house: House) -> None:
    note_id, note = house.pendant.new_id(), silence(0.2)
    assert house.pendant.patch(note_id, note, Upload_Complete="?0").status == 204
    assert confirmed(house.pendant.patch(note_id, note, len(note), b""), note_id, note)


def test_repeated_is_one_note_and_one_delivery(house: House) -> None:
    note_id, note = house.pendant.new_id(), silence(1)
    for _ in range(3):
        assert confirmed(house.pendant.patch(note_id, note), note_id, note)
    assert confirmed(house.pendant.patch(note_id, note, 500, note[500:600]), note_id, note)
    until(lambda: house.bodies_of(note_id), 20, "the delivery")
    assert confirmed(house.pendant.patch(note_id, note), note_id, note)
    time.sleep(1.0)
    assert len(house.bodies_of(note_id)) == 1
    assert stored(house, note_id) == note


def test_cut_every_4_kB_is_one_note_and_one_delivery(house: House) -> None:
    note_id, note = house.pendant.new_id(), silence(8)
    connections = 0
    while True:
        standing = house.pendant.standing(note_id)
        offset = int(standing.headers.get("upload-offset", 0))
        if standing.headers.get("upload-complete") == "?1":
            break
        connections += 1
        # Each broken connection brings 4 kB nearer, or was seen by HEAD before its bytes were: then by the next one.
        assert connections <= 2 * len(note) // 4096 + 2, f"no progress: at {offset} of {len(note)}"
        head = house.pendant.head(
            "PATCH",
            f"/api/device/notes/{note_id}",
            house.pendant.append_headers(note, offset, note[offset:]),
        )
        with house.server.connect() as connection:
            connection.sendall(head + note[offset : offset + 4096])
            if offset + 4096 >= len(note):
                assert confirmed(read_answer(connection, "PATCH"), note_id, note)
    assert connections > len(note) // 4096
    assert stored(house, note_id) == note
    until(lambda: house.bodies_of(note_id), 20, "the delivery")
    assert len(house.bodies_of(note_id)) == 1
    rows = house.server.get("/api/notes?limit=200").json()["notes"]
    assert sum(row["id"] == note_id for row in rows) == 1


def test_offset_mismatch_tells_the_offset_and_keeps_the_connection(house: House) -> None:
    note_id, note = house.pendant.new_id(), silence(1)
    path = f"/api/device/notes/{note_id}"
    with house.server.connect() as connection:
        for offset, body, status, told in (
            (700, note[700:], 409, "0"),
            (0, note[:500], 204, "500"),
            (400, note[400:], 409, "500"),
            (900, note[900:], 409, "500"),
            (500, note[500:], 200, None),
        ):
            headers = house.pendant.append_headers(note, offset, body)
            connection.sendall(house.pendant.head("PATCH", path, headers) + body)
            answer = read_answer(connection, "PATCH")
            assert (answer.status, answer.headers.get("upload-offset")) == (status, told)
    assert stored(house, note_id) == note


def test_wrong_digest_drops_the_bytes(house: House) -> None:
    note_id, note, other = house.pendant.new_id(), silence(1), silence(1)[:-1] + b"x"
    digest = house.pendant.append_headers(other, 0, other)["Repr-Digest"]
    assert house.pendant.patch(note_id, note, Repr_Digest=digest).status == 422
    assert house.pendant.standing(note_id).status == 404
    assert not (house.server.data / "notes" / f"{note_id}.wav").exists()
    assert confirmed(house.pendant.patch(note_id, note), note_id, note)


@pytest.mark.parametrize("whole", [True, False])
def test_another_note_under_the_same_id(house: House, whole: bool) -> None:
    note_id, note = house.pendant.new_id(), silence(0.3)
    house.pendant.patch(note_id, note, 0, note if whole else note[:100])
    for other in (note[:-1] + b"x", note + b"xx"):
        answer = house.pendant.patch(note_id, other)
        assert answer.status == 409
        assert "upload-offset" not in answer.headers
    assert stored(house, note_id) == (note if whole else note[:100])


@pytest.mark.parametrize(
    "note_id",
    [
        "p1",
        "p1-0123",
        "p1-0123456789ABCDEF",
        "p1-0123456789abcdef0",
        "P1-0123456789abcdef",
        "p1-%00123456789abcde",
    ],
)
def test_malformed_ids(house: House, note_id: str) -> None:
    note = silence(0.1)
    assert house.pendant.patch(note_id, note).status == 400
    assert house.pendant.standing(note_id).status == 400


def test_ids_do_not_lead_out_of_the_folder(house: House) -> None:
    before = sorted(house.server.data.parent.rglob("*.wav"))
    for note_id in (
        "../p1-0123456789abcdef",
        "..%2fp1-0123456789abcdef",
        "%2e%2e%2fx",
        "p1-0123456789abcdef%2f..%2fx",
    ):
        assert house.pendant.patch(note_id, silence(0.1)).status in (400, 404)
    assert sorted(house.server.data.parent.rglob("*.wav")) == before


@pytest.mark.parametrize(
    "change",
    [
        {"Content_Type": "audio/wav"},
        {"Content_Type": None},
        {"Upload_Offset": "-1"},
        {"Upload_Offset": "1e3"},
        {"Upload_Offset": None},
        {"Upload_Complete": "1"},
        {"Upload_Complete": None},
        {"Upload_Complete": "?1", "Upload_Length": "99999"},
        {"Upload_Length": "10"},
        {"Upload_Length": "0"},
        {"Upload_Length": None},
        {"Repr_Digest": "sha-256=:AAAA:"},
        {"Repr_Digest": "md5=:" + "A" * 43 + "=:"},
        {"Repr_Digest": None},
        {"Offbeat_Counter": "0123abcd"},
        {"Offbeat_Counter": "0123ABCD 5"},
        {"Offbeat_Counter": "0123abcd -5"},
        {"Offbeat_Counter": None},
    ],
    ids=str,
)
def test_malformed_headers(house: House, change: dict[str, str | None]) -> None:
    note_id = house.pendant.new_id()
    answer = house.pendant.patch(note_id, silence(0.1), **change)
    assert answer.status == 400
    assert answer.json["detail"]
    assert house.pendant.standing(note_id).headers.get("upload-offset", "0") == "0"


def test_chunked_coding_is_refused(house: House) -> None:
    note_id, note = house.pendant.new_id(), silence(0.1)
    headers = house.pendant.append_headers(note, 0, note, Content_Length=None) | {"Transfer-Encoding": "chunked"}
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(note), note)
    assert house.pendant.request("PATCH", f"/api/device/notes/{note_id}", headers, body).status == 400
    # A body of any length would pass behind a small one that is announced.
    both = {"Content-Length": "5", "Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    answer = house.pendant.request("POST", "/api/device/check-in", both, b"2\r\n{}\r\n0\r\n\r\n")
    assert answer.status == 400 and b"chunked" in answer.body


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer x", "Basic cDc6eA==", "Bearer " + "A" * 43])
def test_tokens_that_are_not_valid(house: House, authorization: str) -> None:
    note_id, note = house.pendant.new_id(), silence(0.1)
    headers = house.pendant.append_headers(note, 0, note) | {"Authorization": authorization}
    path = f"/api/device/notes/{note_id}"
    assert house.pendant.request("PATCH", path, headers, note).status == 401
    assert house.pendant.request("HEAD", path, {"Authorization": authorization}).status == 401
    assert check_in(house.pendant, {}, Authorization=authorization).status == 401
    assert not (house.server.data / "notes" / f"{note_id}.wav").exists()


def test_a_note_of_another_device(house: House) -> None:
    note_id, note = house.clock.new_id(), silence(0.1)
    assert house.pendant.patch(note_id, note).status == 403
    assert house.pendant.standing(note_id).status == 403


def test_too_long_is_cut_off_at_once(house: House) -> None:
    note_id = house.pendant.new_id()
    headers = house.pendant.append_headers(b"x", 0, b"x", Upload_Length=str(64 * 1024**2 + 1))
    headers["Content-Length"] = str(64 * 1024**2 + 1)
    headers["Upload-Complete"] = "?1"
    with house.server.connect() as connection:
        # Nothing of the body is sent: the answer comes for the head alone, and the connection ends with it.
        connection.sendall(house.pendant.head("PATCH", f"/api/device/notes/{note_id}", headers))
        assert read_answer(connection, "PATCH").status == 413
        connection.settimeout(5)
        assert connection.recv(1) == b""
    assert house.pendant.standing(note_id).status == 404


def test_a_new_connection_takes_over_from_a_dead_one(house: House) -> None:
    note_id, note = house.pendant.new_id(), silence(1)
    headers = house.pendant.append_headers(note, 0, note)
    with house.server.connect() as dead:
        dead.sendall(house.pendant.head("PATCH", f"/api/device/notes/{note_id}", headers) + note[:1000])
        until(
            lambda: house.pendant.standing(note_id).headers.get("upload-offset") == "1000",
            10,
            "the first 1000 B",
        )
        began_s = time.monotonic()
        assert confirmed(house.pendant.patch(note_id, note, 1000), note_id, note)
        assert time.monotonic() - began_s < 5
    assert stored(house, note_id) == note


def test_plain_text_is_not_spoken_there(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.server.device_port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: offbeat\r\n\r\n")
        try:
            answer = connection.recv(4096)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith(b"HTTP/")


def test_check_in(house: House) -> None:
    plan = [round(1000 * tick) for tick in range(1, 61)]
    report = {
        "app": "clock",
        "version": "0.1.0",
        "mode": "vetinari",
        "position": 43_199,
        "minute": 29_000_000,
        "utc_offset_s": -3600,
        "plan": plan,
        "uncertainty_ms": None,
        "late_ticks": 3,
        "errors": ["x" * 200],
    }
    before_ms = time.time_ns() // 1_000_000
    answer = check_in(house.clock, {**report, "unheard_of": {"deep": [1]}})
    assert answer.status == 200
    assert before_ms <= answer.json["time_ms"] <= time.time_ns() // 1_000_000
    devices = house.server.get("/api/devices").json()
    (clock,) = [device for device in devices if device["id"] == house.clock.device.id]
    assert clock["report"] == report
    assert clock["contact_at"] is not None


def test_errors_outlive_the_report_that_brought_them(house: House) -> None:
    def report(*errors: str) -> Any:
        assert check_in(house.clock, {"app": "clock", "version": "0.1.0", "errors": errors}).status == 200
        devices = house.server.get("/api/overview").json()["devices"]
        return next(device for device in devices if device["id"] == house.clock.device.id)

    first = report("no Wi-Fi", "no server")
    assert first["errors"] == ["no Wi-Fi", "no server"] and first["errors_ms"] == first["reported_ms"]
    time.sleep(0.01)
    second = report()
    assert second["report"]["errors"] == [] and second["reported_ms"] > first["reported_ms"]
    assert (second["errors"], second["errors_ms"]) == (first["errors"], first["errors_ms"])
    assert report("once more")["errors"] == ["once more"]


@pytest.mark.parametrize(
    "report",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        {"version": "1"},
        {"app": "kettle", "version": "1"},
        {"app": "clock", "version": "1", "position": 43_200},
        {"app": "clock", "version": "1", "position": "5"},
        {"app": "clock", "version": "1", "plan": [1000] * 59},
        {"app": "clock", "version": "1", "plan": [1000] * 59 + [60_001]},
        {"app": "clock", "version": "1", "errors": ["x"] * 6},
        {"app": "clock", "version": "1", "errors": ["x" * 201]},
    ],
    ids=str,
)
def test_malformed_check_in(house: House, report: Any) -> None:
    answer = check_in(house.clock, report)
    assert answer.status == 400
    assert answer.json["detail"]


def test_check_in_too_long(house: House) -> None:
    assert check_in(house.clock, b"x" * (16 * 1024 + 1)).status == 413
    assert check_in(house.clock, b"x" * (16 * 1024)).status == 400


def test_time_of_recording(house: House) -> None:
    note = silence(0.5)  # its start is 60 s before the counter that an upload states
    known, unknown, impossible = (house.pendant.new_id() for _ in range(3))
    assert house.pendant.patch(known, note).status == 200
    assert house.pendant.patch(unknown, note, Offbeat_Counter="ffffffff 100000 0").status == 200
    assert house.pendant.patch(impossible, note, Offbeat_Counter="0123abcd 10 0").status == 200
    for note_id in (known, unknown, impossible):
        row = house.server.get(f"/api/notes/{note_id}").json()
        assert row["duration_s"] == 0.5
        if note_id == known:
            recorded, received = (datetime.fromisoformat(row[key]) for key in ("recorded_at", "received_at"))
            assert abs((received - recorded).total_seconds() - 60) < 1
        else:
            assert row["recorded_at"] is None
