"""Figures for Prometheus, counted from the tables when they are asked for."""

from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from offbeat import __version__
from offbeat.store import Store, deliveries, devices, notes, now_ms

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# Durations are of what ended within the last hour.
RECENT_MS = 3_600_000
NOTE_STATES = ("receiving", "received", "transcribing", "transcribed", "delivered", "deleted")
DELIVERY_STATES = ("pending", "delivered", "in_doubt", "ended")


class _Figures(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        now = now_ms()
        info = GaugeMetricFamily("offbeat_info", "Always 1.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        with self._store.read() as connection:
            for name, table, known in (("notes", notes, NOTE_STATES), ("deliveries", deliveries, DELIVERY_STATES)):
                counted = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
                counts = dict.fromkeys(known, 0) | {state: count for state, count in connection.execute(counted)}
                family = GaugeMetricFamily(f"offbeat_{name}", f"{name.capitalize()} by state.", labels=["state"])
                for state, count in counts.items():
                    family.add_metric([state], count)
                yield family
            waiting = notes.c.state.in_(("received", "transcribing"))
            aside = sa.select(sa.func.count()).where(waiting, notes.c.set_aside.is_(True))
            yield GaugeMetricFamily(
                "offbeat_notes_set_aside", "Notes that nobody works on any more.", connection.scalar(aside) or 0
            )
            for name, text, oldest in (
                (
                    "notes",
                    "Age of the oldest note that waits for its text.",
                    sa.select(sa.func.min(notes.c.received_ms)).where(waiting, notes.c.set_aside.is_(False)),
                ),
                (
                    "deliveries",
                    "Age of the oldest delivery that is not done.",
                    sa.select(sa.func.min(deliveries.c.created_ms)).where(deliveries.c.state == "pending"),
                ),
            ):
                since = connection.scalar(oldest)
                age_s = 0.0 if since is None else max(0, now - since) / 1000
                yield GaugeMetricFamily(f"offbeat_{name}_queue_age_seconds", text, age_s)
            took = notes.c.transcribed_ms - notes.c.received_ms
            chosen = sa.select(sa.func.count(), sa.func.avg(took), sa.func.max(took)).where(
                notes.c.state.in_(("transcribed", "delivered")), notes.c.transcribed_ms > now - RECENT_MS
            )
            count, mean_ms, most_ms = connection.execute(chosen).one()
            family = GaugeMetricFamily(
                "offbeat_note_seconds", "From received to transcribed, of the last hour's notes.", labels=["of"]
            )
            for name, value_ms in (("mean", mean_ms), ("max", most_ms)):
                if value_ms is not None:
                    family.add_metric([name], float(value_ms) / 1000)
            yield family
            yield GaugeMetricFamily("offbeat_notes_last_hour", "Notes transcribed in the last hour.", count)
            silent = GaugeMetricFamily(
                "offbeat_device_contact_seconds", "Since the device's last contact.", labels=["device"]
            )
            heard_of = sa.select(devices.c.id, devices.c.contact_ms).where(
                devices.c.revoked_ms.is_(None), devices.c.contact_ms.is_not(None)
            )
            for row in connection.execute(heard_of):
                silent.add_metric([row.id], max(0, now - row.contact_ms) / 1000)
            yield silent


def exposition(store: Store) -> bytes:
    """The figures in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(store))
    return generate_latest(registry)
