"""The page in a real browser: what a person does with it, from the sign-in link to a password.

The picture in the README is what the first of these tests looks at:

    OFFBEAT_PICTURE=docs/page.png .venv/bin/python -m pytest tests/e2e/test_browser.py -k believable
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sqlite3
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import host_programs
import numpy as np
import pytest
from device_client import DeviceClient, encoded
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Response, expect, sync_playwright
from programs import needed
from server_process import Device, ServerProcess, WebhookReceiver, until

TESTS = Path(__file__).parents[1]
SPOKEN = (TESTS / "server" / "remind_me.wav").read_bytes()
SENTENCE = "remind me to buy milk tomorrow"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
MODES = ["steady", "vetinari", "hesitate", "rush", "stumble", "gravity", "morse", "pattern", "surprise"]
expect.set_options(timeout=30_000)  # of a machine that many share


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    *words, program = needed(host_programs.chromium)
    environment = {**os.environ, **dict(word.split("=", 1) for word in words if "=" in word)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS, env=environment)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("browser") / "data") as server:
        yield server


class Visitor:
    """Somebody with a browser of its own, and all in it that should not be: `complaints` of its console and of the
    page's policy, requests to `elsewhere`, and requests that the server `refused`."""

    def __init__(self, browser: Browser, server: ServerProcess, **options: Any) -> None:
        self.context = browser.new_context(locale="en-GB", reduced_motion="reduce", **options)  # it draws without a GPU
        self.context.set_default_timeout(30_000)
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.refused: list[tuple[int, str]] = []
        self._host = urlsplit(server.url).netloc
        self.page = self.context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.context.on("request", lambda request: self._asked(request.url))
        self.context.on("response", self._answered)

    def _heard(self, message: ConsoleMessage) -> None:
        # A refused request makes a line, too; it is in `refused`.
        is_refusal = message.text.startswith("Failed to load resource: the server responded with a status of 4")
        if message.type in ("error", "warning") and not is_refusal:
            self.complaints.append(message.text)

    def _asked(self, url: str) -> None:
        if urlsplit(url).netloc != self._host:
            self.elsewhere.append(url)

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.refused.append((response.status, urlsplit(response.url).path))

    def assert_all_well(self, refused: list[tuple[int, str]] | None = None) -> None:
        """Nothing that should not be, but for what the server was meant to refuse."""
        assert (self.complaints, self.elsewhere, self.refused) == ([], [], refused or [])


@pytest.fixture(scope="module")
def session(browser: Browser, server: ServerProcess) -> Any:
    """What a browser keeps that was signed in by a link."""
    visitor = Visitor(browser, server)
    visitor.page.goto(server.command("sign-in").stdout.strip())
    visitor.page.wait_for_url(f"{server.url}/")
    expect(visitor.page.locator("#empty")).to_contain_text("Add your pendant")
    visitor.assert_all_well()
    kept = visitor.context.storage_state()
    visitor.context.close()
    return kept


@pytest.fixture
def visit(browser: Browser, server: ServerProcess, session: Any) -> Iterator[Callable[..., Visitor]]:
    """visit(options of a browser's context) -> a visitor who looks at the page."""
    visitors: list[Visitor] = []

    def visit(**options: Any) -> Visitor:
        visitor = Visitor(browser, server, storage_state=session, **options)
        visitors.append(visitor)
        visitor.page.goto(server.url)
        return visitor

    yield visit
    for visitor in visitors:
        visitor.context.close()


def part(within: Locator, summary: str) -> Locator:
    """What is folded below a summary, unfolded."""
    details = within.locator("details").filter(has=within.page.locator("summary", has_text=summary))
    details.locator("summary").click()
    return details


def add_device(page: Page, name: str, kind: str, server: ServerProcess) -> DeviceClient:
    """Adds a device on the page, and takes from there what its board must know."""
    form = page.locator("#devices > details")
    if form.get_attribute("open") is None:
        form.locator("summary").click()
    form.get_by_label("Name").fill(name)
    form.get_by_label("Kind").select_option(kind)
    form.get_by_role("button", name="Add").click()
    expect(form.get_by_role("status").first).to_contain_text("shown this once")
    told = json.loads(form.locator("pre").inner_text())
    assert told["port"] == server.device_port and re.fullmatch(r"[\w-]{43}", told["token"])
    device = Device(told["id"], told["token"], base64.b64decode(told["certificate"]), told["port"])
    return DeviceClient(server, device)


