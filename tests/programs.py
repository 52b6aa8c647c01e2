"""Programs beside Python that a test needs."""

import os
from collections.abc import Callable
from typing import TypeVar

import debian
import pytest

Found = TypeVar("Found")


def needed(find: Callable[[], Found]) -> Found:
    """What it finds; where that is not to be had, the test is skipped with what helps, and in CI it fails."""
    try:
        return find()
    except debian.Unavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
