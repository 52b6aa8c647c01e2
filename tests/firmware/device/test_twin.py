"""The twin on the device: the golden check-in, and what becomes of what is desired over answers and power cuts."""

import asyncio
import binascii
import hashlib
import json
import os
from collections import OrderedDict

from device import log, twin
from device.link import Link, LinkError
from device.twin import Refused, Twin

VECTORS = __file__.rsplit("/", 3)[0] + "/vectors/upload.json"


class FakeGc:
    def mem_free(self):
        return 8100000


twin.gc = FakeGc()


class Server:
    """Stands for the link: gives the answers in turn, and keeps the reports."""

    def __init__(self, *answers):
        self.answers, self.reports, self.next_der = list(answers), [], None
        self.while_waiting = None

    async def request(self, method, path, headers=(), body=None):
        assert (method, path) == ("POST", "/api/device/check-in")
        self.reports.append(json.loads(body))
        if self.while_waiting:
            self.while_waiting()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, tuple):
            return answer[0], {}, answer[1]
        return 200, {}, json.dumps(dict({"time_ms": 5}, **answer)).encode()


class Gadget:
    """A device with the settings `a` and `b` (integers) and the order `do`, over a file that outlives it."""

    def __init__(self, *answers, changed=()):
        self.path = "/tmp/twin-" + binascii.hexlify(os.urandom(8)).decode()
        self.start(*answers, changed=changed)

    def start(self, *answers, changed=()):
        self.server = Server(*answers)
        self.now_ms, self.set, self.done, self.told = 1000, {"a": 0}, [], []
        self.set.update(twin.read(self.path)["settings"])
        parts = (self.server, {"app": "clock"}, lambda: self.now_ms, dict, lambda: self.set, self.apply)
        self.twin = Twin(*parts, self.told.append, ("do",), changed, self.path)

    def apply(self, key, value):
        if key == "do":
            self.done.append(value)
            self.kept_when_done = twin.read(self.path)["revision"]
            return None
        if key not in ("a", "b") or not isinstance(value, int):
            raise ValueError(key + " is not right")
        self.set[key] = value
        return True

    def check_in(self, wait_ms=0):
        try:
            return asyncio.run(self.twin.check_in(wait_ms))
        except LinkError as e:
            return e

    def close(self):
        for path in (self.path, self.path + ".new"):
            try:
                os.remove(path)
            except OSError:
                pass  # it was not made


def test_the_golden_check_in():
    with open(VECTORS) as file:
        conversation = json.load(file)
    exchange = conversation["exchanges"][8]
    real = Link("192.0.2.1", 1, b"", conversation["token"])

    class Exact(Server):
        async def request(self, method, path, headers=(), body=None):
            assert real._head(method, path, headers, body).decode() == exchange["request"]
            assert body == bytes.fromhex(exchange["body_hex"]), body
            return 200, {}, json.dumps(exchange["response"]["json"]).encode()

    for line in log.errors():
        log.reported([line])
    common = (("app", "pendant"), ("version", "0.1.0"), ("board", "xiao-esp32s3"), ("mpy", 10758), ("reset", "sleep"))
    own = (("battery_mv", 3912), ("battery_low", False), ("usb", False), ("flash_free_bytes", 5900000))
    own += (("waiting", 0), ("rssi_dbm", -61))
    told = []
    made = Twin(
        *(Exact(), OrderedDict(common), lambda: 200500, lambda: OrderedDict(own)),
        *(lambda: OrderedDict((("gain_db", 0), ("sleep_after_s", 300))), None, told.append),
        path="/tmp/there-is-no-such-file",
    )
    asyncio.run(made.check_in())
    assert told == [exchange["response"]["json"]["time_ms"]]


