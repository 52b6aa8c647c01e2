"""The way of a note: received, transcribed, delivered, in durable steps of DBOS.

The notes' and deliveries' tables are the truth; a workflow is only somebody working on them. Each step first looks at
its row, so it may be run again at any time, and what it found is committed together with the job that goes on from
there. A kill at any instant leaves a workflow that DBOS takes up at the next start, or, if even that were lost, a row
for which `reconcile` begins a new attempt.

Workflow ids: a note's id, then `ID.1`, `ID.2` for later attempts, because DBOS never runs an id again. The webhook id
of a delivery stays the same over all its attempts. A step that finds its row at another attempt than its own has
nothing to do: it was killed after its commit and before the engine knew of it.
"""

import json
import random
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, EnqueueOptions
from dbos import DBOSPortableJSONSerializer as PortableJSON

from offbeat import delivery, log
from offbeat.sound import SoundError
from offbeat.store import Store, connect, deliveries, destinations, iso, notes, now_ms, tries
from offbeat.transcriber import ModelError, Transcriber, Transcript

APPLICATION = "offbeat"
# Constant: with another one, jobs of the version before would stay where they are. Changed steps use DBOS.patch.
APPLICATION_VERSION = "1"
NOTES, DELIVERIES = "notes", "deliveries"
# Notes in work at a time. Only one is transcribed (the transcriber sees to that); the others are delivered meanwhile.
NOTES_IN_WORK = 4
DELIVERIES_IN_WORK = 8
POLLING_S = 0.25
# A transcription that was begun this often without coming to an end is set aside, so that a note that kills the
# process is not tried for ever.
MAX_STARTS = 5
# Pauses after a failed transcription, s. Each pause is lengthened by up to a tenth, here and below.
TRANSCRIPTION_BACKOFF_S = (10, 60, 300, 900)
# Pauses after a failed delivery, s: about three days in all.
DELIVERY_BACKOFF_S = (5, 30, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
HOUSEKEEPING_S = 60.0
FINISHED_KEPT = timedelta(hours=1)
CACHE_KEPT = timedelta(days=1)
BATCH = 500
R = TypeVar("R")
LIVE = ["ENQUEUED", "DELAYED", "PENDING"]
FINISHED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]


def _workflow_id(row_id: str, attempt: int) -> str:
    return row_id if attempt == 0 else f"{row_id}.{attempt}"


def _pause_s(backoff_s: tuple[int, ...], failures: int) -> float:
    """The pause after the failure with this number (1 for the first), with jitter."""
    return backoff_s[min(failures, len(backoff_s)) - 1] * random.uniform(1.0, 1.1)


def webhook_body(note: sa.Row[Any], transcript: Transcript, transcribed_ms: int) -> str:
    """The JSON that a webhook gets for a note, as docs/server.md has it."""
    return json.dumps(
        {
            "type": "note.transcribed",
            "timestamp": iso(transcribed_ms),
            "data": {
                "id": note.id,
                "device": note.device_id,
                "text": transcript.text,
                "language": transcript.language,
                "duration_s": None if note.duration_ms is None else note.duration_ms / 1000,
                "recorded_at": iso(note.recorded_ms),
                "received_at": iso(note.received_ms),
            },
        }
    )


