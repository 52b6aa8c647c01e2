"""The application on the device port: uploads and check-ins, as docs/protocol.md has them, and nothing else."""

import asyncio
import base64
import hashlib
import hmac
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from offbeat import certificate, log, storage_errors, updates, wav
from offbeat.http_server import TAIL
from offbeat.pipeline import Pipeline
from offbeat.protocol import (
    MAX_CHECK_IN_BYTES,
    MAX_NOTE_BYTES,
    NOTE_ID,
    Append,
    CheckIn,
    CheckInAnswer,
    Confirmation,
    Refusal,
    digest_header,
    token_of,
)
from offbeat.recording_time import Reading, Stamp, recording_time
from offbeat.store import Store, StoreError, devices, notes, now_ms, sync_file, sync_folder
from offbeat.tokens import token_hash
from offbeat.twin import Twins

IDLE_TIMEOUT_S = 30.0
TURN_TIMEOUT_S = 10.0
TAKE_OVER_S = 0.1
WRITE_BYTES = 128 * 1024
CONTACT_EVERY_MS = 10_000
# Notes of one device that are not here as a whole: a broken one must not fill the disk with beginnings.
MAX_RECEIVING = 1000


class Refused(Exception):
    """An answer other than the good one."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


class Cut(Exception):
    """A body that did not come to its end: the connection broke, stalled, or another one took over."""


class Turns:
    """One upload a note at a time. The newest wins: what was there before it is most likely a dead connection."""

    class _Turn:
        def __init__(self) -> None:
            self.lock = asyncio.Lock()
            self.users = 0
            self.newest = asyncio.Event()  # of the request that came last

    def __init__(self) -> None:
        self._turns: dict[str, Turns._Turn] = {}

    @asynccontextmanager
    async def of(self, note_id: str) -> AsyncIterator[asyncio.Event]:
        """Holds the note's turn; the event is set when another request wants it. Raises Refused (503)."""
        turn = self._turns.setdefault(note_id, Turns._Turn())
        turn.users += 1
        turn.newest.set()
        turn.newest = taken_over = asyncio.Event()  # made before waiting: a newer one may come meanwhile
        try:
            try:
                await asyncio.wait_for(turn.lock.acquire(), TURN_TIMEOUT_S)
            except TimeoutError:
                raise Refused(503, "another upload of this note does not come to an end; try again") from None
            try:
                yield taken_over
            finally:
                turn.lock.release()
        finally:
            turn.users -= 1
            if turn.users == 0:
                del self._turns[note_id]


