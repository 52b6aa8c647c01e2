"""What is desired of a device: revisions, the last hand on a setting, the long poll, and the next certificate."""

import base64
import hashlib
import json
import secrets
import sqlite3
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from device_client import Answer, DeviceClient
from offbeat.zones import posix_tz
from server_process import Device, ServerProcess


def add_device(server: ServerProcess, name: str, app: str) -> Device:
    """As `offbeat device add` does, but without the second that its start takes."""
    token = secrets.token_urlsafe(32)
    row = (name, name, app, hashlib.sha256(token.encode()).hexdigest(), 0)
    connection = sqlite3.connect(server.data / "offbeat.sqlite", isolation_level=None, timeout=10)
    connection.execute("INSERT INTO devices (id, name, app, token_hash, created_ms) VALUES (?, ?, ?, ?, ?)", row)
    connection.close()
    return Device(name, token, server.certificate, server.device_port)


class Gadget:
    """A device that applies what it is told, as docs/protocol.md has it."""

    def __init__(self, server: ServerProcess, name: str, app: str = "clock") -> None:
        self.client = DeviceClient(server, add_device(server, name, app))
        self.id = self.client.device.id
        self.app = app
        self.revision = 0
        self.settings: dict[str, Any] = {"mode": "steady", "hold": None} if app == "clock" else {"gain_db": 0}
        self.changed: dict[str, int | None] = {}

    def report(self, **more: Any) -> Answer:
        report = {"app": self.app, "version": "1", "revision": self.revision, "settings": self.settings}
        report |= {"changed": self.changed} | more
        headers = {"Content-Type": "application/json"}
        body = json.dumps(report).encode()
        headers["Content-Length"] = str(len(body))
        return self.client.request("POST", "/api/device/check-in", headers, body)

    def check_in(self, **more: Any) -> dict[str, Any]:
        answer = self.report(**more)
        assert answer.status == 200, answer.body
        told: dict[str, Any] = answer.json
        assert len(answer.body) <= 4096
        self.changed = {}
        self.revision = told["revision"]
        self.settings |= told.get("settings", {})
        return told


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("twin") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def page(server: ServerProcess) -> Iterator[requests.Session]:
    with server.sign_in() as session:
        session.headers["Origin"] = server.url
        yield session


@pytest.fixture(scope="module")
def bystander(server: ServerProcess) -> Gadget:
    """A clock of which nothing is desired."""
    return Gadget(server, "bystander")