def card(page: Page, name: str) -> Locator:
    """A device's or a destination's card."""
    return page.locator("section.device").filter(has=page.locator("h3", has_text=re.compile(f"^{re.escape(name)}$")))


def post(page: Page, path: str, body: dict[str, str]) -> None:
    """Adds something as if it were done elsewhere, but with this page's session."""
    script = """async ([path, body]) => (await fetch(path, {
        method: "POST", body: JSON.stringify(body), headers: {"Content-Type": "application/json"},
    })).status"""
    assert page.evaluate(script, [path, body]) == 201


def field(within: Locator, label: str) -> Locator:
    """What a label names."""
    return within.locator("label", has_text=re.compile(f"^{label}")).locator("input, select")


def check_in(page: Page, client: DeviceClient, app: str, **report: Any) -> dict[str, Any]:
    """A check-in, and what it is answered with. The page looks at once, as when somebody turns to it."""
    body = json.dumps({"app": app, "version": "0.1.0", **report}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    answer = client.request("POST", "/api/device/check-in", headers, body)
    assert answer.status == 200, answer.body
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    told: dict[str, Any] = answer.json
    return told


def clock_report(**more: Any) -> dict[str, Any]:
    """What a clock in UTC says that ticks once a second, its hands right."""
    now = time.time()
    plan = [1000 * (tick + 1) for tick in range(60)]
    report = {"mode": "steady", "modes": MODES, "position": int(now) % 43_200, "minute": int(now // 60), "plan": plan}
    return report | {"utc_offset_s": 0, "uncertainty_ms": 12, "late_ticks": 0, "uptime_ms": 93_600_000} | more


def spoken_note(name: str) -> bytes:
    """A pendant's file of what is in tests/speech."""
    with wave.open(io.BytesIO((TESTS / "speech" / f"{name}.wav").read_bytes())) as sound:
        assert (sound.getframerate(), sound.getnchannels()) == (16000, 1)
        return encoded(np.frombuffer(sound.readframes(sound.getnframes()), np.int16))


def test_a_believable_page_fits(visit: Callable[..., Visitor], server: ServerProcess) -> None:
    """In light and dark, on a desk and on a phone. OFFBEAT_PICTURE: where to write it for the README."""
    desk = visit(viewport={"width": 1200, "height": 866}, color_scheme="light")
    page = desk.page
    pendant = add_device(page, "Pendant", "pendant", server)
    clock = add_device(page, "Kitchen clock", "clock", server)
    notes = ("the-code-is-four-seven-one-nine", "set-a-timer-for-ten-minutes", "remind-me-to-call-mum-tomorrow")
    with WebhookReceiver() as receiver:
        post(page, "/api/destinations", {"url": receiver.url, "name": "My assistant"})
        for name, minutes in zip(notes, (26 * 60, 190, 3), strict=True):
            counter = f"0123abcd {40_000 + minutes * 60_000} 0"
            assert pendant.patch(pendant.new_id(), spoken_note(name), Offbeat_Counter=counter).status == 200
        expect(page.locator(".state", has_text="delivered")).to_have_count(3)
        expect(page.locator(".note .text")).to_have_text([name.replace("-", " ") for name in reversed(notes)])
    check_in(page, pendant, "pendant", battery_mv=3910, waiting=0, board="xiao-esp32s3")
    check_in(page, clock, "clock", **clock_report(mode="vetinari"))
    page.reload()
    expect(page.get_by_text(re.compile(r"^Ticks as shown\.|^Shown steady"))).to_be_visible()  # the minute may be over
    if os.environ.get("OFFBEAT_PICTURE"):
        page.screenshot(path=os.environ["OFFBEAT_PICTURE"])
    grounds = set()
    phone = visit(viewport={"width": 360, "height": 780}, color_scheme="dark")
    for visitor in (desk, phone):
        page = visitor.page
        for summary in page.locator("summary").all():
            summary.click()
        expect(page.get_by_role("combobox", name="Mode", exact=True)).to_be_visible()
        inner, needed = page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
        assert needed <= inner
        unnamed = "[...document.querySelectorAll('input, select, button')].filter(e => !e.closest('[hidden]') && "
        unnamed += "!e.hidden && !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map(e => e.outerHTML)"
        assert page.evaluate(unnamed) == []
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        visitor.assert_all_well()
    assert len(grounds) == 2
    card(desk.page, "My assistant").get_by_role("button", name="Remove").click()
    expect(card(desk.page, "My assistant")).to_have_count(0)


def test_a_clock_and_a_pendant_are_set(visit: Callable[..., Visitor], server: ServerProcess) -> None:
    visitor = visit()
    page = visitor.page
    clock = add_device(page, "Kitchen", "clock", server)
    kitchen = card(page, "Kitchen")
    expect(kitchen).to_contain_text("Never seen yet.")
    assert check_in(page, clock, "clock", **clock_report())["revision"] == 0
    now = time.time()
    expect(kitchen.get_by_role("img")).to_be_visible()
    shown = str(kitchen.get_by_role("img").get_attribute("aria-label"))
    hour, minute, second = map(int, re.findall(r"\d+", shown))
    assert (hour * 3600 + minute * 60 + second - now + 5) % 43_200 < 10, shown
    settings = part(kitchen, "Settings")

    # What is chosen arrives at the next check-in, and the page says when it was taken over.
    mode = field(settings, "Mode")
    assert mode.locator("option").all_inner_texts() == MODES
    expect(mode).to_have_value("steady")
    mode.select_option("rush")
    settings.get_by_role("button", name="Set: Mode").click()
    expect(kitchen.locator(".waits")).to_have_text("Waiting for it to take over: Mode.")
    told = check_in(page, clock, "clock", **clock_report())
    assert (told["revision"], told["settings"]) == (1, {"mode": "rush"})
    check_in(page, clock, "clock", revision=1, settings={"mode": "rush", "hold": None}, **clock_report(mode="rush"))
    expect(settings.get_by_text("Taken over.")).to_be_visible()
    expect(kitchen.locator(".waits")).to_have_count(0)
    expect(kitchen.get_by_text("clock · rush · within 12 ms")).to_be_visible()

    # What somebody types stays, whatever the clock reports and whoever adds another one meanwhile.
    morse = field(settings, "Morse text")
    morse.fill("half a wo")
    check_in(page, clock, "clock", revision=1, settings={"mode": "rush", "morse": "sos"}, **clock_report(late_ticks=3))
    expect(kitchen.get_by_text("3 late ticks")).to_be_visible()
    post(page, "/api/devices", {"name": "Attic", "app": "clock"})
    expect(card(page, "Attic")).to_be_visible()
    expect(morse).to_have_value("half a wo")
    expect(morse).to_be_focused()

    # Wrong input gets a sentence, and goes nowhere.
    for label, wrong, sentence in (
        ("Pattern", "3, 0", "Whole numbers from 1 to 10000, please."),
        ("Pattern", "1 " * 61, "1 to 60 numbers, please."),
        ("The hands show", "25:00:00", "As 10:08:30, please."),
        ("Time zone", "", "A name such as Europe/Athens, please."),
    ):
        field(settings, label).fill(wrong)
        settings.get_by_role("button", name=f"Set: {label}").click()
        expect(settings.get_by_text(sentence)).to_be_visible()
    assert check_in(page, clock, "clock", revision=1, **clock_report())["revision"] == 1

    # All the others, in two check-ins, for the hold comes after the hands; one of them is refused.
    for label, value in (("Morse text", "cq"), ("Pattern", "3, 1 2"), ("The hands show", "10:08:30")):
        field(settings, label).fill(value)
        field(settings, label).press("Enter")
    zone = field(settings, "Time zone")
    zone.fill("Europe/Athens")
    assert page.locator("datalist option[value='Europe/Athens']").count() == 1
    zone.press("Enter")
    settings.get_by_role("button", name="Hold at 12:00:00").click()
    settings.get_by_role("button", name="−2").click()
    expect(settings.get_by_text("Waiting for it to do that.")).to_have_count(2)
    expect(settings.get_by_role("button", name="−2")).to_be_disabled()
    expect(settings.get_by_text("Waiting for it to take it over.")).to_have_count(4)
    told = check_in(page, clock, "clock", revision=1, **clock_report())
    assert told["settings"] == {
        "morse": "cq",
        "pattern": [3, 1, 2],
        "hands": "10:08:30",
        "timezone": "EET-2EEST,M3.5.0/3,M10.5.0/4",
    }
    has = {key: told["settings"][key] for key in ("morse", "pattern", "timezone")} | {"mode": "rush"}
    refused = {"pattern": "pattern: too fast for this movement"}
    told = check_in(page, clock, "clock", revision=told["revision"], settings=has, refused=refused, **clock_report())
    assert told["settings"] == {"hold": "12:00:00", "steps": -2}
    expect(kitchen.locator(".trouble")).to_have_text("It refused Pattern: pattern: too fast for this movement")
    expect(settings.get_by_text("It refused: pattern: too fast")).to_be_visible()
    has["hold"] = "12:00:00"
    report = clock_report(position=0, rssi_dbm=-58)
    check_in(page, clock, "clock", revision=told["revision"], settings=has, **report)
    expect(settings.get_by_role("button", name="−2")).to_be_enabled()
    expect(zone).to_have_value("Europe/Athens")
    expect(kitchen.get_by_text("Held at 12:00:00.")).to_be_visible()
    expect(kitchen.get_by_role("img")).to_have_accessible_name("The hands show 12:00:00")
    settings.get_by_role("button", name="Go on").click()
    expect(kitchen.locator(".waits")).to_have_text("Waiting for it to take over: Hold.")
    assert check_in(page, clock, "clock", revision=told["revision"], **report)["settings"] == {"hold": None}

    check_in(page, clock, "clock", revision=told["revision"], **(report | {"position": None}))
    expect(kitchen.get_by_text("It does not know where its hands stand")).to_be_visible()
    expect(kitchen.locator(".dial")).to_be_hidden()

    # A pendant: what it says of itself, its settings, and its end.
    pendant = add_device(page, "Pocket", "pendant", server)
    pocket = card(page, "Pocket")
    pocket.locator("summary", has_text="About it").click()
    for summary in ("Settings", "About it"):
        expect(pocket.locator("summary", has_text=summary)).to_be_visible()
    state = {"battery_mv": 3520, "battery_low": True, "waiting": 2, "rssi_dbm": -71, "flash_free_bytes": 2_400_000}
    with sqlite3.connect(server.data / "offbeat.sqlite", timeout=10) as database:  # as `offbeat update offer` does
        database.execute("UPDATE devices SET update_version = '0.3.0' WHERE id = ?", (pendant.device.id,))
    database.close()
    trouble = {"errors": ["the server did not answer"], "update_failed": "0.2.0"}
    check_in(page, pendant, "pendant", board="xiao-esp32s3", uptime_ms=7_300_000, **state, **trouble)
    expect(pocket.locator(".waits")).to_have_text("Version 0.3.0 is offered to it.")
    expect(pocket.locator(".trouble")).to_have_text(
        ["It tried version 0.2.0 and went back from it.", "the server did not answer (just now)"]
    )
    expect(pocket).to_contain_text("2 notes on the board · battery low")
    for words in ("3.52 V, low", "−71 dBm", "2.4 MB for notes", "2 h", "0.1.0 on xiao-esp32s3"):
        expect(pocket.locator("dd", has_text=words)).to_be_visible()
    pocket.locator("summary", has_text="Settings").click()
    field(pocket, "Gain of the microphone").select_option("−12 dB")
    pocket.get_by_role("button", name="Set: Gain").click()
    expect(pocket.get_by_text("Waiting for it to take it over.")).to_be_visible()
    field(pocket, "Deep sleep after").fill("3601")
    pocket.get_by_role("button", name="Set: Deep sleep").click()
    expect(pocket.get_by_text("Whole seconds from 0 to 3600, please.")).to_be_visible()
    assert check_in(page, pendant, "pendant", **state)["settings"] == {"gain_db": -12}
    pocket.get_by_role("button", name="Remove").click()
    expect(pocket).to_have_count(0)
    expect(kitchen).to_have_count(1)
    assert pendant.standing(pendant.new_id()).status == 401
    visitor.assert_all_well()

    # And it would have been noticed if the page had done what it must not.
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: '1'}))")
    until(lambda: page.wait_for_timeout(20) or visitor.complaints, 10, "the complaint about a script")
    assert "Content Security Policy" in visitor.complaints[0]
    page.evaluate("location.href = 'http://127.0.0.2:9/'")
    until(lambda: page.wait_for_timeout(20) or visitor.elsewhere, 10, "the request to another host")


