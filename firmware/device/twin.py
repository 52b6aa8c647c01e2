"""The check-in: what a gadget reports, and what it takes from the answer (docs/protocol.md, "Check-in").

    twin = Twin(link, common, counter_ms, report, apply, told)
    await twin.check_in(wait_ms=0)

Desired settings come with a revision. What is newer than the last revision is applied once, and kept with that revision
in one file, replaced as a whole, so that a loss of power leaves both as they were or both as they are. An *order* is
done at most once: its revision is kept before it is carried out. Pure, but for the files.
"""

import binascii
import gc
import hashlib
import json
import os
import sys
from collections import OrderedDict

from device import log
from device.config import VERSION
from device.link import LinkError
from device.walltime import not_before

TYPE_CHECKING = False  # for the type checker alone: the chip has no `typing`
if TYPE_CHECKING:
    from typing import Any

KEPT = "/settings.json"
PINNED = "/server.der"
NEXT = "/next.der"
WAIT_MS = 20_000  # the longest that the server may let an answer wait
LONGEST_REASON = 100
_JSON = (("Content-Type", "application/json"),)


class Refused(LinkError):
    """The server does not take the check-in: the token, or what it says."""


class Twin:
    """`revision`: of the settings applied last. `changed`: setting → counter's ms of its change at the device itself,
    or None if that was before this start; forgotten when the server has acknowledged it. `update`: the
    device.update.Update, or None.
    """

    def __init__(self, link, common: dict, counter_ms, report, settings, apply, told, orders=(), changed=(), path=KEPT):
        """link: device.link.Link. common: what never changes, such as `app`, `version`, `board`. counter_ms: a function
        of nothing, the counter now. report: a function of nothing, a dict of the gadget's own keys.

        settings: a function of nothing, a dict of all settings as they are, orders left out. apply: a function
        (setting, value) that sets one, and raises ValueError with the reason if it cannot; True from it means that the
        value is to be kept here, anything else that the application has kept it. told: a function of the server's time
        in ms since 1970. orders: names of the settings that are done once. changed: settings that were changed at the
        device before this start, of which the server has not heard.
        """
        self._link = link
        self._common = common
        self.counter_ms = counter_ms
        self._report = report
        self._settings = settings
        self._apply = apply
        self._told = told
        self._orders = orders
        self._path = path
        self.update: Any = None
        self.changed = {key: None for key in changed}
        kept = read(path)
        self.revision = kept["revision"]
        self._kept = kept["settings"]
        self._refused = kept["refused"]

    def touch(self, key: str):
        """`key` was changed at the device itself, now."""
        self.changed[key] = self.counter_ms()
        if key in self._kept:  # the application keeps it from now on
            del self._kept[key]
            self._write()

    async def check_in(self, wait_ms: int = 0) -> dict:
        """Report, and take what the answer brings. The answer: an `update` in it is for the caller to take.

        wait_ms: how long the server may wait for news; not waited where something has been changed here. LinkError: try
        later. Refused (a LinkError): trying again soon does not help. OSError: it could not be kept.
        """
        errors = log.errors()
        changed = dict(self.changed)
        body = self._body(errors, changed, 0 if changed else wait_ms)
        status, _, content = await self._link.request("POST", "/api/device/check-in", _JSON, body)
        if status != 200:
            kind = Refused if status in (400, 401, 403, 413) else LinkError
            raise kind("check-in: the server answered %d: %s" % (status, content[:100]))
        answer = parse(content)
        log.reported(errors)
        for key in changed:
            if self.changed.get(key, 0) == changed[key]:  # not changed again meanwhile
                del self.changed[key]
        if self.update is not None:
            self.update.confirmed()
        self._told(answer["time_ms"])
        if answer.get("next_certificate"):
            self._keep_next(answer["next_certificate"])
        if answer["revision"] != self.revision:
            self._take(answer["revision"], answer.get("settings") or {})
        return answer

    def _body(self, errors, changed, wait_ms):
        now_ms = self.counter_ms()
        report = OrderedDict()
        for part in (self._common, {"uptime_ms": now_ms}, self._report()):
            for key in part:
                report[key] = part[key]
        report["memory_free_bytes"] = gc.mem_free() if hasattr(gc, "mem_free") else 0
        report["errors"] = errors
        report["revision"] = self.revision
        report["settings"] = self._settings()
        if changed:
            ages = {key: None if changed[key] is None else max(0, now_ms - changed[key]) for key in changed}
            report["changed"] = ages
        if self._refused:
            report["refused"] = self._refused
        if self.update is not None and self.update.failed_version():
            report["update_failed"] = self.update.failed_version()
        if self._link.next_der is not None:
            report["next_certificate"] = binascii.hexlify(hashlib.sha256(self._link.next_der).digest()).decode()
        if wait_ms:
            report["wait_ms"] = wait_ms
        return json.dumps(report).encode()

    def _take(self, revision, wanted):
        """Applies and keeps; what cannot be applied is refused with its reason."""
        refused: dict = {}
        for key in wanted:
            if key not in self._orders:
                self._kept.pop(key, None)
                if self._try(key, wanted[key], refused):
                    self._kept[key] = wanted[key]
        before, self.revision = self.revision, revision
        self._refused = refused
        try:
            self._write()
        except OSError:
            self.revision = before  # then all of it comes once more, and no order has been carried out
            raise
        orders = [key for key in wanted if key in self._orders]
        for key in orders:
            self._try(key, wanted[key], refused)
        if orders and refused:
            self._write()

    def _try(self, key, value, refused):
        """Whether the value is to be kept here."""
        try:
            if key in self.changed:  # somebody was here while the answer was on its way: the server hears of it next
                return False
            kept = self._apply(key, value) is True
            log.info("setting: %s" % key)
            return kept
        except (ValueError, OSError) as e:
            refused[key] = str(e)[:LONGEST_REASON]
            log.info("setting %s refused: %s" % (key, e))
            return False

    def _write(self):
        kept = {"revision": self.revision, "settings": self._kept, "refused": self._refused}
        replace(self._path, json.dumps(kept).encode())

    def _keep_next(self, text):
        try:
            der = binascii.a2b_base64(text)
            not_before(der)
        except ValueError:
            raise LinkError("answer refused: next_certificate is not a certificate")
        if der != self._link.next_der:
            replace(NEXT, der)
            self._link.next_der = der
            log.info("the certificate that the server will change to is kept")


