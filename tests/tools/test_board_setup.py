"""`offbeat-board setup` and `test` on the simulated serial board, against the real server."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import board_checks
import board_description
import board_setup
import pytest
from board_port import Cable, Trouble
from server_process import ServerProcess, WebhookReceiver
from sim.serial_board import SerialBoard

ROOT = Path(__file__).parents[2]
SPEECH = ROOT / "tests" / "speech" / "remind-me-to-call-mum-tomorrow.wav"
AIR = {"home": "a good password"}
FIRMWARE = {
    str(path.relative_to(ROOT / "firmware")): path.read_bytes() for path in sorted((ROOT / "firmware").rglob("*.py"))
}


#: On the board: what a clock keeps in NVS, with its own firmware.
STORE = """
import esp32
from clock.store import NAMESPACE, NvsStore
kept = NvsStore(esp32.NVS(NAMESPACE))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server") / "data") as server:
        yield server


def offbeat_board(*words: str, serial: SerialBoard | None = None, **environment: str) -> tuple[int, str]:
    """(exit status, what it showed), without a terminal to ask at."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OFFBEAT_") or key == "OFFBEAT_CACHE"}
    with subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "offbeat-board"), *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=kept | environment,
    ) as process:  # fmt: skip
        shown = ""
        assert process.stdout is not None
        for line in process.stdout:
            shown += line
            if serial is not None:
                press_when_asked(serial, line)
    return process.returncode, shown


def config_of(serial: SerialBoard) -> Any:
    """config.json on the board. Ends its program."""
    with Cable(serial.path) as cable:
        return json.loads(cable.read("/config.json"))


def press_when_asked(serial: SerialBoard, line: str) -> None:
    """What a person does who sits before the board."""
    if "press the button" in line:
        time.sleep(0.5)
        serial.do(lambda board: board.press())
        time.sleep(0.5)
        serial.do(lambda board: board.release())


def test_a_clock_is_set_up_and_tried(
    tmp_path: Path, server: ServerProcess, certificate: Callable[..., tuple[Path, Path, bytes]]
) -> None:
    """Paired with the command of this machine; nothing secret is shown; once more keeps what it was not told."""
    here = {"OFFBEAT_DATA": str(server.data), "OFFBEAT_DEVICE_PORT": str(server.device_port)}
    board = board_description.load("esp32c3-supermini")
    of_another_server = b'{"revision": 99, "settings": {"morse": "OLD"}, "refused": {}}'
    with SerialBoard(tmp_path, board, files=FIRMWARE | {"settings.json": of_another_server}, air=AIR) as serial:
        serial.start()
        words = ["--board", "esp32c3-supermini", "--wifi", "home", "--timezone", "Europe/Athens", "--server", "here"]
        status, shown = offbeat_board(
            *("setup", "--port", serial.path, *words, "--server-host", "127.0.0.1", "--name", "Hall"),
            serial=serial, OFFBEAT_WIFI_PASSWORD=AIR["home"], **here,
        )  # fmt: skip
        assert status == 0 and "written: hall, a clock" in shown, shown
        for said in (
            *("light: flashed 3 times", "button: pressed and let go", "coil: 10 pulses given"),
            *("WiFi: joined 'home'", "server: the server answers"),
        ):
            assert said in shown, shown
        rises = [edge for edge in serial.board.edges if edge.level and edge.pin in board["pins"]["coil"]]
        assert len(rises) >= board_checks.COIL_TICKS
        config = config_of(serial)
        assert config["device"] == "hall" and config["mode"] == "vetinari"
        assert config["timezone"] == "EET-2EEST,M3.5.0/3,M10.5.0/4"
        assert config["wifi"] == [{"ssid": "home", "password": AIR["home"]}]
        assert config["server"] == {"host": "127.0.0.1", "port": server.device_port}
        assert config["token"] not in shown and AIR["home"] not in shown
        with Cable(serial.path) as cable:  # the server has changed its certificate, and the board not talked since
            cable.write("/server.der", certificate(days_before=30)[2])
            cable.write("/next.der", server.certificate)
            check(board_checks.any_wifi(cable, config["wifi"]), True)
            assert "trusts" in check(board_checks.server(cable), True)
            assert cable.read("/next.der") == server.certificate
            cable.run("import os\nos.rename('/next.der', '/server.der')")
        chosen = {"revision": 1, "settings": {"timezone": "CET-1"}, "refused": {}}
        with Cable(serial.path) as cable:
            assert not cable.exists("/settings.json") or b"OLD" not in cable.read("/settings.json")
            cable.write("/settings.json", json.dumps(chosen).encode())
            cable.run(STORE + "kept.choose('steady')")  # what the clock does, whoever chooses
        status, shown = offbeat_board(
            *("setup", "--port", serial.path, "--wifi", "home", "--mode", "rush", "--timezone", "UTC0", "--no-test"),
            OFFBEAT_WIFI_PASSWORD=AIR["home"],
        )
        assert status == 0 and "its mode" not in shown and "its timezone stays 'CET-1'" in shown, shown
        assert config_of(serial) == config | {"mode": "rush", "timezone": "UTC0"}
        with Cable(serial.path) as cable:
            cable.run(STORE)
            assert cable.value("(kept.mode(), kept.touched())") == ("rush", ["mode"])


def test_what_does_not_work_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_checks, "PRESS_S", 1)
    monkeypatch.setattr(board_checks, "WIFI_S", 2.5)
    monkeypatch.setattr(board_checks, "LISTEN_S", 0.6)
    board = board_description.load("xiao-esp32s3")
    board["pins"]["battery"] = 2
    board["battery_divider"] = [220, 220]
    quiet = tmp_path / "quiet.wav"
    with wave.open(str(quiet), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(16000 * 20))
    unpowered = board | {"pins": board["pins"] | {"microphone_power": 6}}
    said: list[str] = []

    def yes(_question: str) -> bool:
        return True

    with SerialBoard(tmp_path / "board", board, air=AIR) as serial, contextlib.ExitStack() as stack:
        serial.start()
        cable = stack.enter_context(Cable(serial.path))
        assert "GND" in check(board_checks.button(cable, board, yes, said.append), False)
        check(board_checks.button(cable, board, lambda _: None, said.append), None)
        serial.do(lambda it: it.press())
        assert "low without a press" in check(board_checks.button(cable, board, yes, said.append), False)
        assert "no cell has" in check(board_checks.battery(cable, board), False)
        serial.do(lambda it: it.voltage(2, 1950))
        assert check(board_checks.battery(cable, board), True) == "3.90 V"
        assert "right way round" in check(board_checks.light(cable, board, lambda _: False), False)
        assert "no such network" in check(board_checks.wifi(cable, "house", "a good password"), False)
        assert "refuses the password" in check(board_checks.wifi(cable, "home", "a bad password"), False)
        serial.do(lambda it: it.speak(SPEECH))
        assert "nothing but silence" in check(board_checks.microphone(cable, unpowered, yes, said.append), False)
        serial.do(lambda it: it.speak(quiet))
        assert "loose GND" in check(board_checks.microphone(cable, board, yes, said.append), False)
        serial.do(lambda it: it.speak(SPEECH))
        assert "dBFS" in check(board_checks.microphone(cable, board, lambda _: None, said.append), True)
    assert any("###" in line for line in said)  # the level meter


def check(result: board_checks.Result, good: bool | None) -> str:
    assert result.good is good, result
    return result.said


def test_pairing_over_the_api_and_by_hand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Against a stand-in that answers as docs/server.md has it; its refusals say what to do."""
    token, der = "t" * 43, b"\x30\x03\x02\x01\x01"
    line = {"id": "hall", "token": token, "certificate": base64.b64encode(der).decode(), "port": 8443}
    answers = [(201, line), (403, {}), (404, {}), (201, line | {"token": "short"})]
    with WebhookReceiver() as receiver:
        receiver.answers = lambda _got: (answers[0][0], {}, json.dumps(answers.pop(0)[1]).encode())
        url = f"http://127.0.0.1:{receiver.port}"
        monkeypatch.setenv(board_setup.API_TOKEN, "a-token-for-the-api")
        paired = board_setup.pair(url, "Hall", "clock", None)
        assert paired == ("hall", token, der, "127.0.0.1", 8443)
        (got,) = receiver.received
        assert got.path == "/api/devices" and got.json == {"name": "Hall", "app": "clock"}
        assert got.headers["authorization"] == "Bearer a-token-for-the-api"
        for what in ("scope admin", "by hand", "not what `offbeat device add` prints"):
            with pytest.raises(Trouble, match=what) as refused:
                board_setup.pair(url, "Hall", "clock", None)
            assert "a-token-for-the-api" not in str(refused.value) and "short" not in str(refused.value)
        answers += [(201, line)]  # paired is paired, also if the zone's name could not be told: this one knows no PATCH
        assert board_setup.pair(url, "Hall", "clock", None, "Europe/Athens").id == "hall"
        assert "was not told the zone Europe/Athens" in capsys.readouterr().out
    with pytest.raises(Trouble, match="is the server running"):
        board_setup.pair(url, "Hall", "clock", None)
    monkeypatch.setenv("OFFBEAT_DEVICE_LINE", json.dumps(line))
    assert board_setup.pair("by hand", "Hall", "clock", "192.0.2.7") == ("hall", token, der, "192.0.2.7", 8443)


