#!/usr/bin/env python3
"""Draws docs/a-note.svg: a note on its way, as the simulated pendant and the real server did it while this ran.

.venv/bin/python tools/film_strip.py docs/a-note.svg
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import wave
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "boards"), str(ROOT / "tools")]

from server_process import DEMO_MODEL, ServerProcess, WebhookReceiver  # noqa: E402
from sim.board import Board, Edge, duration_s  # noqa: E402

SPEECH = ROOT / "tests" / "speech" / "remind-me-to-call-mum-tomorrow.wav"
WIFI = {"ssid": "home", "password": "in-the-air-of-one-machine"}
WIDTH, HEIGHT, GAP = 186, 170, 8
INK, DIM, RED, PAPER = "#1b1b1b", "#777777", "#d3452c", "#f6f3ec"


class Story(NamedTuple):
    """What happened. Times in ms: from the press to the light, and from letting go to stored and delivered."""

    light_ms: float
    spoken_ms: int
    lost: int
    stored_ms: float
    note_bytes: int
    delivered_ms: float
    text: str


def happen(folder: Path) -> Story:
    """Speak a sentence into the simulated pendant, and wait for the webhook."""
    with ServerProcess(folder / "server", model=DEMO_MODEL) as server, WebhookReceiver() as receiver:
        server.add_destination(receiver.url)
        device = server.add_device("pendant", "pendant")
        config = {
            "app": "pendant", "device": device.id, "token": device.token, "wifi": [WIFI],
            "server": {"host": "127.0.0.1", "port": server.device_port},
        }  # fmt: skip
        description = json.loads((ROOT / "boards" / "xiao-esp32s3" / "board.json").read_text())
        with Board(
            folder / "board", board=description, config=config, files={"server.der": device.certificate}
        ) as board:
            board.start()
            board.run(5)
            pressed_us = board.now_us
            board.press()
            board.run(0.5)
            board.speak(SPEECH)
            board.run(duration_s(SPEECH) + 0.3)
            released_us = board.now_us
            board.release()
            board.run_until(lambda: "stored " in board.console, 30, step_s=0.01)
            stored_us = board.now_us
            board.run_until(lambda: "delivered " in board.console, 60, step_s=0.01)
            delivered_us = board.now_us
            (got,) = receiver.wait(1)
            spoken = re.search(r"recorded (\d+) ms, lost (\d+) samples", board.console)
            assert spoken is not None
            lit = next(edge for edge in board.edges if is_light(edge, description) and edge.t_us >= pressed_us)
            (note,) = server.data.rglob(got.json["data"]["id"] + "*")
            return Story(
                (lit.t_us - pressed_us) / 1000, int(spoken[1]), int(spoken[2]), (stored_us - released_us) / 1000,
                note.stat().st_size, (delivered_us - released_us) / 1000, got.json["data"]["text"],
            )  # fmt: skip


def is_light(edge: Edge, board: dict) -> bool:
    """Whether the light went on with it."""
    return edge.pin == board["pins"]["light"] and bool(edge.level) != board["light_active_low"]


def text(x: float, y: float, words: str, size: int = 12, color: str = INK, weight: str = "normal") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" font-weight="{weight}" '
        f'text-anchor="middle">{escape(words)}</text>'
    )


def pendant(x: float, lit: bool, pressed: bool) -> str:
    """The pendant: a case on a cord, its button and its light."""
    light = RED if lit else "#c9c4b8"
    return (
        f'<path d="M{x - 18} 34 Q{x} 62 {x + 18} 34" fill="none" stroke="{DIM}"/>'
        f'<rect x="{x - 17}" y="50" width="34" height="50" rx="12" fill="white" stroke="{INK}" stroke-width="1.5"/>'
        f'<circle cx="{x}" cy="64" r="4" fill="{light}"/>'
        f'<circle cx="{x}" cy="{84 + pressed}" r="8" fill="{"#d8d2c4" if pressed else "white"}" stroke="{INK}"/>'
    )


def sound(x: float, width: float) -> str:
    """The sentence's level, from its file."""
    with wave.open(str(SPEECH)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    bars = 42
    levels = [float(np.sqrt(np.mean(piece**2))) for piece in np.array_split(samples, bars)]
    step = width / bars
    lines = "".join(
        f"M{x + step * number:.1f} {76 - 24 * level / max(levels):.1f}v{48 * level / max(levels):.1f}"
        for number, level in enumerate(levels)
    )
    return f'<path d="{lines}" stroke="{RED}" stroke-width="2"/>'


def draw(story: Story) -> str:
    """The strip of five frames, as SVG."""
    sentence = story.text.split()
    half = (len(sentence) + 1) // 2
    frames = (
        ("Press", pendant(93, True, True), f"light on after {story.light_ms:.0f} ms", "then what is heard is valid"),
        ("Speak", pendant(38, True, True) + sound(70, 100), f"{story.spoken_ms / 1000:.1f} s in memory",
         f"{story.lost} samples lost"),
        ("Let go", pendant(93, True, False), "one flash", f"on its flash after {story.stored_ms / 1000:.1f} s"),
        ("Sent", pendant(50, True, False) + '<path d="M80 76h46m-8 -6l8 6l-8 6" fill="none" stroke="#1b1b1b"/>'
         '<rect x="136" y="56" width="28" height="40" rx="3" fill="white" stroke="#1b1b1b"/>'
         '<path d="M141 66h18m-18 8h18m-18 8h18" stroke="#777777"/>',
         f"{story.note_bytes / 1000:.0f} kB, confirmed", f"two flashes, {story.delivered_ms:.0f} ms after"),
        ("Written", '<rect x="18" y="46" width="150" height="58" rx="8" fill="white" stroke="#1b1b1b"/>'
         + text(93, 72, " ".join(sentence[:half]), 13) + text(93, 90, " ".join(sentence[half:]), 13),
         "in your assistant's inbox,", "by a signed webhook"),
    )  # fmt: skip
    parts = []
    for number, (title, picture, first, second) in enumerate(frames):
        parts.append(
            f'<g transform="translate({GAP + number * (WIDTH + GAP)} {GAP})">'
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{PAPER}"/>'
            + text(WIDTH / 2, 24, title, 15, weight="bold") + picture
            + text(WIDTH / 2, 130, first) + text(WIDTH / 2, 150, second, color=DIM) + "</g>"
        )  # fmt: skip
    whole = (len(frames) * (WIDTH + GAP) + GAP, HEIGHT + 2 * GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole[0]} {whole[1]}" font-family="sans-serif">'
        "<title>A note on its way, on the simulated pendant</title>"
        f'<rect width="{whole[0]}" height="{whole[1]}" fill="{INK}"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit((__doc__ or "").strip())
    with tempfile.TemporaryDirectory() as folder:
        story = happen(Path(folder))
    Path(sys.argv[1]).write_text(draw(story), encoding="utf-8")
    print(story)


if __name__ == "__main__":
    main()
