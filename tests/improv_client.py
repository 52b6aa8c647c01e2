"""A client of "Improv via Serial", written from the specification alone: https://www.improv-wifi.com/serial.

It shares nothing with the firmware. Like the browsers' client it sees a packet at the begin of a line only.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

STATE, ERROR, RPC, RESULT = 0x01, 0x02, 0x03, 0x04
READY, PROVISIONING, PROVISIONED = 0x02, 0x03, 0x04
SEND_WIFI, CURRENT_STATE, INFORMATION, NETWORKS = 0x01, 0x02, 0x03, 0x04


def command(number: int, *texts: str) -> bytes:
    """The packet of an RPC command."""
    data = b"".join(bytes([len(text.encode())]) + text.encode() for text in texts)
    packet = bytearray(b"IMPROV")
    packet.append(0x01)  # version
    packet.append(RPC)
    packet.append(len(data) + 2)
    packet.append(number)
    packet.append(len(data))
    packet += data
    packet.append(sum(packet) % 256)
    return bytes(packet)


def packets(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, data) of each whole packet in what a device printed. Raises ValueError at a wrong checksum."""
    at = 0
    while at < len(stream):
        if stream[at : at + 6] != b"IMPROV":
            line_end = stream.find(b"\n", at)
            if line_end < 0:
                return
            at = line_end + 1
            continue
        if len(stream) < at + 10 or len(stream) < at + 10 + stream[at + 8]:
            return
        if stream[at + 6] != 1:
            raise ValueError(f"version {stream[at + 6]}")
        end = at + 9 + stream[at + 8]
        if sum(stream[at:end]) % 256 != stream[end]:
            raise ValueError(f"checksum of {stream[at : end + 1]!r}")
        yield stream[at + 7], stream[at + 9 : end]
        at = end + 1


def texts(result: bytes) -> tuple[int, list[str]]:
    """(command, texts) of the data of an RPC result."""
    number, length = result[0], result[1]
    assert len(result) == 2 + length, result
    found, at = [], 2
    while at < len(result):
        found.append(result[at + 1 : at + 1 + result[at]].decode())
        at += 1 + result[at]
    return number, found


class Client:
    """At a serial port that is open as a file descriptor, in raw mode."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._heard = b""
        self._taken = 0
        self.text = b""

    def send(self, *pieces: bytes, pause_s: float = 0.05) -> None:
        for piece in pieces:
            os.write(self._fd, piece)
            time.sleep(pause_s)

    def next(self, timeout_s: float) -> tuple[int, bytes]:
        """The next packet that the device sends: (type, data). Raises TimeoutError with what came instead."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = list(packets(self._heard))
            if len(found) > self._taken:
                self._taken += 1
                return found[self._taken - 1]
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._fd], [], [], left)[0]:
                raise TimeoutError(f"no packet within {timeout_s} s; came: {self._heard[-500:]!r}")
            self._heard += os.read(self._fd, 4096)
