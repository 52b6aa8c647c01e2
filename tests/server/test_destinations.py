"""Where may be sent to, and where not: addresses, folders, credentials, commands."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from offbeat import delivery, destinations
from offbeat.cli import app
from offbeat.destinations import NewDestination, sample
from offbeat.settings import Settings
from server_process import WebhookReceiver
from standardwebhooks import Webhook
from typer.testing import CliRunner

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLNQb"


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%2",
        "::ffff:169.254.169.254",
        "2002:a9fe:a9fe::1",
        "64:ff9b::169.254.169.254",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "0.0.0.0",
        "::",
        "::ffff:0.0.0.0",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "240.0.0.1",
    ],
)
def test_addresses_that_nothing_is_sent_to(address: str) -> None:
    assert delivery.refused_address(address)
    host = f"[{address}]" if ":" in address else address
    if "%" not in address:
        with pytest.raises(ValueError, match=r"nothing is sent to those|not the address of one machine"):
            delivery.check_url(f"http://{host}/latest/meta-data")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.9", "fd12:3456::1", "100.64.0.1",
     "203.0.114.1", "2606:4700::1"],
)  # fmt: skip
def test_addresses_of_the_house_and_the_world_are_allowed(address: str) -> None:
    assert delivery.refused_address(address) is None


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Each look-up gets the next of the answers, the last one for ever. Returns the names that were looked up."""
    asked: list[str] = []
    real = delivery.socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if host != "assistant.test":
            return real(host, port, *rest, **more)
        addresses = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        family = {True: delivery.socket.AF_INET6, False: delivery.socket.AF_INET}
        return [(family[":" in one], delivery.socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    monkeypatch.setattr(delivery.socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_is_judged_by_its_addresses_and_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with WebhookReceiver() as receiver:
        url = f"http://assistant.test:{receiver.port}/"
        # Another answer for the connection than for the check does not help: there is one look-up.
        asked = resolve_to(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
        assert delivery.post(url, SECRET, "msg_1", "{}").delivered
        assert asked == ["assistant.test"]
        assert receiver.received[0].headers["host"] == f"assistant.test:{receiver.port}"
        refused = delivery.post(url, SECRET, "msg_2", "{}")
        assert refused.error is not None and "169.254.169.254 is a link-local" in refused.error
        assert (refused.status, refused.sent) == (None, False)
        # In a home network a name has a link-local address beside its other one.
        resolve_to(monkeypatch, ["fe80::1", "127.0.0.1"])
        assert delivery.post(url, SECRET, "msg_3", "{}").delivered
        assert len(receiver.received) == 2


@pytest.mark.parametrize("number", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376"])
def test_an_address_in_disguise_is_refused(number: str) -> None:
    outcome = delivery.post(f"http://{number}/", SECRET, "msg_1", "{}")
    assert outcome.error is not None and "link-local" in outcome.error


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with WebhookReceiver() as receiver, WebhookReceiver() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        assert delivery.post(receiver.url, SECRET, "msg_1", "{}").delivered
        assert len(receiver.received) == 1 and proxy.received == []


def test_retry_after() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    in_a_minute = format_datetime(now + timedelta(seconds=60), usegmt=True)
    for value, wanted in [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        (in_a_minute, 60.0),
        (format_datetime(now - timedelta(days=1), usegmt=True), 0.0),
        (format_datetime(now + timedelta(days=9), usegmt=True), 86_400.0),
        ("9" * 30, 86_400.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ]:
        assert delivery.retry_after(value, now) == wanted, value


def test_what_was_handed_over_is_known() -> None:
    """Doubt begins with the last byte of the body, not before."""
    with WebhookReceiver() as receiver:
        gone = receiver.url
        receiver.answers = lambda _: 504
        assert delivery.post(receiver.url, SECRET, "msg_1", "{}").in_doubt
        receiver.answers = lambda _: 500
        assert not delivery.post(receiver.url, SECRET, "msg_1", "{}").in_doubt
        receiver.answers = lambda _: time.sleep(0.6) or 204
        assert delivery.post(receiver.url, SECRET, "msg_1", "{}", timeout_s=0.3).in_doubt
    refused = delivery.post(gone, SECRET, "msg_1", "{}")
    assert refused.status is None and not refused.in_doubt


def test_the_words_of_an_answer() -> None:
    def words(answer: str, path: str) -> str | None:
        return delivery.answer_of(delivery.Outcome(1, 200, answer), path)

    assert words('{"response": "done"}', "response") == "done"
    assert words('{"a": {"b": {"c": "deep"}}}', "a.b.c") == "deep"
    assert words('{"a": [1]}', "a") == "[1]"
    assert words('{"other": 1}', "response") == '{"other": 1}'
    assert words("plain", "response") == "plain"
    assert words("[" * 9000, "response") == "[" * 9000
    assert words("", "response") is None


def folder(tmp_path: Path, **more: Any) -> SimpleNamespace:
    settings = Settings(data=tmp_path / "data", export=str(tmp_path / "vault"))
    new = NewDestination(url=f"file://{tmp_path}/vault/voice%20notes", recipe="markdown", **more)
    return SimpleNamespace(**destinations.row_of(new, settings), settings=settings)


def test_a_note_is_one_markdown_file(tmp_path: Path) -> None:
    row = folder(tmp_path)
    event = sample("note", "first\n---\nkey: {{ text }} 🎙️")
    event["data"] |= {"recorded_at": "2026-01-02T03:04:05.000Z", "title": 'a "title"\n---\nkey: x'}
    for text in (event["data"]["text"], "corrected"):
        event["data"]["text"] = text
        outcome = destinations.send(row, row.settings, "msg_1", json.dumps(event))
        assert outcome.delivered, outcome
    (file,) = (tmp_path / "vault" / "voice notes").iterdir()
    assert file.name == "2026-01-02 test-0123456789abcdef.md"
    head, _, body = file.read_text().removeprefix("---\n").partition("\n---\n")
    assert body == "\ncorrected\n"
    lines = dict(line.split(": ", 1) for line in head.splitlines())
    assert {key: json.loads(value) for key, value in lines.items()} == {
        key: value for key, value in event["data"].items() if key != "text" and value is not None
    }


def test_a_folder_that_cannot_be_written_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = folder(tmp_path)
    event = sample("note", "before")
    assert destinations.send(row, row.settings, "msg_1", json.dumps(event)).delivered
    (file,) = (tmp_path / "vault" / "voice notes").iterdir()
    event["data"]["text"] = "after"

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        outcome = destinations.send(row, row.settings, "msg_1", json.dumps(event))
    assert not outcome.delivered and not outcome.in_doubt and "No space left" in outcome.trouble
    assert "before" in file.read_text()
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_only_the_allowed_folder_is_written(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "link").symlink_to(outside)
    settings = Settings(data=tmp_path / "data", export=str(tmp_path / "vault"))
    for url in (
        "file:///etc",
        f"file://{tmp_path}/vault/../outside",
        f"file://{tmp_path}/vault/%2e%2e/outside",
        f"file://{tmp_path}/vault/link",
        f"file://{tmp_path}/vaulted",
        f"file://elsewhere{tmp_path}/vault",
        "file:vault",
        f"file://{tmp_path}/vault/%00",
    ):
        with pytest.raises(ValueError, match=r"OFFBEAT_EXPORT|whole path"):
            destinations.row_of(NewDestination(url=url, recipe="markdown"), settings)
    # A link that is made later is followed, and judged again at each note.
    row = folder(tmp_path)
    (tmp_path / "vault" / "voice notes").symlink_to(outside)
    outcome = destinations.send(row, row.settings, "msg_1", json.dumps(sample("note", "x")))
    assert "OFFBEAT_EXPORT" in outcome.trouble and list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"url": "ftp://localhost/"}, "http://"),
        ({"url": "http://me:pw@localhost/"}, "no user and password"),
        ({"recipe": "nonsense"}, "there is no recipe"),
        ({"recipe": "stavrobot"}, "needs password"),
        ({"recipe": "markdown"}, "belong together"),
        ({"fields": {"token": "s3cret"}}, "does not ask for token"),
        ({"headers": {"webhook-id": "x"}}, "set by Offbeat"),
        ({"headers": {"Host": "x"}}, "set by Offbeat"),
        ({"headers": {"X": "s3cret\r\nY: 1"}}, "one line"),
        ({"headers": {"X Y": "s3cret"}}, "header's name"),
        ({"recipe": "home-assistant", "fields": {"token": "s3cret\n"}}, "one line"),
        ({"secret": "whsec_s3cret"}, "24 to 64 bytes"),
        ({"secret": "s3cret"}, "24 to 64 bytes"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_said_without_secrets(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s).*") as raised:
        destinations.row_of(NewDestination(**{"url": "http://localhost/", **values}), Settings(data=tmp_path))
    assert words in str(raised.value) and "s3cret" not in str(raised.value)


def test_commands(tmp_path: Path) -> None:
    """Added, listed, tried out, removed, with the server stopped; no secret is shown again."""

    def offbeat(*words: str) -> Any:
        return CliRunner().invoke(app, ["destination", *words], env={"OFFBEAT_DATA": str(tmp_path / "data")})

    with WebhookReceiver() as receiver:
        receiver.answers = lambda _: (200, {}, b'{"response": "hello"}')
        words = ["--recipe", "stavrobot", "--set", "password=s3cret", "--header", "X-Key: k3y", "--name", "Robot"]
        added = json.loads(offbeat("add", f"http://127.0.0.1:{receiver.port}/chat/p4th", *words).stdout)
        assert added.keys() == {"id", "url", "secret"}
        done = json.loads(offbeat("test", added["id"]).stdout)
        assert (done["delivered"], done["status"], done["answer"]) == (True, 200, '{"response": "hello"}')
        (got,) = receiver.received
        assert Webhook(added["secret"]).verify(got.body, got.headers)["message"] == "This is a test from Offbeat."
        assert (got.path, got.headers["x-key"]) == ("/chat/p4th", "k3y")
        receiver.answers = lambda _: 403
        failed = offbeat("test", added["id"])
        assert failed.exit_code == 1 and json.loads(failed.stdout)["status"] == 403
    shape = tmp_path / "shape.json"
    shape.write_text('{"said": "{{ text }}"}')
    assert offbeat("add", "http://127.0.0.1:9/", "--template", str(shape), "--event", "device.silent").exit_code == 0
    named = json.loads(offbeat("add", "http://[::1]:9/a", "--name", "a [b] [/c]").stdout)
    listed = offbeat("list").stdout
    assert max(map(len, listed.splitlines())) <= 80
    for one in (added["id"], named["id"], "[::1]", "[b]", "[/c]"):
        assert one in listed  # whole, though the window is narrow, and not taken for markup
    for hidden in (added["secret"], "s3cret", "k3y", "p4th"):
        assert hidden not in listed
    assert "stavrobot" in offbeat("recipes").stdout
    assert offbeat("remove", added["id"]).exit_code == 0
    for words in (
        ["test", added["id"]],
        ["remove", added["id"]],
        ["resend", "p7-0123456789abcdef"],
        ["resend", "p7-0123456789abcdef", "--to", "d1"],
        ["add", "http://x/", "--set", "s3cret"],
        ["add", "http://x/", "--timeout-s", "0"],
        ["add", "http://x/", "--template", str(tmp_path / "nowhere")],
    ):
        failed = offbeat(*words)
        assert failed.exit_code == 1 and failed.stderr.startswith("offbeat: "), (words, failed.stderr)
        assert "s3cret" not in failed.stderr
