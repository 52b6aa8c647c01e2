"""`tls`: the host's mbedTLS, but with the dates of certificates checked against the simulated clock, and the
handshake paid for.

The host's mbedTLS also checks them against the host's date; so a certificate for a test must be valid on both clocks,
or be meant to fail.
"""

import tls as _host

from . import hosttime
from .clock import clock

CERT_NONE = _host.CERT_NONE
CERT_OPTIONAL = _host.CERT_OPTIONAL
CERT_REQUIRED = _host.CERT_REQUIRED
PROTOCOL_TLS_CLIENT = _host.PROTOCOL_TLS_CLIENT
PROTOCOL_TLS_SERVER = _host.PROTOCOL_TLS_SERVER


def _der_item(data, at):
    """(tag, start of the content, end) of the DER item at `at`."""
    length = data[at + 1]
    start = at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[start : start + count], "big")
        start += count
    return data[at], start, start + length


def _seconds_2000(tag, text):
    """A UTCTime (0x17) or GeneralizedTime (0x18) of a certificate (RFC 5280, 4.1.2.5) as seconds since 2000."""
    year = int(text[:4]) if tag == 0x18 else 1950 + (int(text[:2]) + 50) % 100
    rest = text[4:] if tag == 0x18 else text[2:]
    return hosttime.mktime((year,) + tuple(int(rest[i : i + 2]) for i in range(0, 10, 2)))


def validity(der):
    """(not before, not after) of an X.509 certificate, seconds since 2000."""
    _, certificate, _ = _der_item(der, 0)
    _, at, _ = _der_item(der, certificate)
    for _ in range(6):
        tag, start, end = _der_item(der, at)
        if tag == 0x30:
            inner_tag, inner_start, inner_end = _der_item(der, start)
            if inner_tag in (0x17, 0x18):
                second_tag, second_start, second_end = _der_item(der, inner_end)
                return (
                    _seconds_2000(inner_tag, der[inner_start:inner_end].decode()),
                    _seconds_2000(second_tag, der[second_start:second_end].decode()),
                )
        at = end
    raise ValueError("no validity in this certificate")


class SSLContext:
    def __init__(self, protocol):
        self._real = _host.SSLContext(protocol)
        self._validity = None

    @property
    def verify_mode(self):
        return self._real.verify_mode

    @verify_mode.setter
    def verify_mode(self, mode):
        self._real.verify_mode = mode

    def load_verify_locations(self, cadata=None, cafile=None):
        self._real.load_verify_locations(cadata)
        self._validity = validity(bytes(cadata))

    def load_cert_chain(self, certfile, keyfile):
        self._real.load_cert_chain(certfile, keyfile)

    def wrap_socket(self, sock, *, server_side=False, do_handshake_on_connect=True, server_hostname=None):
        return _Socket(self, sock, server_side, do_handshake_on_connect, server_hostname)


class _Socket:
    """The handshake is paid for at the first use, when the chip's mbedTLS would compute it."""

    def __init__(self, context, sock, server_side, at_once, server_hostname):
        self._under = sock
        self._context = context
        self._handshaken = False
        self.polled = self._real = context._real.wrap_socket(
            sock._real,
            server_side=server_side,
            do_handshake_on_connect=False,
            server_hostname=server_hostname,
        )
        self.on_host = True
        if at_once:
            self._handshake()

    @property
    def unreachable(self):
        return self._under.unreachable

    def _handshake(self):
        if not self._handshaken:
            self._handshaken = True
            clock.spend(clock.costs["tls_handshake_us"])
            if self._context.verify_mode == CERT_REQUIRED:
                first_s, last_s = self._context._validity or (0, 0)
                if hosttime.time() < first_s:
                    raise ValueError("\nThe certificate validity starts in the future\n")
                if hosttime.time() > last_s:
                    raise ValueError("\nThe certificate validity has expired\n")

    def setblocking(self, blocking):
        self._real.setblocking(blocking)

    def settimeout(self, seconds):
        self._under.settimeout(seconds)

    def write(self, data):
        self._handshake()
        if self.unreachable:
            return len(data)
        return self._real.write(data)

    def read(self, length=-1):
        self._handshake()
        if self.unreachable:
            return None
        return self._real.read() if length < 0 else self._real.read(length)

    def readinto(self, buffer):
        self._handshake()
        return None if self.unreachable else self._real.readinto(buffer)

    def readline(self):
        self._handshake()
        return None if self.unreachable else self._real.readline()

    def getpeercert(self, binary_form=False):
        return self._real.getpeercert(binary_form)

    def cipher(self):
        return self._real.cipher()

    def close(self):
        self._real.close()
        self._under.close()
