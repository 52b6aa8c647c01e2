"""The notes as people and scripts see them: listed, searched, added, corrected, deleted."""

import hashlib
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from offbeat import log, sound
from offbeat.deliveries import forget
from offbeat.delivery import place
from offbeat.store import (
    Store,
    deliveries,
    destinations,
    devices,
    iso,
    notes,
    now_ms,
    sync_folder,
    tries,
)

if TYPE_CHECKING:
    from offbeat.pipeline import Pipeline

MAX_UPLOAD_BYTES = 512 * 1024 * 1024
MAX_DURATION_MS = 2 * 3_600_000
# Notes that wait for their text; beyond that the server takes no more from people and scripts, only from devices.
MAX_WAITING = 10_000
BATCH = 500
# A note of which nothing more came for so long may be deleted, though it is not here as a whole.
GIVEN_UP_MS = 86_400_000
LISTED = [column for column in notes.c if column.name not in ("words", "transcript")]
DELIVERED: list[sa.ColumnElement[Any]] = [
    *[column for column in deliveries.c if column.name != "body"],
    destinations.c.url,
    destinations.c.name.label("destination_name"),
]


_adding = threading.Lock()


class Refused(Exception):
    """What was asked cannot be done with this note; `status` is the HTTP answer's."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def terms(query: str) -> list[str]:
    """The words to search for; signs between them count for nothing."""
    return re.findall(r"\w+", query)[:20]


NEAR = 1000
# The expression is the one of the index (migration 0004), or that is not used; `+ 0`: nor is the order of the numbers.
_WORDS = "to_tsvector('simple', coalesce(title, '') || ' ' || coalesce(text, '')) @@ to_tsquery('simple', :query)"
SEARCH_POSTGRESQL = f"""
WITH near AS MATERIALIZED (
  SELECT number FROM (
    SELECT number, title, text FROM notes WHERE number < :before ORDER BY number DESC LIMIT :near
  ) AS newest WHERE {_WORDS} ORDER BY number DESC LIMIT :limit
), far AS (
  SELECT number FROM notes WHERE (SELECT count(*) FROM near) < :limit AND number < :before AND {_WORDS}
  ORDER BY number + 0 DESC LIMIT :limit
)
SELECT number FROM near UNION SELECT number FROM far
"""


def search(dialect: str, words: list[str], before: int | None, limit: int) -> sa.ColumnElement[bool]:
    """The condition that title and text have, between them, words that begin with all of these.

    The newest `limit` notes before `before`, found from the newest on: of a common word an index would find most notes.
    SQLite's index has them in order of their numbers. PostgreSQL's has not, and its planner does not know how common a
    word is: there the newest NEAR notes are read, and the index is asked only where those are too few. Notes that are
    deleted are never found, for they have no words."""
    if dialect == "sqlite":
        found = sa.text(
            "SELECT rowid FROM notes_search WHERE notes_search MATCH :query AND rowid < :before"
            " ORDER BY rowid DESC LIMIT :limit"
        )
        query = " ".join(f'"{word}"*' for word in words)
        return notes.c.number.in_(
            found.bindparams(query=query, before=2**62 if before is None else before, limit=limit)
        )
    query = " & ".join(f"'{word}':*" for word in words)
    found = sa.text(SEARCH_POSTGRESQL).bindparams(
        sa.bindparam("before", 2**62 if before is None else before, sa.BigInteger),
        query=query,
        limit=limit,
        near=NEAR,
    )
    return notes.c.number.in_(found)


def _delivery(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "webhook_id": row.id,
        "to": place(row.url),
        "state": row.state,
        "tries": row.tries,
        "next_at": iso(row.next_ms),
        "trouble": row.trouble,
        "destination": row.destination_id,
        "destination_name": row.destination_name,
        "answer": row.answer,
    }


def _note(row: sa.Row[Any], its_deliveries: list[sa.Row[Any]]) -> dict[str, Any]:
    return {
        "number": row.number,
        "id": row.id,
        "device": row.device_id,
        "device_name": row.device_name,
        "source": row.source,
        "title": row.title,
        "state": row.state,
        "set_aside": row.set_aside,
        "trouble": row.trouble,
        "text": row.text,
        "edited_at": iso(row.edited_ms),
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


def _deliveries(connection: sa.Connection, note_ids: list[str]) -> dict[str, list[sa.Row[Any]]]:
    rows = connection.execute(
        sa.select(*DELIVERED)
        .join(destinations, destinations.c.id == deliveries.c.destination_id)
        .where(deliveries.c.note_id.in_(note_ids))
        .order_by(deliveries.c.created_ms)
    )
    found: dict[str, list[sa.Row[Any]]] = {}
    for row in rows:
        found.setdefault(row.note_id, []).append(row)
    return found


class Notebook:
    """Reads and changes notes. All of it blocks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def page(self, before: int | None, limit: int, query: str = "") -> dict[str, Any]:
        """Notes, newest first, and the cursor of the next page."""
        chosen = (
            sa.select(*LISTED, devices.c.name.label("device_name"))
            .outerjoin(devices, devices.c.id == notes.c.device_id)
            .where(notes.c.deleted_ms.is_(None))
            .order_by(notes.c.number.desc())
            .limit(limit + 1)
        )
        if before is not None:
            chosen = chosen.where(notes.c.number < before)
        if query:
            words, dialect = terms(query), self._store.engine.dialect.name
            chosen = chosen.where(search(dialect, words, before, limit + 1) if words else sa.false())
        with self._store.read() as connection:
            rows: list[sa.Row[Any]] = list(connection.execute(chosen))
            their_deliveries = _deliveries(connection, [row.id for row in rows])
        page = rows[:limit]
        return {
            "notes": [_note(row, their_deliveries.get(row.id, [])) for row in page],
            "next": page[-1].number if len(rows) > limit else None,
        }

    def note(self, note_id: str) -> dict[str, Any]:
        """One note with its words and the log of its deliveries. Raises Refused (404)."""
        with self._store.read() as connection:
            row = connection.execute(
                sa.select(notes, devices.c.name.label("device_name"))
                .outerjoin(devices, devices.c.id == notes.c.device_id)
                .where(notes.c.id == note_id, notes.c.deleted_ms.is_(None))
            ).one_or_none()
            if row is None:
                raise Refused(404, "there is no such note")
            its_deliveries = _deliveries(connection, [note_id]).get(note_id, [])
            note = _note(row, its_deliveries)
            note["words"] = row.words or []
            note["transcript"] = row.text if row.transcript is None else row.transcript
            for one, delivery in zip(its_deliveries, note["deliveries"], strict=True):
                entries = sa.select(tries).where(tries.c.delivery_id == one.id).order_by(tries.c.number)
                delivery["log"] = [
                    {
                        "at": iso(entry.at_ms),
                        "took_ms": entry.took_ms,
                        "status": entry.status,
                        "answer": entry.answer,
                        "error": entry.error,
                    }
                    for entry in connection.execute(entries)
                ]
        return note

    def sound_of(self, note_id: str) -> tuple[Path, str]:
        """The file of a whole note and its media type. Raises Refused (404)."""
        with self._store.read() as connection:
            chosen = sa.select(notes.c.state, notes.c.media_type).where(
                notes.c.id == note_id, notes.c.deleted_ms.is_(None)
            )
            row = connection.execute(chosen).one_or_none()
        if row is None or row.state == "receiving":
            raise Refused(404, "there is no such note, or it is not here as a whole yet")
        try:
            path = self._store.sound_path(note_id)
        except FileNotFoundError:
            raise Refused(404, "the note's file is missing") from None
        return path, row.media_type or "audio/wav"

    def correct(self, note_id: str, changes: dict[str, str | None]) -> None:
        """Changes `text` and `title`; what the transcriber wrote is kept beside. Raises Refused (404, 409)."""
        with self._store.write() as connection:
            row = self._existing(connection, note_id)
            values: dict[str, Any] = {}
            if "title" in changes:
                values["title"] = changes["title"] or None
            text = changes.get("text")
            if text is not None and text != row.text:
                if row.text is None:
                    raise Refused(409, "this note has no text yet")
                transcript = row.text if row.transcript is None else row.transcript
                is_back = text == transcript
                values["text"] = text
                values["transcript"] = None if is_back else transcript
                values["edited_ms"] = None if is_back else now_ms()
            if values:
                connection.execute(sa.update(notes).where(notes.c.id == note_id).values(values))

    def delete(self, note_id: str) -> None:
        """Leaves a tombstone, which still confirms the note to its device, and removes the sound.

        A note that never came to its end leaves none: its device, should it come back, has the whole of it, and begins
        anew. Raises Refused (404, 409)."""
        with self._store.write() as connection:
            row = self._existing(connection, note_id)
            if row.state == "receiving" and not self._is_given_up(connection, row):
                raise Refused(
                    409,
                    "this note is still arriving: its device holds the rest of it. It can be deleted once nothing has "
                    f"come for {GIVEN_UP_MS // 3_600_000} hours, or when the device was removed",
                )
            if row.state == "receiving":
                connection.execute(sa.delete(notes).where(notes.c.id == note_id))
                self._store.note_path(note_id).unlink(missing_ok=True)
                log.get().info("beginning of a note deleted", note=note_id)
                return
            said = ("text", "title", "words", "transcript", "language", "trouble", "edited_ms")
            connection.execute(
                sa.update(notes)
                .where(notes.c.id == note_id)
                .values(state="deleted", deleted_ms=now_ms(), set_aside=False, **dict.fromkeys(said))
            )
            forget(connection, note_id)
        log.get().info("note deleted", note=note_id)
        sweep(self._store, note_id)

    def retry(self, note_id: str, pipeline: "Pipeline") -> None:
        """Transcribes a note that was set aside, or that waits, now. Raises Refused (404, 409)."""
        with self._store.write() as connection:
            row = self._existing(connection, note_id)
            if row.state != "received":
                raise Refused(409, f"this note is {row.state}: there is nothing to try again")
            connection.execute(
                sa.update(notes)
                .where(notes.c.id == note_id)
                .values(set_aside=False, starts=0, trouble=None, attempt=row.attempt + 1)
            )
            pipeline.enqueue_note(connection, note_id, row.attempt + 1)

    def _is_given_up(self, connection: sa.Connection, row: sa.Row[Any]) -> bool:
        """Whether the rest of a note that is arriving will not come, as far as one can tell."""
        of_it = sa.select(devices.c.revoked_ms).where(devices.c.id == row.device_id)
        if connection.scalar(of_it) is not None:
            return True
        try:
            came_ms = int(self._store.note_path(row.id).stat().st_mtime * 1000)
        except FileNotFoundError:
            came_ms = row.created_ms
        return now_ms() - came_ms > GIVEN_UP_MS

    @staticmethod
    def _existing(connection: sa.Connection, note_id: str) -> sa.Row[Any]:
        chosen = sa.select(notes).where(notes.c.id == note_id, notes.c.deleted_ms.is_(None))
        row = connection.execute(chosen).one_or_none()
        if row is None:
            raise Refused(404, "there is no such note")
        return row

    def add(
        self,
        incoming: "Incoming",
        pipeline: "Pipeline",
        *,
        source: str,
        owner: str,
        client_id: str | None,
        title: str | None,
        recorded_ms: int | None,
    ) -> tuple[str, bool]:
        """Takes in a file that was uploaded. Returns the note's id, and whether it is new.

        The same `client_id` of the same `owner`, or without one the same content, is the same note.
        Raises Refused (409, 415, 503)."""
        sha256, length_bytes = incoming.finish()
        try:
            duration_ms, media_type = sound.probe(incoming.path)
        except sound.SoundError as error:
            raise Refused(415, f"this cannot be used: {error}") from None
        if duration_ms is not None and duration_ms > MAX_DURATION_MS:
            raise Refused(415, f"a note lasts at most {MAX_DURATION_MS // 60_000} minutes here")
        key = sha256 if client_id is None else hashlib.sha256(f"{owner}\0{client_id}".encode()).hexdigest()
        note_id = f"up_{key[:32]}"
        now = now_ms()
        values = {
            "id": note_id,
            "source": source,
            "title": title or None,
            "length_bytes": length_bytes,
            "sha256": sha256,
            "media_type": media_type,
            "state": "received",
            "created_ms": now,
            "received_ms": now,
            "recorded_ms": recorded_ms,
            "duration_ms": duration_ms,
        }
        with _adding:  # one at a time, so that of two files under one id only one takes the place
            with self._store.read() as connection:
                known = connection.execute(sa.select(notes).where(notes.c.id == note_id)).one_or_none()
                waiting = sa.select(sa.func.count()).where(notes.c.state.in_(("received", "transcribing")))
                is_full = (connection.scalar(waiting) or 0) >= MAX_WAITING
            if known is not None and known.deleted_ms is not None:
                raise Refused(409, "this note was deleted: give it another `id` to add it again")
            if known is not None and known.sha256 != sha256:
                raise Refused(409, "this `id` belongs to another file")
            if known is not None:
                return note_id, False
            if is_full:
                raise Refused(503, "too many notes wait for their text: try again later")
            # The file first: a row without its file would be a loss, a file without a row is written over.
            path = self._store.note_path(note_id)
            os.replace(incoming.path, path)
            sync_folder(path.parent)
            self._store.keep_sound(note_id)
            with self._store.write() as connection:
                connection.execute(sa.insert(notes).values(values))
        pipeline.begin_note(note_id)
        log.get().info("note uploaded", note=note_id, bytes=length_bytes)
        return note_id, True