def test_pairing_over_the_real_server_s_api(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    made = server.command("token", "create", "setup", "--scope", "admin")
    monkeypatch.setenv(board_setup.API_TOKEN, json.loads(made.stdout)["token"])
    paired = board_setup.pair(server.url, "Porch clock", "clock", None, "Europe/Athens")
    assert paired.id == "porchclock" and paired.port == server.device_port
    assert paired.certificate == server.certificate
    with contextlib.closing(sqlite3.connect(server.data / "offbeat.sqlite")) as database:
        zones = database.execute("SELECT zone FROM devices WHERE id = 'porchclock'").fetchall()
    assert zones == [("Europe/Athens",)]
    monkeypatch.setenv(board_setup.API_TOKEN, "x" * 43)
    with pytest.raises(Trouble, match="scope admin"):
        board_setup.pair(server.url, "Porch clock", "clock", None)


def test_a_server_here_is_known_by_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFBEAT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OFFBEAT_SETTINGS", str(tmp_path / "settings.env"))
    (tmp_path / "settings.env").write_text("OFFBEAT_PORT=9000\n")
    with pytest.raises(Trouble, match="no server has run on this machine"):
        board_setup._add_here("Porch clock", "clock")
    (tmp_path / "settings.env").write_text("OFFBEAT_DATABASE_URL=postgresql://nobody@127.0.0.1:9/none\n")
    with pytest.raises(Trouble, match=r"device add.*postgresql"):  # it was asked, and could not connect
        board_setup._add_here("Porch clock", "clock")


def test_a_calibration_on_the_board_stays_unless_the_description_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = board_description.load("esp32c3-supermini")
    calibrated = plain | {"movement": plain["movement"] | {"pulse_us": 47_000, "margins": {"most_hz": 11}}}
    assert board_setup.choose_board("esp32c3-supermini", calibrated)["movement"]["pulse_us"] == 47_000
    monkeypatch.setattr(board_description, "load", lambda _name: json.loads(json.dumps(calibrated)))
    older = plain | {"movement": plain["movement"] | {"pulse_us": 23_000, "margins": {"most_hz": 9}}}
    assert board_setup.choose_board("esp32c3-supermini", older)["movement"]["pulse_us"] == 47_000
    own = plain | {"name": "one of my own"}
    assert board_setup.choose_board(None, own) == own


def test_what_is_on_the_cable_is_checked_before_anything_is_asked_of_the_server(tmp_path: Path) -> None:
    """Another chip, the other gadget's firmware, or a setting that cannot be right: nothing is added or written."""
    with SerialBoard(tmp_path, board_description.load("esp32c3-supermini"), air=AIR) as serial:
        serial.start()
        with Cable(serial.path) as cable:
            cable.write("/main.py", b"")
            cable.write("/active", b'{"active": "a"}')
            cable.run("import os\nos.mkdir('/a')\nos.mkdir('/a/pendant')")
            cable.write("/a/pendant/app.mpy", b"M")
        for words, why in (
            (["--board", "esp32-devkit"], "has an esp32, but on the cable is an esp32c3"),
            (["--board", "esp32c3-supermini"], "install --app clock"),
        ):
            status, shown = offbeat_board("setup", "--port", serial.path, *words)
            assert status == 1 and why in shown and "The board starts again" in shown, shown
        with Cable(serial.path) as cable:
            cable.run("import os\nos.mkdir('/a/clock')")
            cable.write("/a/clock/app.mpy", b"M")
        words = ["--board", "esp32c3-supermini", "--wifi", "", "--timezone", "UTC0", "--no-test", "--ntp", ""]
        status, shown = offbeat_board("setup", "--port", serial.path, *words, "--server", "http://127.0.0.1:1")
        assert status == 1 and "ntp" in shown and "nothing was written" in shown, shown


def test_the_device_is_named_when_not_all_of_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Trouble, match=r"went away.*The server has hall already"), board_setup._added("hall", True):
        raise Trouble("it went away")
    with pytest.raises(KeyboardInterrupt), board_setup._added("hall", True):
        raise KeyboardInterrupt
    assert "The server has hall already" in capsys.readouterr().out


