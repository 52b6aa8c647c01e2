"""`socket` over the simulated WiFi: real sockets of the host, reachable only while the board is connected.

When the link is lost, connections do not end: they fall silent, as on the chip, until the firmware's time-outs.
The host name `ntp.sim` is a time server inside the simulator, so that it answers in simulated time.
"""

import errno
import io
import select

import usocket as _host

from . import network
from .clock import clock

AF_INET = _host.AF_INET
SOCK_STREAM = _host.SOCK_STREAM
SOCK_DGRAM = _host.SOCK_DGRAM
SOL_SOCKET = _host.SOL_SOCKET
SO_REUSEADDR = _host.SO_REUSEADDR
IPPROTO_TCP = 6

NTP_NAME = "ntp.sim"
NTP_ADDRESS = ("192.0.2.123", 123)
NTP_ERA_S = 2_208_988_800  # from 1900 to 1970
start_utc_us = 0  # true time when the simulation began, microseconds since 1970; set by boot
ntp_delay_us = (5_000, 15_000)  # each way, drawn independently


def getaddrinfo(host, port, af=0, type=0, proto=0, flags=0):
    """Like the chip's it blocks; a name that cannot be found holds the interpreter for long."""
    if not network.online():
        raise OSError(-202)
    if host == NTP_NAME:
        clock.spend(clock.costs["dns_us"])
        return [(AF_INET, type or SOCK_DGRAM, 0, "", (NTP_ADDRESS[0], port))]
    if host.replace(".", "").isdigit():
        return [(AF_INET, type or SOCK_STREAM, 0, "", (host, port))]
    try:
        found = _host.getaddrinfo(host, port, AF_INET, type or SOCK_STREAM)
    except OSError:
        clock.spend(clock.costs["dns_failure_us"])
        raise OSError(-202)
    clock.spend(clock.costs["dns_us"])
    return [found[0][:4] + (_text_address(found[0][4]),)]


def _text_address(packed):
    return (".".join(str(byte) for byte in packed[4:8]), packed[2] << 8 | packed[3])


def _packed(address):
    if isinstance(address, tuple):
        return _host.getaddrinfo(address[0], address[1], AF_INET, SOCK_STREAM)[0][4]
    return address


class _TimeServer(io.IOBase):
    """Answers SNTP requests after a delay each way; what is polled instead of a host's socket."""

    def __init__(self):
        self._answers = []

    def ask(self, request):
        clock.at(clock.now() + self._delay_us(), lambda: self._answer(bytes(request)))

    def _delay_us(self):
        low_us, high_us = ntp_delay_us
        return low_us + clock.random_below(high_us - low_us + 1)

    def _answer(self, request):
        stamp = self._timestamp(start_utc_us + clock.now_us)
        answer = b"\x24\x02\x06\xec" + bytes(8) + b"SIM\x00" + stamp + request[40:48] + stamp + stamp
        clock.at(clock.now_us + self._delay_us(), lambda: self._arrive(answer))

    def _arrive(self, answer):
        if network.online():
            self._answers.append(answer)

    @staticmethod
    def _timestamp(utc_us):
        seconds = utc_us // 1_000_000 + NTP_ERA_S
        fraction = (utc_us % 1_000_000 << 32) // 1_000_000
        return (seconds & 0xFFFFFFFF).to_bytes(4, "big") + fraction.to_bytes(4, "big")

    def take(self):
        return self._answers.pop(0) if self._answers else None

    def ioctl(self, request, argument):
        if request == 3:  # MP_STREAM_POLL
            return argument & (select.POLLOUT | (select.POLLIN if self._answers else 0))
        return 0


class socket:
    def __init__(self, af=AF_INET, type=SOCK_STREAM, proto=0):
        self._datagram = type == SOCK_DGRAM
        self.polled = self._real = _host.socket(af, type)
        self._time_server = None
        self._timeout_s = None
        self.on_host = False  # whether a real server may owe us something
        self.unreachable = False  # the link was lost under this connection
        network.link_lost.append(self._lose)

    def _lose(self):
        if not self._datagram:
            self.unreachable = True

    def _check(self):
        if not network.online():
            raise OSError(errno.EHOSTUNREACH)

    def setblocking(self, blocking):
        self.settimeout(None if blocking else 0)

    def settimeout(self, seconds):
        self._timeout_s = seconds
        self._real.settimeout(seconds)

    def setsockopt(self, *arguments):
        self._real.setsockopt(*arguments)

    def connect(self, address):
        self._check()
        if address[0] == NTP_ADDRESS[0]:
            self._use_time_server()
            return
        self.on_host = True
        self._real.connect(_packed(address))

    def bind(self, address):
        self._real.bind(_packed(address))

    def _use_time_server(self):
        self._time_server = self.polled = _TimeServer()

    def sendto(self, data, address):
        self._check()
        if address[0] == NTP_ADDRESS[0]:
            if self._time_server is None:
                self._use_time_server()
            self._time_server.ask(data)
            return len(data)
        self.on_host = True
        return self._real.sendto(data, _packed(address))

    def write(self, data, length=None):
        if self.unreachable:
            return len(data)  # into the driver's buffer, never to arrive
        self._check()
        if self._time_server:
            self._time_server.ask(data)
            return len(data)
        return self._real.write(data) if length is None else self._real.write(data, length)

    send = write

    def recvfrom(self, length):
        if self._time_server:
            return (self._wait_for_time(length), NTP_ADDRESS)
        data, sender = self._real.recvfrom(length)
        return (data, _text_address(sender))

    def recv(self, length):
        if self._time_server:
            return self._wait_for_time(length)
        if self.unreachable:
            raise OSError(errno.EAGAIN if self._timeout_s == 0 else errno.ETIMEDOUT)
        return self._real.recv(length)

    def _wait_for_time(self, length):
        waited_until_us = clock.now() + int((self._timeout_s or 0) * 1_000_000)
        answer = self._time_server.take()
        while answer is None and clock.now_us < waited_until_us:
            clock.spend(1000)
            answer = self._time_server.take()
        if answer is None:
            raise OSError(errno.EAGAIN if self._timeout_s == 0 else errno.ETIMEDOUT)
        return answer[:length]

    def read(self, length=-1):
        if self._time_server:
            return self._time_server.take()
        if self.unreachable:
            return None
        return self._real.read() if length < 0 else self._real.read(length)

    def readinto(self, buffer, length=None):
        if self.unreachable:
            return None
        return self._real.readinto(buffer) if length is None else self._real.readinto(buffer, length)

    def readline(self):
        return None if self.unreachable else self._real.readline()

    def close(self):
        if self._lose in network.link_lost:
            network.link_lost.remove(self._lose)
        self._real.close()