class Incoming:
    """A file that is being uploaded; it is gone at the end of the `with` unless it became a note.

    It lies in the cache's folder, where housekeeping removes what a kill left."""

    def __init__(self, store: Store) -> None:
        descriptor, name = tempfile.mkstemp(dir=store.settings.cache, suffix=".part")
        self.path = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        self._digest = hashlib.sha256()
        self._length_bytes = 0

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        finally:
            self.path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        self._file.write(data)
        self._digest.update(data)
        self._length_bytes += len(data)

    def finish(self) -> tuple[str, int]:
        """Syncs it. Returns SHA-256 and length. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest(), self._length_bytes


def to_sweep() -> sa.Select[Any]:
    """The deleted notes whose sound a kill or a failure left."""
    return sa.select(notes.c.id).where(notes.c.deleted_ms.is_not(None), notes.c.has_file.is_(True))


def sweep(store: Store, note_id: str | None = None) -> int:
    """Removes the sound of deleted notes, or of that one. What cannot be removed now is logged, and is tried again.

    Returns how many were removed."""
    with store.read() as connection:
        chosen = to_sweep() if note_id is None else to_sweep().where(notes.c.id == note_id)
        left = list(connection.scalars(chosen))
    removed = []
    for one in left:
        try:
            store.remove_sound(one)
            sound.playable_path(one, store.settings.cache).unlink(missing_ok=True)
        except OSError as error:  # housekeeping tries again; the others are removed all the same
            log.get().error("the sound of a deleted note cannot be removed yet", note=one, error=str(error))
        else:
            removed.append(one)
    if removed:
        sync_folder(store.settings.notes)
        with store.write() as connection:
            for start in range(0, len(removed), BATCH):
                part = removed[start : start + BATCH]
                connection.execute(sa.update(notes).where(notes.c.id.in_(part)).values(has_file=False))
    return len(removed)


def clear_copies(store: Store, older_than_s: float) -> int:
    """With an object store, removes local files of whole notes: those that nobody used for so long, and those of notes
    that were deleted at another machine; and parts of fetches that were killed. Returns how many.

    What the object store does not have is never removed. What fails is logged, and tried again."""
    if store.storage is None:
        return 0
    files = {path.stem: path for path in store.settings.notes.iterdir()}
    ids = list(files)
    rows: dict[str, sa.Row[Any]] = {}
    with store.read() as connection:
        for start in range(0, len(ids), BATCH):
            chosen = sa.select(notes.c.id, notes.c.state, notes.c.length_bytes)
            found = connection.execute(chosen.where(notes.c.id.in_(ids[start : start + BATCH])))
            rows |= {row.id: row for row in found}
    removed = 0
    for note_id, path in files.items():
        try:
            row, is_old = rows.get(note_id), path.stat().st_mtime < time.time() - older_than_s
            if path.suffix == ".part":
                is_to_go = is_old
            elif row is None or row.state == "receiving":
                is_to_go = False
            else:
                is_to_go = row.state == "deleted" or (is_old and store.storage.size(note_id) == row.length_bytes)
            if is_to_go:
                path.unlink()
                removed += 1
            elif is_old:
                os.utime(path)  # not asked about again each minute
        except FileNotFoundError:
            pass  # somebody was quicker
        except OSError as error:
            log.get().error("a copy cannot be removed yet", note=note_id, error=str(error))
    return removed
