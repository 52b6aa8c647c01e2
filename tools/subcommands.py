"""What `tools/clock.py` and `tools/pendant.py` share: a command of subcommands, each a file of its own.

A file is imported when it is chosen, and has `add_arguments(parser)` and `run(arguments)`, which returns the exit
status. It uses the firmware's own core, whose package is called as the command is: the firmware is first on the path.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]


def script(name: str, description: str, commands: Mapping[str, tuple[str, str]]) -> NoReturn:
    """Runs the subcommand that the command line names and exits with its status, 2 for words that are not understood.

    name: of the file; commands: name -> (module, what it does).
    """
    sys.path[:0] = [str(ROOT / "firmware"), str(ROOT / "boards"), str(ROOT / "tools")]
    words = sys.argv[1:]
    parser = argparse.ArgumentParser(prog=name, description=description)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="{" + ",".join(commands) + "}")
    try:
        run = None
        for command, (module_name, summary) in commands.items():
            subparser = subparsers.add_parser(command, help=summary, description=summary[0].upper() + summary[1:] + ".")
            if words[:1] == [command]:
                module = importlib.import_module(module_name)
                module.add_arguments(subparser)
                run = module.run
        arguments = parser.parse_args(words)
        if run is None:
            parser.error("the subcommand comes first")
        sys.exit(int(run(arguments)))
    except ModuleNotFoundError as error:
        sys.exit(f"{name}: {error}. Run `make setup`, then .venv/bin/python tools/{name}")
    except BrokenPipeError:
        sys.exit(0)  # the reader, such as head, has had enough
