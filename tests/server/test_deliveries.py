"""What becomes of a delivery, try by try, in process with real receivers; the engine's queue is a list here."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from device_client import DeviceClient
from offbeat import destinations as places
from offbeat.deliveries import BACKOFF_S, Deliveries, DeliveryError, forget, pause_s
from offbeat.delivery import Outcome
from offbeat.settings import Settings
from offbeat.store import Store, deliveries, destinations, notes, now_ms, tries
from server_process import ServerProcess, WebhookReceiver
from standardwebhooks import Webhook


class Queue:
    """Takes the place of DBOS's client: keeps what was enqueued."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, int, float, str]] = []

    def enqueue_in_transaction(self, _connection: Any, options: dict[str, Any], delivery_id: str, attempt: int) -> None:
        assert options["workflow_id"] == f"{delivery_id}.{attempt}"
        self.jobs.append((delivery_id, attempt, options.get("delay_seconds", 0.0), options["queue_partition_key"]))


class Bench:
    """A store, deliveries and their queue."""

    def __init__(self, data: Path) -> None:
        self.store = Store(Settings(data=data))
        self.queue = Queue()
        self.deliveries = Deliveries(self.store, self.queue, "1")  # type: ignore[arg-type]

    def destination(self, url: str, **more: Any) -> str:
        row = places.row_of(places.NewDestination(url=url, **more), self.store.settings)
        with self.store.write() as connection:
            return places.add(connection, row)["id"]

    def note(self, text: str = "buy milk", name: str = "n1") -> list[str]:
        with self.store.write() as connection:
            connection.execute(
                sa.insert(notes).values(
                    id=name, length_bytes=1, sha256="0", state="transcribed", created_ms=1, received_ms=1,
                    transcribed_ms=now_ms(), text=text,
                )
            )  # fmt: skip
            return self.deliveries.plan(connection, name)

    def row(self, delivery_id: str) -> Any:
        with self.store.read() as connection:
            return connection.execute(sa.select(deliveries).where(deliveries.c.id == delivery_id)).one()

    def run(self, delivery_id: str) -> Any:
        """The attempt that the delivery waits for."""
        self.deliveries.deliver(delivery_id, self.row(delivery_id).attempt)
        return self.row(delivery_id)

    def value(self, column: Any, condition: Any) -> Any:
        with self.store.read() as connection:
            return connection.scalar(sa.select(column).where(condition))

    def decide(self, what: Any, *arguments: Any) -> Any:
        with self.store.write() as connection:
            return what(connection, *arguments)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "data")
    yield made
    made.store.close()


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as made:
        yield made


def test_backoff_one_id_and_the_end(bench: Bench, receiver: WebhookReceiver) -> None:
    receiver.answers = lambda _: 500
    destination = bench.destination(receiver.url)
    (delivery_id,) = bench.note()
    for number in range(1, len(BACKOFF_S) + 1):
        row = bench.run(delivery_id)
        assert (row.state, row.tries, row.attempt) == ("pending", number, number)
        _, attempt, delay_s, partition = bench.queue.jobs[-1]
        assert (attempt, partition) == (number, destination)
        assert BACKOFF_S[number - 1] <= delay_s <= 1.1 * BACKOFF_S[number - 1]
    row = bench.run(delivery_id)
    assert row.state == "ended" and "given up after 11 tries" in row.trouble
    assert len({got.headers["webhook-id"] for got in receiver.received}) == 1
    assert len({got.body for got in receiver.received}) == 1
    assert bench.value(sa.func.count(), tries.c.delivery_id == delivery_id) == 11


def test_pauses_grow_for_about_three_days() -> None:
    for failures, backoff_s in enumerate(BACKOFF_S, start=1):
        pauses_s = {pause_s(BACKOFF_S, failures) for _ in range(50)}
        assert len(pauses_s) > 1, "no jitter"
        assert all(backoff_s <= one_s <= 1.1 * backoff_s for one_s in pauses_s)
    assert 3 <= sum(BACKOFF_S) / 86_400 < 3.5


def test_retry_after_holds_back_the_whole_destination(bench: Bench, receiver: WebhookReceiver) -> None:
    receiver.answers = lambda _: (429, {"Retry-After": "3000"}, b"")
    bench.destination(receiver.url)
    (first,) = bench.note()
    bench.run(first)
    assert bench.queue.jobs[-1][2] == 3000
    (second,) = bench.note(name="n2")
    row = bench.run(second)
    assert (row.state, row.tries, len(receiver.received)) == ("pending", 0, 1)
    assert 2990 < bench.queue.jobs[-1][2] <= 3000


