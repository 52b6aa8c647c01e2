"""The way of a body to its destination: tried at once, then in durable steps over days, one at a time a destination.

The table of deliveries is the truth. A delivery is `pending`, `delivered`, `ended` (given up, for the reason in its
trouble) or `in_doubt`: it may have arrived, and its destination wants somebody to be asked.

Attempt 0 is begun by the note's own workflow, without a queue, so that it does not wait for a poll. All others come
from a queue that is partitioned by destination. Where an attempt 0 finds its destination busy, it becomes an attempt 1
and queues up. So a destination that hangs holds at most two threads, and delays no other and no note."""

import random
import secrets
import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, EnqueueOptions, SetWorkflowID

from offbeat import destinations as places
from offbeat import log
from offbeat.delivery import Outcome, answer_of, place
from offbeat.store import Store, deliveries, destinations, iso, notes, now_ms, tries
from offbeat.template import TemplateError

QUEUE = "tries"
POLLING_S = 0.25
# Pauses after a failed try, s: about three days in all.
BACKOFF_S = (5, 30, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
# How long an attempt from the queue waits for the one that is on its way to the same destination.
TURN_WAIT_S = 30.0
UNFINISHED = ("pending", "in_doubt")


class DeliveryError(Exception):
    """What was asked cannot be done; `status` is the HTTP answer's."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def pause_s(backoff_s: tuple[int, ...], failures: int) -> float:
    """The pause after the failure with this number (1 for the first), lengthened by up to a tenth."""
    return backoff_s[min(failures, len(backoff_s)) - 1] * random.uniform(1.0, 1.1)


def workflow_id(delivery_id: str, attempt: int) -> str:
    """The id of a delivery's workflow: the webhook id, then `ID.1`, `ID.2`, because DBOS never runs an id again."""
    return delivery_id if attempt == 0 else f"{delivery_id}.{attempt}"


def forget(connection: sa.Connection, note_id: str) -> None:
    """Ends a deleted note's deliveries; nothing that was said, asked or answered stays."""
    its = sa.select(deliveries.c.id).where(deliveries.c.note_id == note_id)
    connection.execute(sa.delete(tries).where(tries.c.delivery_id.in_(its)))
    connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.note_id == note_id)
        .values(
            body="",
            answer=None,
            trouble=None,
            next_ms=None,
            begun_ms=None,
            state=sa.case((deliveries.c.state.in_(UNFINISHED), "ended"), else_=deliveries.c.state),
        )
    )


