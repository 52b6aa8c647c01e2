#!/usr/bin/env python3
"""The pendant on your desk: what it does through presses, outages, a server that misbehaves, and cuts of power.

    python tools/pendant.py encode IN.wav OUT.wav
    python tools/pendant.py plot NOTE.wav --out FILE.svg
    python tools/pendant.py simulate --sequences 20 --faults 1

Each subcommand is a file of its own, imported when it is chosen, with `add_arguments(parser)` and `run(arguments)`,
which returns the exit status. The firmware's package is called `pendant` like this command: it comes first on the path,
so `import pendant` is never this file.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

COMMANDS = {
    "encode": ("pendant_encode", "run a sound file through the firmware's capture path and encoder, into a note"),
    "plot": ("pendant_plot", "draw a note's level over time, with gaps and clipping, as SVG"),
    "simulate": ("pendant_simulation", "press, break and cut at random, and count what became of each note"),
}


def main(words: list[str]) -> int:
    """Run one subcommand; its exit status, 2 for words that are not understood."""
    parser = argparse.ArgumentParser(prog="pendant.py", description=(__doc__ or "").split("\n\n")[0])
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="{" + ",".join(COMMANDS) + "}")
    run = None
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if words[:1] == [name]:
            module = importlib.import_module(module_name)
            module.add_arguments(subparser)
            run = module.run
    arguments = parser.parse_args(words)
    if run is None:
        parser.error("the subcommand comes first")
    return int(run(arguments))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "firmware"), str(ROOT / "boards"), str(ROOT / "tools")]
    try:
        sys.exit(main(sys.argv[1:]))
    except ModuleNotFoundError as error:
        sys.exit(f"pendant.py: {error}. Run `make setup`, then .venv/bin/python tools/pendant.py")
    except BrokenPipeError:
        sys.exit(0)  # the reader, such as head, has had enough
