"""`offbeat-board setup` and `test`: what a gadget must know, asked, written to the board, and tried."""

from __future__ import annotations

import argparse
import base64
import getpass
import ipaddress
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import board_checks
import board_install
import requests
from board_port import LONGEST_S, BoardFailed, Cable, Trouble, add_port, stopped

ROOT = Path(__file__).resolve().parents[1]
if sys.path[:1] != [str(ROOT / "firmware")]:
    sys.path.insert(0, str(ROOT / "firmware"))  # before this folder, whose clock.py is another `clock`

import board_description  # noqa: E402
from clock import modes, timezone  # noqa: E402
from device import config as device_config  # noqa: E402
from offbeat.zones import posix_tz  # noqa: E402

PASSWORD = "OFFBEAT_WIFI_PASSWORD"
API_TOKEN = "OFFBEAT_API_TOKEN"
#: Servers of companies and institutes that ask for no registration; pool.ntp.org asks makers for a zone of their own.
TIME_SERVERS = ["time.cloudflare.com", "ptbtime1.ptb.de", "ntp.nict.jp"]
MOST_NETWORKS = 16
HTTP_S = 15
HERE, BY_HAND = "here", "by hand"

#: On a clock: the mode that it keeps goes over that of config.json. As after a press of the button, the server hears of
#: the change, or it would go on to desire and to show the other one. {}: the folder of the firmware, and the mode.
CHOOSE = """
import sys
sys.path.insert(0, {!r})
import esp32
from clock import store
kept = store.NvsStore(esp32.NVS(store.NAMESPACE))
if kept.mode() not in (None, {!r}):
    kept.choose({!r})
    kept.touch("mode")
"""

#: For what the pairing brings, so that the rest can be checked before a device is added on the server.
PLACEHOLDERS = {"device": "new", "token": "A" * 43, "server": {"host": "server", "port": 8443}}


class Paired(NamedTuple):
    """What the server says of a new device. `certificate` is DER; `host`: under which the board reaches it."""

    id: str
    token: str
    certificate: bytes
    host: str
    port: int


def add_parser(subparsers: Any) -> None:
    setup = subparsers.add_parser(
        "setup",
        help="ask for WiFi, server and place, pair it, write that to the board, and try every part",
        description="What is not given by an option is asked. Secrets are never options: the WiFi's password is "
        f"asked or taken from {PASSWORD}, the token for the server's API from {API_TOKEN}. Where there is no terminal "
        "to ask at, a question is a line of the standard input, and without one an error.",
    )
    add_port(setup)
    setup.add_argument("--board", metavar="NAME", help=f"a folder of boards/: {', '.join(board_description.names())}")
    setup.add_argument("--name", help="the gadget's name on the server, such as 'Kitchen clock'")
    setup.add_argument("--wifi", metavar="SSID", help="the WiFi network; '' for none: an Improv page can tell it later")
    setup.add_argument(
        "--server",
        metavar="URL",
        help="address of the server's page, such as http://192.168.1.5:8080; 'here': it runs on this machine; "
        "'by hand': you run a command there and paste its answer; '' for a clock without one",
    )
    setup.add_argument("--server-host", metavar="HOST", help="where the board reaches it, if that is another address")
    setup.add_argument("--timezone", metavar="NAME", help="of a clock, such as Europe/Athens; or a POSIX TZ string")
    setup.add_argument("--mode", choices=modes.names(), help="of a clock, to begin with (default: vetinari)")
    setup.add_argument("--ntp", action="append", metavar="HOST", help="time server of a clock; may be repeated")
    setup.add_argument("--pair-anew", action="store_true", help="even if the board is paired already")
    setup.add_argument("--no-test", action="store_true", help="do not try the parts afterwards")
    setup.set_defaults(run=run_setup)
    test = subparsers.add_parser("test", help="try every part of a board that is set up; writes nothing to it")
    add_port(test)
    test.set_defaults(run=run_test)


# Asking


def ask(question: str, default: str | None = None, option: str = "") -> str:
    """A line. Raises Trouble where there is nobody to ask and no default."""
    shown = f"{question} [{default}] " if default else f"{question} "
    try:
        answer = input(shown).strip()
    except EOFError:
        if default is None:
            raise Trouble(f"{option or question}: not given, and there is nobody to ask") from None
        print()
        return default
    return answer or default or ""


def ask_secret(question: str, variable: str) -> str:
    """From the environment, or asked without showing it."""
    if variable in os.environ:
        return os.environ[variable]
    if sys.stdin.isatty():
        return getpass.getpass(question + " (not shown) ")
    line = sys.stdin.readline()
    if not line:
        raise Trouble(f"{variable} is not set, and there is nobody to ask")
    return line.rstrip("\n")


