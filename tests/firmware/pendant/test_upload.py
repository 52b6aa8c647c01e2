"""Uploading against the golden conversation: the exact bytes sent, and what each answer leads to."""

import asyncio
import binascii
import json
import os

from device.link import Link, LinkError
from pendant import upload
from pendant.spool import Spool

VECTORS = __file__.rsplit("/", 3)[0] + "/vectors/"


def vectors():
    with open(VECTORS + "upload.json") as file:
        conversation = json.load(file)
    with open(VECTORS + "note.json") as file:
        return conversation, bytes.fromhex(json.load(file)["file_hex"])


class Scripted:
    """Stands for the link: checks each request's bytes and gives the answer that belongs to it."""

    def __init__(self, token, exchanges):
        self._real = Link("192.0.2.1", 1, b"", token)
        self._exchanges = list(exchanges)

    async def request(self, method, path, headers=(), body=None):
        exchange = self._exchanges.pop(0)
        if exchange["request"] is not None:
            assert self._real._head(method, path, headers, body).decode() == exchange["request"], exchange["what"]
            if isinstance(body, tuple):
                file, offset, length = body
                file.seek(offset)
                body = file.read(length)
            assert binascii.hexlify(body or b"").decode() == exchange["body_hex"], exchange["what"]
        response = exchange["response"]
        value = response["json"]
        return response["status"], response["headers"], b"" if value is None else json.dumps(value).encode()

    def done(self):
        return not self._exchanges


def answer(status, headers=None, value=None):
    response = {"status": status, "headers": headers or {}, "json": value}
    return {"what": str(status), "request": None, "body_hex": "", "response": response}


class Bench:
    """A spool in a temporary folder with the golden note in it, and an Upload over scripted answers."""

    def __init__(self, exchanges, now=(0,)):
        self.conversation, self.file = vectors()
        self.folder = "/tmp/upload-" + binascii.hexlify(os.urandom(8)).decode()
        self.spool = Spool(self.folder, self.conversation["device"], os.urandom)
        self.note = self.conversation["note"]
        with open(self.folder + "/000000-" + self.note[-16:] + ".wav", "wb") as file:
            file.write(self.file)
        self.link = Scripted(self.conversation["token"], exchanges)
        times = list(now)
        self.upload = upload.Upload(self.link, self.spool, lambda: ("89abcdef", times.pop(0) if times else 0, 150000))

    def run(self, work):
        """What `work` returns, or the exception that it raised."""
        try:
            return asyncio.run(work)
        except (LinkError, upload.Refused) as e:
            return e

    def send(self):
        return self.run(self.upload.send(self.note))

    def names(self):
        return os.listdir(self.folder)

    def close(self):
        for name in self.names():
            os.remove(self.folder + "/" + name)
        os.rmdir(self.folder)


def in_pieces_of(count, exchanges, now=()):
    """A Bench whose uploads go in pieces of `count` bytes, as the golden conversation's do."""
    upload.PIECE_BYTES = count
    return Bench(exchanges, now)


def test_the_golden_upload_byte_for_byte():
    exchanges = vectors()[0]["exchanges"]
    bench = in_pieces_of(512, [exchanges[i] for i in (0, 1, 4)], (200000, 200200))
    assert bench.send() is True
    assert bench.link.done() and bench.names() == [] and bench.spool.waiting == 0
    bench.close()


def test_the_golden_upload_taken_up_again():
    exchanges = vectors()[0]["exchanges"]
    for last, now in ((4, 200200), (5, 200300)):  # the last part, and the same once more
        bench = in_pieces_of(512, [exchanges[2], exchanges[last]], (now,))
        assert bench.send() is True
        assert bench.link.done() and bench.names() == []
        bench.close()


def test_the_golden_note_that_is_complete_already():
    bench = in_pieces_of(512, [vectors()[0]["exchanges"][6]])
    assert bench.send() is True
    assert bench.link.done() and bench.names() == []
    bench.close()


def test_the_golden_wrong_offset():
    exchanges = vectors()[0]["exchanges"]
    at_256 = answer(204, {"upload-offset": "256", "upload-complete": "?0"})
    bench = in_pieces_of(256, [at_256, exchanges[3]] + [answer(503)], (200100, 0))
    assert isinstance(bench.send(), LinkError)
    assert bench.link.done() and len(bench.names()) == 1
    bench.close()