def test_retry_after_holds_back_those_that_have_their_place_in_the_rate(
    bench: Bench, receiver: WebhookReceiver
) -> None:
    """A backlog at a limited rate: each that comes up while the destination is held waits for its end, and then for a
    new place; one whose place is later keeps it."""
    destination = bench.destination(receiver.url, per_minute=6)
    ids = [bench.note(name=f"n{number}")[0] for number in range(4)]
    for delivery_id in ids:
        bench.run(delivery_id)
    assert [bench.row(one).reserved for one in ids] == [False, True, True, True] and len(receiver.received) == 1
    receiver.answers = lambda _: (429, {"Retry-After": "3000"}, b"")
    assert bench.run(ids[1]).tries == 1
    row = bench.run(ids[2])
    assert (row.state, row.tries, row.reserved, len(receiver.received)) == ("pending", 0, False, 2)
    assert 2990 < bench.queue.jobs[-1][2] <= 3000
    # A shorter one, whose try began before that, takes nothing of it back.
    held_ms = bench.value(destinations.c.held_ms, destinations.c.id == destination)
    short = Outcome(1, 429, "", sent=True, retry_after_s=5)
    with bench.store.write() as connection:
        stale = connection.execute(sa.select(deliveries, destinations.c.ask, destinations.c.held_ms).where(
            deliveries.c.id == ids[3]).join(destinations)).one()  # fmt: skip
        bench.deliveries._conclude(connection, stale, short, "http://x")
    assert bench.value(destinations.c.held_ms, destinations.c.id == destination) == held_ms
    bench.decide(lambda connection: connection.execute(sa.update(destinations).values(held_ms=0)))
    receiver.answers = lambda _: 204
    assert bench.run(ids[2]).reserved, "it gets a new place"
    assert bench.run(ids[2]).state == "delivered"


def test_410_ends_the_destination_and_all_that_waits_for_it(bench: Bench, receiver: WebhookReceiver) -> None:
    receiver.answers = lambda _: 410
    bench.destination(receiver.url)
    (first,), (second,) = bench.note(), bench.note(name="n2")
    assert bench.run(first).state == "ended"
    row = bench.row(second)
    assert row.state == "ended" and "410" in row.trouble
    assert bench.note(name="n3") == []
    with pytest.raises(DeliveryError, match="has ended"):
        bench.decide(bench.deliveries.resend, first)


def test_in_doubt_it_asks(bench: Bench, receiver: WebhookReceiver) -> None:
    """A time-out after the body was handed over: a question, and no second request until it is answered."""
    free = threading.Event()
    receiver.answers = lambda _: free.wait(10) and 204
    bench.destination(receiver.url, ask=True, timeout_s=1)
    (delivery_id,) = bench.note()
    row = bench.run(delivery_id)
    assert row.state == "in_doubt" and "may have arrived" in row.trouble
    assert bench.queue.jobs == []
    with bench.store.read() as connection:
        assert bench.deliveries.unfinished(connection) == []
    bench.decide(bench.deliveries.arrived, delivery_id)
    assert bench.row(delivery_id).state == "delivered"
    assert bench.value(notes.c.state, notes.c.id == "n1") == "delivered"
    with pytest.raises(DeliveryError, match="not in doubt"):
        bench.decide(bench.deliveries.arrived, delivery_id)
    free.set()
    (other,) = bench.note(name="n2")
    receiver.answers = lambda _: 502
    assert bench.run(other).state == "in_doubt"
    receiver.answers = lambda _: 204
    bench.decide(bench.deliveries.resend, other)
    assert bench.run(other).state == "delivered"
    ids = [got.headers["webhook-id"] for got in receiver.received]
    assert ids == [delivery_id, other, other]


def test_what_cannot_have_arrived_is_retried_even_where_it_asks(bench: Bench, receiver: WebhookReceiver) -> None:
    receiver.answers = lambda _: 500
    bench.destination(receiver.url, ask=True)
    bench.destination("http://127.0.0.1:9/", ask=True)
    for delivery_id in bench.note():
        assert bench.run(delivery_id).state == "pending"


