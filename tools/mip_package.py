#!/usr/bin/env python3
"""Writes firmware/package.json, by which `mpremote mip install --target / …/firmware` puts the firmware on a board."""

from __future__ import annotations

import json
from pathlib import Path

FIRMWARE = Path(__file__).resolve().parents[1] / "firmware"


def content(firmware: Path = FIRMWARE) -> str:
    """What belongs into package.json: every module of both gadgets, addressed relative to that file.

    mpremote takes relative addresses beside a package.json in a folder, at a web address and at github:, gitlab: and
    codeberg: (its mip.py).
    """
    names = sorted(path.relative_to(firmware).as_posix() for path in firmware.rglob("*.py"))
    lines = ",\n".join(f"    {json.dumps([name, name])}" for name in names)
    return f'{{\n  "urls": [\n{lines}\n  ],\n  "version": "1"\n}}\n'


if __name__ == "__main__":
    (FIRMWARE / "package.json").write_text(content(), encoding="utf-8")