def test_another_notes_id_gets_a_new_one_and_nothing_is_deleted():
    conversation, file = vectors()
    golden = conversation["exchanges"][7]["response"]
    length = str(len(file))
    complete = {"upload-offset": length, "upload-complete": "?1", "upload-length": length}
    for exchanges in (
        [answer(404), answer(golden["status"], golden["headers"])],
        [answer(204, complete)],  # complete, but with no digest, so not with ours
        [answer(204, dict(list(complete.items()) + [("repr-digest", "sha-256=:AAAA:")]))],
        [answer(204, {"upload-offset": "99999", "upload-complete": "?0"})],  # more than this note has
    ):
        bench = in_pieces_of(4096, exchanges)
        assert bench.send() is False
        (name,) = bench.names()
        assert name[7:23] != bench.note[-16:]
        with open(bench.folder + "/" + name, "rb") as kept:
            assert kept.read() == file
        assert bench.spool.waiting == 1
        bench.close()


def test_a_confirmation_of_something_else_deletes_nothing():
    good = vectors()[0]["exchanges"][4]["response"]["json"]
    for key, value in (("id", "p7-0000000000000000"), ("length", 5), ("sha256", "00" * 32), ("sha256", None)):
        wrong = dict(good)
        wrong[key] = value
        bench = in_pieces_of(4096, [answer(404), answer(200, None, wrong)])
        assert isinstance(bench.send(), LinkError), key
        assert len(bench.names()) == 1 and bench.spool.waiting == 1
        bench.close()
    for exchanges in ([answer(404), answer(200, None, [])], [answer(404), answer(200)]):
        bench = in_pieces_of(4096, exchanges)
        assert isinstance(bench.send(), LinkError)
        assert len(bench.names()) == 1
        bench.close()


def test_a_dropped_upload_begins_at_0():
    good = vectors()[0]["exchanges"][4]["response"]["json"]
    seen = []
    bench = in_pieces_of(4096, [answer(204, {"upload-offset": "512"}), answer(422), answer(200, None, good)])
    scripted = bench.link.request

    async def request(method, path, headers=(), body=None):
        seen.append((method, body[1:] if body else None))
        return await scripted(method, path, headers, body)

    bench.link.request = request
    assert bench.send() is True
    assert seen == [("HEAD", None), ("PATCH", (512, len(bench.file) - 512)), ("PATCH", (0, len(bench.file)))]
    bench.close()


def test_answers_that_lead_nowhere_end_it():
    stuck = answer(409, {"upload-offset": "0"})
    same = answer(204, {"upload-offset": "0", "upload-complete": "?0"})
    for exchange in (stuck, same, answer(422)):
        bench = in_pieces_of(4096, [answer(404)] + [exchange] * 20)
        assert isinstance(bench.send(), LinkError)
        assert len(bench.link._exchanges) >= 15 and len(bench.names()) == 1
        bench.close()


def test_refusals_and_troubles_keep_the_note():
    of_all = [(status, upload.Unavailable) for status in (401, 403, 503, 507)]
    of_one = [(400, upload.Refused), (413, upload.Refused), (500, upload.Failed), (418, upload.Failed)]
    for status, kind in of_all + of_one:
        for exchanges in ([answer(404), answer(status, None, {"detail": "why"})], [answer(status)]):
            bench = in_pieces_of(4096, exchanges)
            problem = bench.send()
            assert type(problem) is kind, (status, problem)
            assert str(status) in str(problem) and ("why" in str(problem)) == (len(exchanges) == 2)
            assert len(bench.names()) == 1 and bench.spool.waiting == 1
            bench.close()


def test_offsets_of_the_wrong_shape_are_refused():
    for text in ("", "-1", "1x", "99999999999999999999", " "):
        bench = in_pieces_of(4096, [answer(204, {"upload-offset": text, "upload-complete": "?0"})])
        assert isinstance(bench.send(), LinkError), text
        assert len(bench.names()) == 1
        bench.close()


def test_the_counter_is_that_of_the_sending():
    """`recorded_at` rests on it, and connecting may take 15 s."""
    good = vectors()[0]["exchanges"][4]["response"]["json"]
    bench = in_pieces_of(4096, [answer(404), answer(200, None, good)])
    now = [1000]
    bench.upload._now = lambda: ("89abcdef", now[0], 500)
    scripted, seen = bench.link.request, []

    async def request(method, path, headers=(), body=None):
        now[0] += 15000  # connecting
        for name, value in headers() if callable(headers) else headers:
            if name == "Offbeat-Counter":
                seen.append(value)
        return await scripted(method, path, headers, body)

    bench.link.request = request
    assert bench.send() is True and seen == ["89abcdef 31000 500"]
    bench.close()


