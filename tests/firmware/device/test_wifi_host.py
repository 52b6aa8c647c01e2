"""Which network is tried when. On CPython alone, which lacks `time.ticks_ms`: it is put in, as a clock that is set."""

import asyncio
import sys
import time
from pathlib import Path

import pytest


class Wlan:
    """Stands for network.WLAN: `air` are the networks that can be joined, `tried` those that were."""

    def __init__(self) -> None:
        self.air: set[str] = set()
        self.tried: list[str] = []
        self.wanted = ""

    def active(self, on: bool) -> None:
        assert on

    def isconnected(self) -> bool:
        return self.wanted in self.air

    def connect(self, ssid: str, password: str) -> None:
        assert password == ssid * 2
        self.tried.append(ssid)
        self.wanted = ssid

    def disconnect(self) -> None:
        self.wanted = ""


def test_the_network_that_worked_last_is_tried_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0]

    async def sleep_ms(ms: int) -> None:
        now[0] += ms

    monkeypatch.setattr(time, "ticks_ms", lambda: now[0], raising=False)
    monkeypatch.setattr(time, "ticks_add", lambda ticks, ms: ticks + ms, raising=False)
    monkeypatch.setattr(time, "ticks_diff", lambda later, earlier: later - earlier, raising=False)
    monkeypatch.setattr(asyncio, "sleep_ms", sleep_ms, raising=False)
    monkeypatch.delitem(sys.modules, "device.wifi", raising=False)
    from device.wifi import Wifi

    wlan = Wlan()
    wifi = Wifi([{"ssid": ssid, "password": ssid * 2} for ssid in ("home", "cafe", "phone")], wlan)

    def tried(*air: str) -> tuple[bool, list[str], float]:
        wlan.air, wlan.tried, began_ms = set(air), [], now[0]
        return asyncio.run(wifi.connect(20)), wlan.tried, (now[0] - began_ms) / 1000

    joined, order, took_s = tried("cafe")
    assert joined and order == ["home", "cafe"] and took_s < 10
    assert tried("cafe") == (True, [], 0)  # joined already
    joined, order, took_s = tried()
    assert not joined and order == ["cafe", "home", "phone"] and 19 < took_s < 21
    assert wlan.wanted == "", "the radio goes on trying"
    joined, order, took_s = tried("cafe", "home")
    assert joined and order == ["cafe"] and took_s < 1

    memory = tmp_path / "network"
    for _ in range(2):
        for air, expected in (
            ("phone", ["home", "cafe", "phone"]),
            ("phone", ["phone"]),
            ("cafe", ["phone", "home", "cafe"]),
        ):
            wlan.wanted = ""
            wifi = Wifi([{"ssid": ssid, "password": ssid * 2} for ssid in ("home", "cafe", "phone")], wlan, str(memory))
            wlan.air, wlan.tried = {air}, []
            assert asyncio.run(wifi.connect(20)) and wlan.tried == expected
            assert memory.read_text() == air
        memory.write_bytes(b"\xff\xfe\x00")  # nothing that is known


def test_a_press_ends_the_joining_of_a_network_that_is_learnt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At each moment of it. Nothing is written then, for that would lose sound."""
    now, press_at = [0], [0]

    async def sleep_ms(ms: int) -> None:
        now[0] += ms
        if now[0] == press_at[0]:
            wifi.give_way()
        if now[0] == 500:
            wlan.air = {"home"}

    monkeypatch.setattr(time, "ticks_ms", lambda: now[0], raising=False)
    monkeypatch.setattr(time, "ticks_add", lambda ticks, ms: ticks + ms, raising=False)
    monkeypatch.setattr(time, "ticks_diff", lambda later, earlier: later - earlier, raising=False)
    monkeypatch.setattr(asyncio, "sleep_ms", sleep_ms, raising=False)
    monkeypatch.delitem(sys.modules, "device.wifi", raising=False)
    from device.wifi import Wifi

    memory = tmp_path / "network"
    home = {"ssid": "home", "password": "homehome"}
    for press_at[0] in (100, 300, 500, 600):
        now[0], wlan = 0, Wlan()
        wifi = Wifi([], wlan, str(memory))
        joined = asyncio.run(wifi.learn(home, 15))
        assert joined == memory.exists() == (press_at[0] == 600) and now[0] == min(press_at[0], 500)
    press_at[0] = 0
    wifi.give_way()
    assert asyncio.run(wifi.connect(20)) and asyncio.run(wifi.learn(home, 15)), "it gives way for ever"