class Pipeline:
    """The engine and its two workflows. One a process: DBOS is a singleton."""

    def __init__(self, store: Store, transcriber: Transcriber) -> None:
        """Starts DBOS on the store's database and takes up what is unfinished."""
        self._store = store
        self._transcriber = transcriber
        self._in_work: set[int] = set()  # the threads that run a step
        self._stop = threading.Event()
        engine = connect(store.settings.database)
        DBOS(
            config={
                "name": APPLICATION,
                "application_version": APPLICATION_VERSION,
                "executor_id": "local",
                "system_database_url": f"sqlite:///{store.settings.database}",
                "system_database_engine": engine,
                "serializer": PortableJSON(),
                "log_level": "WARNING",
            }
        )
        transcribe = DBOS.step(name="transcribe")(self._counted(self._transcribe))
        deliver = DBOS.step(name="deliver")(self._counted(self._deliver))

        # No limit of recovery attempts: DBOS would count a kill against every note in work. The notes' own count,
        # `starts`, is of the one that was being transcribed.
        @DBOS.workflow(name="note", max_recovery_attempts=None)
        def note(note_id: str, attempt: int) -> None:
            for delivery_id in transcribe(note_id, attempt):
                deliver(delivery_id, 0)

        @DBOS.workflow(name="delivery", max_recovery_attempts=None)
        def retry(delivery_id: str, attempt: int) -> None:
            deliver(delivery_id, attempt)

        # Before the launch, for what that recovers may want to enqueue at once; lazy, for the launch makes the tables.
        self._client = DBOSClient(
            system_database_engine=engine, serializer=PortableJSON(), application_name=APPLICATION, lazy=True
        )
        DBOS.launch()
        for queue, in_work in ((NOTES, NOTES_IN_WORK), (DELIVERIES, DELIVERIES_IN_WORK)):
            DBOS.register_queue(queue, worker_concurrency=in_work, polling_interval_sec=POLLING_S)
        self.reconcile()
        self._housekeeper = threading.Thread(target=self._keep_house, name="housekeeping", daemon=True)
        self._housekeeper.start()

    def enqueue_note(self, connection: sa.Connection, note_id: str, attempt: int = 0, delay_s: float = 0) -> None:
        """Adds the job of a note to the transaction in which its row is written."""
        self._enqueue(connection, "note", NOTES, note_id, attempt, delay_s)

    def close(self, patience_s: float = 3.0) -> bool:
        """Begins no more work and waits a little for what is in work. Returns whether all of it came to an end.

        The process must end now, without more ado: DBOS keeps its threads, and what is in work is taken up at the
        next start, as after a kill."""
        self._stop.set()
        until_s = time.monotonic() + patience_s
        while self._in_work and time.monotonic() < until_s:
            time.sleep(0.05)
        with self._store.write() as connection:
            # An orderly stop is no failure of the note that is being transcribed.
            connection.execute(
                sa.update(notes)
                .where(notes.c.state == "transcribing", notes.c.starts > 0)
                .values(starts=notes.c.starts - 1)
            )
        return not self._in_work

    def reconcile(self) -> int:
        """Begins a new attempt for every unfinished row on which nobody works. Returns how many there were."""
        lost = 0
        unfinished_notes = sa.select(notes.c.id, notes.c.attempt).where(
            notes.c.state.in_(("received", "transcribing")), notes.c.set_aside.is_(False)
        )
        # A delivery is the note's workflow's until that has tried it once.
        unfinished_deliveries = (
            sa.select(
                deliveries.c.id,
                deliveries.c.attempt,
                notes.c.id.label("note_id"),
                notes.c.attempt.label("of"),
            )
            .join(notes, notes.c.id == deliveries.c.note_id)
            .where(deliveries.c.state == "pending")
        )
        with self._store.read() as connection:
            waiting_notes = connection.execute(unfinished_notes).all()
            waiting_deliveries = connection.execute(unfinished_deliveries).all()
        live = self._live(
            [_workflow_id(row.id, row.attempt) for row in waiting_notes]
            + [_workflow_id(row.id, row.attempt) for row in waiting_deliveries if row.attempt]
            + [_workflow_id(row.note_id, row.of) for row in waiting_deliveries if not row.attempt]
        )
        for row in waiting_notes:
            if _workflow_id(row.id, row.attempt) not in live:
                lost += self._take_up(notes, "note", NOTES, row.id, row.attempt)
        for waiting in waiting_deliveries:
            owner = (waiting.id, waiting.attempt) if waiting.attempt else (waiting.note_id, waiting.of)
            if _workflow_id(*owner) not in live:
                lost += self._take_up(deliveries, "delivery", DELIVERIES, waiting.id, waiting.attempt)
        if lost:
            log.get().warning("took up unfinished work that nobody was at", count=lost)
        return lost

    def _live(self, workflow_ids: list[str]) -> set[str]:
        live: set[str] = set()
        for start in range(0, len(workflow_ids), BATCH):
            found = self._client.list_workflows(
                workflow_ids=workflow_ids[start : start + BATCH],
                status=LIVE,
                load_input=False,
                load_output=False,
            )
            live.update(workflow.workflow_id for workflow in found)
        return live

    def _take_up(self, table: sa.Table, workflow: str, queue: str, row_id: str, attempt: int) -> int:
        unfinished = ("received", "transcribing", "pending")
        with self._store.write() as connection:
            changed = connection.execute(
                sa.update(table)
                .where(table.c.id == row_id, table.c.attempt == attempt, table.c.state.in_(unfinished))
                .values(attempt=attempt + 1)
            )
            if changed.rowcount:  # else it was finished, or went on, since it was read
                self._enqueue(connection, workflow, queue, row_id, attempt + 1, 0)
            return changed.rowcount

    def _enqueue(
        self, connection: sa.Connection, workflow: str, queue: str, row_id: str, attempt: int, delay_s: float
    ) -> None:
        options: EnqueueOptions = {
            "workflow_name": workflow,
            "queue_name": queue,
            "workflow_id": _workflow_id(row_id, attempt),
            "app_version": APPLICATION_VERSION,
        }
        if delay_s:
            options["delay_seconds"] = delay_s
        self._client.enqueue_in_transaction(connection, options, row_id, attempt)

    def _counted(self, step: Callable[[str, int], R]) -> Callable[[str, int], R]:
        """The step, seen by `close` while it runs; after `close` none begins any more."""

        def counted(row_id: str, attempt: int) -> R:
            if self._stop.is_set():
                # The process is about to end. An exception would be recorded as the workflow's end; this is not.
                threading.Event().wait(HOUSEKEEPING_S)
            self._in_work.add(threading.get_ident())
            try:
                return step(row_id, attempt)
            finally:
                self._in_work.discard(threading.get_ident())

        return counted

    def _transcribe(self, note_id: str, attempt: int) -> list[str]:
        """Transcribes a note and returns the ids of its deliveries that are to be tried now."""
        with self._store.read() as connection:
            note = connection.execute(sa.select(notes).where(notes.c.id == note_id)).one()
            if note.state not in (
                "received",
                "transcribing",
            ):  # done by a run that was killed before it said so
                pending = sa.select(deliveries.c.id).where(
                    deliveries.c.note_id == note_id,
                    deliveries.c.state == "pending",
                    deliveries.c.attempt == 0,
                )
                return list(connection.scalars(pending))
        if note.set_aside or note.attempt != attempt:
            return []
        if note.starts >= MAX_STARTS:
            self._set_aside(note_id, f"Its transcription was begun {note.starts} times and never came to an end.")
            return []
        try:
            transcript = self._transcriber.transcribe(
                self._store.note_path(note_id), begin=lambda: self._begin_transcription(note_id)
            )
        except SoundError as error:
            self._set_aside(note_id, f"It cannot be transcribed: {error}.")
            return []
        except ModelError as error:
            self._try_note_again(note_id, error.reason, error.retry_s)
            return []
        except Exception as error:
            log.get().exception("transcription failed", note=note_id)
            pause_s = _pause_s(TRANSCRIPTION_BACKOFF_S, note.starts + 1)
            self._try_note_again(note_id, f"Its transcription failed ({type(error).__name__}: {error}).", pause_s)
            return []
        return self._keep_transcript(note_id, transcript)

    def _begin_transcription(self, note_id: str) -> None:
        with self._store.write() as connection:
            connection.execute(
                sa.update(notes)
                .where(notes.c.id == note_id)
                .values(state="transcribing", trouble=None, starts=notes.c.starts + 1)
            )

    def _set_aside(self, note_id: str, trouble: str) -> None:
        """Ends the work on a note, visibly; its sound is kept."""
        with self._store.write() as connection:
            connection.execute(
                sa.update(notes)
                .where(notes.c.id == note_id)
                .values(state="received", set_aside=True, trouble=f"{trouble} The sound is kept.")
            )
        log.get().error("note set aside", note=note_id, trouble=trouble)

    def _try_note_again(self, note_id: str, trouble: str, delay_s: float) -> None:
        with self._store.write() as connection:
            attempt = connection.scalar(
                sa.update(notes)
                .where(notes.c.id == note_id)
                .values(state="received", trouble=trouble, attempt=notes.c.attempt + 1)
                .returning(notes.c.attempt)
            )
            assert attempt is not None
            self.enqueue_note(connection, note_id, attempt, delay_s)
        log.get().warning("note waits", note=note_id, trouble=trouble, delay_s=round(delay_s, 1))

    def _keep_transcript(self, note_id: str, transcript: Transcript) -> list[str]:
        transcribed_ms = now_ms()
        with self._store.write() as connection:
            note = connection.execute(sa.select(notes).where(notes.c.id == note_id)).one()
            connection.execute(
                sa.update(notes)
                .where(notes.c.id == note_id)
                .values(
                    state="transcribed",
                    transcribed_ms=transcribed_ms,
                    text=transcript.text,
                    language=transcript.language,
                    words=transcript.words,
                    trouble=None,
                    starts=0,
                )
            )
            body = webhook_body(note, transcript, transcribed_ms)
            delivery_ids = []
            for destination_id in connection.scalars(
                sa.select(destinations.c.id)
                .where(destinations.c.ended_ms.is_(None))
                .order_by(destinations.c.created_ms)
            ).all():
                delivery_id = f"msg_{secrets.token_hex(16)}"
                connection.execute(
                    sa.insert(deliveries).values(
                        id=delivery_id,
                        note_id=note_id,
                        destination_id=destination_id,
                        body=body,
                        state="pending",
                        created_ms=transcribed_ms,
                    )
                )
                delivery_ids.append(delivery_id)
        log.get().info("note transcribed", note=note_id, seconds=(transcribed_ms - note.received_ms) / 1000)
        return delivery_ids

    def _deliver(self, delivery_id: str, attempt: int) -> None:
        """Tries a delivery once, and enqueues the next attempt if that is needed."""
        with self._store.read() as connection:
            row = connection.execute(
                sa.select(
                    deliveries,
                    destinations.c.url,
                    destinations.c.secret,
                    destinations.c.ended_ms,
                    destinations.c.ended_reason,
                )
                .join(destinations, destinations.c.id == deliveries.c.destination_id)
                .where(deliveries.c.id == delivery_id)
            ).one()
        if row.state != "pending" or row.attempt != attempt:
            return
        where = delivery.place(row.url)
        if row.ended_ms is not None:
            with self._store.write() as connection:
                self._finish_delivery(connection, row, "ended", row.ended_reason)
            return
        at_ms = now_ms()
        outcome = delivery.post(row.url, row.secret, row.id, row.body)
        log.get().info(
            "delivery tried",
            note=row.note_id,
            webhook=row.id,
            to=where,
            status=outcome.status,
            error=outcome.error,
        )
        failures = row.tries + 1
        with self._store.write() as connection:
            connection.execute(
                sa.insert(tries).values(
                    delivery_id=row.id,
                    at_ms=at_ms,
                    took_ms=outcome.took_ms,
                    status=outcome.status,
                    answer=outcome.answer,
                    error=outcome.error,
                )
            )
            connection.execute(sa.update(deliveries).where(deliveries.c.id == row.id).values(tries=failures))
            if outcome.delivered:
                self._finish_delivery(connection, row, "delivered", None)
            elif outcome.gone:
                reason = f"{where} answered 410: it wants no more deliveries."
                connection.execute(
                    sa.update(destinations)
                    .where(destinations.c.id == row.destination_id)
                    .values(ended_ms=now_ms(), ended_reason=reason)
                )
                self._finish_delivery(connection, row, "ended", reason)
            elif failures > len(DELIVERY_BACKOFF_S):
                trouble = f"{where} {outcome.trouble}; given up after {failures} tries."
                self._finish_delivery(connection, row, "ended", trouble)
            else:
                delay_s = _pause_s(DELIVERY_BACKOFF_S, failures)
                connection.execute(
                    sa.update(deliveries)
                    .where(deliveries.c.id == row.id)
                    .values(
                        attempt=row.attempt + 1,
                        trouble=f"{where} {outcome.trouble}.",
                        next_ms=now_ms() + int(delay_s * 1000),
                    )
                )
                self._enqueue(connection, "delivery", DELIVERIES, row.id, row.attempt + 1, delay_s)

    def _finish_delivery(self, connection: sa.Connection, row: sa.Row[Any], state: str, trouble: str | None) -> None:
        connection.execute(
            sa.update(deliveries).where(deliveries.c.id == row.id).values(state=state, trouble=trouble, next_ms=None)
        )
        states = set(connection.scalars(sa.select(deliveries.c.state).where(deliveries.c.note_id == row.note_id)))
        if "delivered" in states and "pending" not in states:
            connection.execute(sa.update(notes).where(notes.c.id == row.note_id).values(state="delivered"))

    def _keep_house(self) -> None:
        """Every minute: takes up what was lost, deletes what is finished. A failure is logged, and it goes on."""
        while not self._stop.wait(HOUSEKEEPING_S):
            try:
                self.reconcile()
                self._delete_finished()
                self._clear_cache()
            except Exception:
                log.get().exception("housekeeping failed; it is tried again in a minute")

    def _delete_finished(self) -> None:
        before = (datetime.now(UTC) - FINISHED_KEPT).isoformat()
        found = self._client.list_workflows(
            status=FINISHED, completed_before=before, limit=BATCH, load_input=False, load_output=False
        )
        if found:
            self._client.delete_workflows([workflow.workflow_id for workflow in found])

    def _clear_cache(self) -> None:
        before_s = (datetime.now(UTC) - CACHE_KEPT).timestamp()
        for path in self._store.settings.cache.iterdir():
            if path.stat().st_mtime < before_s:
                path.unlink(missing_ok=True)