def test_notes_then_a_password(visit: Callable[..., Visitor], server: ServerProcess) -> None:
    visitor = visit()
    page = visitor.page
    pendant = add_device(page, "Pocket pendant", "pendant", server)

    # A note arrives, and its sound plays.
    assert pendant.patch(pendant.new_id(), SPOKEN).status == 200
    notes = page.locator(".note").filter(has_text=SENTENCE)
    expect(notes).to_have_count(1)
    note = notes.first
    expect(note.locator("footer")).to_have_text(re.compile("^Pocket pendant"))
    note.get_by_role("button", name="Play").click()
    position = note.get_by_label("Position in the sound")
    expect(position).not_to_have_value("0")
    position.fill("950")
    expect(note.get_by_role("button", name="Play")).to_be_visible()  # it came to its end
    expect(note.locator(".elapsed")).to_have_text("0:02")

    # Where the text goes.
    with WebhookReceiver() as receiver:
        form = part(page.locator("#destinations"), "Add one")
        expect(form.get_by_label("Kind")).to_have_value("webhook")
        form.get_by_label("URL").fill("ftp://nowhere")
        form.get_by_role("button", name="Add").click()
        expect(form.get_by_role("status")).to_contain_text("http")
        form.get_by_label("URL").fill(receiver.url)
        form.get_by_role("button", name="Add").click()
        expect(form.get_by_role("status")).to_contain_text("whsec_")
        there = card(page, receiver.url.removesuffix("/hook"))
        there.get_by_role("button", name="Test").click()
        expect(there).to_contain_text("arrived: 204")
        assert len(receiver.received) == 1
        assert pendant.patch(pendant.new_id(), SPOKEN).status == 200
        expect(page.locator(".note").first.locator(".state")).to_have_text("delivered")
        assert receiver.wait(2)[1].json["data"]["text"] == SENTENCE
        # The one that came before there was anywhere to send it to.
        page.locator(".note").last.get_by_role("button", name="Send to http").click()
        expect(page.locator(".note").last.locator(".state")).to_have_text("delivered")
        assert len({got.json["data"]["id"] for got in receiver.wait(3)[1:]}) == 2

    # Correct, search, delete.
    first = page.locator(".note").first
    first.get_by_role("button", name="Correct").click()
    first.get_by_label("Text").fill("Oat milk, not <b>milk</b>")
    assert pendant.patch(pendant.new_id(), SPOKEN).status == 200  # comes in while somebody is writing
    expect(notes).to_have_count(2)  # and the one that is being corrected
    text = page.get_by_label("Text", exact=True)
    expect(text).to_be_focused()
    expect(text).to_have_value("Oat milk, not <b>milk</b>")
    page.get_by_role("button", name="Save").click()
    corrected = page.locator(".note").filter(has_text="Oat milk, not <b>milk</b>")
    expect(corrected.locator("footer")).to_contain_text("corrected")
    page.get_by_label("Search the notes").fill("oat")
    expect(page.locator(".note")).to_have_count(1)
    page.get_by_label("Search the notes").fill("zebra")
    expect(page.get_by_text("No note has these words.")).to_be_visible()
    page.get_by_label("Search the notes").fill("")
    expect(notes).to_have_count(2)
    corrected.get_by_role("button", name="Delete").click()
    expect(corrected).to_have_count(0)
    expect(notes).to_have_count(2)

    # A password lets in again.
    people = part(page.locator("#people"), "Password")
    people.get_by_label("Password").fill("correct horse battery")
    people.get_by_role("button", name="Set").click()
    expect(people.get_by_role("status")).to_contain_text("Set.")
    page.get_by_role("button", name="Sign out").first.click()
    page.wait_for_url("**/sign-in")
    for password, text in (("wrong horse battery", "wrong"), ("correct horse battery", "")):
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        if text:
            expect(page.get_by_role("alert")).to_contain_text(text)
    page.wait_for_url(f"{server.url}/")
    expect(notes).to_have_count(2)
    visitor.assert_all_well([(422, "/api/destinations"), (403, "/api/sign-in")])