async def body_pieces(request: Request, taken_over: asyncio.Event) -> AsyncIterator[bytes]:
    """The pieces of a body as they arrive. Raises Cut, after what arrived was handed over."""
    other = asyncio.ensure_future(taken_over.wait())
    until_s: float | None = None  # once another one took over: what has arrived is still taken, then it ends
    loop = asyncio.get_running_loop()
    try:
        while True:
            message = asyncio.ensure_future(request.receive())
            if until_s is None:
                await asyncio.wait({message, other}, timeout=IDLE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
                if other.done():
                    until_s = loop.time() + TAKE_OVER_S
            if until_s is not None:
                await asyncio.wait({message}, timeout=max(0.0, until_s - loop.time()))
            if not message.done():
                message.cancel()
                raise Cut("another connection took over" if until_s else f"nothing came for {IDLE_TIMEOUT_S:.0f} s")
            event = message.result()
            if event["type"] == "http.disconnect":
                yield request.scope.get("extensions", {}).get(TAIL, {}).get("body", b"")
                raise Cut("the connection broke")
            yield event.get("body", b"")
            if not event.get("more_body", False):
                return
    finally:
        other.cancel()


class Appender:
    """Appends to a file, from any thread. After a failed write it takes nothing more: there would be a hole."""

    def __init__(self, path: Path) -> None:
        self._file: int | None = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._lock = threading.Lock()  # a cancelled request leaves its write running, and then closes
        self._failed = False

    def write(self, data: bytes) -> None:
        """Appends all of it. Raises OSError."""
        with self._lock:
            if self._file is None or self._failed:
                return
            self._failed = True
            while data:
                data = data[os.write(self._file, data) :]
            self._failed = False

    def close(self, rest: bytes) -> None:
        """Appends the rest, syncs, and closes the file whatever happens. Raises OSError."""
        try:
            self.write(rest)
        finally:
            with self._lock:
                file, self._file = self._file, None
                if file is not None:
                    try:
                        os.fsync(file)
                    finally:
                        os.close(file)


class Uploads:
    """The store's side of an upload. All of it blocks: it is called in threads."""

    def __init__(self, store: Store, pipeline: Pipeline) -> None:
        self._store = store
        self._pipeline = pipeline

    def row(self, note_id: str) -> sa.Row[Any] | None:
        with self._store.read() as connection:
            return connection.execute(sa.select(notes).where(notes.c.id == note_id)).one_or_none()

    def stored_bytes(self, note_id: str) -> int:
        """How much is stored and synced: the length of the file, which is the truth."""
        path = self._store.note_path(note_id)
        try:
            sync_file(path)
        except FileNotFoundError:
            return 0
        return path.stat().st_size

    def begin(self, note_id: str, device_id: str, append: Append, arrived_ms: int) -> Confirmation | None:
        """Makes the note's row at its first `PATCH`. Returns the confirmation of a note that is already whole.

        Raises Refused: 409 when the id is of a note with another length or digest, 507 when the device has begun
        MAX_RECEIVING notes and ended none of them."""
        row = self.row(note_id)
        if row is None:
            with self._store.write() as connection:
                # Looked at again: another process may have taken the device's other connection.
                row = connection.execute(sa.select(notes).where(notes.c.id == note_id)).one_or_none()
                if row is None:
                    of_it = sa.select(sa.func.count()).where(
                        notes.c.device_id == device_id, notes.c.state == "receiving"
                    )
                    if (connection.scalar(of_it) or 0) >= MAX_RECEIVING:
                        raise Refused(507, f"{MAX_RECEIVING} notes of this device are here in part: delete some first")
                    connection.execute(
                        sa.insert(notes).values(
                            id=note_id,
                            device_id=device_id,
                            length_bytes=append.length,
                            sha256=append.sha256,
                            state="receiving",
                            created_ms=arrived_ms,
                            first_counter=[append.counter, append.now_ms, append.asleep_ms],
                        )
                    )
        if row is None:
            self._pipeline.expect()
            return None
        if (row.length_bytes, row.sha256) != (append.length, append.sha256):
            raise Refused(409, "this id belongs to a note with another length or digest")
        return None if row.state == "receiving" else Confirmation(id=row.id, length=row.length_bytes, sha256=row.sha256)

    def open(self, note_id: str) -> "Appender":
        """The file to append to. Its entry in the folder is synced when it is new."""
        path = self._store.note_path(note_id)
        is_new = not path.exists()
        appender = Appender(path)
        if is_new:
            sync_folder(path.parent)
        return appender

    def finish(self, note_id: str, append: Append) -> Confirmation:
        """Checks the stored bytes, syncs them and their folder, commits the row and its job.

        Raises Refused: 422 when they do not have the digest announced, and are dropped; 503 when the note was deleted
        meanwhile."""
        path = self._store.note_path(note_id)
        sync_file(path)
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        length = path.stat().st_size
        if sha256 != append.sha256:
            path.unlink()
            sync_folder(path.parent)
            with self._store.write() as connection:
                connection.execute(sa.delete(notes).where(notes.c.id == note_id))
            log.get().warning("note dropped: it does not have the digest announced", note=note_id, bytes=length)
            raise Refused(422, "the stored bytes do not have the digest announced, and were dropped")
        sync_folder(path.parent)
        self._store.keep_sound(note_id)
        recording = self._head(path, length)
        with self._store.write() as connection:
            row = connection.execute(sa.select(notes).where(notes.c.id == note_id)).one_or_none()
            if row is None:  # its beginning was deleted while the last piece came
                path.unlink(missing_ok=True)
                raise Refused(503, "this note was deleted here while it arrived; send it anew")
            if row.state != "receiving":  # another process has received it, and it may be delivered by now
                if row.state == "deleted":  # while its last piece came
                    self._store.remove_sound(note_id)
                return Confirmation(id=note_id, length=length, sha256=sha256)
            mark, counter_ms, asleep_ms = row.first_counter or (append.counter, append.now_ms, append.asleep_ms)
            stamp = Stamp.of(recording.metadata) if recording else None
            recorded = recording_time(stamp, mark, Reading(counter_ms, asleep_ms), row.created_ms)
            connection.execute(
                sa.update(notes)
                .where(notes.c.id == note_id)
                .values(
                    state="received",
                    received_ms=now_ms(),
                    recorded_ms=recorded.ms,
                    recorded_from_ms=recorded.from_ms,
                    recorded_to_ms=recorded.to_ms,
                    duration_ms=recording.duration_ms if recording else None,
                    lost_samples=recording.integer("lost") if recording else None,
                )
            )
        self._pipeline.begin_note(note_id)
        log.get().info("note received", note=note_id, bytes=length)
        return Confirmation(id=note_id, length=length, sha256=sha256)

    @staticmethod
    def _head(path: Path, length: int) -> wav.Recording | None:
        try:
            with open(path, "rb") as file:
                return wav.read(file, length)
        except ValueError as error:
            # It is confirmed all the same: the device must be able to give away whatever it holds.
            log.get().warning("a note's file is not as it should be", note=path.stem, reason=str(error))
            return None


def make_app(store: Store, pipeline: Pipeline, twins: Twins) -> FastAPI:
    """The application of the device port."""
    app = FastAPI(title="Offbeat, for devices", openapi_url=None)
    uploads = Uploads(store, pipeline)
    turns = Turns()

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> Response:
        headers = dict(error.headers)
        if error.status in (400, 401, 403, 413):
            # What follows of the body is not read: the connection ends with the answer.
            headers["Connection"] = "close"
        return JSONResponse(Refusal(detail=error.detail).model_dump(), error.status, headers)

    @app.exception_handler(HTTPException)
    async def unknown(_request: Request, error: HTTPException) -> Response:
        headers = {**(error.headers or {}), "Connection": "close"}
        return JSONResponse(Refusal(detail=error.detail).model_dump(), error.status_code, headers)

    storage_errors.handle(
        app, lambda status, detail, headers: JSONResponse(Refusal(detail=detail).model_dump(), status, headers)
    )

    def authenticate(token: str | None, keeps_contact: bool) -> str:
        if token is None:
            raise Refused(401, "no token")
        digest = token_hash(token)
        with store.read() as connection:
            row = connection.execute(sa.select(devices).where(devices.c.token_hash == digest)).one_or_none()
        if row is None or not hmac.compare_digest(row.token_hash, digest):
            raise Refused(401, "the token is not valid")
        now = now_ms()
        if keeps_contact and (row.contact_ms is None or now - row.contact_ms > CONTACT_EVERY_MS):
            with store.write() as connection:
                connection.execute(sa.update(devices).where(devices.c.id == row.id).values(contact_ms=now))
        return str(row.id)

    async def device(request: Request) -> str:
        return await asyncio.to_thread(authenticate, token_of(request.headers.get("Authorization")), True)

    async def reporting(request: Request) -> str:
        """Of a check-in: what it reports is kept with its contact, in one durable commit."""
        return await asyncio.to_thread(authenticate, token_of(request.headers.get("Authorization")), False)

    def own(note_id: str, device_id: str) -> None:
        match = NOTE_ID.fullmatch(note_id)
        if match is None:
            raise Refused(400, "a note's id is the device's id, a hyphen and 16 hexadecimal digits")
        if match[1] != device_id:
            raise Refused(403, "this note's id is not one of this device")

    Device = Annotated[str, Depends(device)]

    @app.head("/api/device/notes/{note_id}")
    async def standing(note_id: str, device_id: Device) -> Response:
        """How much of a note is here."""
        own(note_id, device_id)
        async with turns.of(note_id):
            row = await asyncio.to_thread(uploads.row, note_id)
            if row is None:
                return Response(status_code=404)
            if row.state == "receiving":
                stored = await asyncio.to_thread(uploads.stored_bytes, note_id)
                return Response(status_code=204, headers={"Upload-Offset": str(stored), "Upload-Complete": "?0"})
            headers = {
                "Upload-Offset": str(row.length_bytes),
                "Upload-Complete": "?1",
                "Upload-Length": str(row.length_bytes),
                "Repr-Digest": digest_header(row.sha256),
            }
            return Response(status_code=204, headers=headers)

    @app.patch("/api/device/notes/{note_id}")
    async def append_to(note_id: str, device_id: Device, request: Request) -> Response:
        """Appends to a note at an offset; the last piece is answered with the confirmation."""
        arrived_ms = now_ms()
        own(note_id, device_id)
        try:
            append = Append.parse(request.headers)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        if append.length > MAX_NOTE_BYTES:
            raise Refused(413, f"a note has at most {MAX_NOTE_BYTES} bytes here")
        async with turns.of(note_id) as taken_over:
            confirmation = await asyncio.to_thread(uploads.begin, note_id, device_id, append, arrived_ms)
            if confirmation is None:
                confirmation = await receive(request, note_id, append, taken_over)
        if confirmation is None:
            end = append.offset + append.body_length
            return Response(status_code=204, headers={"Upload-Offset": str(end), "Upload-Complete": "?0"})
        return JSONResponse(confirmation.model_dump())

    async def receive(request: Request, note_id: str, append: Append, taken_over: asyncio.Event) -> Confirmation | None:
        stored = await asyncio.to_thread(uploads.stored_bytes, note_id)
        if append.offset != stored:
            raise Refused(409, f"{stored} bytes are stored", {"Upload-Offset": str(stored)})
        try:
            append.check_reach()
        except ValueError as error:
            raise Refused(400, str(error)) from None
        file = await asyncio.to_thread(uploads.open, note_id)
        waiting = bytearray()
        try:
            async for piece in body_pieces(request, taken_over):
                waiting += piece
                if len(waiting) >= WRITE_BYTES:
                    full, waiting = waiting, bytearray()
                    await asyncio.to_thread(file.write, bytes(full))
        except Cut as cut:
            log.get().info("upload cut", note=note_id, reason=str(cut))
            raise Refused(503, f"{cut}; what arrived is kept", {"Connection": "close"}) from None
        finally:
            # Shielded: also when the server stops, what arrived is written before the file is closed.
            await asyncio.shield(asyncio.to_thread(file.close, bytes(waiting)))
        if append.complete:
            return await asyncio.shield(asyncio.to_thread(uploads.finish, note_id, append))
        return None

    @app.get("/api/device/updates/{version}")
    async def update(version: str, device_id: Device) -> Response:
        """The manifest of an update that is offered to this device."""
        found = await asyncio.to_thread(of_update, updates.manifest_for, device_id, version)
        if found is None:
            raise Refused(404, "this version is not offered to this device")
        return Response(found[0], media_type="application/json", headers={"Offbeat-HMAC": found[1]})

    @app.get("/api/device/updates/{version}/{sha256}")
    async def update_file(version: str, sha256: str, device_id: Device) -> Response:
        """One file of it."""
        content = await asyncio.to_thread(of_update, updates.file_for, device_id, version, sha256)
        if content is None:
            raise Refused(404, "there is no such file in a version that is offered to this device")
        return Response(content, media_type="application/octet-stream")

    def of_update(find: Callable[..., Any], device_id: str, *arguments: Any) -> Any:
        with store.read() as connection:
            row = connection.execute(sa.select(devices).where(devices.c.id == device_id)).one()
            return find(connection, row, *arguments)

    @app.post("/api/device/check-in", response_model_exclude_none=True)
    async def check_in(device_id: Annotated[str, Depends(reporting)], request: Request) -> CheckInAnswer:
        """Keeps what a device reports, and tells it the time and what is desired: at once if there is something new, or
        as soon as there is, within the time that the device waits."""
        if "Transfer-Encoding" in request.headers:  # it would count before a Content-Length
            raise Refused(400, "chunked coding is not used here: send a Content-Length")
        length = request.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise Refused(400, "Content-Length is missing")
        if int(length[:16]) > MAX_CHECK_IN_BYTES:
            raise Refused(413, f"a check-in has at most {MAX_CHECK_IN_BYTES} bytes")
        try:
            body = b"".join([piece async for piece in body_pieces(request, asyncio.Event())])
        except Cut as cut:
            raise Refused(503, str(cut), {"Connection": "close"}) from None
        try:
            report = CheckIn.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise Refused(400, f"{where}: {first['msg']}") from None
        async with twins.waiting(device_id) as news:
            await asyncio.to_thread(twins.report, device_id, report)
            revision, settings = await asyncio.to_thread(twins.newer, device_id, report.revision)
            if report.wait_ms and revision == report.revision:
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), report.wait_ms / 1000)
                revision, settings = await asyncio.to_thread(twins.newer, device_id, report.revision)
        return CheckInAnswer(
            time_ms=now_ms(),
            revision=revision,
            settings=settings or None,
            next_certificate=await asyncio.to_thread(next_certificate, report),
            update=await asyncio.to_thread(of_update, updates.offered, device_id, report),
        )

    def next_certificate(report: CheckIn) -> str | None:
        """The one that this server will change to, unless the device has it already."""
        try:
            der = certificate.next_der(store)
        except StoreError as error:  # a broken file, which must not keep the device from its time
            log.get().error("the next certificate is left out", error=str(error))
            return None
        if der is None or hashlib.sha256(der).hexdigest() == report.next_certificate:
            return None
        return base64.b64encode(der).decode()

    return app
