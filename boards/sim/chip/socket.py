"""`socket` over the simulated WiFi: real sockets of the host, reachable only while the board is connected.

When the link is lost, connections do not end: they fall silent, as on the chip, until the firmware's time-outs.
The host name `ntp.sim` is a time server inside the simulator, so that it answers in simulated time; further names that
end in `.sim` are others once the host program has said how they behave (`Board.time_server`), and are else not found.
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

HERE = "192.0.2."  # the network that the simulator itself answers for
NTP_ERA_S = 2_208_988_800  # from 1900 to 1970
start_utc_us = 0  # true time when the simulation began, microseconds since 1970; set by boot
names_found = True
time_servers = []  # of their settings, see Board.time_server; the address of the n-th ends in 123 + n
_radio_used_us = [-1_000_000]  # when the radio was last used


def set_time_server(name, settings):
    for server in time_servers:
        if server["ntp"] == name:
            server.update(settings)
            return
    time_servers.append(settings)


def _time_server(host):
    """The settings of the one with this name or address, or None."""
    for number, server in enumerate(time_servers):
        if host in (server["ntp"], HERE + str(123 + number)):
            return server
    return None


def getaddrinfo(host, port, af=0, type=0, proto=0, flags=0):
    """Like the chip's it blocks, but other threads run meanwhile; a name that cannot be found takes long."""
    if not network.online():
        raise OSError(-202)
    if host.replace(".", "").isdigit():
        return [(AF_INET, type or SOCK_STREAM, 0, "", (host, port))]
    try:
        if not names_found:
            raise OSError
        if host.endswith(".sim"):
            address = HERE + str(123 + [server["ntp"] for server in time_servers].index(host))
            found = [(AF_INET, type or SOCK_DGRAM, 0, "", None)]
        else:
            found = _host.getaddrinfo(host, port, AF_INET, type or SOCK_STREAM)
            address = _text_address(found[0][4])[0]
    except (OSError, ValueError):
        clock.wait(clock.costs["dns_failure_us"])
        raise OSError(-202)
    clock.wait(clock.costs["dns_us"])
    return [found[0][:4] + ((address, port),)]


def _text_address(packed):
    return (".".join(str(byte) for byte in packed[4:8]), packed[2] << 8 | packed[3])


def _packed(address):
    if isinstance(address, tuple):
        return _host.getaddrinfo(address[0], address[1], AF_INET, SOCK_STREAM)[0][4]
    return address


class _TimeServer(io.IOBase):
    """Answers SNTP requests after a delay each way; what is polled instead of a host's socket."""

    def __init__(self, settings):
        self._settings = settings
        self._answers = []

    def ask(self, request):
        late_us = 0
        if clock.now() - _radio_used_us[0] > 100_000:
            late_us = clock.random_below(clock.costs["radio_wake_us"] + 1)
        _radio_used_us[0] = clock.now_us
        clock.at(clock.now_us + self._delay_us("there_us"), lambda: self._answer(bytes(request), late_us))

    def _delay_us(self, way):
        low_us, high_us = self._settings[way]
        return low_us + clock.random_below(high_us - low_us + 1)

    def _answer(self, request, late_us):
        kind = self._settings["answers"]
        if kind == "silence":
            return
        stamp = self._timestamp(start_utc_us + clock.true_us() + self._settings["wrong_us"])
        head, name, nonce = b"\x24\x02", b"SIM\x00", request[40:48]
        if kind == "unsynchronised":
            head = b"\xe4\x10"
        elif kind == "stale":
            nonce = bytes(8)
        elif kind != "time" and kind != "garbage":
            head, name = b"\xe4\x00", kind.encode()
        answer = head + b"\x06\xec" + bytes(8) + name + stamp + nonce + stamp + stamp
        if kind == "garbage":
            answer = bytes([clock.random_below(256) for _ in range(clock.random_below(60))])
        clock.at(clock.now_us + self._delay_us("back_us") + late_us, lambda: self._arrive(answer))

    def _arrive(self, answer):
        if network.online():
            _radio_used_us[0] = clock.now_us
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
        if address[0].startswith(HERE):
            self._use(address[0])
            return
        self.on_host = True
        self._real.connect(_packed(address))

    def bind(self, address):
        self._real.bind(_packed(address))

    def _use(self, host):
        """A time server, or nobody, who answers nothing."""
        settings = _time_server(host)
        self._time_server = self.polled = _TimeServer(settings or {"answers": "silence", "there_us": (0, 0)})

    def sendto(self, data, address):
        self._check()
        if address[0].startswith(HERE):
            if self._time_server is None:
                self._use(address[0])
                self._host = address
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
            return (self._wait_for_time(length), self._host)
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
