"""Notes: listed, searched, uploaded, corrected, deleted, listened to."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.requests import ClientDisconnect

from offbeat import sound
from offbeat.api.access import NO_NUL, Caller, Here, Instant, Who, needs, problems
from offbeat.notebook import MAX_UPLOAD_BYTES, Incoming, Notebook

router = APIRouter(prefix="/api/notes", tags=["notes"])

PAGE_NOTES = 50
MAX_TEXT = 200_000
MAX_TITLE = 200
WRITE_BYTES = 256 * 1024
NO_NOTE = {404: "There is no such note."}
MULTIPART = "multipart/form-data"

NoteId = str
State = Literal["receiving", "received", "transcribing", "transcribed", "delivered"]


class Try(BaseModel):
    """One try of a delivery."""

    at: Instant
    took_ms: int
    status: int | None = Field(description="HTTP status of the answer, null where there was none.")
    answer: str | None = Field(description="The first kB of it.")
    error: str | None


class Delivery(BaseModel):
    """A note's way to one destination."""

    webhook_id: str = Field(description="The same for all tries.")
    to: str = Field(description="Scheme, host and port.")
    state: str
    tries: int
    next_at: Instant | None
    trouble: str | None
    destination: str = Field(description="Id of the destination.")
    destination_name: str | None
    answer: str | None = Field(description="What the assistant answered.")


class LoggedDelivery(Delivery):
    """A note's way to one destination, with each try."""

    log: list[Try]


class NoteCore(BaseModel):
    """What every view of a note has."""

    number: int = Field(description="Counts up in the order of arrival; the cursor of the list.")
    id: str
    device: str | None = Field(description="Id of the device that sent it, null for an upload.")
    device_name: str | None
    source: str | None = Field(description="Name of the token that uploaded it, or `page`.")
    title: str | None
    state: State
    set_aside: bool = Field(description="Nobody works on it any more; `trouble` says why.")
    trouble: str | None
    text: str | None = Field(description="Null until it is transcribed, empty without speech.")
    edited_at: Instant | None
    language: str | None
    duration_s: float | None
    length_bytes: int
    lost_samples: int | None
    recorded_at: Instant | None
    recorded_from: Instant | None = Field(description="Not before this, as far as is known.")
    recorded_to: Instant | None = Field(description="Not after this.")
    received_at: Instant | None
    created_at: Instant


class Note(NoteCore):
    """A note in a list."""

    deliveries: list[Delivery]


class Word(BaseModel):
    """A word and when it was said."""

    model_config = ConfigDict(extra="allow")

    word: str
    start_s: float
    end_s: float


class WholeNote(NoteCore):
    """One note with everything."""

    words: list[Word] = Field(description="Of the transcript, not of a corrected text.")
    transcript: str | None = Field(description="The text as the transcriber wrote it.")
    deliveries: list[LoggedDelivery]


class Page(BaseModel):
    """Notes, newest first."""

    notes: list[Note]
    next: int | None = Field(description="The `before` of the next page, null at the end.")