def test_a_coil_whose_hands_may_be_right_is_only_tried_when_somebody_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, said = [], []

    def coil(*_all: Any) -> board_checks.Result:
        tried.append(True)
        return board_checks.Result(True, "stepped")

    monkeypatch.setattr(board_checks, "coil", coil)
    for answer in (None, False):
        result = board_checks.coil_in_use(None, {}, lambda _question, answer=answer: answer, said.append)  # type: ignore[arg-type,misc]
        assert result.good is None and not tried and not said
    assert board_checks.coil_in_use(None, {}, lambda _question: True, said.append).good  # type: ignore[arg-type]
    assert tried and "Set the hands" in said[0]


def test_until_all_is_on_the_board_it_is_as_it_was(tmp_path: Path) -> None:
    """The cable is pulled before the last file is there; then all goes well."""
    names = ("server.der", "next.der", "settings.json", "board.json", "config.json")
    old = {name: b"old " + name.encode() for name in names}
    new = ({"name": "new"}, {"device": "new"}, b"new server.der")
    with SerialBoard(tmp_path, board_description.load("esp32c3-supermini"), files=old, air=AIR) as serial:
        serial.start()
        with Cable(serial.path) as cable:
            whole = cable.write

            def pulled(path: str, data: bytes, *_: Any) -> None:
                if path.startswith("/config.json"):
                    raise Trouble("the board went away")
                whole(path, data)

            cable.write = pulled  # type: ignore[method-assign]
            with pytest.raises(Trouble):
                board_setup._write(cable, *new)
            assert {name: cable.read("/" + name) for name in names} == old
            cable.write = whole  # type: ignore[method-assign]
            board_setup._write(cable, *new)
            assert cable.read("/server.der") == new[2]
            assert [json.loads(cable.read(f"/{name}.json")) for name in ("board", "config")] == list(new[:2])
            assert set(cable.value("__import__('os').listdir()")) == {"server.der", "board.json", "config.json"}


