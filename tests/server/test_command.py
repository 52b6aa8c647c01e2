"""The command line, its settings, and what docs/server.md says of them."""

import json
import os
import re
import socket
from pathlib import Path

import offbeat
import pytest
import typer.main
from house import House
from offbeat import cli, destinations, settings
from offbeat.delivery import check_url
from server_process import ServerProcess

DOCUMENT = Path(offbeat.__file__).parent.parent.parent / "docs" / "server.md"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("OFFBEAT_PORT", "http"),
        ("OFFBEAT_PORT", "0"),
        ("OFFBEAT_DEVICE_PORT", "65536"),
        ("OFFBEAT_LANGUAGE", "English"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(tmp_path: Path, key: str, value: str) -> None:
    server = ServerProcess(tmp_path / "data", **{key: value})
    done = server.command("serve", check=False)
    assert done.returncode == 1
    assert f"{key}={value!r}" in done.stderr and "Traceback" not in done.stderr


def test_a_data_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = ServerProcess(tmp_path / "file").command("sign-in", check=False)
    assert done.returncode == 1
    assert f"OFFBEAT_DATA='{tmp_path / 'file'}'" in done.stderr and "Traceback" not in done.stderr


def test_a_second_serve_is_refused(house: House) -> None:
    done = house.server.command("serve", check=False)
    assert done.returncode == 1
    assert f"OFFBEAT_DATA='{house.server.data}'" in done.stderr
    assert f"process {house.server.pid}" in done.stderr and "Traceback" not in done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ServerProcess(tmp_path / "data", OFFBEAT_PORT=str(port)).command("serve", check=False)
    assert done.returncode == 1
    assert f"OFFBEAT_PORT={port}" in done.stderr and "Traceback" not in done.stderr


def test_commands_work_before_the_first_start(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    first = server.add_device("Kitchen 1", "pendant")
    second = server.add_device("kitchen-1", "clock")
    assert (first.id, second.id) == ("kitchen1", "kitchen12")
    assert first.certificate == second.certificate
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", first.token) and first.token != second.token
    assert "kitchen12" in server.command("device", "list").stdout
    assert server.add_destination("https://example.org/hook").startswith("whsec_")
    with server:
        assert server.certificate == first.certificate
        assert len(server.get("/api/devices").json()) == 2


def test_settings_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.startswith("OFFBEAT_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.load().port == 8080
    usual = tmp_path / ".config" / "offbeat.env"
    usual.parent.mkdir()
    usual.write_text("# mine\nOFFBEAT_PORT=9000\nOFFBEAT_PROMPT='a $b \"c\"'\nOFFBEAT_LANGUAGE=\n")
    found = settings.load()
    assert (found.port, found.prompt, found.language) == (9000, 'a $b "c"', "")
    monkeypatch.setenv("HOME", str(tmp_path / ("h" * 300)))  # one that cannot be looked into
    with pytest.raises(settings.SettingsError, match=r"offbeat\.env' cannot be read: .* too long.*empty for none"):
        settings.load()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OFFBEAT_PORT", "9001")
    assert settings.load().port == 9001
    monkeypatch.setenv("OFFBEAT_SETTINGS", "")
    assert settings.load().prompt == ""
    other = tmp_path / "other.env"
    monkeypatch.setenv("OFFBEAT_SETTINGS", str(other))
    for content, wanted in (
        (None, "OFFBEAT_SETTINGS='.*other.env' cannot be read"),
        ("OFFBEAT_PROT=1", "there is no setting OFFBEAT_PROT"),
        ("OFFBEAT_DEVICE_PORT=x", "OFFBEAT_DEVICE_PORT='x': "),
    ):
        if content is not None:
            other.write_text(content)
        with pytest.raises(settings.SettingsError, match=wanted):
            settings.load()


def test_the_unit_has_a_home_that_it_may_use() -> None:
    """`ProtectHome` hides the user's own, in which the settings' file and the model hub's token are looked for."""
    unit = (Path(offbeat.__file__).parents[1] / "run" / "offbeat.service").read_text()
    (folder,) = re.findall("^StateDirectory=(.*)", unit, re.MULTILINE)
    environment = dict(one.split("=") for one in re.findall("^Environment=(.*)", unit, re.MULTILINE)[0].split())
    assert environment["HOME"] == environment["OFFBEAT_DATA"] == f"/var/lib/{folder}"


def test_destination_add(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    secret = "whsec_" + "c2VjcmV0" * 4
    done = server.command("destination", "add", "http://127.0.0.1:1/x?key=1", "--secret", secret)
    line = json.loads(done.stdout)
    assert (line["url"], line["secret"]) == ("http://127.0.0.1:1/x?key=1", secret)
    done = server.command("destination", "add", "ftp://example.org", check=False)
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    for url in ("example.org", "http://", "http://example.org:port/", "file:///etc/passwd"):
        with pytest.raises(ValueError):
            check_url(url)
    for wrong in ("whsec_c2hvcnQ=", "c2VjcmV0" * 4, "whsec_" + "!" * 40, "whsec_" + "A" * 100):
        with pytest.raises(ValueError) as caught:
            destinations.check_secret(wrong)
        assert wrong.removeprefix("whsec_") not in str(caught.value)


def test_the_document_has_every_setting_command_and_endpoint() -> None:
    text = DOCUMENT.read_text()
    for name, field in settings.Settings.model_fields.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `OFFBEAT_{name.upper()}`")), None)
        assert row is not None, f"OFFBEAT_{name.upper()} is not in the table"
        assert f"`{field.default}`" in row or (field.default == "" and "empty" in row), row
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        for words in [f"{name} {sub}" for sub in getattr(command, "commands", {})] or [name]:
            assert f"`offbeat {words}" in text, f"offbeat {words} is not documented"
    from test_page import page_app, routes_of

    for method, path in routes_of(page_app()):
        assert f"`{method} {path}`" in text, f"{method} {path} is not documented"
