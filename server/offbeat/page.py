"""The application on the page's port: the page, its API, /healthz."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from offbeat import __version__, sound
from offbeat.delivery import place
from offbeat.store import (
    Store,
    deliveries,
    desired,
    destinations,
    devices,
    iso,
    notes,
    now_ms,
    sessions,
    sign_ins,
    tries,
)
from offbeat.tokens import new_token, token_hash
from offbeat.twin import Twins, Unknown

STATIC = Path(__file__).parent / "static"
COOKIE = "offbeat_session"
SESSION_MS = 90 * 86_400_000
SIGN_IN_MS = 86_400_000
PAGE_NOTES = 50
MAX_BODY_BYTES = 4096

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SignIn(BaseModel):
    """The token of a sign-in link."""

    token: str = Field(min_length=43, max_length=43)


class Desire(BaseModel):
    """Settings that are desired of a device, by name: docs/protocol.md, "Settings: the twin"."""

    settings: dict[str, Any] = Field(min_length=1, max_length=16)


def make_sign_in(store: Store) -> str:
    """A token for one sign-in within a day; only its hash is kept."""
    token = new_token()
    with store.write() as connection:
        connection.execute(sa.delete(sign_ins).where(sign_ins.c.expires_ms < now_ms()))
        connection.execute(sa.insert(sign_ins).values(token_hash=token_hash(token), expires_ms=now_ms() + SIGN_IN_MS))
    return token


def use_sign_in(store: Store, token: str) -> str | None:
    """Turns a sign-in token, which ends with that, into a session's. None where it is not valid."""
    session = new_token()
    now = now_ms()
    with store.write() as connection:
        used = connection.execute(
            sa.delete(sign_ins).where(sign_ins.c.token_hash == token_hash(token), sign_ins.c.expires_ms > now)
        )
        if used.rowcount != 1:
            return None
        connection.execute(sa.delete(sessions).where(sessions.c.expires_ms < now))
        connection.execute(
            sa.insert(sessions).values(token_hash=token_hash(session), created_ms=now, expires_ms=now + SESSION_MS)
        )
    return session


def same_origin(request: Request) -> bool:
    """Whether a request comes from a page of this server, as the browser says."""
    origin = request.headers.get("Origin")
    if origin is None:
        return request.headers.get("Sec-Fetch-Site") == "same-origin"
    return urlsplit(origin).netloc == request.headers.get("Host")


def _delivery(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "webhook_id": row.id,
        "to": place(row.url),
        "state": row.state,
        "tries": row.tries,
        "next_at": iso(row.next_ms),
        "trouble": row.trouble,
    }


def _note(row: sa.Row[Any], its_deliveries: list[sa.Row[Any]]) -> dict[str, Any]:
    return {
        "number": row.number,
        "id": row.id,
        "device": row.device_id,
        "device_name": row.device_name,
        "state": row.state,
        "set_aside": row.set_aside,
        "trouble": row.trouble,
        "text": row.text,
        "language": row.language,
        "duration_s": None if row.duration_ms is None else row.duration_ms / 1000,
        "length_bytes": row.length_bytes,
        "lost_samples": row.lost_samples,
        "recorded_at": iso(row.recorded_ms),
        "recorded_from": iso(row.recorded_from_ms),
        "recorded_to": iso(row.recorded_to_ms),
        "received_at": iso(row.received_ms),
        "created_at": iso(row.created_ms),
        "deliveries": [_delivery(one) for one in its_deliveries],
    }