def test_killed_on_the_way_it_asks(bench: Bench, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The begin of a try is kept before it is made, so a server that was killed knows that it may have arrived."""

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    bench.destination(receiver.url, ask=True)
    (delivery_id,) = bench.note()
    with monkeypatch.context() as patch:
        patch.setattr(places, "send", kill)
        with pytest.raises(Killed):
            bench.run(delivery_id)
    row = bench.run(delivery_id)
    assert row.state == "in_doubt" and "the server ended" in row.trouble
    assert receiver.received == []
    bench.decide(bench.deliveries.resend, delivery_id)
    assert bench.run(delivery_id).state == "delivered"


def test_rate_limit(bench: Bench, receiver: WebhookReceiver) -> None:
    """Each one waits for a place of its own, a minute apart; what has its place goes without asking again."""
    bench.destination(receiver.url, per_minute=1)
    (first,), (second,), (third,) = bench.note(), bench.note(name="n2"), bench.note(name="n3")
    for delivery_id in (first, second, third):
        bench.run(delivery_id)
    assert len(receiver.received) == 1
    delays_s = [delay_s for _, _, delay_s, _ in bench.queue.jobs if delay_s]
    assert 58 < delays_s[0] <= 60 and 118 < delays_s[1] <= 120
    assert bench.run(second).state == "delivered"


def test_one_at_a_time_and_in_order(bench: Bench, receiver: WebhookReceiver) -> None:
    """A busy destination makes the next note queue up, and the one after that does not overtake it."""
    free = threading.Event()
    receiver.answers = lambda _: free.wait(10) and 204
    destination = bench.destination(receiver.url)
    (first,), (second,), (third,) = bench.note(), bench.note(name="n2"), bench.note(name="n3")
    thread = threading.Thread(target=bench.deliveries.deliver, args=(first, 0))
    thread.start()
    receiver.wait(1)
    began_s = time.monotonic()
    bench.deliveries.deliver(second, 0)
    assert time.monotonic() - began_s < 1, "it holds nobody up"
    assert bench.queue.jobs == [(second, 1, 0.0, destination)]
    free.set()
    thread.join(10)
    bench.deliveries.deliver(third, 0)
    assert bench.queue.jobs[-1] == (third, 1, 0.0, destination)
    bench.run(second)
    bench.run(third)
    assert [got.headers["webhook-id"] for got in receiver.received] == [first, second, third]


def test_an_edited_text_goes_out_under_another_id(bench: Bench, receiver: WebhookReceiver) -> None:
    destination = bench.destination(receiver.url)
    (first,) = bench.note("by milk")
    bench.run(first)
    assert bench.decide(bench.deliveries.send, "n1", destination) == first
    bench.run(first)
    bench.decide(lambda connection: connection.execute(sa.update(notes).values(text="buy milk", edited_ms=now_ms())))
    second = bench.decide(bench.deliveries.send, "n1", destination)
    assert second != first
    bench.run(second)
    seen: dict[str, set[bytes]] = {}
    for got in receiver.received:
        seen.setdefault(got.headers["webhook-id"], set()).add(got.body)
    assert [len(bodies) for bodies in seen.values()] == [1, 1], "no id with two bodies"
    assert [got.json["data"]["text"] for got in receiver.received] == ["by milk", "by milk", "buy milk"]
    assert {got.json["data"]["id"] for got in receiver.received} == {"n1"}


def test_empty_texts_only_where_asked_for(bench: Bench, receiver: WebhookReceiver) -> None:
    bench.destination(receiver.url)
    asking = bench.destination(receiver.url, empty_texts=True)
    (delivery_id,) = bench.note("")
    assert bench.row(delivery_id).destination_id == asking


def test_events_of_devices(bench: Bench, receiver: WebhookReceiver) -> None:
    row = places.row_of(places.NewDestination(url=receiver.url, events=["device.battery_low"]), bench.store.settings)
    added = bench.decide(places.add, row)
    bench.destination(receiver.url)  # asks for notes
    payload = {"device": "p7", "name": "Anna's pendant", "battery_mv": 3310}
    assert bench.decide(bench.deliveries.emit, "device.battery_low", payload) == 1
    assert bench.decide(bench.deliveries.emit, "device.silent", payload) == 0
    ((delivery_id, attempt, _, partition),) = bench.queue.jobs
    assert (attempt, partition) == (1, added["id"])
    assert bench.run(delivery_id).state == "delivered"
    (got,) = receiver.received
    made = Webhook(added["secret"]).verify(got.body, got.headers)
    assert made["type"] == "device.battery_low"
    assert made["data"] == {**payload, "text": "The battery of Anna's pendant is low."}


def test_the_assistants_answer_is_kept(bench: Bench, receiver: WebhookReceiver) -> None:
    long = "I will. " * 500
    receiver.answers = lambda _: (200, {}, ('{"response": "' + long + '"}').encode())
    bench.destination(receiver.url, recipe="stavrobot", fields={"password": "x"})
    (delivery_id,) = bench.note()
    assert bench.run(delivery_id).answer == long
    logged = bench.value(tries.c.answer, tries.c.delivery_id == delivery_id)
    assert len(logged) == 1024


def test_an_answer_that_no_database_keeps_as_it_is(bench: Bench, receiver: WebhookReceiver) -> None:
    """Half an emoji, where somebody cut the text in the middle of it, and a zero byte."""
    bench.destination(receiver.url, recipe="stavrobot", fields={"password": "x"})
    receiver.answers = lambda _: (200, {}, b'{"response": "done \\ud83d\\u0000"}')
    (delivery_id,) = bench.note()
    row = bench.run(delivery_id)
    assert (row.state, row.answer, row.tries) == ("delivered", "done \ufffd\ufffd", 1)
    receiver.answers = lambda _: (200, {}, b"a \0 byte")
    (other,) = bench.note(name="n2")
    assert bench.run(other).state == "delivered"
    assert bench.value(tries.c.answer, tries.c.delivery_id == other) == "a \ufffd byte"


def test_a_deleted_note_is_not_sent_and_leaves_nothing(bench: Bench, receiver: WebhookReceiver) -> None:
    receiver.answers = lambda _: (500, {}, b"buy milk? no")
    destination = bench.destination(receiver.url)
    (delivery_id,) = bench.note()
    bench.run(delivery_id)
    waiting = bench.row(delivery_id).attempt
    bench.decide(forget, "n1")
    row = bench.row(delivery_id)
    assert (row.state, row.body, row.trouble) == ("ended", "", None)
    bench.deliveries.deliver(delivery_id, waiting)
    assert len(receiver.received) == 1
    assert bench.value(sa.func.count(), tries.c.delivery_id == delivery_id) == 0
    with pytest.raises(DeliveryError, match="nothing left"):
        bench.decide(bench.deliveries.resend, delivery_id)
    bench.decide(lambda connection: connection.execute(sa.update(notes).values(deleted_ms=1)))
    with pytest.raises(DeliveryError, match="no such note"):
        bench.decide(bench.deliveries.send, "n1", destination)


def test_deleted_while_on_its_way(bench: Bench, receiver: WebhookReceiver) -> None:
    free = threading.Event()
    receiver.answers = lambda _: free.wait(10) and (200, {}, b"buy milk: noted")
    bench.destination(receiver.url)
    (delivery_id,) = bench.note()
    thread = threading.Thread(target=bench.deliveries.deliver, args=(delivery_id, 0))
    thread.start()
    receiver.wait(1)
    bench.decide(forget, "n1")
    free.set()
    thread.join(10)
    assert bench.row(delivery_id).state == "ended"
    assert bench.value(sa.func.count(), tries.c.delivery_id == delivery_id) == 0


def test_a_removed_destination_keeps_no_secret(bench: Bench, receiver: WebhookReceiver) -> None:
    fields = {"password": "s3cret", "sender": "s3nder"}
    destination = bench.destination(receiver.url, recipe="stavrobot", fields=fields, headers={"X-Key": "k3y"})
    (delivery_id,) = bench.note()
    assert bench.decide(bench.deliveries.remove, destination)
    assert not bench.decide(bench.deliveries.remove, destination)
    assert bench.run(delivery_id).state == "ended"
    assert receiver.received == [] and bench.note(name="n2") == []
    with bench.store.read() as connection:
        row = connection.execute(sa.select(destinations)).one()
        assert places.listed(connection) == []
    kept = str(dict(row._mapping))
    for hidden in ("s3cret", "s3nder", "k3y", "whsec_", "/hook", "Basic"):
        assert hidden not in kept


def test_lost_jobs_are_found(bench: Bench, receiver: WebhookReceiver) -> None:
    bench.destination(receiver.url)
    (delivery_id,) = bench.note()
    with bench.store.read() as connection:
        assert bench.deliveries.unfinished(connection) == [(delivery_id, 0, ["n1", delivery_id])]
    assert bench.deliveries.take_up(delivery_id, 0) == 1
    assert bench.deliveries.take_up(delivery_id, 0) == 0, "it went on meanwhile"
    with bench.store.read() as connection:
        assert bench.deliveries.unfinished(connection) == [(delivery_id, 1, [f"{delivery_id}.1"])]
    bench.deliveries.deliver(delivery_id, 0)
    assert receiver.received == []
    assert bench.run(delivery_id).state == "delivered"


def test_a_template_that_fails_later_says_so(bench: Bench, receiver: WebhookReceiver) -> None:
    destination = bench.destination(receiver.url, template={"a": "{{ text }}"})
    broken = {"a": "{{ nothing }}"}
    bench.decide(lambda connection: connection.execute(sa.update(destinations).values(template=broken)))
    assert bench.note() == []
    trouble = bench.value(deliveries.c.trouble, deliveries.c.destination_id == destination)
    assert "template" in trouble and "nothing" in trouble


def test_the_list_holds_no_secret(bench: Bench) -> None:
    bench.destination("http://127.0.0.1:9/p4th", headers={"X-Key": "k3y"}, secret="whsec_" + "c2VjcmV0" * 4)
    with bench.store.read() as connection:
        (one,) = places.listed(connection)
    assert (one["to"], one["headers"]) == ("http://127.0.0.1:9", ["X-Key"])
    for hidden in ("p4th", "k3y", "c2Vj"):
        assert hidden not in str(one)


def test_a_destination_that_hangs_delays_no_other(tmp_path: Path, spoken: bytes) -> None:
    """The whole server: five notes, more than are in work at a time, with one destination that never answers; then
    what people do by the page's API and the command line while it runs."""
    free = threading.Event()
    with ServerProcess(tmp_path / "data") as server, WebhookReceiver() as hanging, WebhookReceiver() as quick:
        hanging.answers = lambda _: free.wait(60) and 204
        server.add_destination(hanging.url)
        session = server.sign_in()
        try:
            new = {"url": f"{quick.url}/p4th", "headers": {"X-Key": "k3y"}, "name": "quick"}
            answer = session.post(f"{server.url}/api/destinations", json=new, timeout=10)
            assert answer.status_code == 201, answer.text
            added = answer.json()
            pendant = DeviceClient(server, server.add_device("p7", "pendant"))
            note_ids = [pendant.new_id() for _ in range(5)]
            for note_id in note_ids:
                assert pendant.patch(note_id, spoken).status == 200
            quick.wait(5, 15)
            assert len(hanging.received) == 1, "one at a time"
            assert sorted(got.json["data"]["id"] for got in quick.received) == sorted(note_ids)
            for got in quick.received:
                assert Webhook(added["secret"]).verify(got.body, got.headers) == got.json

            def post(path: str, **body: Any) -> Any:
                return session.post(f"{server.url}/api{path}", json=body or None, timeout=10)

            (first,) = [got for got in quick.received if got.json["data"]["id"] == note_ids[0]]
            again = post(f"/deliveries/{first.headers['webhook-id']}/resend")
            assert again.status_code == 202, again.text
            quick.wait(6, 10)
            done = server.command("destination", "resend", note_ids[0], "--to", added["id"])
            assert json.loads(done.stdout)["webhook_ids"] == [first.headers["webhook-id"]]
            quick.wait(7, 10)
            assert {got.body for got in quick.received[5:]} == {first.body}
            assert post(f"/notes/{note_ids[0]}/send", destination=added["id"]).status_code == 202
            quick.wait(8, 10)
            tried = post(f"/destinations/{added['id']}/test").json()
            assert (tried["delivered"], tried["status"]) == (True, 204)
            assert post(f"/deliveries/{first.headers['webhook-id']}/arrived").status_code == 409
            assert post("/deliveries/nobody/resend").status_code == 404
            shown = session.get(f"{server.url}/api/destinations", timeout=10).text
            note = server.get(f"/api/notes/{note_ids[0]}").text
            assert '"name":"quick"' in shown
            assert session.get(f"{server.url}/api/recipes", timeout=10).json()[0]["name"] == "discord"
            gone = session.delete(f"{server.url}/api/destinations/{added['id']}", timeout=10)
            assert gone.status_code == 204
            for hidden in (added["secret"], "k3y", "p4th"):
                assert hidden not in shown + note + server.log()
        finally:
            session.close()
            free.set()
