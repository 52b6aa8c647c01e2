"""WiFi over the cable on the simulated board: the listener itself, fed by a pipe, in simulated time."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import improv_client
from improv_client import (
    CURRENT_STATE,
    ERROR,
    INFORMATION,
    NETWORKS,
    PROVISIONED,
    PROVISIONING,
    READY,
    RESULT,
    SEND_WIFI,
    STATE,
)
from sim.board import Board

ROOT = Path(__file__).parents[3]

# What came and went is shown as text, for the console of a board without a serial line is text.
PROGRAM = """
    import asyncio
    import io
    import json
    import select
    import network
    from device.cable import Cable
    from device.wifi import Wifi

    class Pipe(io.IOBase):
        def __init__(self):
            self.data = b""
        def read(self, count):
            byte, self.data = self.data[:count], self.data[count:]
            return byte
        def ioctl(self, request, flags):
            if request != 3:  # MP_STREAM_POLL
                return -1
            return select.POLLIN if self.data else 0

    class Sink:
        def write(self, data):
            print("SAID", data.hex())

    async def quiet():
        print("QUIET")

    pipe = Pipe()

    async def main():
        with open("/config.json") as file:
            networks = json.load(file)["wifi"]
        wifi = Wifi(networks, network.WLAN(network.STA_IF))
        about = ("Offbeat clock", "0.1.0", "a board", "hall")
        cable = Cable(wifi, about, quiet, (pipe, Sink()))
        task = asyncio.create_task(cable.listen())
        print("JOINED", await wifi.connect(8))
        for piece, wait_s in WORDS:
            pipe.data += bytes.fromhex(piece)
            await asyncio.sleep(wait_s)
            print("TALKING", cable.talking())
        if task.done():
            await task  # raises what ended it
        print("THEN", json.load(open("/config.json"))["wifi"], wifi.missing)

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("INTERRUPTED", pipe.data)
    while True:
        import time
        time.sleep(1)
