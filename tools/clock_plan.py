"""`clock.py plan`: the ticks of some minutes, exactly as the firmware plans them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from clock import modes, schedule
from device import config

HIGHEST = 0x3FFFFFFF  # of seeds and of minutes


def integer(least: int, most: int = HIGHEST) -> Any:
    """An argument's type: an integer in this range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f'"{text}" is not an integer from {least} to {most}')
        return value

    return parse


def weights(text: str) -> list[int]:
    """An argument's type: the setting `pattern`, written as 2,1,1."""
    return [integer(1, 10_000)(word) for word in text.split(",")]


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The settings that modes have, as options."""
    parser.add_argument("--morse", metavar="TEXT", help="what the mode morse spells")
    parser.add_argument("--pattern", metavar="2,1,1", type=weights, help="the weights of the mode pattern")


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, as in config.json. ValueError if the configuration would refuse them."""
    given = {key: getattr(arguments, key) for key in ("morse", "pattern") if getattr(arguments, key) is not None}
    return config.check_some(given)


def minutes(mode: Any, seed: int, first: int, count: int) -> Iterator[list[int]]:
    """The ticks of `count` minutes from the first on, counted from 1970-01-01 UTC: 60 times in ms each."""
    plans = schedule.Schedule(seed, 8)
    for minute in range(first, first + count):
        yield list(plans.plan(mode, minute))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", required=True, help=", ".join(modes.files()))
    parser.add_argument("--minutes", type=integer(1), default=1, metavar="N", help="how many (default 1)")
    parser.add_argument("--seed", type=integer(0), default=1, help="the configuration's seed (default 1)")
    parser.add_argument(
        "--first", type=integer(0), default=0, metavar="MINUTE", help="the first, since 1970-01-01 UTC (default 0)"
    )
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    try:
        mode = modes.load(arguments.mode, settings(arguments))
        if arguments.first + arguments.minutes - 1 > HIGHEST:
            raise ValueError(f"minutes: there are none after {HIGHEST}")
    except ValueError as error:
        print(f"clock.py plan: {error}", file=sys.stderr)
        return 2
    for times_ms in minutes(mode, arguments.seed, arguments.first, arguments.minutes):
        print(json.dumps(times_ms))
    return 0
