"""`pendant.py plot`: a note's level over time, with gaps and clipping marked, to judge a microphone and its gain."""

from __future__ import annotations

import argparse
import io
import sys
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from pendant import wav

RATE_HZ = 16_000
CLIPPED = 32_600  # of 32,767: the codec rounds what was saturated
CLIPPED_RUN = 3  # samples in a row: a peak may touch the end once
FLOOR_DB = -90
# Speech should peak between these, dBFS: below, the codec's noise is near; above, a louder word is clipped.
QUIET_DB, LOUD_DB = -24, -3
SLOTS = 400  # points of the curve

WIDTH, HEIGHT = 900, 394
LEFT, TOP, CHART_W, CHART_H = 72, 108, 796, 220

STYLE = """
svg { --page: #f6f5f1; --card: #ffffff; --ink: #1d2329; --soft: #5f6a73; --line: #d9dcdb; --level: #0b7a6f;
  --bad: #c2290c }
@media (prefers-color-scheme: dark) {
  svg { --page: #12161a; --card: #1b2127; --ink: #eceff1; --soft: #9aa6b0; --line: #36404a; --level: #3fd0bd;
    --bad: #ff8a6b }
}
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-size: 12px;
  fill: var(--soft) }
.page { fill: var(--page) } .card { fill: var(--card); stroke: var(--line) }
.head { font-size: 20px; font-weight: 650; fill: var(--ink) } .verdict { font-size: 14px; fill: var(--ink) }
.y { text-anchor: end } .x { text-anchor: middle } .grid { stroke: var(--line) }
.rms { fill: var(--level); opacity: .35 } .peak { fill: none; stroke: var(--level); stroke-width: 1.4 }
.good { fill: var(--level); opacity: .09 } .clip { stroke: var(--bad); stroke-width: 2 }
.gap { fill: var(--bad); opacity: .2 } .bad { fill: var(--bad) }
"""


class NoNote(Exception):
    """The file is no note; the text says what to do."""


class Level(NamedTuple):
    """What a note's sound shows.

    peak_db, rms_db: arrays over `SLOTS` or fewer equal parts, dBFS, at least FLOOR_DB. clipped_s: the hundredths of a
    second in which it is clipped, s. loudest_db: the 99.9th percentile of the samples' sizes.
    """

    duration_s: float
    peak_db: Any
    rms_db: Any
    clipped_s: list[float]
    loudest_db: float
    lost_s: float
    missing_s: float  # that the header announces and the file does not have: it was cut off


def decibels(size: Any) -> Any:
    """Full scale is 0 dB."""
    return np.maximum(FLOOR_DB, 20 * np.log10(np.maximum(np.asarray(size, float), 1e-9) / 32768))


