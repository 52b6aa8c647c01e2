"""`clock.py plot`: the modes drawn, the hand against true time, as SVG that is readable light and dark."""

from __future__ import annotations

import argparse
import ast
import sys
import textwrap
from html import escape
from pathlib import Path
from typing import Any

import clock_plan
from clock import modes

OTHERS = 7  # minutes of other hours, drawn faintly behind the one
APART = 61  # minutes from one of them to the next, so that each is of another hour

COLUMNS = 3
MARGIN, GAP = 32, 16
CARD_W, CARD_H = 316, 244
HEADER_H = 108
CHART_X, CHART_Y = 46, 84  # in the card
CHART_W, CHART_H = 252, 104
TICKS_H = 14
LIMITS_S = (2, 3, 5, 7, 10, 15, 20, 30, 60)  # what an axis may end with

STYLE = """
svg { --page: #f6f5f1; --card: #ffffff; --ink: #1d2329; --soft: #5f6a73; --line: #d9dcdb;
  --ahead: #0b7a6f; --behind: #c2570c }
@media (prefers-color-scheme: dark) {
  svg { --page: #12161a; --card: #1b2127; --ink: #eceff1; --soft: #9aa6b0; --line: #36404a;
    --ahead: #3fd0bd; --behind: #ff9d57 }
}
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-size: 11px;
  fill: var(--soft) }
.page { fill: var(--page) } .card { fill: var(--card); stroke: var(--line) }
.head { font-size: 22px; font-weight: 650; fill: var(--ink) } .lead { font-size: 13px }
.name { font-size: 15px; font-weight: 650; fill: var(--ink) } .number { text-anchor: end }
.y { text-anchor: end } .x { text-anchor: middle } .axis, .ahead, .behind { font-size: 10px }
.ahead { fill: var(--ahead) } .behind { fill: var(--behind) } .key { font-size: 13px; font-weight: 600 }
.grid { stroke: var(--line); stroke-width: 1 } .zero { stroke: var(--soft); stroke-width: 1 }
.others { fill: none; stroke: var(--soft); stroke-width: 1; opacity: .4 }
.area { fill: url(#side); opacity: .16 }
.hand { fill: none; stroke: url(#side); stroke-width: 1.3; stroke-linejoin: round }
.ticks { stroke: var(--ink); stroke-width: 1; opacity: .75 }
.up { stop-color: var(--ahead) } .down { stop-color: var(--behind) }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", default="all", help="all (the default), or one of: " + ", ".join(modes.files()))
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg", help="the file to write")
    parser.add_argument("--seed", type=clock_plan.integer(0), default=1, help="the configuration's seed (default 1)")
    clock_plan.add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    try:
        settings = clock_plan.settings(arguments)
        names = modes.files() if arguments.mode == "all" else [arguments.mode]
        picture = draw([(name, modes.load(name, settings)) for name in names], arguments.seed)
    except ValueError as error:
        print(f"clock.py plot: {error}", file=sys.stderr)
        return 2
    try:
        arguments.out.write_text(picture, encoding="utf-8")
    except OSError as error:
        print(
            f"clock.py plot: {arguments.out} cannot be written ({error.strerror}): choose another --out",
            file=sys.stderr,
        )
        return 2
    return 0


def sentence(name: str) -> str:
    """What a mode does, in the words of its file: the first paragraph, without the full stop."""
    source = Path(next(iter(modes.__path__)), f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ").rstrip(".")


def draw(pairs: list[tuple[str, Any]], seed: int = 1) -> str:
    """The SVG of these modes (name, mode), a card each."""
    columns = min(COLUMNS, len(pairs))
    width = 2 * MARGIN + columns * CARD_W + (columns - 1) * GAP
    header_h = HEADER_H if columns == COLUMNS else MARGIN // 2
    rows = -(-len(pairs) // columns)
    height = header_h + rows * (CARD_H + GAP) - GAP + (MARGIN if columns == COLUMNS else MARGIN // 2)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img">',
        f"<title>The clock's modes: {', '.join(name for name, _ in pairs)}</title>",
        "<desc>For each mode how far the hand is ahead of true time or behind it, over a minute, and its ticks.</desc>",
        f"<style>{STYLE}</style>",
        '<defs><linearGradient id="side" gradientUnits="userSpaceOnUse" x1="0" x2="0" y1="-1" y2="1">'
        '<stop class="up" offset="0.5"/><stop class="down" offset="0.5"/></linearGradient></defs>',
        f'<rect class="page" width="{width}" height="{height}"/>',
    ]
    if columns == COLUMNS:
        out += [
            f'<text class="head" x="{MARGIN}" y="44">One minute of each mode</text>',
            f'<text class="lead" x="{MARGIN}" y="69">The second hand against true time: '
            '<tspan class="ahead key">above the line it is ahead</tspan>, '
            '<tspan class="behind key">below it is behind</tspan>, and as the minute ends it is exact.</text>',
            f'<text class="lead" x="{MARGIN}" y="89">Between two ticks a hand stands, and so falls behind. '
            "The strokes are the ticks; the faint lines are minutes of other hours.</text>",
        ]
    for number, (name, mode) in enumerate(pairs):
        x = MARGIN + number % columns * (CARD_W + GAP)
        y = header_h + number // columns * (CARD_H + GAP)
        out += [f'<g transform="translate({x} {y})">', *card(modes.files().index(name) + 1, name, mode, seed), "</g>"]
    return "\n".join([*out, "</svg>", ""])


def card(number: int, name: str, mode: Any, seed: int) -> list[str]:
    """One mode: its name, what it does, the curve, the ticks."""
    plans = [next(clock_plan.minutes(mode, seed, 60 + APART * index, 1)) for index in range(OTHERS + 1)]
    others = [plan for plan in plans[1:] if plan != plans[0]]
    highest = max(tick + 1 - time_ms / 1000 for plan in (plans[0], *others) for tick, time_ms in enumerate(plan))
    lowest = min(tick - time_ms / 1000 for plan in (plans[0], *others) for tick, time_ms in enumerate(plan))
    top = next(limit for limit in LIMITS_S if limit >= highest)
    bottom = next(limit for limit in LIMITS_S if limit >= -lowest)
    scale = CHART_H / (top + bottom)
    hand, corners = sawtooth(plans[0], scale)
    out = [
        f'<rect class="card" x="0.5" y="0.5" width="{CARD_W - 1}" height="{CARD_H - 1}" rx="10"/>',
        f'<text class="name" x="16" y="28">{escape(name)}</text>',
        f'<text class="number" x="{CARD_W - 16}" y="28">{number}</text>',
    ]
    for row, line in enumerate(textwrap.wrap(sentence(name), 54)):
        out.append(f'<text x="16" y="{46 + 14 * row}">{escape(line)}</text>')
    out.append(f'<g transform="translate({CHART_X} {CHART_Y + top * scale:.1f})">')
    for value in (top, -bottom):
        y = -value * scale
        sign, side = ("+", "ahead") if value > 0 else ("−", "behind")
        if abs(y) > 12:  # nearer, the two labels would touch
            out.append(f'<path class="grid" d="M0 {y:.1f}H{CHART_W}"/>')
            out.append(f'<text class="y {side}" x="-7" y="{y + 3.5:.1f}">{sign}{abs(value)} s</text>')
    for plan in others:
        out.append(f'<path class="others" d="{outline(plan, scale)}"/>')
    out += [
        f'<path class="area" d="{corners}"/>',
        f'<path class="zero" d="M0 0H{CHART_W}"/>',
        '<text class="y axis" x="-7" y="3.5">exact</text>',
        f'<path class="hand" d="{hand}"/>',
        "</g>",
        f'<g transform="translate({CHART_X} {CHART_Y + CHART_H + 12})">',
        f'<path class="ticks" d="{"".join(f"M{at(time_ms)} 0v{TICKS_H}" for time_ms in plans[0])}"/>',
    ]
    for second in range(0, 61, 15):
        unit = " s" if second == 60 else ""
        out.append(f'<text class="x axis" x="{at(second * 1000)}" y="{TICKS_H + 15}">{second}{unit}</text>')
    out.append("</g>")
    return out


def at(time_ms: int) -> str:
    """The place of a time on the axis."""
    return f"{time_ms * CHART_W / 60_000:.1f}"


def sawtooth(plan: list[int], scale: float) -> tuple[str, str]:
    """The hand's line, falling behind by a second a second and ahead by one at each tick; and the area it encloses."""
    line = ["M0 0"]
    for tick, time_ms in enumerate(plan):
        behind = (time_ms / 1000 - tick) * scale
        line.append(f"L{at(time_ms)} {behind:.1f}V{behind - scale:.1f}")
    return "".join(line), "".join(line) + "L0 0Z"


def outline(plan: list[int], scale: float) -> str:
    """A line through the middles of the jumps."""
    points = [f"{at(time_ms)} {(time_ms / 1000 - tick - 0.5) * scale:.1f}" for tick, time_ms in enumerate(plan)]
    return "M" + "L".join(points)