def yes(question: str) -> bool | None:
    """None where nobody is there."""
    if not sys.stdin.isatty():
        return None
    return ask(question + " [Y/n]").lower() in ("", "y", "yes")


# What the gadget must know


def choose_board(given: str | None, on_board: dict[str, Any]) -> dict[str, Any]:
    names = board_description.names()
    if not given:
        known = [name for name in names if board_description.load(name)["name"] == on_board.get("name")]
        if on_board and not known:
            return on_board  # one of the owner's own
        print("Boards: " + ", ".join(names))
        given = ask("Which board is it?", known[0] if known else None, "--board")
    try:
        board = board_description.load(given)
    except ValueError as error:
        raise Trouble(str(error)) from None
    before = on_board.get("movement", {})
    if "margins" in before and "margins" not in board.get("movement", {"margins": None}):
        board["movement"] = before  # calibrated on this board, and the description of this tree is not
    return board


def choose_zone(given: str | None, known: str | None) -> tuple[str, str | None]:
    """(POSIX TZ string, the zone's name if it was named). Raises Trouble for what is neither."""
    named = given if given is not None else ask("Time zone, by name:", known or _zone_here(), "--timezone")
    try:
        text = posix_tz(named)
        timezone.Zone(text)
    except ValueError as error:
        raise Trouble(f"--timezone {named!r}: {error}. A name is like Europe/Athens or America/New_York") from None
    return text, None if named == text else named


def _zone_here() -> str | None:
    """The name of this machine's time zone, where the system keeps it in the usual place."""
    link = Path("/etc/localtime")
    _, mark, name = str(link.resolve()).partition("zoneinfo/") if link.is_symlink() else ("", "", "")
    return name if mark else None


def choose_wifi(given: str | None, known: list[dict[str, str]]) -> list[dict[str, str]]:
    """The networks, the new one first; those that the board knows stay, unless '' was given: then there are none."""
    if given == "":
        return []
    ssid = given if given is not None else ask("WiFi network:", known[0]["ssid"] if known else None, "--wifi")
    if not ssid:
        return known
    before = [network for network in known if network["ssid"] == ssid]
    if before and given is None and PASSWORD not in os.environ:
        return before + [network for network in known if network["ssid"] != ssid]
    network = {"ssid": ssid, "password": ask_secret(f"Password of {ssid}:", PASSWORD)}
    try:
        device_config.check_some({"wifi": [network]})
    except device_config.ConfigError as error:
        raise Trouble(f"{error}. The password is asked, or taken from {PASSWORD}") from None
    return [network, *(one for one in known if one["ssid"] != ssid)][:MOST_NETWORKS]


# Pairing


def pair(server: str, name: str, app: str, host: str | None, zone: str | None = None) -> Paired:
    """Adds the device on the server, in the way that `server` says. Raises Trouble with what to do.

    zone: the name of a clock's time zone, which a server that is reached over its API is told.
    """
    if server == HERE:
        from offbeat.cli import shown_host  # imported here, for it takes a while

        return _paired(_add_here(name, app), host or shown_host("0.0.0.0"))
    if server != BY_HAND:
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Trouble(f"--server {server!r}: not like http://192.168.1.5:8080, nor 'here', nor 'by hand'")
        host = host or parts.hostname
        if parts.scheme == "https" or _is_this_machine(parts.hostname) or _in_clear(server):
            return _paired(_add_by_api(server.rstrip("/"), name, app, zone), host)
    host = host or ask("The server's address, as the board reaches it:", option="--server-host")
    print(f"On the server's machine:  offbeat device add '{name}' --app {app}")
    return _paired(ask_secret("Paste the line that it prints:", "OFFBEAT_DEVICE_LINE"), host)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_clear(server: str) -> bool:
    """Whether to pair over a network that can read along. Where nobody is there to ask, it was asked for."""
    print(
        f"{server} is not encrypted: who can listen in that network can read the token for the server's API and the "
        f"gadget's own. '{BY_HAND}' sends neither over it"
    )
    if not sys.stdin.isatty():
        return True
    return ask(f"Go on (yes), or pair {BY_HAND}?", BY_HAND).lower() in ("y", "yes")


