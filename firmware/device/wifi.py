"""Station on one of several known networks; the one that worked last is tried first."""

import asyncio
from time import ticks_add, ticks_diff, ticks_ms

_POLL_MS = 100
_LEAST_TRY_MS = 4000  # joining takes about 1.6 s with DHCP; a busy access point two or three times that


class Wifi:
    """`networks`: list of {"ssid", "password"}; `wlan`: a network.WLAN of the station interface."""

    def __init__(self, networks: list, wlan):
        self._networks = list(networks)
        self._wlan = wlan

    def connected(self) -> bool:
        return self._wlan.isconnected()

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
                return True
        wlan.disconnect()  # or the chip goes on trying the last one for ever, and the radio with it
        return False

    async def _joined(self, end):
        while ticks_diff(end, ticks_ms()) > 0:
            await asyncio.sleep_ms(_POLL_MS)
            if self._wlan.isconnected():
                return True
        return False
