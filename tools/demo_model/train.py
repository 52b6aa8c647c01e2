#!/usr/bin/env python3
"""Trains the demonstration model: `python tools/demo_model/train.py --help`."""

import importlib
import sys
from pathlib import Path

# The guard matters: the worker processes read this file again.
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(importlib.import_module("demo_model.command").main())
