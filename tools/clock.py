#!/usr/bin/env python3
"""The clock on your desk: what its modes plan, how they look, years of it in virtual time, and a movement calibrated.

    python tools/clock.py plan --mode vetinari --minutes 3 --seed 1
    python tools/clock.py plot --mode all --out modes.svg
    python tools/clock.py simulate --help
    python tools/clock.py calibrate --help

Each subcommand is a file of its own, imported when it is chosen, with `add_arguments(parser)` and `run(arguments)`,
which returns the exit status. They use the firmware's own core, whose package is called `clock` like this command: it
comes first on the path, so `import clock` is never this file.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

COMMANDS = {
    "plan": ("clock_plan", "print the ticks of some minutes, a JSON list of 60 integers (ms) for each"),
    "plot": ("clock_plot", "draw the modes, hand against true time, as SVG"),
    "simulate": ("clock_simulation", "run the firmware's core through days of trouble in virtual time"),
    "calibrate": ("clock_calibration", "find the pulse that a movement needs"),
}


def main(words: list[str]) -> int:
    """Run one subcommand; its exit status, 2 for words that are not understood."""
    parser = argparse.ArgumentParser(prog="clock.py", description=(__doc__ or "").split("\n\n")[0])
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
        sys.exit(f"clock.py: {error}. Run `make setup`, then .venv/bin/python tools/clock.py")
    except BrokenPipeError:
        sys.exit(0)  # the reader, such as head, has had enough