def test_what_counts_as_an_advance():
    good = vectors()[0]["exchanges"][4]["response"]["json"]
    at = [answer(204, {"upload-offset": str(offset), "upload-complete": "?0"}) for offset in (0, 300, 600)]
    broken = answer(503)
    for exchanges, advances in (
        ([answer(404), broken, answer(404), broken], [0, 0]),
        ([at[1], broken, at[1], broken, at[2], broken], [0, 0, 1]),  # the first answer says nothing of this run
        ([answer(404), at[1], broken, at[0], at[1], broken, at[2], broken], [1, 1, 2]),  # dropped and sent once more
        ([at[2], answer(422), at[1], at[2], broken], [0]),
        ([answer(404), answer(200, None, good)], [1]),
    ):
        bench = in_pieces_of(300, exchanges)
        counted = []
        while not bench.link.done():
            bench.send()
            counted.append(bench.upload.advances)
        assert counted == advances, (counted, advances)
        bench.close()


class Waiting:
    """Notes that wait, and a server that answers `says` for each: True (delivered), False (new id) or an exception."""

    def __init__(self, says):
        self.notes, self.says, self.tried = sorted(says), says, []
        self.reached = True  # of the link
        self.upload = upload.Upload(self, self, None)
        self.upload.send = self.send

    def load(self):
        return True

    def first(self, after=None):
        behind = self.notes[self.notes.index(after) + 1 :] if after in self.notes else []
        notes = self.notes if after is None else behind
        return notes[0] if notes else None

    async def send(self, note):
        self.tried.append(note)
        answer = self.says[note]
        if isinstance(answer, Exception):
            raise answer
        if answer:
            self.notes.remove(note)
        return answer

    def talk(self):
        self.tried = []
        try:
            return asyncio.run(self.upload.send_all())
        except LinkError as e:
            return e


def test_what_is_refused_does_not_hold_up_the_others():
    bench = Waiting({"a": upload.Refused("no"), "b": True, "c": upload.Refused("no"), "d": True})
    assert bench.talk() == (2, 2) and bench.tried == ["a", "b", "c", "d"]
    assert bench.talk() == (0, 0) and bench.tried == []
    bench.notes.append("e")
    bench.says["e"] = True
    assert bench.talk() == (1, 0) and bench.tried == ["e"]
    bench.upload.try_again()
    assert bench.talk() == (0, 2) and bench.tried == ["a", "c"]


def test_many_refused_notes_hold_up_none():
    says = {"n%03d" % number: upload.Refused("no") for number in range(40)}
    says["z"] = True
    assert Waiting(says).talk() == (1, 40)


def test_a_server_that_fails_at_one_note_gets_the_others():
    bench = Waiting({"a": upload.Failed("500"), "b": True, "c": True})
    assert isinstance(bench.talk(), upload.Failed) and bench.tried == ["a"]
    assert isinstance(bench.talk(), upload.Failed) and bench.tried == ["b", "c", "a"]
    bench.says["a"] = True
    assert bench.talk() == (1, 0) and bench.notes == []


def test_what_would_be_answered_to_all_ends_the_talk():
    for reached, problem in ((True, upload.Unavailable("401")), (False, LinkError("no connection"))):
        bench = Waiting({"a": problem, "b": True})
        bench.reached = reached
        for _ in range(3):
            assert isinstance(bench.talk(), LinkError) and bench.tried == ["a"], "not in order"


def test_a_note_whose_answer_always_breaks_does_not_hold_up_the_others():
    bench = Waiting({"a": LinkError("answer refused"), "b": True, "c": True})
    assert isinstance(bench.talk(), LinkError) and bench.tried == ["a"]
    assert isinstance(bench.talk(), LinkError) and bench.tried == ["b", "c", "a"]


def test_a_note_that_gets_on_comes_first_again():
    bench = Waiting({"a": True, "b": True})

    async def send(note):
        bench.tried.append(note)
        bench.upload.advances += 1
        raise LinkError("the network is gone")

    bench.upload.send = send
    for _ in range(2):
        assert isinstance(bench.talk(), LinkError) and bench.tried == ["a"]


def test_a_note_that_cannot_be_read_does_not_hold_up_the_others():
    bench = Waiting({"a": OSError(5), "b": True})
    assert bench.talk() == (1, 1) and bench.tried == ["a", "b"]
    bench.upload.try_again()
    bench.says["a"] = True
    assert bench.talk() == (1, 0) and bench.notes == []


def test_a_server_that_knows_every_id_gets_few_of_them():
    bench = Waiting({"a": False})
    assert bench.talk() == (0, 0) and len(bench.tried) == upload.MOST_RENEWED + 1
