"""`tools/offbeat-board`: the subcommands and how their failures are told.

Each module in MODULES has `add_parser(subparsers)`, which adds its subcommands and sets `run` to a function of the
parsed options. It raises `Trouble`, whose text says what to do, where it cannot go on.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from board_port import LONGEST_S, WATCHDOG_S, Trouble

MODULES = ("board_flash", "board_install", "board_setup", "board_console", "board_notes")


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="offbeat-board", description="From a bare board to a working gadget, over its USB cable."
    )
    subparsers = whole.add_subparsers(metavar="COMMAND", required=True)
    for name in MODULES:
        importlib.import_module(name).add_parser(subparsers)
    return whole


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except Trouble as trouble:
        sys.exit(f"offbeat-board: {trouble}")
    except KeyboardInterrupt:
        sys.exit(
            "offbeat-board: stopped; the same command again takes it up. The board starts again; where it did not, it "
            f"does so by itself after {WATCHDOG_S // 60} minutes ({LONGEST_S // 60} in setup and test), or when it is "
            "plugged out and in"
        )
