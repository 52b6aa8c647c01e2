"""The clock's task that asks the time servers, one at a time, with manners; nothing here holds up the ticks."""

import _thread
import asyncio
import os
import socket
import time

import machine
import network
from device import log, sntp, walltime

NAP_MS = 500  # between looks at the WiFi
LOOK_UP_NAP_MS = 50  # between looks at a look-up
LOOK_UP_TIMEOUT_MS = 30_000  # the chip's own give up before that
EXCHANGE_TIMEOUT_MS = 3000
WAKE_MS = 10
DISCARD_PORT = 9  # RFC 863: what is sent there is thrown away


async def run(clock, wifi, manners) -> None:
    """Ask the time servers and tell the clock. clock: has `hear`, `keeper` and `talking`; wifi: has `connected`;
    manners: sntp.Manners, which outlives a failure of this task: a server that said "no more" is not asked anew.
    """
    look_up = LookUp()
    asked = address = None
    while True:
        while not wifi.connected():
            await asyncio.sleep_ms(NAP_MS)
        server = manners.server
        try:
            if server != asked:
                asked = None
                host, _, port = server.partition(":")
                address = await look_up.find(host, int(port or sntp.PORT), LOOK_UP_TIMEOUT_MS)
                asked = server
            async with clock.talking:
                await _wake()
                (minute, us, _, error_us), ticks_us = await sntp.exchange(address, EXCHANGE_TIMEOUT_MS)
        except sntp.KissOfDeath as kiss:
            log.error("time from " + server, kiss)
            manners.kissed(kiss.code)
        except OSError as error:
            log.error("time from " + server, error)
            manners.failed()
            asked = None  # the name may by now be another address
        else:
            clock.hear(minute, us, error_us, ticks_us)
            keeper = clock.keeper
            if keeper.doubtful:
                log.info("time from %s differs; asking again" % server)
                manners.doubted()
            else:
                manners.succeeded()
                # The chip's own clock, too: the dates of certificates are checked against it.
                keeper.read(time.ticks_us())
                walltime.set_ms(machine.RTC(), keeper.minute * 60_000 + keeper.us // 1000)
        await asyncio.sleep_ms(manners.wait_ms(os.urandom(1)[0]))


async def _wake() -> None:
    """Send something to the router, so that an idle radio and the address tables are awake for the exchange after it.

    An answer to a sleeping radio waits for the next beacon, a tenth of a second and more, which counts as way back. The
    packet goes to the router, and not to the time server, which must not be asked twice within 15 s.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.sendto(b"\0", (network.WLAN(network.STA_IF).ifconfig()[2], DISCARD_PORT))
    except OSError as error:  # no router in this network: then the first exchanges are slow, and count as such
        log.info("the radio could not be woken: %r" % error)
    finally:
        sock.close()
    await asyncio.sleep_ms(WAKE_MS)


class LookUp:
    """Looks names up in a thread: the chip's `getaddrinfo` blocks for seconds, but lets other threads run meanwhile."""

    def __init__(self) -> None:
        self._busy = False
        self._found: object = None  # an address, or the exception

    async def find(self, host: str, port: int, timeout_ms: int) -> tuple:
        """The address of a datagram socket. OSError if there is none, or not in time; one thread at a time runs."""
        if host.replace(".", "").isdigit():
            return self._resolve(host, port)
        end = time.ticks_add(time.ticks_ms(), timeout_ms)
        while self._busy:  # an earlier one that was given up
            await self._nap(end)
        self._busy = True
        self._found = None
        try:
            _thread.start_new_thread(self._run, (host, port))
        except (OSError, MemoryError):
            self._busy = False
            raise OSError("no memory for looking up " + host)
        while self._busy:
            await self._nap(end)
        if isinstance(self._found, tuple):
            return self._found
        raise OSError("%s was not found: %s" % (host, self._found))

    async def _nap(self, end) -> None:
        if time.ticks_diff(end, time.ticks_ms()) <= 0:
            raise OSError("a name is being looked up for too long")
        await asyncio.sleep_ms(LOOK_UP_NAP_MS)

    def _run(self, host: str, port: int) -> None:
        try:
            self._found = self._resolve(host, port)
        except Exception as error:  # whatever it is, the one who waits is told
            self._found = error
        self._busy = False

    def _resolve(self, host: str, port: int) -> tuple:
        return socket.getaddrinfo(host, port, 0, socket.SOCK_DGRAM)[0][-1]
