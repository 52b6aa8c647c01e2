"""Station on one of several known networks; the one that worked last is tried first, after a loss of power, too."""

import _thread
import asyncio
from time import ticks_add, ticks_diff, ticks_ms

from device import log

_POLL_MS = 100
_LEAST_TRY_MS = 4000  # joining takes about 1.6 s with DHCP; a busy access point two or three times that
_SCAN_MS = 20_000  # the chip takes some seconds for all channels


class Wifi:
    """`networks`: list of {"ssid", "password"}; `wlan`: a network.WLAN of the station interface. `memory`: path of a
    file that keeps the name of the one that worked last, written when it is another; None: it is not kept.

    `missing`: the last attempt to join one failed, or there is none to join.
    """

    def __init__(self, networks: list, wlan, memory=None):
        self._networks = list(networks)
        self._wlan = wlan
        self._memory = memory
        self._kept = None  # what is in the file
        self.missing = not self._networks
        self._using = asyncio.Lock()  # one attempt at a time
        self._asked = False  # for something else than the attempt that goes on
        self._given_way = False
        self._seen: object = None  # what a scan found, or the exception that ended it
        if memory is not None:
            try:
                with open(memory) as file:
                    self._kept = file.read(32)
            except (OSError, ValueError):
                pass  # none has worked yet, or the file is not text: the order of the configuration is as good
            known = [network for network in self._networks if network["ssid"] == self._kept]
            self._networks = known + [network for network in self._networks if network not in known]

    def rssi_dbm(self):
        """Strength of the network joined, or None."""
        return self._wlan.status("rssi") if self._wlan.isconnected() else None

    def connected(self) -> bool:
        return self._wlan.isconnected()

    def off(self):
        """The radio off, until the next `connect`."""
        self._wlan.active(False)

    async def connect(self, timeout_s) -> bool:
        """Join a network unless joined already. True when connected; False after `timeout_s` (which the networks
        share, but each gets 4 s while it lasts).
        """
        async with self._using:
            joined = await self._connect(timeout_s)
        self.missing = not joined
        return joined

    async def _connect(self, timeout_s):
        wlan = self._wlan
        self._given_way = False
        wlan.active(True)
        if wlan.isconnected():
            return True
        end = ticks_add(ticks_ms(), int(timeout_s * 1000))
        for tried, network in enumerate(list(self._networks)):
            left_ms = ticks_diff(end, ticks_ms())
            if left_ms <= 0 or self._asked:
                break
            share_ms = min(left_ms, max(_LEAST_TRY_MS, left_ms // (len(self._networks) - tried)))
            if await self._try(network, ticks_add(ticks_ms(), share_ms)):
                return True
        wlan.disconnect()  # or the chip goes on trying the last one for ever, and the radio with it
        return False

    async def _try(self, network, end):
        self._wlan.disconnect()
        self._wlan.connect(network["ssid"], network["password"])
        if not await self._joined(end):
            return False
        self._networks = [network] + [known for known in self._networks if known["ssid"] != network["ssid"]]
        self._keep(network["ssid"])
        return True

    def give_way(self):
        """What `learn` is at ends early, and writes nothing."""
        self._given_way = True

    async def learn(self, network: dict, timeout_s) -> bool:
        """Join this network now, and know it from then on, instead of one of the same name. False: not within time, or
        it had to give way.
        """
        self._given_way = False
        await self._take()
        try:
            self._wlan.active(True)
            joined = not self._given_way and await self._try(network, ticks_add(ticks_ms(), timeout_s * 1000))
            if not joined:
                self._wlan.disconnect()
            self.missing = not joined
            return joined
        finally:
            self._using.release()

    async def scan(self) -> list:
        """[(ssid, strength in dBm, whether it is closed)], the strongest of each name first; [] where it failed.

        Some seconds, which the chip spends in a thread: the loop goes on.
        """
        await self._take()
        try:
            self._wlan.active(True)
            self._seen = None
            _thread.start_new_thread(self._scan, ())
            end = ticks_add(ticks_ms(), _SCAN_MS)
            while self._seen is None and ticks_diff(end, ticks_ms()) > 0:
                await asyncio.sleep_ms(_POLL_MS)
        except OSError as e:
            self._seen = e  # no memory for a thread
        finally:
            self._using.release()
        if not isinstance(self._seen, list):
            log.error("looking for networks", self._seen)
            return []
        found: list = []
        for one in sorted(self._seen, key=lambda one: -one[3]):
            try:
                name = one[0].decode()
            except UnicodeError:
                continue  # could not be told to anybody
            if name and name not in [known[0] for known in found]:
                found.append((name, one[3], one[4] != 0))
        return found

    def _scan(self):
        try:
            self._seen = self._wlan.scan()
        except Exception as e:  # whatever it is, the one who waits is told
            self._seen = e

    async def _take(self):
        """Have the radio to oneself; an attempt to join that goes on ends early."""
        self._asked = True
        try:
            await self._using.acquire()
        finally:
            self._asked = False

    def _keep(self, ssid):
        if self._memory is None or ssid == self._kept:
            return
        try:
            with open(self._memory, "w") as file:
                file.write(ssid)
        except OSError as e:
            log.error("keeping the name of the network", e)  # a full flash; it is only slower the next time
        self._kept = ssid

    async def _joined(self, end):
        while ticks_diff(end, ticks_ms()) > 0:
            await asyncio.sleep_ms(_POLL_MS)
            if self._asked or self._given_way:
                break
            if self._wlan.isconnected():
                return True
        return False
