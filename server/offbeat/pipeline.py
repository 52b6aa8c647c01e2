"""The way of a note: received, transcribed, delivered, in durable steps of DBOS.

The notes' and deliveries' tables are the truth; a workflow is only somebody working on them. Each step first looks at
its row, so it may be run again at any time, and what it found is committed together with the job that goes on from
there. A kill at any instant leaves a workflow that DBOS takes up at the next start, or, if even that were lost, a row
for which `reconcile` begins a new attempt.

Workflow ids: a note's id, then `ID.1`, `ID.2` for later attempts, because DBOS never runs an id again. The webhook id
of a delivery stays the same over all its attempts. A step that finds its row at another attempt than its own has
nothing to do: it was killed after its commit and before the engine knew of it.

With PostgreSQL any number of processes share the work. Each one holds an advisory lock named after itself for as long
as it lives; who can take another's lock knows that it is dead, and takes over what it had in work.
"""

import hashlib
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, EnqueueOptions, SetWorkflowID
from dbos import DBOSPortableJSONSerializer as PortableJSON

from offbeat import log
from offbeat.deliveries import Deliveries, workflow_id
from offbeat.deliveries import pause_s as backoff_pause_s
from offbeat.notebook import clear_copies, sweep
from offbeat.registry import tell_silent
from offbeat.sound import SoundError
from offbeat.store import Store, StoreError, connect, deliveries, notes, now_ms
from offbeat.transcriber import AnyTranscriber, ModelError, Transcript

APPLICATION = "offbeat"
# Constant: with another one, jobs of the version before would stay where they are. Changed steps use DBOS.patch.
APPLICATION_VERSION = "1"
NOTES = "notes"
# Notes in work at a time. Only one is transcribed (the transcriber sees to that).
NOTES_IN_WORK = 4
POLLING_S = 0.25
# A transcription that was begun this often without coming to an end is set aside, so that a note that kills the
# process is not tried for ever.
MAX_STARTS = 5
# Pauses after a failed transcription, s. Each pause is lengthened by up to a tenth.
TRANSCRIPTION_BACKOFF_S = (10, 60, 300, 900)
HOUSEKEEPING_S = 60.0
TAKE_OVER_S = 2.0
# How long PostgreSQL may take until it notices that the `offbeat serve` before this one is dead (offbeat/store.py).
SERVER_GONE_S = 12.0
SERVER = "serve"
FINISHED_KEPT = timedelta(hours=1)
CACHE_KEPT = timedelta(days=1)
BATCH = 500
R = TypeVar("R")
LIVE = ["ENQUEUED", "DELAYED", "PENDING"]
FINISHED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]


def _lock_key(name: str) -> int:
    """The number of a process's advisory lock in PostgreSQL, 64 bits with sign."""
    return int.from_bytes(hashlib.sha256(f"offbeat {name}".encode()).digest()[:8], "big", signed=True)


def client_of(store: Store, engine: sa.Engine | None = None) -> DBOSClient:
    """What adds jobs to a transaction; lazy, for the engine's launch makes the tables."""
    return DBOSClient(
        system_database_engine=engine or store.engine,
        serializer=PortableJSON(),
        application_name=APPLICATION,
        lazy=True,
    )


class _Gone(Exception):
    """The note is not to be transcribed any more, or not by this attempt."""