def measure(data: bytes) -> Level:
    """The level in a note's file. Raises NoNote."""
    found = wav.read(data[: wav.HEAD_BYTES], len(data))
    if found is None:
        raise NoNote("is no note of a pendant: give one from the server, the board, or `pendant.py encode`")
    if not found.blocks:
        raise NoNote("was cut off before any sound in it")
    end = found.data_offset + found.blocks * 256
    with av.open(io.BytesIO(data[:end]), "r") as container:
        pieces = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    sound = np.concatenate(pieces).astype(float)
    size = np.abs(sound)
    parts = np.array_split(size, min(SLOTS, max(1, len(size) // 160)))
    starts = np.flatnonzero(np.convolve(size >= CLIPPED, np.ones(CLIPPED_RUN), "valid") == CLIPPED_RUN)
    clipped = sorted({int(at) // (RATE_HZ // 100) for at in starts})
    announced_bytes = int.from_bytes(data[found.data_offset - 4 : found.data_offset], "little")
    return Level(
        duration_s=len(sound) / RATE_HZ,
        peak_db=decibels([part.max() for part in parts]),
        rms_db=decibels([np.sqrt((part**2).mean()) for part in parts]),
        clipped_s=[slot / 100 for slot in clipped],
        loudest_db=float(decibels(np.percentile(size, 99.9))),
        lost_s=found.meta.get("lost", 0) / RATE_HZ,
        missing_s=max(0, announced_bytes // 256 - found.blocks) * 505 / RATE_HZ,
    )


def verdict(level: Level) -> str:
    """What to do about the gain."""
    if level.clipped_s:
        share = len(level.clipped_s) / (100 * level.duration_s)
        step = 12 if share > 0.05 else 6
        clipped = f"{max(1, round(100 * share))} % of it is clipped"
        return f"Too loud: {clipped}. Lower gain_db by {step}, or speak from further away."
    if level.loudest_db > LOUD_DB:
        return f"Nearly too loud: {level.loudest_db:.0f} dBFS. Lower gain_db by 6."
    if level.loudest_db <= FLOOR_DB + 30:
        return "Silence: check the microphone's wires and its L/R pin."
    if level.loudest_db < QUIET_DB:
        steps = int(-(level.loudest_db + 12) // 6)
        return f"Too quiet: {level.loudest_db:.0f} dBFS. Raise gain_db by {6 * min(4, max(1, steps))}, or speak nearer."
    return f"Good: the loudest of it is at {level.loudest_db:.0f} dBFS."


def draw(name: str, level: Level) -> str:
    """The SVG."""
    whole_s = level.duration_s + level.missing_s

    def x(time_s: float) -> float:
        return LEFT + CHART_W * time_s / whole_s

    def y(db: float) -> float:
        return TOP + CHART_H * db / FLOOR_DB

    def curve(values: Any) -> list[str]:
        count = len(values)
        return [f"{x((i + 0.5) * level.duration_s / count):.1f} {y(db):.1f}" for i, db in enumerate(values)]

    bottom = TOP + CHART_H
    facts = [f"{level.duration_s:.1f} s"]
    if level.lost_s:
        facts.append(f"{level.lost_s:.2f} s lost while recording: it is not known where")
    if level.missing_s:
        facts.append(f"cut off: {level.missing_s:.1f} s are missing at the end")
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img">',
        f"<title>Level of {escape(name)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<rect class="card" x="12.5" y="12.5" width="{WIDTH - 25}" height="{HEIGHT - 25}" rx="10"/>',
        f'<text class="head" x="32" y="44">{escape(name)}</text>',
        f'<text class="verdict" x="32" y="66">{escape(verdict(level))}</text>',
        f'<text class="{"bad" if len(facts) > 1 else "soft"}" x="32" y="84">{escape("; ".join(facts))}</text>',
        f'<rect class="good" x="{LEFT}" y="{y(LOUD_DB):.1f}" width="{CHART_W}" '
        f'height="{y(QUIET_DB) - y(LOUD_DB):.1f}"/>',
    ]
    for db in range(0, FLOOR_DB - 1, -15):
        out.append(f'<path class="grid" d="M{LEFT} {y(db):.1f}H{LEFT + CHART_W}"/>')
        out.append(f'<text class="y" x="{LEFT - 8}" y="{y(db) + 4:.1f}">{db or "0 dBFS"}</text>')
    out.append(
        f'<path class="rms" d="M{x(0):.1f} {bottom}L{"L".join(curve(level.rms_db))}'
        f'L{x(level.duration_s):.1f} {bottom}Z"/>'
    )
    out.append(f'<path class="peak" d="M{"L".join(curve(level.peak_db))}"/>')
    for time_s in level.clipped_s:
        out.append(f'<path class="clip" d="M{x(time_s):.1f} {TOP - 8}v8"/>')
    if level.missing_s:
        start = x(level.duration_s)
        out.append(f'<rect class="gap" x="{start:.1f}" y="{TOP}" width="{x(whole_s) - start:.1f}" height="{CHART_H}"/>')
    step_s = next(step for step in (0.5, 1, 2, 5, 10, 30, 60, 120, 600, 3600) if whole_s / step <= 12 or step == 3600)
    for tick in range(int(whole_s / step_s) + 1):
        out.append(f'<text class="x" x="{x(tick * step_s):.1f}" y="{bottom + 18}">{tick * step_s:g} s</text>')
    out.append(
        f'<text x="{LEFT}" y="{bottom + 36}">Line: peak. Area: mean level. Band: where the loudest words belong. '
        "Strokes at the top: clipped. Shaded: missing.</text>"
    )
    return "\n".join([*out, "</svg>", ""])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("note", type=Path, metavar="NOTE.wav", help="a note of the pendant, whole or cut off")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg", help="the file to write")


def run(arguments: argparse.Namespace) -> int:
    try:
        level = measure(arguments.note.read_bytes())
        arguments.out.write_text(draw(arguments.note.name, level), encoding="utf-8")
    except NoNote as error:
        print(f"pendant.py plot: {arguments.note} {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pendant.py plot: {error.filename}: {error.strerror}: choose another file", file=sys.stderr)
        return 2
    print(verdict(level))
    return 0
