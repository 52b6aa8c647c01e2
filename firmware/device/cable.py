"""Listens on the console for "Improv via Serial" while the board is without WiFi, and joins what it is told.

The number of a command's packet is that of Ctrl-C, so Ctrl-C does not interrupt the program meanwhile; where one comes
outside of a packet, as from mpremote or a person, it is raised here, half a second later at the most.
"""

import asyncio
import json
import select
import sys
from time import ticks_diff, ticks_ms

import micropython
from device import config, improv, log
from device.twin import replace

NAP_MS = 500  # between looks while nothing comes: what comes then waits in the chip's 260 bytes
BRIEF_NAP_MS = 20  # while somebody talks
TALK_MS = 60_000  # how long after the last packet somebody counts as talking; WiFi found or not
GAP_MS = 2000  # within a packet
JOIN_S = 15
MOST_NETWORKS = 16  # as config.json may hold


class Cable:
    """`wifi`: a device.wifi.Wifi. `about`: firmware's name, version, board, this device's name. `quiet`: an async
    function that waits for a moment in which the flash may be written and a network joined. `listen` is the task.
    """

    def __init__(self, wifi, about, quiet, console=None, path="/config.json"):
        """console: (readable stream of bytes, writable one), or None for the board's own."""
        self._wifi = wifi
        self._about = about
        self._quiet = quiet
        self._source = console[0] if console else sys.stdin.buffer
        self._sink = console[1] if console else sys.stdout.buffer
        self._path = path
        self._parser = improv.Parser()
        self._poll = select.poll()
        self._poll.register(self._source, select.POLLIN)
        self._heard_at = None  # ticks_ms of the last packet

    async def listen(self):
        """For ever, or until the console has ended."""
        there = True
        while there:
            if self._wifi.missing:
                micropython.kbd_intr(-1)
                try:
                    there = await self._serve()
                finally:
                    micropython.kbd_intr(3)
            await asyncio.sleep_ms(NAP_MS)

    async def _serve(self) -> bool:
        """Until there is WiFi again and nobody talks; whether the console is still there."""
        byte_at = ticks_ms()
        while self._wifi.missing or self.talking():
            while self._poll.poll(0):
                byte = self._source.read(1)  # one by one: what follows a Ctrl-C is for the prompt
                if not byte:
                    return False
                byte_at = ticks_ms()
                seen = self._parser.feed(byte[0])
                if seen == improv.INTERRUPT:
                    raise KeyboardInterrupt
                if seen is not None:
                    self._heard_at = byte_at
                    await self._answer(seen[0], seen[1])
            if self._parser.inside and ticks_diff(ticks_ms(), byte_at) > GAP_MS:
                self._parser.drop()
            brief = self._parser.inside or self.talking()
            await asyncio.sleep_ms(BRIEF_NAP_MS if brief else NAP_MS)
        return True

    def talking(self) -> bool:
        """Whether somebody tells it a network, as far as is known: for up to TALK_MS after the last packet."""
        if self._heard_at is not None and ticks_diff(ticks_ms(), self._heard_at) >= TALK_MS:
            self._heard_at = None
        return self._heard_at is not None

    def _send(self, data):
        self._sink.write(data)

    def _send_error(self, code):
        self._send(improv.packet(improv.ERROR, bytes((code,))))

    def _send_state(self, state=None):
        if state is None:
            state = improv.PROVISIONED if self._wifi.connected() else improv.READY
        self._send(improv.packet(improv.STATE, bytes((state,))))

    async def _answer(self, kind, data):
        if kind == improv.ERROR and data == improv.INVALID:
            self._send_error(data)
        if kind != improv.COMMAND:
            return  # what a device says, heard as an echo
        try:
            command, brings = improv.command(data)
            if command == improv.SEND_WIFI:
                ssid, password = improv.wifi_settings(brings)
                network = {"ssid": ssid, "password": password}
                config.check_some({"wifi": [network]})
        except ValueError as error:  # ConfigError is one
            log.info("Improv: %s" % error)
            self._send_error(improv.INVALID)
            return
        self._send_error(improv.NO_ERROR)
        if command == improv.SEND_WIFI:
            await self._join(network)
        elif command == improv.GET_STATE:
            self._send_state()
            if self._wifi.connected():
                self._send(improv.result(command, ()))
        elif command == improv.GET_INFO:
            self._send(improv.result(command, self._about))
        elif command == improv.SCAN:
            await self._quiet()
            for ssid, rssi_dbm, closed in await self._wifi.scan():
                self._send(improv.result(command, (ssid, str(rssi_dbm), "YES" if closed else "NO")))
            self._send(improv.result(command, ()))
        else:
            self._send_error(improv.UNKNOWN)

    async def _join(self, network):
        self._send_state(improv.PROVISIONING)
        await self._quiet()
        joined = await self._wifi.learn(network, JOIN_S)
        self._heard_at = ticks_ms()
        if joined:
            try:
                await self._quiet()
                remember(network, self._path)
            except OSError as error:
                log.error("the network is joined, but could not be kept", error)
                self._send_error(0xFF)
            self._send_state()
            self._send(improv.result(improv.SEND_WIFI, ()))
        else:
            self._send_error(improv.UNABLE)
            self._send_state()


def remember(network: dict, path: str):
    """Put a network first in the configuration, instead of one of the same name. OSError: it could not be kept."""
    with open(path) as file:
        kept = json.load(file)
    others = [known for known in kept["wifi"] if known["ssid"] != network["ssid"]]
    kept["wifi"] = [network] + others[: MOST_NETWORKS - 1]
    replace(path, json.dumps(kept).encode())