def test_what_is_newer_is_applied_once_and_kept():
    gadget = Gadget(
        {"revision": 2, "settings": {"a": 7, "b": 8}}, {"revision": 2}, {"revision": 3, "settings": {"a": 1}}
    )
    for _ in range(3):
        gadget.check_in(20_000)
    first, second, _ = gadget.server.reports
    assert first["revision"] == 0 and first["wait_ms"] == 20_000 and "changed" not in first
    assert second["revision"] == 2 and second["settings"] == {"a": 7, "b": 8}
    gadget.start({"revision": 3})
    assert gadget.set == {"a": 1, "b": 8} and gadget.twin.revision == 3
    gadget.check_in()
    assert gadget.server.reports[0]["revision"] == 3 and "wait_ms" not in gadget.server.reports[0]
    gadget.close()


def test_what_cannot_be_is_refused_with_its_reason_and_not_asked_for_again():
    gadget = Gadget({"revision": 4, "settings": {"a": "x", "b": 2, "c": 3}}, {"revision": 4}, {"revision": 5})
    for _ in range(2):
        gadget.check_in()
    report = gadget.server.reports[1]
    assert report["revision"] == 4 and report["refused"] == {"a": "a is not right", "c": "c is not right"}
    assert report["settings"] == {"a": 0, "b": 2}
    gadget.start({"revision": 5})
    gadget.check_in()
    assert sorted(gadget.server.reports[0]["refused"]) == ["a", "c"]
    gadget.close()


def test_an_order_is_kept_as_done_before_it_is_done():
    gadget = Gadget({"revision": 9, "settings": {"do": "this"}})
    gadget.check_in()
    assert gadget.done == ["this"] and gadget.kept_when_done == 9
    assert gadget.set == {"a": 0} and twin.read(gadget.path)["settings"] == {}
    gadget.close()


def test_an_order_is_not_done_when_its_revision_cannot_be_kept():
    gadget = Gadget({"revision": 9, "settings": {"do": "this"}}, {"revision": 9, "settings": {"do": "this"}})
    path, gadget.twin._path = gadget.twin._path, "/tmp/no-such-folder/settings.json"
    try:
        gadget.check_in()
    except OSError:
        pass
    else:
        raise AssertionError("kept where there is no folder")
    assert gadget.done == [] and gadget.twin.revision == 0
    gadget.twin._path = path
    gadget.check_in()
    assert gadget.done == ["this"]
    gadget.close()


def test_a_change_here_is_reported_with_its_age_until_it_is_acknowledged():
    gadget = Gadget(LinkError("no network"), (500, b""), {"revision": 0}, {"revision": 0})
    gadget.twin.touch("a")
    for passed_ms in (0, 250, 1000, 0):
        gadget.now_ms += passed_ms
        gadget.check_in(20_000)
    reports = gadget.server.reports
    assert [report.get("changed") for report in reports] == [{"a": 0}, {"a": 250}, {"a": 1250}, None]
    assert ["wait_ms" in report for report in reports] == [False, False, False, True]
    gadget.close()


def test_a_change_during_the_wait_is_neither_overwritten_nor_forgotten():
    gadget = Gadget({"revision": 3, "settings": {"a": 5}}, {"revision": 3})
    gadget.server.while_waiting = lambda: gadget.twin.touch("a")
    gadget.check_in()
    gadget.server.while_waiting = None
    assert gadget.set["a"] == 0
    gadget.check_in()
    assert gadget.server.reports[1]["changed"] == {"a": 0} and gadget.server.reports[1]["revision"] == 3
    gadget.close()


def test_a_change_before_this_start_has_no_age():
    gadget = Gadget({"revision": 0}, changed=("a",))
    gadget.check_in()
    assert gadget.server.reports[0]["changed"] == {"a": None} and gadget.twin.changed == {}
    gadget.close()


def test_a_touched_setting_is_no_longer_kept_here():
    gadget = Gadget({"revision": 1, "settings": {"a": 5}})
    gadget.check_in()
    gadget.twin.touch("a")
    assert twin.read(gadget.path) == {"revision": 1, "settings": {}, "refused": {}}
    gadget.close()


