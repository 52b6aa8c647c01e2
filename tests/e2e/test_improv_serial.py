"""WiFi over the cable, as a browser's page does it: a client written from the specification at the pseudo-terminal of a
board with the whole firmware.
"""

from __future__ import annotations

import json
import os
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import board_description
import improv_client
import pytest
from board_port import Cable
from improv_client import ERROR, INFORMATION, PROVISIONED, PROVISIONING, READY, RESULT, SEND_WIFI, STATE
from sim.serial_board import SerialBoard

ROOT = Path(__file__).parents[2]
CONFIGS: dict[str, dict[str, Any]] = {
    "esp32c3-supermini": {
        "app": "clock", "device": "hall", "wifi": [], "ntp": ["ntp.sim"], "timezone": "UTC0",
        "mode": "steady", "seed": 7,
    },
    "xiao-esp32s3": {
        "app": "pendant", "device": "p7", "wifi": [], "token": "t" * 43, "server": {"host": "127.0.0.1", "port": 9},
    },
}  # fmt: skip


def test_the_clients_packet_is_the_specifications() -> None:
    """Its example of "Send Wi-Fi settings", 01 1E 0C {MyWirelessAP} 10 {mysecurepassword}, in a packet."""
    packet = b"IMPROV\x01\x03\x20\x01\x1e\x0cMyWirelessAP\x10mysecurepassword"
    assert improv_client.command(SEND_WIFI, "MyWirelessAP", "mysecurepassword") == packet + b"\xc1"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_gadget_without_a_network_is_told_one(
    tmp_path: Path, certificate: Callable[..., tuple[Path, Path, bytes]], name: str
) -> None:
    """Split packets, garbage before them; it joins, keeps the network; Ctrl-C still reaches the prompt."""
    board, config = board_description.load(name), dict(CONFIGS[name])
    if config["app"] == "clock":  # three hours behind: as soon as it has the time it is busy, catching up
        config["hands"] = time.strftime("%I:%M:%S", time.gmtime(time.time() - 3 * 3600))
    firmware = ROOT / "firmware"
    files = {path.relative_to(firmware).as_posix(): path.read_bytes() for path in firmware.rglob("*.py")}
    files |= {"board.json": json.dumps(board).encode(), "config.json": json.dumps(config).encode()}
    files["server.der"] = certificate()[2]
    with SerialBoard(tmp_path, board, files=files, air={"home": "a good password"}, heap_kb=4096) as serial:
        serial.start()
        port = os.open(serial.path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(port)
        client = improv_client.Client(port)
        try:
            for _ in range(20):  # while it starts, nothing answers; a browser's client asks anew, too
                client.send(b"AT\r\nIMPROV\x01\x03\x02" + b"IMPRO" + improv_client.command(improv_client.CURRENT_STATE))
                try:
                    assert client.next(1.5)[0] == ERROR
                    break
                except TimeoutError:
                    continue
            kinds = [client.next(5)]
            while kinds[-1] != (STATE, bytes([READY])):
                kinds.append(client.next(5))
            asked = improv_client.command(INFORMATION)
            client.send(*(asked[at : at + 1] for at in range(len(asked))), pause_s=0.02)
            answer = client.next(5)
            while answer[0] != RESULT:
                answer = client.next(5)
            assert improv_client.texts(answer[1])[1][0] == f"Offbeat {config['app']}"
            wanted = improv_client.command(SEND_WIFI, "home", "a good password")
            client.send(b"\x00\xffnoise\n", wanted[:17], wanted[17:], pause_s=0.3)
            told = [client.next(20) for _ in range(4)]
            assert told == [
                *((ERROR, b"\x00"), (STATE, bytes([PROVISIONING]))),
                *((STATE, bytes([PROVISIONED])), (RESULT, bytes([SEND_WIFI, 0]))),
            ]
        finally:
            os.close(port)
        with Cable(serial.path) as cable:  # which begins with Ctrl-C
            kept = json.loads(cable.read("/config.json"))
        assert kept == config | {"wifi": [{"ssid": "home", "password": "a good password"}]}