def identity(app: str, board: str, machine) -> dict:
    """The keys of a report that stay the same. board: its name; machine: the module."""
    causes = {
        machine.PWRON_RESET: "power",
        machine.WDT_RESET: "watchdog",
        machine.DEEPSLEEP_RESET: "sleep",
    }
    return {
        "app": app,
        "version": VERSION,
        "board": board,
        "mpy": getattr(sys.implementation, "_mpy", 0) & 0xFFFF,
        "reset": causes.get(machine.reset_cause(), "reset"),
    }


def replace(path: str, content: bytes):
    """Put a file there whose content is the old or the new one, whole, at any instant. OSError: no room."""
    part = path + ".new"
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
    os.rename(part, path)


def read(path: str) -> dict:
    """What `Twin` kept: `revision`, `settings`, `refused`. As at the first start, where nothing usable is there: then
    the server sends all that is desired once more.
    """
    try:
        with open(path) as file:
            kept = json.load(file)
        good = isinstance(kept, dict) and isinstance(kept.get("revision"), int)
        if good and isinstance(kept.get("settings"), dict) and isinstance(kept.get("refused"), dict):
            return kept
        log.error("%s is not what was written there: begun anew" % path)
    except OSError:
        pass  # none yet
    except ValueError as e:
        log.error("%s is begun anew" % path, e)
    return {"revision": 0, "settings": {}, "refused": {}}


def parse(content: bytes) -> dict:
    """An answer with `time_ms` and `revision`, and what else it has of the right kind. LinkError if it is not one."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise LinkError("answer refused: its body is not a JSON object")
    for key, kind, needed in (
        ("time_ms", int, True),
        ("revision", int, True),
        ("settings", dict, False),
        ("next_certificate", str, False),
        ("update", dict, False),
    ):
        if (needed or key in answer) and not isinstance(answer.get(key), kind):
            raise LinkError("answer refused: %s is %s" % (key, repr(answer.get(key))[:40]))
    return answer


def certificates():
    """(pinned, next or None), DER, as this device has them. The clock must be ahead of the later one's first moment.
    OSError: it was never paired.
    """
    pinned = _whole(PINNED)
    try:
        return pinned, _whole(NEXT)
    except OSError:
        return pinned, None


def _whole(path):
    # By its length: `read()` without one, or with a large one, wants a piece of the heap that there may not be.
    length = os.stat(path)[6]
    with open(path, "rb") as file:
        return file.read(length)


def change():
    """The server has changed to the next certificate: it takes the place of the pinned one. `changed` of a Link."""
    try:
        os.rename(NEXT, PINNED)
        log.info("the server has its next certificate")
    except OSError as e:
        log.error("the next certificate could not take the place of the pinned one", e)
