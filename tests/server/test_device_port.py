"""The device port in this process: what two servers on one database do to a note, commits, and fuzzed uploads."""

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from device_client import DeviceClient, silence
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inside_app import NoPipeline
from offbeat import devices as device_port
from offbeat import registry
from offbeat.protocol import Append
from offbeat.settings import Settings
from offbeat.store import Store, devices, notes
from offbeat.twin import Twins
from server_process import Device

REPORT = {"app": "pendant", "version": "1", "revision": 0, "settings": {}, "wait_ms": 0}


class Pipeline(NoPipeline):
    def expect(self) -> None:
        """Nothing is loaded."""


class Port:
    """The device port, a device's token, and what it would send."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(Settings(data=folder))
        self.pipeline = Pipeline()
        self.added = registry.add(self.store, "p1", "pendant")
        self.app = device_port.make_app(self.store, self.pipeline, Twins(self.store, emit=lambda *_: 0))  # type: ignore[arg-type]
        self.speaker = DeviceClient(None, Device(self.added.id, self.added.token, b"", 0))  # type: ignore[arg-type]
        self.client = TestClient(
            self.app, headers={"Authorization": f"Bearer {self.added.token}"}, raise_server_exceptions=False
        )

    def uploads(self) -> device_port.Uploads:
        return device_port.Uploads(self.store, self.pipeline)  # type: ignore[arg-type]

    def append(self, note: bytes) -> Append:
        return Append.parse(self.speaker.append_headers(note, 0, note))

    def state(self, note_id: str) -> Any:
        with self.store.read() as connection:
            return connection.scalar(sa.select(notes.c.state).where(notes.c.id == note_id))


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    made = Port(tmp_path / "data")
    yield made
    made.store.close()


def test_a_note_that_another_process_received_stays_delivered(port: Port) -> None:
    note_id, note = port.speaker.new_id(), silence(0.1)
    append, first, second = port.append(note), port.uploads(), port.uploads()
    assert first.begin(note_id, port.added.id, append, 1) is None
    assert second.begin(note_id, port.added.id, append, 1) is None
    port.store.note_path(note_id).write_bytes(note)
    told = first.finish(note_id, append)
    with port.store.write() as connection:
        connection.execute(sa.update(notes).where(notes.c.id == note_id).values(state="delivered"))
    assert second.finish(note_id, append) == told, "the device hears the same"
    assert port.state(note_id) == "delivered" and port.pipeline.begun == [note_id]


def test_the_row_that_another_process_made_meanwhile_is_taken(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    note_id, note = port.speaker.new_id(), silence(0.1)
    append, late = port.append(note), port.uploads()
    assert port.uploads().begin(note_id, port.added.id, append, 1) is None
    monkeypatch.setattr(late, "row", lambda _note_id: None)  # it looked before that
    assert late.begin(note_id, port.added.id, append, 1) is None
    with pytest.raises(device_port.Refused, match="another length"):
        late.begin(note_id, port.added.id, port.append(silence(0.2)), 1)


def test_an_idle_check_in_is_one_commit(port: Port) -> None:
    commits = []
    sa.event.listen(port.store.engine, "commit", lambda connection: commits.append(connection))
    for number in (1, 2):
        with port.store.engine.connect() as connection:  # the last contact was long ago
            connection.execute(sa.update(devices).values(contact_ms=1))
            connection.commit()
        commits.clear()
        answer = port.client.post("/api/device/check-in", content=json.dumps(REPORT))
        assert answer.status_code == 200, answer.text
        assert len(commits) == 1, number
        with port.store.read() as connection:
            assert (connection.scalar(sa.select(devices.c.contact_ms)) or 0) > 10**12


NAMES = (
    "Content-Type", "Upload-Offset", "Upload-Complete", "Upload-Length", "Repr-Digest", "Offbeat-Counter",
    "Content-Length", "Transfer-Encoding", "Authorization",
)  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.integers(-2, 2**70).map(str),
    st.sampled_from(["?0", "?1", "sha-256=:" + "A" * 43 + "=:", "0123abcd 1 0", "chunked", "", "0" * 400, "1e3"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    st.text(st.characters(min_codepoint=0xA1, max_codepoint=0xFF), max_size=10),
)
CHANGES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)


@settings(max_examples=400, deadline=None)
@given(changes=CHANGES)
def test_fuzzed_headers_are_read_or_refused(changes: dict[str, str | None]) -> None:
    speaker = DeviceClient(None, Device("p1", "x", b"", 0))  # type: ignore[arg-type]
    note = b"12345"
    headers = {**speaker.append_headers(note, 0, note), **changes}
    with contextlib.suppress(ValueError):
        append = Append.parse({key: value for key, value in headers.items() if value is not None})
        assert 0 <= append.offset < 10**15 and 0 < append.length < 10**15 and 0 <= append.body_length < 10**15
        assert len(bytes.fromhex(append.sha256)) == 32
        with contextlib.suppress(ValueError):
            append.check_reach()
            assert append.offset + append.body_length <= append.length


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=CHANGES,
    body=st.binary(max_size=300),
    offset=st.integers(0, 400),
    note_id=st.one_of(st.just(None), st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)),
)
def test_fuzzed_uploads_break_nothing(
    port: Port, changes: dict[str, str | None], body: bytes, offset: int, note_id: str | None
) -> None:
    """What the server answers is one of the protocol's answers, and a good upload works after it."""
    note = body + silence(0.05)
    headers: dict[str, Any] = {**port.speaker.append_headers(note, offset, body), **changes}
    values = {key: value.encode("latin-1") for key, value in headers.items() if value is not None}
    own = f"p1-{secrets.token_hex(8)}"
    quoted = own if note_id is None else "".join(f"%{ord(one):02X}" for one in note_id)
    answer = port.client.patch(f"/api/device/notes/{quoted}", content=body, headers=values)
    assert answer.status_code in (200, 204, 400, 401, 403, 404, 405, 409, 413, 422, 503), answer.text
    assert answer.status_code != 503 or "Content-Length" in changes, answer.text
    again = f"p1-{secrets.token_hex(8)}"
    answer = port.client.patch(
        f"/api/device/notes/{again}", content=note, headers=port.speaker.append_headers(note, 0, note)
    )
    assert answer.status_code == 200, answer.text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.dictionaries(
            st.sampled_from(["revision", "wait_ms", "settings", "changed", "errors", "uptime_ms", "battery_mv", "mpy"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
                max_leaves=6,
            ),
            max_size=5,
        ).map(lambda value: json.dumps({**REPORT, **value, "wait_ms": 0}).encode()),
    )
)
def test_fuzzed_check_ins_break_nothing(port: Port, body: bytes) -> None:
    answer = port.client.post("/api/device/check-in", content=body)
    assert answer.status_code in (200, 400), answer.text
    assert port.client.post("/api/device/check-in", content=json.dumps(REPORT)).status_code == 200