"""


def run(folder: Path, words: list[tuple[bytes, float]], **options: Any) -> tuple[list[tuple[int, bytes]], str]:
    """(what the cable answered, the console), after these pieces and the seconds after each."""
    firmware = folder / "firmware"
    firmware.mkdir()
    (firmware / "device").symlink_to(ROOT / "firmware" / "device")
    hexed = [(piece.hex(), wait_s) for piece, wait_s in words]
    (firmware / "main.py").write_text(textwrap.dedent(PROGRAM).replace("WORDS", repr(hexed)))
    options.setdefault("config", {"wifi": []})
    options.setdefault("air", {"home": "a good password", "cafe": ""})
    with Board(folder / "board", board={"pins": {"button": 1}}, firmware=firmware, **options) as board:
        board.start()
        board.run_until(lambda: "THEN" in board.console or "INTERRUPTED" in board.console, 200)
        said = [bytes.fromhex(line[5:]) for line in board.console.splitlines() if line.startswith("SAID")]
        return list(improv_client.packets(b"".join(said))), board.console


def test_a_board_without_networks_is_told_one_and_keeps_it(tmp_path: Path) -> None:
    """In pieces, with garbage before; the state, what the board is, what is in the air, and the network itself."""
    ask = [improv_client.command(number) for number in (CURRENT_STATE, INFORMATION, NETWORKS)]
    send = improv_client.command(SEND_WIFI, "home", "a good password")
    words = [(b"\r\nIMPRO", 0.1), (ask[0], 1), (ask[1][:9], 0.5), (ask[1][9:], 1), (ask[2], 5)]
    words += [(send[:1], 0.3), (send[1:20], 0.3), (send[20:], 6), (ask[0], 1)]
    said, console = run(tmp_path, words)
    assert "JOINED False" in console
    told = [(kind, improv_client.texts(data) if kind == RESULT else data[0]) for kind, data in said]
    assert told == [
        *((ERROR, 0), (STATE, READY)),
        *((ERROR, 0), (RESULT, (INFORMATION, ["Offbeat clock", "0.1.0", "a board", "hall"]))),
        (ERROR, 0),
        (RESULT, (NETWORKS, ["cafe", "-55", "NO"])),
        (RESULT, (NETWORKS, ["home", "-60", "YES"])),
        (RESULT, (NETWORKS, [])),
        *((ERROR, 0), (STATE, PROVISIONING), (STATE, PROVISIONED), (RESULT, (SEND_WIFI, []))),
        *((ERROR, 0), (STATE, PROVISIONED), (RESULT, (CURRENT_STATE, []))),
    ]
    # A moment of the gadget's choice: to look for networks, to join one, and to write that to the flash.
    assert console.count("QUIET") == 3
    assert "THEN [{'ssid': 'home', 'password': 'a good password'}] False" in console


def test_a_wrong_password_is_not_kept_and_another_try_may_follow(tmp_path: Path) -> None:
    known = {"ssid": "old", "password": "long gone away"}
    stale = {"ssid": "home", "password": "the last password"}
    wrong = improv_client.command(SEND_WIFI, "home", "not the password")
    right = improv_client.command(SEND_WIFI, "home", "a good password")
    said, console = run(tmp_path, [(wrong, 20), (right, 8)], config={"wifi": [known, stale]})
    assert [(kind, data[0]) for kind, data in said] == [
        *((ERROR, 0), (STATE, PROVISIONING), (ERROR, 3), (STATE, READY)),
        *((ERROR, 0), (STATE, PROVISIONING), (STATE, PROVISIONED), (RESULT, SEND_WIFI)),
    ]
    kept = [{"ssid": "home", "password": "a good password"}, known]
    assert f"THEN {kept} False" in console
    assert "not the password" not in console


def test_what_is_wrong_is_answered_and_changes_nothing(tmp_path: Path) -> None:
    damaged = bytearray(improv_client.command(CURRENT_STATE))
    damaged[-1] ^= 1
    short = improv_client.command(SEND_WIFI, "home", "short")
    said, console = run(tmp_path, [(bytes(damaged), 1), (improv_client.command(9), 1), (short, 1)])
    assert [(kind, data[0]) for kind, data in said] == [(ERROR, 1), (ERROR, 0), (ERROR, 2), (ERROR, 1)]
    assert "THEN [] True" in console


def test_a_packet_that_never_ends_is_given_up(tmp_path: Path) -> None:
    ask = improv_client.command(CURRENT_STATE)
    said, _ = run(tmp_path, [(improv_client.command(SEND_WIFI, "home", "a good password")[:-5], 4), (ask, 1)])
    assert [(kind, data[0]) for kind, data in said] == [(ERROR, 0), (STATE, READY)]


def test_somebody_counts_as_talking_for_a_minute_after_a_packet(tmp_path: Path) -> None:
    """A pendant stays awake for so long."""
    ask = improv_client.command(CURRENT_STATE)
    _, console = run(tmp_path, [(b"noise\n", 1), (ask, 1), (b"", 55), (b"", 5), (ask, 1)])
    heard = [line for line in console.splitlines() if line.startswith("TALKING")]
    assert heard == ["TALKING " + word for word in ("False", "True", "True", "False", "True")]


def test_ctrl_c_ends_the_program_and_leaves_what_follows_to_the_prompt(tmp_path: Path) -> None:
    """As mpremote sends it: a return, Ctrl-C, and at once Ctrl-A."""
    _, console = run(tmp_path, [(b"\r\x03\r\x01", 2)])
    assert "INTERRUPTED b'\\r\\x01'" in console


def test_a_board_on_its_network_does_not_listen(tmp_path: Path) -> None:
    """So the console is the prompt's: Ctrl-C interrupts at once there."""
    network = {"ssid": "cafe", "password": ""}
    said, console = run(tmp_path, [(improv_client.command(CURRENT_STATE), 5)], config={"wifi": [network]})
    assert said == [] and "JOINED True" in console
