"""Station on one of several known networks; the one that worked last is tried first, after a loss of power, too."""

import asyncio
from time import ticks_add, ticks_diff, ticks_ms

from device import log

_POLL_MS = 100
_LEAST_TRY_MS = 4000  # joining takes about 1.6 s with DHCP; a busy access point two or three times that


class Wifi:
    """`networks`: list of {"ssid", "password"}; `wlan`: a network.WLAN of the station interface. `memory`: path of a
    file that keeps the name of the one that worked last, written when it is another; None: it is not kept.
    """

    def __init__(self, networks: list, wlan, memory=None):
        self._networks = list(networks)
        self._wlan = wlan
        self._memory = memory
        self._kept = None  # what is in the file
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
        wlan = self._wlan
        wlan.active(True)
        if wlan.isconnected():
            return True
        end = ticks_add(ticks_ms(), int(timeout_s * 1000))
        for tried, network in enumerate(list(self._networks)):
            left_ms = ticks_diff(end, ticks_ms())
            if left_ms <= 0:
                break
            share_ms = min(left_ms, max(_LEAST_TRY_MS, left_ms // (len(self._networks) - tried)))
            wlan.disconnect()
            wlan.connect(network["ssid"], network["password"])
            if await self._joined(ticks_add(ticks_ms(), share_ms)):
                self._networks.remove(network)
                self._networks.insert(0, network)
                self._keep(network["ssid"])
                return True
        wlan.disconnect()  # or the chip goes on trying the last one for ever, and the radio with it
        return False

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
            if self._wlan.isconnected():
                return True
        return False
