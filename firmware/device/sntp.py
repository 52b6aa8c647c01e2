"""SNTP (RFC 4330, and RFC 5905 where it is stricter): asking a time server for the time, with fractions and manners.

Integers only. The request's transmit time is a random number (draft-ietf-ntp-data-minimization): the server only has to
echo it, and the true time of sending stays here, on the free-running counter. So an exchange says what time it was at a
value of the counter, whether or not this device knew the time before.
"""

PORT = 123
PACKET_BYTES = 48

_ERA_S = 1 << 32  # seconds of NTP count modulo this
_FIRST_MINUTE = 28_401_120  # 2024-01-01: this firmware is younger; a receiver that lost count of its weeks is older
_LAST_MINUTE = 68_374_080  # 2100-01-01: as far as the chip's calendar goes
_TO_1970_S = 2_208_988_800  # from 1900-01-01
_MOST_ROOT_US = 1_000_000  # RFC 5905, MAXDIST: a server that may be a second off is none
_WORKED_US = 10_000_000  # how long a server may take between receiving and sending


class Refused(OSError):
    """No answer, or one that must not be used; the text says why."""


class KissOfDeath(Refused):
    """The server asks to be left alone. `code`: four letters, such as "RATE", "DENY", "RSTR"."""

    def __init__(self, code: str) -> None:
        super().__init__("the server answered " + code)
        self.code = code


def request(nonce: bytes) -> bytes:
    """The packet to send: version 4, mode 3 (client), with 8 random bytes as its transmit time."""
    return b"\x23" + bytes(39) + nonce