def test_each_network_is_tried_until_one_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    def wifi(_cable: Any, ssid: str, _password: str) -> board_checks.Result:
        return board_checks.Result(ssid == "second", ssid)

    monkeypatch.setattr(board_checks, "wifi", wifi)
    networks = [{"ssid": name, "password": "a password"} for name in ("first", "second", "third")]
    assert board_checks.any_wifi(None, networks) == board_checks.Result(True, "second")  # type: ignore[arg-type]
    assert board_checks.any_wifi(None, [networks[0], networks[2]]) == board_checks.Result(False, "first; third")  # type: ignore[arg-type]


def test_no_network_is_wanted() -> None:
    assert board_setup.choose_wifi("", [{"ssid": "home", "password": "a password"}]) == []


def test_pairing_in_clear_is_warned_of_and_by_hand_is_offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"id": "hall", "token": "t" * 43, "certificate": "MAMCAQE=", "port": 8443}
    monkeypatch.setenv("OFFBEAT_DEVICE_LINE", json.dumps(line))
    monkeypatch.setattr(board_setup, "_add_by_api", lambda *_all: pytest.fail("it was sent"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _question: "")
    assert board_setup.pair("http://192.0.2.1:8080", "Hall", "clock", None).host == "192.0.2.1"
    assert "not encrypted" in capsys.readouterr().out
    monkeypatch.setattr(board_setup, "_add_by_api", lambda *_all: json.dumps(line))
    for url in ("https://192.0.2.1", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"):
        assert board_setup.pair(url, "Hall", "clock", None).id == "hall"
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert board_setup.pair("http://server.lan", "Hall", "clock", None).id == "hall"
    assert "not encrypted" in capsys.readouterr().out


def test_a_time_zone_by_its_name() -> None:
    assert board_setup.choose_zone("America/New_York", None) == ("EST5EDT,M3.2.0,M11.1.0", "America/New_York")
    assert board_setup.choose_zone("UTC0", None) == ("UTC0", None)
    with pytest.raises(Trouble, match="Europe/Athens"):
        board_setup.choose_zone("Athens", None)


def test_without_anybody_to_ask_what_is_missing_is_named(tmp_path: Path) -> None:
    with SerialBoard(tmp_path, board_description.load("esp32c3-supermini"), air=AIR) as serial:
        serial.start()
        status, shown = offbeat_board("setup", "--port", serial.path)
        assert status == 1 and "offbeat-board install" in shown, shown
        status, shown = offbeat_board("test", "--port", serial.path)
        assert status == 1 and "offbeat-board setup" in shown, shown