class Correction(BaseModel):
    """What to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(None, max_length=MAX_TEXT, pattern=NO_NUL)
    title: str | None = Field(None, max_length=MAX_TITLE, pattern=NO_NUL, description="Empty or null: none.")


class Terms(BaseModel):
    """What an upload may say of itself, in the address or as fields of the form."""

    id: str | None = Field(None, min_length=1, max_length=64, pattern="^[A-Za-z0-9._-]+$")
    title: str | None = Field(None, max_length=MAX_TITLE, pattern=NO_NUL)
    recorded_at: AwareDatetime | None = None

    @field_validator("recorded_at")
    @classmethod
    def _possible(cls, value: datetime | None) -> datetime | None:
        if value is not None and not datetime(2000, 1, 1, tzinfo=UTC) < value < datetime.now(UTC) + timedelta(days=1):
            raise ValueError("should be between the year 2000 and tomorrow")
        return value


class Form:
    """Takes a `multipart/form-data` body apart as it comes: its first file to `incoming`, small fields are kept."""

    FIELD_BYTES = 4096

    def __init__(self, boundary: bytes, incoming: Incoming) -> None:
        from python_multipart.multipart import MultipartParser

        self.fields: dict[str, str] = {}
        self.has_file = False
        self._incoming = incoming
        self._header = [b"", b""]
        self._headers: dict[bytes, bytes] = {}
        self._name: str | None = None
        self._value = b""
        self._to_file = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_begin": self._begin_header,
                "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._take,
                "on_part_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        """Raises ValueError where it is no such form, OSError."""
        self._parser.write(data)

    def finish(self) -> None:
        """Raises ValueError where the end or the file is missing."""
        from python_multipart.multipart import MultipartState

        if self._parser.state != MultipartState.END:
            raise ValueError("the form breaks off")
        if not self.has_file:
            raise ValueError("the form holds no file")

    def _begin(self) -> None:
        self._headers = {}

    def _begin_header(self) -> None:
        self._header = [b"", b""]

    def _add_header(self, part: int, data: bytes) -> None:
        self._header[part] += data

    def _end_header(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]

    def _open(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        is_file = b"filename" in options
        self._to_file = is_file and not self.has_file
        self.has_file = self.has_file or is_file
        self._name = None if is_file else options.get(b"name", b"").decode("utf-8", "replace")
        self._value = b""

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._to_file:
            self._incoming.write(data[start:end])
        elif self._name is not None:
            self._value += data[start:end]
            if len(self._value) > self.FIELD_BYTES:
                raise ValueError(f"the form's field {self._name[:40]!r} is too long")

    def _end(self) -> None:
        if self._name is not None and len(self.fields) < 100:
            self.fields[self._name] = self._value.decode("utf-8", "replace")


async def _receive(request: Request, write: Any) -> None:
    """Hands the body over as it comes. Raises ClientDisconnect, also when it stalls, and what `write` raises."""
    waiting = bytearray()
    pieces = request.stream()
    while True:
        piece = await anext(pieces, None)
        if piece is not None:
            waiting += piece
        if waiting and (piece is None or len(waiting) >= WRITE_BYTES):
            full, waiting = waiting, bytearray()
            await asyncio.to_thread(write, bytes(full))
        if piece is None:
            return


def _boundary(request: Request) -> bytes | None:
    """The boundary of a multipart body, None for another one. Raises ValueError."""
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(request.headers.get("Content-Type"))
    if kind != MULTIPART.encode():
        return None
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise ValueError("Content-Type lacks a boundary")
    return boundary


def _terms(request: Request, fields: dict[str, str]) -> Terms:
    given = {name: value for name, value in (dict(request.query_params) | fields).items() if value}
    try:
        return Terms.model_validate({name: given[name] for name in Terms.model_fields if name in given})
    except ValidationError as error:
        first = error.errors()[0]
        raise HTTPException(422, f"{first['loc'][0]}: {first['msg']}") from None


_TERMS_SCHEMA: dict[str, Any] = {
    "id": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._-]+$"},
    "title": {"type": "string", "maxLength": MAX_TITLE},
    "recorded_at": {"type": "string", "format": "date-time"},
}
_UPLOAD = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": text}
        for (name, schema), text in zip(
            _TERMS_SCHEMA.items(),
            (
                "The same id again is the same note. Without it the same content is.",
                "A title for the page.",
                "When it was recorded, with the offset from UTC.",
            ),
            strict=True,
        )
    ],
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}, **_TERMS_SCHEMA},
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}


@router.post(
    "",
    status_code=201,
    dependencies=[needs("notes")],
    max_body_size=MAX_UPLOAD_BYTES,
    openapi_extra=_UPLOAD,
    responses={
        200: {"model": WholeNote, "description": "It was here already."},
        **problems(
            {
                400: "The body broke off or stalled, or is no form as it says.",
                409: "The `id` belongs to another file, or the note was deleted.",
                413: f"More than {MAX_UPLOAD_BYTES} bytes.",
                415: "It holds no sound that can be decoded, or too much of it.",
                422: "A value cannot be used.",
            }
        ),
    },
)
async def upload_note(request: Request, response: Response, here: Here, caller: Who) -> WholeNote:
    """Takes in a file of sound, in any usual format: as the body itself, or as the file of a form."""
    with await asyncio.to_thread(Incoming, here.store) as incoming:
        try:
            boundary = _boundary(request)
            form = None if boundary is None else Form(boundary, incoming)
            await _receive(request, incoming.write if form is None else form.write)
            if form is not None:
                form.finish()
        except ClientDisconnect:
            raise HTTPException(400, "the body broke off, or stalled") from None
        except ValueError as error:
            raise HTTPException(400, f"the body: {error}") from None
        terms = _terms(request, form.fields if form else {})
        note_id, is_new = await asyncio.shield(asyncio.to_thread(_add, here, caller, incoming, terms))
    response.status_code = 201 if is_new else 200
    return WholeNote.model_validate(await asyncio.to_thread(Notebook(here.store).note, note_id))


def _add(here: Here, caller: Caller, incoming: Incoming, terms: Terms) -> tuple[str, bool]:
    return Notebook(here.store).add(
        incoming,
        here.pipeline,
        source=caller.name,
        owner=caller.token or "page",
        client_id=terms.id,
        title=terms.title,
        recorded_ms=None if terms.recorded_at is None else int(terms.recorded_at.timestamp() * 1000),
    )


@router.get("", dependencies=[needs("read")])
def list_notes(
    here: Here,
    q: Annotated[str, Query(max_length=200, description="Words to search for, or their beginnings.")] = "",
    before: Annotated[int | None, Query(ge=0, le=2**62, description="The `next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = PAGE_NOTES,
) -> Page:
    """Notes, newest first; with `q` those that have all of its words in title or text."""
    return Page.model_validate(Notebook(here.store).page(before, limit, q))


@router.get("/{note_id}", dependencies=[needs("read")], responses=problems(NO_NOTE))
def one_note(note_id: NoteId, here: Here) -> WholeNote:
    """One note with the times of its words and the log of its deliveries."""
    return WholeNote.model_validate(Notebook(here.store).note(note_id))


@router.patch(
    "/{note_id}", dependencies=[needs("write")], responses=problems(NO_NOTE | {409: "The note has no text yet."})
)
def correct_note(note_id: NoteId, correction: Correction, here: Here) -> WholeNote:
    """Corrects text or title; what the transcriber wrote stays in `transcript`."""
    book = Notebook(here.store)
    book.correct(note_id, correction.model_dump(exclude_unset=True))
    return WholeNote.model_validate(book.note(note_id))


@router.delete(
    "/{note_id}",
    status_code=204,
    dependencies=[needs("write")],
    responses=problems(NO_NOTE | {409: "The note is still arriving."}),
)
def delete_note(note_id: NoteId, here: Here) -> None:
    """Deletes text and sound. Its id stays known, so that a device which sends it again gets its confirmation."""
    Notebook(here.store).delete(note_id)


@router.post(
    "/{note_id}/retry",
    status_code=202,
    dependencies=[needs("write")],
    responses=problems(NO_NOTE | {409: "The note has its text, or somebody is at it."}),
)
def retry_note(note_id: NoteId, here: Here) -> WholeNote:
    """Transcribes a note that was set aside, or waits for its next try, now."""
    book = Notebook(here.store)
    book.retry(note_id, here.pipeline)
    return WholeNote.model_validate(book.note(note_id))


_SOUND: dict[int | str, dict[str, Any]] = {
    200: {"content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}}, "description": "The sound."},
    206: {"content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}}, "description": "The range."},
    400: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "`Range` is malformed."},
    416: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "`Range` is beyond the end."},
    **problems({404: "There is no such note, or it is not here as a whole yet."}),
}


@router.get(
    "/{note_id}/sound.wav",
    dependencies=[needs("read")],
    response_class=FileResponse,
    responses=_SOUND | problems({422: "It cannot be decoded."}),
)
def playable_sound(note_id: NoteId, here: Here) -> FileResponse:
    """The sound as plain PCM, which every browser plays; takes `Range`."""
    path, _ = Notebook(here.store).sound_of(note_id)
    try:
        made = sound.playable(path, here.store.settings.cache)
    except sound.SoundError as error:
        raise HTTPException(422, str(error)) from None
    return FileResponse(made, media_type="audio/wav", headers={"Cache-Control": "private, max-age=86400"})


@router.get("/{note_id}/original", dependencies=[needs("read")], response_class=FileResponse, responses=_SOUND)
def original_sound(note_id: NoteId, here: Here) -> FileResponse:
    """The file as it was sent; takes `Range`."""
    path, media_type = Notebook(here.store).sound_of(note_id)
    kind = media_type.partition("/")[2].removeprefix("x-")
    ending = {"mpeg": "mp3", "mp4": "m4a", "ms-wma": "wma", "basic": "au", "octet-stream": "bin"}.get(kind, kind)
    return FileResponse(path, media_type=media_type, filename=f"{note_id}.{ending}")