def answer(packet: bytes, nonce: bytes, elapsed_us: int):
    """What an answer says: (minute since 1970 UTC, microseconds into it, delay_us, error_us), all at its arrival.

    elapsed_us: from sending to arrival, on this device's counter. delay_us: of that, what was spent on the way.
    error_us: how far the time may be off; half the delay, if all of it was spent one way, and what the server says of
    its own distance from a true clock. Raises Refused or KissOfDeath.
    """
    if len(packet) < PACKET_BYTES:
        raise Refused("%d bytes instead of %d" % (len(packet), PACKET_BYTES))
    if packet[0] & 7 != 4:
        raise Refused("mode %d, not a server's 4" % (packet[0] & 7))
    if packet[24:32] != nonce:
        raise Refused("not the answer to this request")
    stratum = packet[1]
    if stratum == 0:
        raise KissOfDeath("".join(chr(byte) if 65 <= byte <= 90 else "?" for byte in packet[12:16]))
    if stratum > 15:
        raise Refused("stratum %d" % stratum)
    if packet[0] >> 6 == 3:
        raise Refused("the server's clock is not synchronised")
    if packet[40:48] == bytes(8):
        raise Refused("no transmit time")
    root_us = (_short_us(packet, 4) >> 1) + _short_us(packet, 8)
    if root_us > _MOST_ROOT_US:
        raise Refused("the server may be %d ms off" % (root_us // 1000))
    sent_s = int.from_bytes(packet[40:44], "big")
    sent_us = _fraction_us(packet, 44)
    worked_s = (sent_s - int.from_bytes(packet[32:36], "big")) % _ERA_S
    worked_us = worked_s * 1_000_000 + sent_us - _fraction_us(packet, 36)
    if not 0 <= worked_us <= min(elapsed_us, _WORKED_US):
        raise Refused("the server's times contradict each other")
    delay_us = elapsed_us - worked_us
    if sent_s < _ERA_S >> 1:
        sent_s += _ERA_S  # RFC 4330 chapter 3: without the top bit it is the era that begins in 2036
    minute, second = divmod(sent_s - _TO_1970_S, 60)
    if not _FIRST_MINUTE <= minute < _LAST_MINUTE:
        raise Refused("a time that is not of this century's: minute %d since 1970" % minute)
    us = second * 1_000_000 + sent_us + (delay_us >> 1)
    return minute + us // 60_000_000, us % 60_000_000, delay_us, (delay_us >> 1) + root_us


def _fraction_us(packet: bytes, at: int) -> int:
    """A fraction of a second, in 2^-32, as microseconds. Its low 16 bits are 15 us and are left out."""
    return (packet[at] << 8 | packet[at + 1]) * 15_625 >> 10


def _short_us(packet: bytes, at: int) -> int:
    """NTP's short format, 16 bits of seconds and 16 of fraction, as microseconds."""
    return (packet[at] << 8 | packet[at + 1]) * 1_000_000 + _fraction_us(packet, at + 2)


class Manners:
    """Whom to ask and when: never more than once in 15 s, less and less often, and not whom it annoys.

    RFC 4330 chapter 10. The interval doubles after every fourth good answer, so that the first minutes give several
    exchanges to choose from, and after each failure, which also turns to the next server.
    """

    FLOOR_S = 15
    CEILING_S = 1024
    DENIED_S = 86_400  # when every server has refused
    MOST_DOUBTS = 4  # in a row that are soon followed by another question

    def __init__(self, servers: list) -> None:
        self._all = list(servers)
        self._servers = list(servers)
        self._interval_s = self.FLOOR_S + 1
        self._good = 0
        self._doubts = 0

    @property
    def server(self) -> str:
        """Whom to ask now."""
        return self._servers[0]

    def succeeded(self) -> None:
        self._good += 1
        self._doubts = 0
        if self._good % 4 == 0:
            self._slower()

    def doubted(self) -> None:
        """After an answer that was set aside: ask soon, and another if there is one; but not for ever."""
        self._turn()
        self._good = 0
        self._doubts += 1
        if self._doubts <= self.MOST_DOUBTS:
            self._interval_s = self.FLOOR_S + 1
        else:
            self._slower()

    def failed(self) -> None:
        self._turn()
        self._slower()

    def kissed(self, code: str) -> None:
        """After a KissOfDeath. DENY and RSTR end the use of the server; RATE, or anything new, slows down."""
        if code not in ("DENY", "RSTR"):
            self._slower()
            self._good = 0
            return
        self._servers.pop(0)
        if not self._servers:
            self._servers = list(self._all)
            self._interval_s = self.DENIED_S

    def _turn(self) -> None:
        self._servers.append(self._servers.pop(0))

    def _slower(self) -> None:
        self._interval_s = min(self.CEILING_S, 2 * self._interval_s)

    def wait_ms(self, random: int) -> int:
        """How long to wait before the next exchange; random: 0 .. 255, so that many clocks do not ask in step."""
        interval_s = self._interval_s
        if interval_s == self.DENIED_S:
            self._interval_s = self.CEILING_S
        return interval_s * 1000 + interval_s * random


async def exchange(address, timeout_ms: int):
    """Ask the server at a resolved address once: (what `answer` gives, value of ticks_us at its arrival).

    Raises Refused, or another OSError when the network does.
    """
    import asyncio
    import os
    import socket
    import time

    from device.ticks import diff

    nonce = os.urandom(8)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(address)  # so that the stack drops what comes from anybody else
        sent = time.ticks_us()
        sock.send(request(nonce))
        try:
            await asyncio.wait_for_ms(_readable(sock), timeout_ms)
            arrived = time.ticks_us()
            packet = sock.recv(PACKET_BYTES)
        except asyncio.TimeoutError:
            packet = None
    finally:
        sock.close()
    if packet is None:
        raise Refused("no answer within %d ms" % timeout_ms)
    return answer(packet, nonce, diff(arrived, sent)), arrived


def _readable(sock):
    """Until a datagram is there. asyncio's own streams cannot tell datagrams apart, hence its queue as they use it."""
    import asyncio

    yield asyncio.core._io_queue.queue_read(sock)  # type: ignore[attr-defined]