class Reader:
    """What the page shows, read from the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def signed_in(self, token: str | None) -> bool:
        if not token:
            return False
        with self._store.read() as connection:
            found = sa.select(sessions.c.expires_ms).where(sessions.c.token_hash == token_hash(token))
            expires_ms = connection.scalar(found)
        return expires_ms is not None and expires_ms > now_ms()

    def notes(self, before: int | None, limit: int) -> dict[str, Any]:
        """Notes, newest first, and the cursor of the next page."""
        chosen = (
            sa.select(notes, devices.c.name.label("device_name"))
            .join(devices, devices.c.id == notes.c.device_id)
            .order_by(notes.c.number.desc())
            .limit(limit + 1)
        )
        if before is not None:
            chosen = chosen.where(notes.c.number < before)
        with self._store.read() as connection:
            rows = connection.execute(chosen).all()
            their_deliveries = self._deliveries(connection, [row.id for row in rows])
        page = rows[:limit]
        return {
            "notes": [_note(row, their_deliveries.get(row.id, [])) for row in page],
            "next": page[-1].number if len(rows) > limit else None,
        }

    def note(self, note_id: str) -> dict[str, Any] | None:
        """One note with its words and the log of its deliveries."""
        with self._store.read() as connection:
            row = connection.execute(
                sa.select(notes, devices.c.name.label("device_name"))
                .join(devices, devices.c.id == notes.c.device_id)
                .where(notes.c.id == note_id)
            ).one_or_none()
            if row is None:
                return None
            its_deliveries = self._deliveries(connection, [note_id]).get(note_id, [])
            note = _note(row, its_deliveries)
            note["words"] = row.words or []
            for one, delivery in zip(its_deliveries, note["deliveries"], strict=True):
                log = sa.select(tries).where(tries.c.delivery_id == one.id).order_by(tries.c.number)
                delivery["log"] = [
                    {
                        "at": iso(entry.at_ms),
                        "took_ms": entry.took_ms,
                        "status": entry.status,
                        "answer": entry.answer,
                        "error": entry.error,
                    }
                    for entry in connection.execute(log)
                ]
        return note

    @staticmethod
    def _deliveries(connection: sa.Connection, note_ids: list[str]) -> dict[str, list[sa.Row[Any]]]:
        rows = connection.execute(
            sa.select(deliveries, destinations.c.url)
            .join(destinations, destinations.c.id == deliveries.c.destination_id)
            .where(deliveries.c.note_id.in_(note_ids))
            .order_by(deliveries.c.created_ms)
        )
        found: dict[str, list[sa.Row[Any]]] = {}
        for row in rows:
            found.setdefault(row.note_id, []).append(row)
        return found

    def devices(self) -> list[dict[str, Any]]:
        with self._store.read() as connection:
            rows = connection.execute(sa.select(devices).order_by(devices.c.created_ms)).all()
            wanted = connection.execute(sa.select(desired)).all()
        return [
            {
                "desired": {one.setting: one.value for one in wanted if one.device_id == row.id},
                "revision": row.revision,
                "id": row.id,
                "name": row.name,
                "app": row.app,
                "contact_at": iso(row.contact_ms),
                "reported_ms": row.reported_ms,
                "report": row.report,
                "errors": row.errors or [],
                "errors_ms": row.errors_ms,
            }
            for row in rows
        ]

    def destinations(self) -> list[dict[str, Any]]:
        with self._store.read() as connection:
            rows = connection.execute(sa.select(destinations).order_by(destinations.c.created_ms)).all()
        return [{"id": row.id, "to": place(row.url), "ended": row.ended_reason} for row in rows]

    def sound_of(self, note_id: str) -> Path | None:
        """The file of a whole note."""
        with self._store.read() as connection:
            state = connection.scalar(sa.select(notes.c.state).where(notes.c.id == note_id))
        return None if state in (None, "receiving") else self._store.note_path(note_id)


def make_app(store: Store, twins: Twins) -> FastAPI:
    """The application of the page's port. `open_routes` of its state names what needs no session."""
    app = FastAPI(title="Offbeat", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    reader = Reader(store)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response: Response
        unsafe = request.method not in ("GET", "HEAD", "OPTIONS")
        length = request.headers.get("Content-Length", "")
        if unsafe and not same_origin(request):
            response = JSONResponse({"detail": "this request does not come from a page of this server"}, 403)
        elif "Transfer-Encoding" in request.headers or (length and (len(length) > 9 or int(length) > MAX_BODY_BYTES)):
            detail = f"a body has a Content-Length here, of at most {MAX_BODY_BYTES} bytes"
            response = JSONResponse({"detail": detail}, 413, {"Connection": "close"})
        else:
            response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        return response

    def session(request: Request) -> None:
        if not reader.signed_in(request.cookies.get(COOKIE)):
            raise HTTPException(401, "not signed in: `offbeat sign-in` prints a link")

    signed_in = [Depends(session)]

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the server works: it answers, and the database does."""
        with store.read() as connection:
            connection.execute(sa.select(sa.literal(1)))
        return {"status": "ok", "version": __version__}

    @app.get("/sign-in")
    def sign_in_page() -> FileResponse:
        return FileResponse(STATIC / "sign-in.html")

    @app.post("/api/sign-in", status_code=204)
    def sign_in(body: SignIn) -> Response:
        """Turns the token of a sign-in link into a session."""
        token = use_sign_in(store, body.token)
        if token is None:
            raise HTTPException(403, "this link was used already or is too old: `offbeat sign-in` prints a new one")
        response = Response(status_code=204)
        # Not `secure`: the page is plain HTTP here; behind a proxy that does TLS the cookie goes over TLS anyway.
        response.set_cookie(COOKIE, token, max_age=SESSION_MS // 1000, httponly=True, samesite="strict")
        return response

    @app.post("/api/sign-out", status_code=204, dependencies=signed_in)
    def sign_out(request: Request) -> Response:
        """Ends the session."""
        with store.write() as connection:
            digest = token_hash(request.cookies[COOKIE])
            connection.execute(sa.delete(sessions).where(sessions.c.token_hash == digest))
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    @app.get("/")
    def page(request: Request) -> Response:
        if not reader.signed_in(request.cookies.get(COOKIE)):
            return RedirectResponse("/sign-in", 303)
        return FileResponse(STATIC / "index.html")

    @app.get("/api/overview", dependencies=signed_in)
    def overview(request: Request) -> Response:
        """All that the page shows at first, in one answer, with an ETag, so that asking often is cheap."""
        content = {
            **reader.notes(None, PAGE_NOTES),
            "devices": reader.devices(),
            "destinations": reader.destinations(),
        }
        tag = f'W/"{token_hash(json.dumps(content))[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Offbeat-Time-Ms": str(now_ms())}
        if request.headers.get("If-None-Match") == tag:
            return Response(status_code=304, headers=headers)
        return JSONResponse(content, headers=headers)

    @app.get("/api/notes", dependencies=signed_in)
    def list_notes(
        before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = PAGE_NOTES,
    ) -> dict[str, Any]:
        """Notes, newest first; `next` of the answer is the `before` of the next page, null at the end."""
        return reader.notes(before, limit)

    @app.get("/api/notes/{note_id}", dependencies=signed_in)
    def one_note(note_id: str) -> dict[str, Any]:
        """One note with the times of its words and the log of its deliveries."""
        note = reader.note(note_id)
        if note is None:
            raise HTTPException(404, "there is no such note")
        return note

    def stored(note_id: str) -> Path:
        path = reader.sound_of(note_id)
        if path is None:
            raise HTTPException(404, "there is no such note, or it is not here as a whole yet")
        return path

    @app.get("/api/notes/{note_id}/sound.wav", dependencies=signed_in)
    def playable_sound(note_id: str) -> FileResponse:
        """The sound as plain PCM, which every browser plays; takes `Range`."""
        try:
            made = sound.playable(stored(note_id), store.settings.cache)
        except sound.SoundError as error:
            raise HTTPException(422, str(error)) from None
        return FileResponse(made, media_type="audio/wav", headers={"Cache-Control": "private, max-age=86400"})

    @app.get("/api/notes/{note_id}/original", dependencies=signed_in)
    def original_sound(note_id: str) -> FileResponse:
        """The file as the device sent it."""
        return FileResponse(stored(note_id), media_type="audio/wav", filename=f"{note_id}.wav")

    @app.get("/api/devices", dependencies=signed_in)
    def list_devices() -> list[dict[str, Any]]:
        """The devices, each with its last report, and the errors of the last one that had any."""
        return reader.devices()

    @app.patch("/api/devices/{device_id}", dependencies=signed_in)
    def desire(device_id: str, body: Desire) -> dict[str, int]:
        """Desires settings of a device; their revision. The device takes them with its next check-in."""
        try:
            return {"revision": twins.desire(device_id, body.settings)}
        except Unknown as error:
            raise HTTPException(404, str(error)) from None
        except ValueError as error:
            raise HTTPException(422, str(error)) from None

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app