def desire(page: requests.Session, server: ServerProcess, device: str, **settings: Any) -> requests.Response:
    body = json.dumps({"settings": settings}, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    return page.patch(f"{server.url}/api/devices/{device}", data=body, headers=headers, timeout=10)


def test_a_change_on_the_page_is_sent_once(server: ServerProcess, page: requests.Session) -> None:
    clock = Gadget(server, "once")
    assert clock.check_in() | {"time_ms": 0} == {"time_ms": 0, "revision": 0}
    assert desire(page, server, clock.id, mode="rush", timezone="CET-1").json() == {"revision": 2}
    told = clock.check_in()
    assert (told["revision"], told["settings"]) == (2, {"mode": "rush", "timezone": "CET-1"})
    assert "settings" not in clock.check_in()
    assert desire(page, server, clock.id, mode="gravity").json() == {"revision": 3}
    assert clock.check_in()["settings"] == {"mode": "gravity"}
    (shown,) = [one for one in page.get(f"{server.url}/api/devices", timeout=10).json() if one["id"] == clock.id]
    assert (shown["revision"], shown["desired"]) == (3, {"mode": "gravity", "timezone": "CET-1"})


def test_a_device_that_lost_its_memory_gets_all_but_what_was_done(
    server: ServerProcess, page: requests.Session
) -> None:
    clock = Gadget(server, "forgetful")
    desire(page, server, clock.id, mode="rush", hands="03:00:00", hold=None)
    assert clock.check_in()["settings"] == {"hands": "03:00:00", "mode": "rush"}
    assert clock.check_in()["settings"] == {"hold": None}
    clock.check_in()
    clock.revision = 0
    assert clock.check_in()["settings"] == {"mode": "rush", "hold": None}


def test_a_hold_or_an_order_that_was_desired_after_an_order_comes_after_it(
    server: ServerProcess, page: requests.Session
) -> None:
    clock = Gadget(server, "inorder")
    for settings in (
        *({"mode": "rush"}, {"steps": 2}, {"timezone": "CET-1"}),
        *({"hands": "10:08:30"}, {"morse": "SOS"}, {"hold": "12:00:00"}),
    ):
        desire(page, server, clock.id, **settings)
    told = [clock.check_in(wait_ms=20_000) for _ in range(3)]  # without a wait
    assert [one["settings"] for one in told] == [
        {"mode": "rush", "steps": 2, "timezone": "CET-1"},
        {"hands": "10:08:30", "morse": "SOS"},
        {"hold": "12:00:00"},
    ]
    assert "settings" not in clock.check_in()


def test_hands_that_are_set_end_the_hold_that_is_desired(server: ServerProcess, page: requests.Session) -> None:
    clock = Gadget(server, "setfree")
    desire(page, server, clock.id, hold="12:00:00")
    clock.check_in()
    assert desire(page, server, clock.id, hands="10:08:30").json() == {"revision": 2}
    assert clock.check_in()["settings"] == {"hands": "10:08:30"}
    clock.check_in()
    clock.revision = 0
    assert "settings" not in clock.check_in()
    # The button, out of reach, and then the page: that hold is over, too.
    for age_ms in (60_000, None):
        clock.settings["hold"] = "07:00:00"
        desire(page, server, clock.id, hands="10:08:30")
        clock.changed = {"hold": age_ms}
        assert clock.check_in()["settings"] == {"hands": "10:08:30"}
        clock.check_in()
    desire(page, server, clock.id, hands="10:08:30", hold="12:00:00")
    assert [clock.check_in()["settings"] for _ in range(2)] == [{"hands": "10:08:30"}, {"hold": "12:00:00"}]


def test_button_offline_then_page_then_reconnect_the_page_wins(server: ServerProcess, page: requests.Session) -> None:
    clock = Gadget(server, "pagewins")
    clock.check_in()
    clock.settings["mode"] = "morse"
    pressed = time.monotonic()
    time.sleep(0.05)
    desire(page, server, clock.id, mode="rush")
    time.sleep(0.05)
    clock.changed = {"mode": round((time.monotonic() - pressed) * 1000)}
    assert clock.check_in()["settings"] == {"mode": "rush"}
    assert clock.settings["mode"] == "rush"


def test_page_then_button_offline_then_reconnect_the_button_wins(server: ServerProcess, page: requests.Session) -> None:
    clock = Gadget(server, "buttonwins")
    clock.check_in()
    desire(page, server, clock.id, mode="rush")
    time.sleep(0.05)
    clock.settings["mode"] = "morse"
    clock.changed = {"mode": 0}
    told = clock.check_in()
    assert (told["revision"], told["settings"]) == (2, {"mode": "morse"})
    assert clock.check_in() | {"time_ms": 0} == {"time_ms": 0, "revision": 2}


@pytest.mark.parametrize("page_first", [True, False])
def test_a_power_cut_between_the_button_and_the_reconnection(
    server: ServerProcess, page: requests.Session, page_first: bool
) -> None:
    """The age is not known then: what the page did after the revision reported is newer, what it did before is not."""
    clock = Gadget(server, "cut" + str(page_first).lower())
    if page_first:
        desire(page, server, clock.id, mode="rush")
    clock.check_in()
    clock.settings["mode"] = "morse"
    if not page_first:
        desire(page, server, clock.id, mode="rush")
    clock.changed = {"mode": None}
    assert clock.check_in()["settings"] == {"mode": "morse" if page_first else "rush"}


def test_a_lost_answer_changes_nothing(server: ServerProcess, page: requests.Session) -> None:
    clock = Gadget(server, "repeated")
    clock.settings["mode"] = "morse"
    clock.changed = {"mode": 1000}
    assert clock.report().json["settings"] == {"mode": "morse"}
    assert clock.check_in()["settings"] == {"mode": "morse"}
    assert "settings" not in clock.check_in()


def test_impossible_changes_of_a_device_are_not_taken(server: ServerProcess) -> None:
    clock = Gadget(server, "impossible")
    clock.settings |= {"mode": 5, "pattern": [0], "hold": "noon", "colour": "red", "hands": "03:00:00"}
    clock.changed = dict.fromkeys(("mode", "pattern", "hold", "colour", "hands", "timezone"), 0)
    assert clock.check_in()["revision"] == 0


@pytest.mark.parametrize(
    "settings",
    [{}, {"colour": "red"}, {"mode": None}, {"mode": ""}, {"mode": "x" * 33}, {"pattern": []}, {"pattern": [0]},
     {"pattern": [1] * 61}, {"pattern": [True]}, {"hold": "24:00:00"}, {"hold": 5}, {"hands": None}, {"steps": 43_200},
     {"steps": 1.5}, {"morse": "x" * 501}, {"timezone": "x" * 64}, {"mode": "rush", "steps": "1"}],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_desired(
    server: ServerProcess, page: requests.Session, bystander: Gadget, settings: dict[str, Any]
) -> None:
    assert desire(page, server, bystander.id, **settings).status_code == 422
    assert bystander.check_in()["revision"] == 0


def test_the_longest_settings_fit_into_an_answer(server: ServerProcess, page: requests.Session) -> None:
    clock = Gadget(server, "longest")
    settings = {"morse": "\N{GRINNING FACE}" * 500, "pattern": [10_000] * 60, "timezone": "x" * 63, "mode": "y" * 32}
    for key, value in settings.items():
        assert desire(page, server, clock.id, **{key: value}).status_code == 200
    assert clock.check_in()["settings"] == settings


def test_a_pendants_settings(server: ServerProcess, page: requests.Session) -> None:
    pendant = Gadget(server, "talker", "pendant")
    for settings in ({"gain_db": 7}, {"gain_db": 30}, {"sleep_after_s": -1}, {"sleep_after_s": 3601}):
        assert desire(page, server, pendant.id, **settings).status_code == 422
    other = desire(page, server, pendant.id, gain_db=6, mode="rush")
    assert other.status_code == 409 and "gain_db, sleep_after_s" in other.json()["detail"]
    desire(page, server, pendant.id, gain_db=-12, sleep_after_s=0)
    assert pendant.check_in()["settings"] == {"gain_db": -12, "sleep_after_s": 0}


def test_only_the_signed_in_desire_and_only_of_what_there_is(server: ServerProcess, page: requests.Session) -> None:
    url = f"{server.url}/api/devices/nobody"
    body = {"settings": {"mode": "rush"}}
    assert requests.patch(url, json=body, headers={"Origin": server.url}, timeout=10).status_code == 401
    assert page.patch(url, json=body, timeout=10).status_code == 404
    assert page.patch(url, json=body, headers={"Origin": "http://elsewhere"}, timeout=10).status_code == 403


@pytest.mark.parametrize(
    "report",
    [{"revision": -1}, {"revision": "1"}, {"wait_ms": 20_001}, {"wait_ms": -1}, {"changed": {"mode": -1}},
     {"changed": {"x" * 33: 1}}, {"settings": []}, {"refused": {"mode": "x" * 201}}, {"battery_mv": -1}, {"usb": 1},
     {"next_certificate": "x"}, {"mpy": 65_536}, {"settings": {str(number): 1 for number in range(33)}}],
    ids=lambda report: str(report)[:40],
)  # fmt: skip
def test_reports_out_of_bounds(bystander: Gadget, report: dict[str, Any]) -> None:
    assert bystander.report(**report).status == 400


class Waiting(threading.Thread):
    """A check-in that waits."""

    def __init__(self, gadget: Gadget, wait_ms: int) -> None:
        super().__init__(daemon=True)
        self._gadget, self._wait_ms = gadget, wait_ms
        self.told: dict[str, Any] = {}
        self.took_s = 0.0
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        self.told = self._gadget.check_in(wait_ms=self._wait_ms)
        self.took_s = time.monotonic() - began


def test_the_answer_waits_for_a_change_and_no_longer(server: ServerProcess, page: requests.Session) -> None:
    clock = Gadget(server, "patient")
    clock.check_in()
    nothing = Waiting(clock, 600)
    nothing.join(10)
    assert 0.5 < nothing.took_s < 2 and "settings" not in nothing.told
    waiting = Waiting(clock, 20_000)
    time.sleep(0.3)
    assert waiting.is_alive()
    began = time.monotonic()
    desire(page, server, clock.id, mode="rush")
    waiting.join(10)
    assert waiting.told["settings"] == {"mode": "rush"} and time.monotonic() - began < 1
    desire(page, server, clock.id, mode="steady")
    at_once = Waiting(clock, 20_000)
    at_once.join(10)
    assert at_once.told["settings"] == {"mode": "steady"} and at_once.took_s < 1


def test_a_second_connection_ends_the_wait_of_the_first(server: ServerProcess) -> None:
    clock = Gadget(server, "reborn")
    first = Waiting(clock, 20_000)
    time.sleep(0.3)
    clock.check_in()
    first.join(5)
    assert not first.is_alive()


def test_those_that_wait_hold_up_nobody(server: ServerProcess) -> None:
    waiting = [Waiting(Gadget(server, f"w{number}"), 3000) for number in range(40)]  # more than there are threads
    time.sleep(0.5)
    other = Gadget(server, "other")
    began = time.monotonic()
    other.check_in()
    assert time.monotonic() - began < 1
    assert all(one.is_alive() for one in waiting)
    for one in waiting:
        one.join(10)
        assert one.took_s < 6


def test_the_next_certificate(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        gadgets = [Gadget(server, "kitchen"), Gadget(server, "pocket", "pendant")]
        assert "next_certificate" not in gadgets[0].check_in()
        assert "there is no next certificate" in server.command("certificate", "switch", check=False).stderr
        assert server.command("certificate", "next").stdout.strip() == "not told yet: kitchen, pocket"
        refused = server.command("certificate", "switch", check=False)
        assert refused.returncode == 1 and "kitchen, pocket" in refused.stdout
        ders = []
        for gadget in gadgets:
            der = base64.b64decode(gadget.check_in()["next_certificate"])
            digest = hashlib.sha256(der).hexdigest()
            assert "next_certificate" not in gadget.check_in(next_certificate=digest)
            ders.append(der)
        assert ders[0] == ders[1] != gadgets[0].client.device.certificate
        assert server.command("certificate", "next").stdout.strip() == "every device has been told"
        assert served(server) == gadgets[0].client.device.certificate
        server.command("certificate", "switch")
        server.stop()
        server.start()
        assert served(server) == ders[0]


def served(server: ServerProcess) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", server.device_port)))


def test_a_zone_by_name_and_its_rule_when_that_changes(server: ServerProcess, page: requests.Session) -> None:
    clock = Gadget(server, "athens")
    clock.check_in()
    desire(page, server, clock.id, timezone="Europe/Athens")
    assert clock.check_in()["settings"] == {"timezone": "EET-2EEST,M3.5.0/3,M10.5.0/4"}
    assert "settings" not in clock.check_in()
    listed = page.get(f"{server.url}/api/devices", timeout=10).json()
    assert next(one for one in listed if one["id"] == clock.id)["zone"] == "Europe/Athens"
    # As if the rule had been another one until now.
    connection = sqlite3.connect(server.data / "offbeat.sqlite", isolation_level=None, timeout=10)
    connection.execute("UPDATE desired SET value = '\"EET-2\"' WHERE device_id = 'athens' AND setting = 'timezone'")
    connection.close()
    assert clock.check_in()["settings"] == {"timezone": "EET-2EEST,M3.5.0/3,M10.5.0/4"}
    desire(page, server, clock.id, timezone="EET-2")
    assert clock.check_in()["settings"] == {"timezone": "EET-2"}
    assert "settings" not in clock.check_in()


@pytest.mark.parametrize(
    "text", ["", "../../etc/passwd", "/etc/passwd", "zone.tab", "tzdata.zi", "EET-2EEST,M3.5.0,M10.5.0"]
)
def test_what_is_no_zone_stays_as_it_is(text: str) -> None:
    assert posix_tz(text) == text