def _add_here(name: str, app: str) -> str:
    """`offbeat device add`, on this machine."""
    from offbeat.settings import SettingsError, load

    try:
        settings = load()
    except SettingsError as error:
        raise Trouble(f"the server's settings: {error}") from None
    if not settings.database_url and not settings.database.exists():
        raise Trouble(
            f"no server has run on this machine: {settings.data} holds none. Start `offbeat serve`, or set OFFBEAT_DATA"
        )
    done = subprocess.run(
        [sys.executable, "-m", "offbeat", "device", "add", name, "--app", app],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Trouble(f"`offbeat device add` ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _add_by_api(server: str, name: str, app: str, zone: str | None) -> str:
    token = ask_secret(
        "A token for its API (`offbeat token create setup --scope admin` on the server prints one):", API_TOKEN
    )
    if not token:
        raise Trouble(f"no token for the server's API: set {API_TOKEN}, or pair with --server '{BY_HAND}'")
    try:
        answer = requests.post(
            server + "/api/devices",
            json={"name": name, "app": app},
            headers={"Authorization": f"Bearer {token}"},
            timeout=HTTP_S,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        raise Trouble(
            f"{server} does not answer ({type(error).__name__}): is the server running, and the address right? If its "
            f"page shows {name} all the same, remove that before you try again"
        ) from None
    if answer.status_code in (401, 403):
        raise Trouble(f"{server} refuses that token ({answer.status_code}): it needs the scope admin")
    if answer.status_code not in (200, 201):
        raise Trouble(f"{server}/api/devices answered {answer.status_code}: pair with --server '{BY_HAND}' instead")
    if zone is not None:
        _tell_zone(server, token, answer, zone)
    return answer.text


def _tell_zone(server: str, token: str, added: requests.Response, zone: str) -> None:
    """So that the server sends a new rule when the zone's law changes. Without it the clock keeps the rule of today."""
    try:
        answer = requests.patch(
            f"{server}/api/devices/{added.json()['id']}",
            json={"settings": {"timezone": zone}},
            headers={"Authorization": f"Bearer {token}"},
            timeout=HTTP_S,
            allow_redirects=False,
        )
        answer.raise_for_status()
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        print(f"the server was not told the zone {zone} ({type(error).__name__}): choose it on its page later")


def _paired(line: str, host: str) -> Paired:
    try:
        told = json.loads(line)
        paired = Paired(
            told["id"], told["token"], base64.b64decode(told["certificate"], validate=True), host, told["port"]
        )
        device_config.check_some(
            {"device": paired.id, "token": paired.token, "server": {"host": host, "port": paired.port}}
        )
    except (ValueError, KeyError, TypeError) as error:
        what = str(error) if isinstance(error, device_config.ConfigError) else type(error).__name__
        raise Trouble(
            f"that is not what `offbeat device add` prints ({what}): a line that begins with {{. If the "
            "server shows a new device all the same, remove that before you try again"
        ) from None
    return paired


# The commands


def run_setup(options: argparse.Namespace) -> None:
    with stopped(options.port, LONGEST_S) as cable:
        if not cable.exists("/main.py"):
            raise Trouble("the firmware is not on this board: `offbeat-board install` first")
        known = _read(cable, "/config.json")
        board = choose_board(options.board, _read(cable, "/board.json"))
        _check_board(cable, board)
        same = known.get("app") == board["app"]
        config = {key: known[key] for key in known if same and key in device_config._CONFIG}
        config["app"] = board["app"]
        config["wifi"] = choose_wifi(options.wifi, known.get("wifi", []))
        if config["wifi"] and not options.no_test:
            _try_wifi(cable, config)
        zone = None
        if board["app"] == "clock":
            config["timezone"], zone = choose_zone(options.timezone, known.get("timezone"))
            config["mode"] = options.mode or config.get("mode", "vetinari")
            config["ntp"] = options.ntp or config.get("ntp", TIME_SERVERS)
            config.setdefault("seed", secrets.randbelow(1 << 30))
        try:
            device_config.check(PLACEHOLDERS | config)
        except device_config.ConfigError as error:
            raise Trouble(f"{error}: nothing was written") from None
        certificate = _pair(cable, options, board, config, zone)
        with _added(config["device"], certificate is not None):
            device_config.check(config)
            choice = ""
            if board["app"] == "clock" and options.mode:
                folder = "/" + board_install.state_of(cable).get("active", "")
                choice = CHOOSE.format(folder, options.mode, options.mode)
            _write(cable, board, config, certificate, choice)
        print(f"written: {config['device']}, a {board['app']} on {board['name']}")
        zone_kept = (_read(cable, "/settings.json").get("settings") or {}).get("timezone")
        if options.timezone is not None and zone_kept not in (None, config.get("timezone")):
            print(f"but its timezone stays {zone_kept!r}, which the server chose: choose it there")
        if certificate is not None and "token" in known:
            old = known.get("device")
            print(f"the token that it had as {old} works until you end it: `offbeat device revoke {old}` on its server")
        good = options.no_test or board_checks.all_of(cable, board, config, yes, _tell, in_use=bool(known))
    if not good:
        raise Trouble("it is set up, but not all of it works: see above. Mend it, then `offbeat-board test`")
    print("It starts now. `offbeat-board logs` shows what it does")


def _check_board(cable: Cable, board: dict[str, Any]) -> None:
    """That the description is in order and of the chip on the cable, and that its firmware is what starts there."""
    try:
        device_config.check_board(board)
    except device_config.ConfigError as error:
        raise Trouble(f"board.json: {error}. --board takes another one") from None
    chip = board_install.about(cable).chip
    if chip != board["chip"]:
        raise Trouble(f"{board['name']} has an {board['chip']}, but on the cable is an {chip}: say --board")
    app, active = board["app"], board_install.state_of(cable).get("active", "")
    folder = f"/{active}/{app}" if active else f"/{app}"
    if not any(cable.exists(f"{folder}/app.{kind}") for kind in ("mpy", "py")):
        raise Trouble(
            f"the firmware of a {app} is not what starts on this board: `offbeat-board install --app {app}` first"
        )


@contextmanager
def _added(device: str, is_new: bool) -> Iterator[None]:
    """Whatever ends it between the pairing and the last byte written, the new device on the server is named."""
    try:
        yield
    except BaseException as error:
        left = f". The server has {device} already: remove that there, or it has it twice" if is_new else ""
        if not isinstance(error, (Trouble, ValueError)):
            print(f"not all of it is written: run setup again{left}")
            raise
        raise Trouble(f"{error}. Not all of it is written: run setup again{left}") from None


def _try_wifi(cable: Cable, config: dict[str, Any]) -> None:
    """Before anything is written or added on the server, for a typing mistake here is the most likely of all."""
    result = board_checks.wifi(cable, config["wifi"][0]["ssid"], config["wifi"][0]["password"])
    if not result.good:
        raise Trouble(f"{result.said}. Nothing was written; --no-test sets it up for a network that is not here")
    print(result.said)


def _pair(
    cable: Cable, options: argparse.Namespace, board: dict[str, Any], config: dict[str, Any], zone: str | None
) -> bytes | None:
    """Puts device, token and server into `config`. The certificate to write; None: the one on the board stays."""
    paired_already = "token" in config and cable.exists("/server.der")
    if paired_already and options.server is None and not options.pair_anew:
        print(f"paired as {config['device']} already; --pair-anew pairs it once more")
        if options.server_host:
            config["server"]["host"] = options.server_host
        return None
    asked = "Address of the server's page, 'here' or 'by hand'" + (
        ", '-' for none:" if board["app"] == "clock" else ":"
    )
    server = options.server if options.server is not None else ask(asked, HERE, "--server")
    if server in ("", "-"):
        if board["app"] == "pendant":
            raise Trouble("a pendant needs a server: --server")
        for key in ("server", "token"):
            config.pop(key, None)
        config.setdefault("device", "clock")
        return None
    paired = pair(
        server,
        options.name or ask("Its name, for the server:", board["app"], "--name"),
        board["app"],
        options.server_host,
        zone,
    )
    if paired.host in ("127.0.0.1", "localhost", "::1"):
        print(f"{paired.host} is the board itself to a real board: --server-host says where it reaches the server")
    config.update(device=paired.id, token=paired.token, server={"host": paired.host, "port": paired.port})
    print(f"paired: {paired.id} at {paired.host}:{paired.port}")
    return paired.certificate


def _write(
    cable: Cable, board: dict[str, Any], config: dict[str, Any], certificate: bytes | None, choice: str = ""
) -> None:
    """Written beside what is there, then put in its place by one short program, after `choice`, the configuration last.

    Until that program runs the board is as it was. A loss of power while it runs, which is a few writes long, leaves a
    mixture of old and new, which setup once more mends. What another server was to renew, or desired of another device,
    goes: its revisions are not the new one's.
    """
    files = {"/board.json": json.dumps(board).encode(), "/config.json": json.dumps(config).encode()}
    gone: tuple[str, ...] = ()
    if certificate is not None:
        files = {"/server.der": certificate} | files
        gone = ("next.der", "settings.json")
    for path, content in files.items():
        cable.write(path + ".new", content)
    cable.run(
        f"{choice}\nimport os\nfor name in {gone!r}:\n if name in os.listdir('/'): os.remove('/' + name)\n"
        f"for path in {tuple(files)!r}: os.rename(path + '.new', path)"
    )


def run_test(options: argparse.Namespace) -> None:
    with stopped(options.port, LONGEST_S) as cable:
        try:
            board, config = board_checks.of_board(cable)
        except (BoardFailed, ValueError) as error:
            raise Trouble(f"this board is not set up ({error}): `offbeat-board setup` first") from None
        good = board_checks.all_of(cable, board, config, yes, _tell)
    if not good:
        raise Trouble("not all of it works: see above")


def _tell(text: str) -> None:
    print(text, flush=True)


def _read(cable: Cable, path: str) -> dict[str, Any]:
    """A JSON file of the board; empty where it is not there or damaged."""
    if not cable.exists(path):
        return {}
    try:
        found = json.loads(cable.read(path))
    except ValueError:
        print(f"{path} on the board is damaged, and written anew")
        return {}
    return found if isinstance(found, dict) else {}