def test_answers_of_the_wrong_shape_are_refused():
    for answer in (b"", b"[]", b"{", b'{"time_ms": 1}', b'{"time_ms": "1", "revision": 1}',
                   b'{"time_ms": 1, "revision": null}', b'{"time_ms": 1, "revision": 1, "settings": []}',
                   b'{"time_ms": 1, "revision": 1, "next_certificate": 5}',
                   b'{"time_ms": 1, "revision": 1, "update": "1.2"}'):  # fmt: skip
        gadget = Gadget((200, answer))
        assert "refused" in str(gadget.check_in()), answer
        assert gadget.twin.revision == 0 and gadget.told == []
        gadget.close()
    for status, kind in ((400, Refused), (401, Refused), (413, Refused), (500, LinkError), (503, LinkError)):
        gadget = Gadget((status, b'{"detail": "why"}'))
        answer = gadget.check_in()
        assert type(answer) is kind and "why" in str(answer), status
        gadget.close()


def test_a_damaged_file_is_begun_anew():
    gadget = Gadget({"revision": 3, "settings": {"a": 5}})
    for content in (b"", b"[]", b"{}", b'{"revision": "3"}', b'{"revision": 3, "settings": []}', b"\xff\xfe"):
        with open(gadget.path, "wb") as file:
            file.write(content)
        gadget.start({"revision": 3, "settings": {"a": 5}})
        assert gadget.twin.revision == 0, content
        gadget.check_in()
        assert twin.read(gadget.path)["revision"] == 3
    for line in log.errors():
        log.reported([line])
    gadget.close()


def der():
    """Enough of a certificate for its dates: see test_walltime."""
    validity = bytes([0x30, 30, 0x17, 13]) + b"261121093000Z" + bytes([0x17, 13]) + b"461121093000Z"
    inside = bytes([0x02, 1, 5, 0x30, 2, 5, 0]) + bytes([0x30, 0]) + validity
    inside = bytes([0x30, len(inside)]) + inside
    return bytes([0x30, len(inside)]) + inside


def test_the_next_certificate_is_kept_and_reported():
    text = binascii.b2a_base64(der()).decode().strip()
    gadget = Gadget(
        {"revision": 0, "next_certificate": text}, {"revision": 0}, {"revision": 0, "next_certificate": "AAAA"}
    )
    folder = gadget.path + "-der"
    os.mkdir(folder)
    twin.NEXT, twin.PINNED = folder + "/next.der", folder + "/server.der"
    with open(twin.PINNED, "wb") as file:
        file.write(b"pinned")
    assert twin.certificates() == (b"pinned", None)
    for _ in range(2):
        gadget.check_in()
    first, second = gadget.server.reports
    digest = binascii.hexlify(hashlib.sha256(der()).digest()).decode()
    assert "next_certificate" not in first and second["next_certificate"] == digest
    assert twin.certificates() == (b"pinned", der())
    assert "not a certificate" in str(gadget.check_in())
    twin.change()
    assert twin.certificates() == (der(), None)
    os.remove(twin.PINNED)
    os.rmdir(folder)
    gadget.close()


def test_a_trial_is_confirmed_by_an_answer_and_a_failed_version_is_reported():
    class Update:
        confirmations = 0

        def confirmed(self):
            self.confirmations += 1

        def failed_version(self):
            return "0.9.1"

    gadget = Gadget((503, b""), {"revision": 0, "update": {"version": "0.9.2"}})
    gadget.twin.update = Update()
    assert isinstance(gadget.check_in(), LinkError) and gadget.twin.update.confirmations == 0
    assert gadget.check_in()["update"] == {"version": "0.9.2"} and gadget.twin.update.confirmations == 1
    assert gadget.server.reports[0]["update_failed"] == "0.9.1"
    gadget.close()