class Pipeline:
    """The engine and its two workflows. One a process: DBOS is a singleton."""

    def __init__(self, store: Store, transcriber: AnyTranscriber, is_server: bool = False) -> None:
        """Starts DBOS on the store's database and takes up what is unfinished.

        On PostgreSQL there is one server at a time, with any number of others. Raises StoreError for a second one."""
        self._store = store
        self._transcriber = transcriber
        # Since when devices can reach this process, which they can only where it is the server.
        self._serving_since_ms = now_ms() if is_server else None
        self._in_work: set[int] = set()  # the threads that run a step
        self._running: set[str] = set()  # the workflows that this process runs
        self._orphans: set[str] = set()  # those that it should run and did not at the last look
        self._to_transcribe: set[str] = set()  # notes here that have not come out of the transcriber
        self._begun: set[str] = set()  # of them, the ones whose `starts` counts this process
        self._state = threading.Lock()
        self._stop = threading.Event()
        self._postgresql = store.engine.dialect.name == "postgresql"
        # With SQLite there is only one process, and it takes up what the last one left.
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}" if self._postgresql else "local"
        if self._postgresql:
            self._alive: sa.Connection | None = None
            # What the advisory locks are named after that this process holds as long as it lives.
            self._names = (SERVER, self.name) if is_server else (self.name,)
            until_s = time.monotonic() + SERVER_GONE_S
            while not self._hold_names():
                if time.monotonic() > until_s:
                    raise StoreError(
                        "OFFBEAT_DATABASE_URL: another `offbeat serve` uses this database, and there can be only one. "
                        "Stop that one first, or run `offbeat worker` here: any number of those share the work."
                    )
                time.sleep(POLLING_S)
        engine = connect(store.settings)
        DBOS(
            config={
                "name": APPLICATION,
                "application_version": APPLICATION_VERSION,
                "executor_id": self.name,
                "system_database_url": engine.url.render_as_string(hide_password=False),
                "system_database_engine": engine,
                "serializer": PortableJSON(),
                "log_level": "WARNING",
            }
        )
        # Before the launch, for what that recovers may want to enqueue at once.
        self._client = client_of(store, engine)
        self.deliveries = Deliveries(store, self._client, APPLICATION_VERSION)
        self.deliveries.register(self._counted, self._runs)
        transcribe = DBOS.step(name="transcribe")(self._counted(self._transcribe))

        # No limit of recovery attempts: DBOS would count a kill against every note in work. The notes' own count,
        # `starts`, is of the one that was being transcribed.
        @DBOS.workflow(name="note", max_recovery_attempts=None)
        def note(note_id: str, attempt: int) -> None:
            with self._runs():
                self.deliveries.start(transcribe(note_id, attempt))

        self._note = note

        DBOS.launch()
        DBOS.register_queue(NOTES, worker_concurrency=NOTES_IN_WORK, polling_interval_sec=POLLING_S)
        self.deliveries.listen()
        if self._postgresql:
            self.take_over()
            threading.Thread(target=self._keep_watch, name="watch", daemon=True).start()
        self.reconcile()
        self._housekeeper = threading.Thread(target=self._keep_house, name="housekeeping", daemon=True)
        self._housekeeper.start()

    def expect(self) -> None:
        """A note begins to arrive: the model may be loaded meanwhile."""
        self._transcriber.expect()

    def begin_note(self, note_id: str) -> None:
        """Begins the work on a new note after the commit of its row: at once where nothing else is waiting, which
        saves the queue's POLLING_S.

        Instead of `enqueue_note`. A kill between the commit and this loses nothing: `reconcile` finds the row."""
        with self._state:
            at_once = not self._to_transcribe and not self._stop.is_set()
            if at_once:
                self._to_transcribe.add(note_id)
        try:
            if at_once:
                with SetWorkflowID(workflow_id(note_id, 0)):
                    DBOS.start_workflow(self._note, note_id, 0)
            else:
                with self._store.write() as connection:
                    self.enqueue_note(connection, note_id)
        except Exception:
            # The note is stored and will be confirmed; `reconcile` takes it up.
            log.get().exception("a note could not be begun; it is taken up within a minute", note=note_id)
            with self._state:
                self._to_transcribe.discard(note_id)

    def enqueue_note(self, connection: sa.Connection, note_id: str, attempt: int = 0, delay_s: float = 0) -> None:
        """Adds the job of a note to the transaction in which its row is written."""
        options: EnqueueOptions = {
            "workflow_name": "note",
            "queue_name": NOTES,
            "workflow_id": workflow_id(note_id, attempt),
            "app_version": APPLICATION_VERSION,
        }
        if delay_s:
            options["delay_seconds"] = delay_s
        self._client.enqueue_in_transaction(connection, options, note_id, attempt)

    def close(self, patience_s: float = 3.0) -> bool:
        """Begins no more work and waits a little for what is in work. Returns whether all of it came to an end.

        The process must end now, without more ado: DBOS keeps its threads, and what is in work is taken up at the
        next start, as after a kill."""
        self._stop.set()
        until_s = time.monotonic() + patience_s
        while self._in_work and time.monotonic() < until_s:
            time.sleep(0.05)
        with self._store.write() as connection, self._state:
            # An orderly stop is no failure of the note that is being transcribed.
            connection.execute(
                sa.update(notes)
                .where(notes.c.id.in_(self._begun), notes.c.state == "transcribing", notes.c.starts > 0)
                .values(starts=notes.c.starts - 1)
            )
        return not self._in_work

    def reconcile(self) -> int:
        """Begins a new attempt for every unfinished row on which nobody works. Returns how many there were."""
        lost = 0
        unfinished_notes = sa.select(notes.c.id, notes.c.attempt).where(
            notes.c.state.in_(("received", "transcribing")), notes.c.set_aside.is_(False)
        )
        with self._store.read() as connection:
            waiting_notes = connection.execute(unfinished_notes).all()
            waiting_deliveries = self.deliveries.unfinished(connection)
        live = self._live(
            [workflow_id(row.id, row.attempt) for row in waiting_notes]
            + [owner for _, _, owners in waiting_deliveries for owner in owners]
        )
        for row in waiting_notes:
            if workflow_id(row.id, row.attempt) not in live:
                lost += self._take_up(row.id, row.attempt)
        for delivery_id, delivery_attempt, owners in waiting_deliveries:
            if live.isdisjoint(owners):
                lost += self.deliveries.take_up(delivery_id, delivery_attempt)
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

    def _take_up(self, note_id: str, attempt: int) -> int:
        with self._store.write() as connection:
            changed = connection.execute(
                sa.update(notes)
                .where(
                    notes.c.id == note_id, notes.c.attempt == attempt, notes.c.state.in_(("received", "transcribing"))
                )
                .values(attempt=attempt + 1)
            )
            if changed.rowcount:  # else it was finished, or went on, since it was read
                self.enqueue_note(connection, note_id, attempt + 1)
            return changed.rowcount

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

    @contextmanager
    def _runs(self) -> Iterator[None]:
        """Counts the workflow around it among those that run here."""
        running = str(DBOS.workflow_id)
        with self._state:
            self._running.add(running)
        try:
            yield
        finally:
            with self._state:
                self._running.discard(running)

    def _transcribe(self, note_id: str, attempt: int) -> list[str]:
        """Transcribes a note and returns the ids of its deliveries that are to be tried now."""
        with self._state:
            self._to_transcribe.add(note_id)
        try:
            return self._transcribe_once(note_id, attempt)
        finally:
            with self._state:
                self._to_transcribe.discard(note_id)
                self._begun.discard(note_id)

    def _transcribe_once(self, note_id: str, attempt: int) -> list[str]:
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
            self._set_aside(
                note_id, attempt, f"Its transcription was begun {note.starts} times and never came to an end."
            )
            return []
        try:
            path = self._store.sound_path(note_id)
            transcript = self._transcriber.transcribe(path, begin=lambda: self._begin_transcription(note_id, attempt))
        except _Gone:
            return []
        except SoundError as error:
            self._set_aside(note_id, attempt, f"It cannot be transcribed: {error}.")
            return []
        except FileNotFoundError:
            self._set_aside(note_id, attempt, "Its sound is not where it was stored.")
            return []
        except ModelError as error:
            # It says nothing about the note, so it does not count as one of its starts.
            self._try_note_again(note_id, attempt, error.reason, error.retry_s, starts=note.starts)
            return []
        except OSError as error:
            pause_s = backoff_pause_s(TRANSCRIPTION_BACKOFF_S, 1)
            reason = f"Its sound cannot be read now ({error.strerror or error}). It is tried again by itself."
            self._try_note_again(note_id, attempt, reason, pause_s, starts=note.starts)
            return []
        except Exception as error:
            log.get().exception("transcription failed", note=note_id)
            pause_s = backoff_pause_s(TRANSCRIPTION_BACKOFF_S, note.starts + 1)
            reason = f"Its transcription failed ({type(error).__name__}: {error})."
            self._try_note_again(note_id, attempt, reason, pause_s)
            return []
        return self._keep_transcript(note_id, attempt, transcript)

    @staticmethod
    def _is_current(note_id: str, attempt: int) -> sa.ColumnElement[bool]:
        """That a note is still to be transcribed, and by this attempt: one begun by hand meanwhile is not undone."""
        return (notes.c.id == note_id) & (notes.c.attempt == attempt) & notes.c.state.in_(("received", "transcribing"))

    def _begin_transcription(self, note_id: str, attempt: int) -> None:
        with self._store.write() as connection:
            changed = connection.execute(
                sa.update(notes)
                .where(self._is_current(note_id, attempt))
                .values(state="transcribing", trouble=None, starts=notes.c.starts + 1)
            )
        if not changed.rowcount:
            raise _Gone  # it was deleted, or is tried again by hand, while it waited for its turn
        with self._state:
            self._begun.add(note_id)

    def _set_aside(self, note_id: str, attempt: int, trouble: str) -> None:
        """Ends the work on a note, visibly; its sound is kept."""
        with self._store.write() as connection:
            changed = connection.execute(
                sa.update(notes)
                .where(self._is_current(note_id, attempt))
                .values(state="received", set_aside=True, trouble=f"{trouble} The sound is kept.")
            )
        if not changed.rowcount:
            return
        log.get().error("note set aside", note=note_id, trouble=trouble)

    def _try_note_again(
        self, note_id: str, attempt: int, trouble: str, delay_s: float, starts: int | None = None
    ) -> None:
        """Puts a note off; `starts`, if given, becomes what is counted of its starts."""
        with self._store.write() as connection:
            values = {"state": "received", "trouble": trouble, "attempt": notes.c.attempt + 1}
            following = connection.scalar(
                sa.update(notes)
                .where(self._is_current(note_id, attempt))
                .values(values if starts is None else {**values, "starts": starts})
                .returning(notes.c.attempt)
            )
            if following is None:
                return  # it was deleted or begun anew, or another process, that took this one for dead, has done it
            self.enqueue_note(connection, note_id, following, delay_s)
        log.get().warning("note waits", note=note_id, trouble=trouble, delay_s=round(delay_s, 1))

    def _keep_transcript(self, note_id: str, attempt: int, transcript: Transcript) -> list[str]:
        transcribed_ms = now_ms()
        with self._store.write() as connection:
            note = connection.execute(sa.select(notes).where(notes.c.id == note_id)).one()
            if note.attempt != attempt or note.state not in ("received", "transcribing"):
                return []  # it was deleted, or another process, that took this one for dead, has done it
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
            delivery_ids = self.deliveries.plan(connection, note_id)
        log.get().info("note transcribed", note=note_id, seconds=(transcribed_ms - note.received_ms) / 1000)
        return delivery_ids

    def _keep_house(self) -> None:
        """Every minute: takes up what was lost, deletes what is finished."""
        while not self._stop.wait(HOUSEKEEPING_S):
            self._do_chores()

    def _do_chores(self) -> None:
        """Each once. One that fails is logged, and keeps none of the others from being done."""
        chores: list[Callable[[], object]] = [
            self._resume_orphans,
            self.reconcile,
            self._delete_finished,
            self._clear_cache,
            self._sweep,
            self._clear_copies,
            self._tell_silent,
        ]
        for chore in chores:
            try:
                chore()
            except Exception:
                name = chore.__name__.strip("_")
                log.get().exception("housekeeping failed; it is tried again in a minute", chore=name)

    def _resume_orphans(self) -> None:
        """Begins anew what the engine counts as this process's work and what nobody here does: a full disk or a locked
        database may end a workflow without a trace. Twice seen, a minute apart, so that it is not one just begun."""
        found = self._client.list_workflows(
            status="PENDING", executor_id=self.name, limit=BATCH, load_input=False, load_output=False
        )
        with self._state:
            idle = {flow.workflow_id: flow.queue_name for flow in found if flow.workflow_id not in self._running}
            lost = self._orphans & idle.keys()
            self._orphans = set(idle)
        for one in lost:
            self._client.resume_workflows([one], queue_name=idle[one] or NOTES)
            log.get().warning("resumed work that came to no end", workflow=one)

    def _hold_names(self) -> bool:
        """Takes the advisory locks that say that this process lives, or makes sure that it still has them.

        Returns False where another process has one of them."""
        is_taken = False
        try:
            if self._alive is not None:
                self._alive.execute(sa.text("SELECT 1"))
                self._alive.commit()
                return True
            self._alive = self._store.engine.connect()
            lock = sa.text("SELECT pg_try_advisory_lock(:key)")
            is_taken = not all([self._alive.scalar(lock, {"key": _lock_key(name)}) for name in self._names])
            self._alive.commit()
            if not is_taken:
                return True
        except sa.exc.DBAPIError as error:
            log.get().warning("the database is not reachable", error=type(error.orig).__name__)
        if self._alive is not None:
            self._alive.invalidate()
            self._alive.close()
            self._alive = None
        return not is_taken

    def take_over(self) -> int:
        """Resumes the work of processes that are dead. Returns how many workflows there were."""
        pending = self._client.list_workflows(status="PENDING", limit=BATCH, load_input=False, load_output=False)
        count = 0
        for name in {one.executor_id for one in pending if one.executor_id} - {self.name}:
            with self._store.engine.connect() as connection:
                # Held for the length of this transaction, so that only one takes it over.
                dead = connection.scalar(sa.text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _lock_key(name)})
                if not dead:
                    continue
                left = self._client.list_workflows(
                    status="PENDING", executor_id=name, limit=BATCH, load_input=False, load_output=False
                )
                for one in left:
                    self._client.resume_workflows([one.workflow_id], queue_name=one.queue_name or NOTES)
                count += len(left)
                connection.rollback()
            log.get().warning("took over the work of a dead process", process=name, count=len(left))
        if count:
            self.reconcile()
        return count

    def _keep_watch(self) -> None:
        """Shows every TAKE_OVER_S that this process lives, and looks for those that do not."""
        held_s = time.monotonic()
        while not self._stop.wait(TAKE_OVER_S):
            try:
                if self._hold_names():
                    held_s = time.monotonic()
                elif time.monotonic() > held_s + SERVER_GONE_S:
                    log.get().critical("another `offbeat serve` has taken this database over: this one ends")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self.take_over()
            except Exception:
                log.get().exception("looking after the other processes failed; it is tried again")

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
            try:
                if path.stat().st_mtime >= before_s:
                    continue
                if path.is_dir():  # what a backup left that was killed
                    shutil.rmtree(path)
                else:
                    path.unlink()
            except FileNotFoundError:
                pass  # as it should be: somebody was quicker
            except OSError as error:
                log.get().error("this cannot be removed from the cache", name=path.name, error=str(error))

    def _sweep(self) -> None:
        sweep(self._store)

    def _clear_copies(self) -> None:
        clear_copies(self._store, CACHE_KEPT.total_seconds())

    def _tell_silent(self) -> None:
        if self._serving_since_ms is not None:
            tell_silent(self._store, self.deliveries.emit, self._serving_since_ms)