class Deliveries:
    """Makes deliveries, tries them, and answers what people decide about them."""

    def __init__(self, store: Store, client: DBOSClient, application_version: str) -> None:
        """Works without `register`, too, in a command beside a running server: then it only enqueues."""
        self._store = store
        self._client = client
        self._application_version = application_version
        self._turns: dict[str, threading.Lock] = {}
        self._start: Callable[[str], None] | None = None

    # The engine's part

    def register(
        self,
        counted: Callable[[Callable[[str, int], None]], Callable[[str, int], None]],
        runs: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Registers the workflow, before the engine's launch. `counted` wraps its step, `runs` is around it."""
        step = DBOS.step(name="deliver")(counted(self.deliver))

        # No limit of recovery attempts: a kill says nothing about a delivery that was on its way.
        @DBOS.workflow(name="delivery", max_recovery_attempts=None)
        def delivery(delivery_id: str, attempt: int) -> None:
            with runs():
                step(delivery_id, attempt)

        def start(delivery_id: str) -> None:
            with SetWorkflowID(delivery_id):
                DBOS.start_workflow(delivery, delivery_id, 0)

        self._start = start

    def listen(self) -> None:
        """Takes attempts from the queue, after the engine's launch."""
        DBOS.register_queue(QUEUE, partition_worker_concurrency=1, polling_interval_sec=POLLING_S)

    def start(self, delivery_ids: list[str]) -> None:
        """Begins the first tries, within the workflow of their note; repeated, it does nothing."""
        assert self._start is not None, "register comes first"
        for delivery_id in delivery_ids:
            self._start(delivery_id)

    def unfinished(self, connection: sa.Connection) -> list[tuple[str, int, list[str]]]:
        """Pending deliveries: id, attempt, and the workflows of which one must be alive, or the delivery is lost."""
        rows = connection.execute(
            sa.select(deliveries.c.id, deliveries.c.attempt, notes.c.id.label("note_id"), notes.c.attempt.label("of"))
            .outerjoin(notes, notes.c.id == deliveries.c.note_id)
            .where(deliveries.c.state == "pending")
        ).all()
        found = []
        for row in rows:
            owners = [workflow_id(row.id, row.attempt)]
            if row.attempt == 0 and row.note_id is not None:
                # The note's own first: it begins the other before it ends.
                owners.insert(0, workflow_id(row.note_id, row.of))
            found.append((row.id, row.attempt, owners))
        return found

    def take_up(self, delivery_id: str, attempt: int) -> int:
        """Enqueues another attempt of a delivery that nobody works on. Returns 0 where it went on meanwhile."""
        with self._store.write() as connection:
            row = connection.execute(
                sa.select(deliveries.c.destination_id).where(
                    deliveries.c.id == delivery_id, deliveries.c.attempt == attempt, deliveries.c.state == "pending"
                )
            ).one_or_none()
            if row is None:
                return 0
            self._next(connection, delivery_id, row.destination_id, attempt, 0)
            return 1

    def _next(
        self,
        connection: sa.Connection,
        delivery_id: str,
        destination_id: str,
        attempt: int,
        delay_s: float,
        **values: Any,
    ) -> None:
        """Makes a delivery wait for its next attempt, and enqueues that, in one transaction."""
        connection.execute(
            sa.update(deliveries)
            .where(deliveries.c.id == delivery_id)
            .values(
                state="pending",
                attempt=attempt + 1,
                next_ms=now_ms() + int(delay_s * 1000) if delay_s else None,
                **values,
            )
        )
        options: EnqueueOptions = {
            "workflow_name": "delivery",
            "queue_name": QUEUE,
            "queue_partition_key": destination_id,
            "workflow_id": workflow_id(delivery_id, attempt + 1),
            "app_version": self._application_version,
        }
        if delay_s:
            options["delay_seconds"] = delay_s
        self._client.enqueue_in_transaction(connection, options, delivery_id, attempt + 1)

    # New deliveries

    def plan(self, connection: sa.Connection, note_id: str) -> list[str]:
        """Makes the deliveries of a note that has just got its text, for `start`. Returns their ids."""
        note = connection.execute(sa.select(notes).where(notes.c.id == note_id)).one()
        event = places.note_event(note)
        return [
            delivery_id
            for row in self._asking(connection, "note")
            if (note.text or row.empty_texts)
            and (delivery_id := self._make(connection, row, "note", note_id, event)) is not None
        ]

    def emit(self, connection: sa.Connection, event_type: str, payload: dict[str, Any]) -> int:
        """Sends an event of a device to the destinations that ask for it, once the transaction commits.

        `payload` is JSON with at least `device`, its id, and `name`. Returns the number of deliveries."""
        made = 0
        event = places.device_event(event_type, payload, now_ms())
        for row in self._asking(connection, event_type):
            delivery_id = self._make(connection, row, event_type, None, event)
            if delivery_id is not None:
                self._next(connection, delivery_id, row.id, 0, 0)
                made += 1
        return made

    @staticmethod
    def _asking(connection: sa.Connection, event_type: str) -> list[sa.Row[Any]]:
        rows = connection.execute(
            sa.select(destinations).where(destinations.c.ended_ms.is_(None)).order_by(destinations.c.created_ms)
        ).all()
        return [row for row in rows if event_type in (row.events or ["note"])]

    @staticmethod
    def _make(
        connection: sa.Connection, destination: sa.Row[Any], event_type: str, note_id: str | None, event: dict[str, Any]
    ) -> str | None:
        """A new delivery, with the body that all its tries carry. None where the template fails, which its row says."""
        body, trouble = "", None
        try:
            body = places.body_of(destination, event)
        except TemplateError as error:
            trouble = f"{place(destination.url)}: its template cannot be filled in: {error}"
            log.get().error("template failed", destination=destination.id)
        delivery_id = f"msg_{secrets.token_hex(16)}"
        connection.execute(
            sa.insert(deliveries).values(
                id=delivery_id,
                note_id=note_id,
                event=event_type,
                destination_id=destination.id,
                body=body,
                state="pending" if trouble is None else "ended",
                trouble=trouble,
                created_ms=now_ms(),
            )
        )
        return delivery_id if trouble is None else None

    # What people decide

    def send(self, connection: sa.Connection, note_id: str, destination_id: str) -> str:
        """Sends a note to a destination, once more or for the first time, with its text as it is now.

        What is the same as it was then goes out under the same webhook id; a text that was corrected meanwhile is
        another body and gets another id. Returns the id. Raises DeliveryError."""
        note = connection.execute(
            sa.select(notes).where(notes.c.id == note_id, notes.c.deleted_ms.is_(None))
        ).one_or_none()
        if note is None:
            raise DeliveryError(404, "there is no such note")
        if note.text is None:
            raise DeliveryError(409, "this note has no text yet")
        destination = self._open(connection, destination_id)
        last = connection.execute(
            sa.select(deliveries)
            .where(deliveries.c.note_id == note_id, deliveries.c.destination_id == destination_id)
            .order_by(deliveries.c.created_ms.desc(), deliveries.c.id)
            .limit(1)
        ).one_or_none()
        event = places.note_event(note)
        try:
            same = last is not None and last.body == places.body_of(destination, event)
        except TemplateError as error:
            raise DeliveryError(409, f"the template cannot be filled in: {error}") from None
        if last is not None and same:
            self._again(connection, last)
            return str(last.id)
        if last is not None and last.state in UNFINISHED:
            connection.execute(
                sa.update(deliveries)
                .where(deliveries.c.id == last.id)
                .values(state="ended", trouble="Another text was sent instead.", next_ms=None, begun_ms=None)
            )
        delivery_id = self._make(connection, destination, "note", note_id, event)
        assert delivery_id is not None, "the template was filled in just now"
        self._next(connection, delivery_id, destination_id, 0, 0)
        self._state_of_note(connection, note_id)
        return delivery_id

    def resend(self, connection: sa.Connection, delivery_id: str) -> None:
        """Sends the same body again under the same webhook id: also the answer to a doubt. Raises DeliveryError."""
        row = self._delivery(connection, delivery_id)
        if not row.body:
            raise DeliveryError(409, "there is nothing left to send: its note was deleted, or its template failed")
        self._open(connection, row.destination_id)
        self._again(connection, row)

    def arrived(self, connection: sa.Connection, delivery_id: str) -> None:
        """Settles a doubt: it did arrive. Raises DeliveryError."""
        row = self._delivery(connection, delivery_id)
        if row.state != "in_doubt":
            raise DeliveryError(409, f"this delivery is {row.state}, and not in doubt")
        self._finish(connection, row, "delivered", None)

    def _again(self, connection: sa.Connection, row: sa.Row[Any]) -> None:
        # With the backoff from its beginning; the other attempt, if one waits, finds that it is not its turn any more.
        self._next(
            connection, row.id, row.destination_id, row.attempt, 0,
            tries=0, trouble=None, begun_ms=None, reserved=False,
        )  # fmt: skip
        self._state_of_note(connection, row.note_id)

    @staticmethod
    def _delivery(connection: sa.Connection, delivery_id: str) -> sa.Row[Any]:
        row = connection.execute(sa.select(deliveries).where(deliveries.c.id == delivery_id)).one_or_none()
        if row is None:
            raise DeliveryError(404, "there is no such delivery")
        return row

    @staticmethod
    def _open(connection: sa.Connection, destination_id: str) -> sa.Row[Any]:
        row = places.existing(connection, destination_id)
        if row is None:
            raise DeliveryError(404, "there is no such destination")
        if row.ended_ms is not None:
            raise DeliveryError(409, f"the destination has ended: {row.ended_reason}")
        return row

    # One try

    def deliver(self, delivery_id: str, attempt: int) -> None:
        """Tries a delivery once, and enqueues the next attempt if that is needed."""
        row = self._current(delivery_id, attempt)
        if row is None:
            return
        turn = self._turns.setdefault(row.destination_id, threading.Lock())
        if attempt == 0 and self._others_wait(row):
            has_turn = False
        else:
            has_turn = turn.acquire(timeout=TURN_WAIT_S) if attempt else turn.acquire(blocking=False)
        if not has_turn:
            self._put_off(row, 0)
            return
        try:
            row = self._current(delivery_id, attempt)
            if row is not None and self._may_go(row):
                self._try(row)
        finally:
            turn.release()

    def _current(self, delivery_id: str, attempt: int) -> sa.Row[Any] | None:
        """The delivery with its destination, if this attempt is the one that it waits for."""
        of_destination = [column for column in destinations.c if column.name != "id"]
        with self._store.read() as connection:
            row = connection.execute(
                sa.select(deliveries, *of_destination)
                .join(destinations, destinations.c.id == deliveries.c.destination_id)
                .where(deliveries.c.id == delivery_id, deliveries.c.attempt == attempt, deliveries.c.state == "pending")
            ).one_or_none()
        return row

    def _others_wait(self, row: sa.Row[Any]) -> bool:
        """Whether older ones queue up for the same destination: it gets the notes in their order."""
        with self._store.read() as connection:
            older = sa.select(deliveries.c.id).where(
                deliveries.c.destination_id == row.destination_id,
                deliveries.c.state == "pending",
                deliveries.c.attempt > 0,
                deliveries.c.next_ms.is_(None),
                deliveries.c.created_ms <= row.created_ms,
                deliveries.c.id != row.id,
            )
            return connection.execute(older.limit(1)).first() is not None

    def _put_off(self, row: sa.Row[Any], delay_s: float, **values: Any) -> None:
        with self._store.write() as connection:
            if self._is_current(connection, row):
                self._next(connection, row.id, row.destination_id, row.attempt, delay_s, **values)

    @staticmethod
    def _is_current(connection: sa.Connection, row: sa.Row[Any]) -> bool:
        found = sa.select(deliveries.c.id).where(
            deliveries.c.id == row.id, deliveries.c.attempt == row.attempt, deliveries.c.state == "pending"
        )
        return connection.execute(found).first() is not None

    def _may_go(self, row: sa.Row[Any]) -> bool:
        """Whether it is tried now. If not, what comes instead was written down."""
        if row.ended_ms is not None:
            with self._store.write() as connection:
                self._finish(connection, row, "ended", row.ended_reason)
            return False
        if row.begun_ms is not None:
            self._doubt(row, f"the server ended while it was on its way ({iso(row.begun_ms)})")
            return False
        if row.held_ms > now_ms() or (row.per_minute and not row.reserved):
            with self._store.write() as connection:
                if not self._is_current(connection, row):
                    return False
                now, of_it = now_ms(), destinations.c.id == row.destination_id
                place_of = connection.execute(sa.select(destinations.c.held_ms, destinations.c.free_ms).where(of_it))
                held_ms, free_ms = place_of.one()
                reserved = False
                at_ms = held_ms
                if held_ms <= now and row.per_minute and not row.reserved:
                    reserved, at_ms = True, max(now, free_ms)
                    after_ms = at_ms + 60_000 // row.per_minute
                    connection.execute(sa.update(destinations).where(of_it).values(free_ms=after_ms))
                if at_ms > now:
                    delay_s = (at_ms - now) / 1000
                    self._next(connection, row.id, row.destination_id, row.attempt, delay_s, reserved=reserved)
                    return False
        if row.ask:
            with self._store.write() as connection:
                if not self._is_current(connection, row):
                    return False
                connection.execute(sa.update(deliveries).where(deliveries.c.id == row.id).values(begun_ms=now_ms()))
        return True

    def _doubt(self, row: sa.Row[Any], why: str) -> None:
        trouble = f"{place(row.url)}: {why}, so it may have arrived. Send it again?"
        with self._store.write() as connection:
            if self._is_current(connection, row):
                self._finish(connection, row, "in_doubt", trouble)

    def _try(self, row: sa.Row[Any]) -> None:
        at_ms = now_ms()
        try:
            outcome = places.send(row, self._store.settings, row.id, row.body)
        except Exception as error:
            # Else it would be tried each minute for ever, and nobody told. Where it broke is not known: it may be gone
            # out. Without the exception's own words, which may be an address's secret.
            stack = "".join(traceback.format_tb(error.__traceback__))
            log.get().error("delivery broke", webhook=row.id, error=type(error).__name__, stack=stack)
            outcome = Outcome(now_ms() - at_ms, error=f"broke ({type(error).__name__}); the log says where", sent=True)
        where = place(row.url)
        log.get().info(
            "delivery tried",
            note=row.note_id,
            webhook=row.id,
            to=where,
            status=outcome.status,
            error=outcome.error,
        )
        with self._store.write() as connection:
            now_there = connection.execute(
                sa.select(deliveries.c.state, deliveries.c.attempt, deliveries.c.body).where(deliveries.c.id == row.id)
            ).one()
            if not now_there.body:
                return  # the note was deleted meanwhile: nothing about it is kept
            connection.execute(
                sa.insert(tries).values(
                    delivery_id=row.id,
                    at_ms=at_ms,
                    took_ms=outcome.took_ms,
                    status=outcome.status,
                    answer=outcome.logged,
                    error=outcome.error,
                )
            )
            if (now_there.state, now_there.attempt) == ("pending", row.attempt):
                self._conclude(connection, row, outcome, where)

    def _conclude(self, connection: sa.Connection, row: sa.Row[Any], outcome: Outcome, where: str) -> None:
        """What follows from a try."""
        failures = row.tries + 1
        connection.execute(
            sa.update(deliveries).where(deliveries.c.id == row.id).values(tries=failures, begun_ms=None, reserved=False)
        )
        if outcome.delivered:
            if row.answer_path is not None:
                answer = answer_of(outcome, row.answer_path)
                connection.execute(sa.update(deliveries).where(deliveries.c.id == row.id).values(answer=answer))
            self._finish(connection, row, "delivered", None)
        elif outcome.gone:
            self._end(connection, row.destination_id, f"{where} answered 410: it wants no more deliveries.")
        elif row.ask and outcome.in_doubt:
            trouble = f"{where}: {outcome.trouble}, so it may have arrived. Send it again?"
            self._finish(connection, row, "in_doubt", trouble)
        elif failures > len(BACKOFF_S):
            self._finish(connection, row, "ended", f"{where} {outcome.trouble}; given up after {failures} tries.")
        else:
            delay_s = pause_s(BACKOFF_S, failures)
            if outcome.retry_after_s is not None:
                delay_s = max(delay_s, outcome.retry_after_s)
                held_ms = now_ms() + int(outcome.retry_after_s * 1000)
                connection.execute(
                    sa.update(destinations)
                    .where(destinations.c.id == row.destination_id)
                    .values(held_ms=sa.case((destinations.c.held_ms > held_ms, destinations.c.held_ms), else_=held_ms))
                )
            self._next(
                connection, row.id, row.destination_id, row.attempt, delay_s, trouble=f"{where} {outcome.trouble}."
            )

    @classmethod
    def remove(cls, connection: sa.Connection, destination_id: str) -> bool:
        """Removes a destination with its secrets; what was to be sent to it ends. Returns whether there was such a one.

        Its row stays, with scheme and host of its URL, for the deliveries that were made."""
        row = places.existing(connection, destination_id)
        if row is None:
            return False
        cls._end(connection, destination_id, "The destination was removed.")
        connection.execute(
            sa.update(destinations)
            .where(destinations.c.id == destination_id)
            .values(
                url=place(row.url),
                secret="",
                fields=None,
                headers=None,
                authorization=None,
                template=None,
                removed_ms=now_ms(),
            )
        )
        return True

    @classmethod
    def _end(cls, connection: sa.Connection, destination_id: str, reason: str) -> None:
        """Ends a destination and all that was to be sent to it."""
        connection.execute(
            sa.update(destinations)
            .where(destinations.c.id == destination_id, destinations.c.ended_ms.is_(None))
            .values(ended_ms=now_ms(), ended_reason=reason)
        )
        waiting = connection.execute(
            sa.select(deliveries.c.id, deliveries.c.note_id).where(
                deliveries.c.destination_id == destination_id, deliveries.c.state.in_(UNFINISHED)
            )
        ).all()
        for one in waiting:
            cls._finish(connection, one, "ended", reason)

    @classmethod
    def _finish(cls, connection: sa.Connection, row: Any, state: str, trouble: str | None) -> None:
        connection.execute(
            sa.update(deliveries)
            .where(deliveries.c.id == row.id)
            .values(state=state, trouble=trouble, next_ms=None, begun_ms=None)
        )
        cls._state_of_note(connection, row.note_id)

    @staticmethod
    def _state_of_note(connection: sa.Connection, note_id: str | None) -> None:
        """A note is delivered when one of its deliveries is, and none is on its way or in doubt."""
        if note_id is None:
            return
        states = set(connection.scalars(sa.select(deliveries.c.state).where(deliveries.c.note_id == note_id)))
        state = "delivered" if "delivered" in states and not states & set(UNFINISHED) else "transcribed"
        connection.execute(
            sa.update(notes)
            .where(notes.c.id == note_id, notes.c.state.in_(("transcribed", "delivered")))
            .values(state=state)
        )
