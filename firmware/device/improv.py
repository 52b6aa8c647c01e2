"""WiFi over the cable, the packets: "Improv via Serial" (https://www.improv-wifi.com/serial). Pure.

A packet is IMPROV, the version (1), a type, the length of the data, the data (0 to 255 bytes), and a checksum, the sum
of all bytes before it modulo 256. A text is its length (one byte) and its UTF-8. What listens is in `device.cable`.
"""

HEADER = b"IMPROV\x01"
STATE, ERROR, COMMAND, RESULT = 1, 2, 3, 4  # types of packets
READY, PROVISIONING, PROVISIONED = 2, 3, 4  # states
NO_ERROR, INVALID, UNKNOWN, UNABLE = 0, 1, 2, 3  # errors
SEND_WIFI, GET_STATE, GET_INFO, SCAN = 1, 2, 3, 4  # commands
INTERRUPT = "interrupt"  # a Ctrl-C outside of a packet: somebody wants the prompt
_TYPE, _LENGTH, _DATA = 7, 8, 9  # where in a packet
_CTRL_C = 3


class Parser:
    """Finds packets in a stream that holds other things, too. `inside`: in the middle of one."""

    def __init__(self):
        self._have = bytearray()

    @property
    def inside(self) -> bool:
        return len(self._have) > 0

    def drop(self):
        """Forget what has come of a packet: the rest did not come."""
        self._have = bytearray()

    def feed(self, byte: int):
        """None: go on; INTERRUPT; or what a packet holds: (type, data), or (ERROR, code) for one that is damaged."""
        have = self._have
        at = len(have)
        if at < len(HEADER) and byte != HEADER[at]:
            self.drop()
            if byte == HEADER[0]:
                self._have.append(byte)
            return INTERRUPT if byte == _CTRL_C else None
        have.append(byte)
        if at < _DATA or at < _DATA + have[_LENGTH]:
            return None
        self.drop()
        if sum(have[:at]) & 0xFF != byte:
            return ERROR, INVALID
        return have[_TYPE], bytes(have[_DATA:at])


def command(data: bytes):
    """(command, what it brings) of a packet's data. ValueError: its length is wrong."""
    if len(data) < 2 or data[1] != len(data) - 2:
        raise ValueError("a command of another length than it says")
    return data[0], data[2:]


def wifi_settings(brings: bytes):
    """(ssid, password) of SEND_WIFI. ValueError: they are not two texts."""
    texts = []
    at = 0
    while at < len(brings):
        length = brings[at]
        text = brings[at + 1 : at + 1 + length]
        if len(text) != length:
            raise ValueError("a text that ends early")
        try:
            texts.append(text.decode())
        except UnicodeError:  # on a board itself a ValueError, but not one with these words
            raise ValueError("a text that is not UTF-8")
        at += 1 + length
    if len(texts) != 2:
        raise ValueError("%d texts instead of 2" % len(texts))
    return texts[0], texts[1]


def packet(kind: int, data: bytes) -> bytes:
    """A packet. Before it and after it comes a new line: the clients look for one at the begin of a line only."""
    head = HEADER + bytes((kind, len(data))) + data
    return b"\n" + head + bytes((sum(head) & 0xFF,)) + b"\n"


def result(answered: int, texts) -> bytes:
    """The packet that answers a command with texts."""
    data = b""
    for text in texts:
        raw = text.encode()
        data += bytes((len(raw),)) + raw
    return packet(RESULT, bytes((answered, len(data))) + data)
