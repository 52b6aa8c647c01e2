"""What the application does over days. On CPython alone, which lacks `time.ticks_ms`: it is put in, as a clock."""

import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

PERIOD = 1 << 30
DAY_MS = 86_400_000


class Server:
    """Stands for the Upload."""

    advances = 0

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    async def check_in(self, report: dict[str, Any]) -> int:
        self.reports.append(dict(report))
        return 1_800_000_000_000


class Part:
    """Stands for the spool and the RTC."""

    waiting = 0

    def datetime(self, moment: tuple[int, ...]) -> None:
        assert moment[0] == 2027


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(time, "ticks_ms", lambda: 0, raising=False)
    monkeypatch.setattr(time, "ticks_add", lambda ticks, ms: (ticks + ms) % PERIOD, raising=False)
    monkeypatch.delitem(sys.modules, "pendant.app", raising=False)
    import pendant.app

    yield pendant.app
    del sys.modules["pendant.app"]


def test_a_check_in_after_days_without_the_server(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for days_away in (0, 1, 5, 6, 7, 9, 12, 13, 20):
        now_ms = PERIOD - 5000
        monkeypatch.setattr(app, "ticks_ms", lambda: now_ms % PERIOD)  # noqa: B023
        counter = app.Counter("0badc0de", now_ms)
        pendant = app.Pendant(None, None, None, counter, None)
        pendant.upload, pendant.spool, pendant.rtc = server, _, _ = Server(), Part(), Part()
        asyncio.run(pendant._check_in())
        for _ in range(days_away):
            now_ms += DAY_MS
            counter.at_ms(now_ms % PERIOD)  # as the watch does
        now_ms += 599_000
        asyncio.run(pendant._check_in())
        assert len(server.reports) == (1 if days_away == 0 else 2), days_away
        now_ms += 601_000
        asyncio.run(pendant._check_in())
        assert len(server.reports) == (2 if days_away == 0 else 3), days_away
