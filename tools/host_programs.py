#!/usr/bin/env python3
"""Programs that the tests and the demonstration need beside Python: MicroPython, espeak-ng, chrony, valgrind, Chromium.

    python tools/host_programs.py                                brings all that are missing, but for Chromium
    python tools/host_programs.py micropython-32 [ARGUMENT ...]  runs one

One that is on the PATH (and new enough) is taken; else Debian's is brought into the cache folder, without root and
without installing anything system-wide. Where neither works, the error says how to install it.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import debian

MICROPYTHON_OLDEST = (1, 24)
MICROPYTHON_SUITE = "trixie"  # the first of Debian's suites that has it new enough


def _micropython_version(command: tuple[str, ...]) -> tuple[int, ...]:
    answer = subprocess.run(
        [*command, "-c", "import sys; print(*sys.implementation.version[:2])"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return tuple(int(part) for part in answer.stdout.split()) if answer.returncode == 0 else ()


@functools.cache
def micropython(bits: int = 64) -> tuple[str, ...]:
    """How to start MicroPython's unix port: the first words of a command line.

    bits: 64, or 32 for words of 4 bytes as on the chip (always Debian's). Raises debian.Unavailable, with what to do.
    """
    if bits == 64 and (found := shutil.which("micropython")) and _micropython_version((found,)) >= MICROPYTHON_OLDEST:
        return (found,)
    try:
        command = debian.command(
            f"micropython-{bits}",
            "usr/bin/micropython",
            ["micropython"],
            suite=MICROPYTHON_SUITE,
            architecture="i386" if bits == 32 else None,
        )
        if _micropython_version(command) < MICROPYTHON_OLDEST:
            raise debian.Unavailable(f"the one in {debian.CACHE} does not run; remove that folder and try again")
    except debian.Unavailable as error:
        raise debian.Unavailable(
            f"No MicroPython ({bits}-bit) for the host: {error}. Install its unix port, 1.24 or later, so that "
            "`micropython` is on the PATH (macOS: brew install micropython; elsewhere build ports/unix of its source)."
        ) from error
    return command


@functools.cache
def espeak_ng() -> tuple[str, ...]:
    """How to start espeak-ng. Raises debian.Unavailable, with what to do."""
    if found := shutil.which("espeak-ng"):
        return (found,)
    try:
        command = debian.command("espeak-ng", "usr/bin/espeak-ng", ["espeak-ng"])
    except debian.Unavailable as error:
        raise debian.Unavailable(f"No espeak-ng: {error}. Install it (Debian: apt-get install espeak-ng)") from error
    data = next((debian.CACHE / "espeak-ng" / "usr" / "lib").glob("*/espeak-ng-data"))
    return (*command, f"--path={data.parent}")


@functools.cache
def chronyd() -> tuple[str, ...]:
    """How to start chrony's NTP server. Raises debian.Unavailable, with what to do."""
    if found := shutil.which("chronyd", path=os.environ.get("PATH", "") + ":/usr/sbin"):
        return (found,)
    try:
        return debian.command("chrony", "usr/sbin/chronyd", ["chrony"])
    except debian.Unavailable as error:
        raise debian.Unavailable(f"No chronyd: {error}. Install it (Debian: apt-get install chrony)") from error


@functools.cache
def valgrind() -> tuple[str, ...]:
    """How to start valgrind, whose callgrind counts instructions. Raises debian.Unavailable, with what to do."""
    if found := shutil.which("valgrind"):
        return (found,)
    try:
        command = debian.command("valgrind", "usr/bin/valgrind.bin", ["valgrind"])
    except debian.Unavailable as error:
        raise debian.Unavailable(f"No valgrind: {error}. Install it (Debian: apt-get install valgrind)") from error
    return (shutil.which("env") or "env", f"VALGRIND_LIB={debian.CACHE / 'valgrind/usr/libexec/valgrind'}", *command)


@functools.cache
def chromium() -> tuple[str, ...]:
    """How to start Chromium. It starts itself again, so not through a loader: it runs on the machine's own.

    It is large (Debian's: 540 MB unpacked), so it is brought when a test first needs it, and not by `make setup`.
    Raises debian.Unavailable, with what to do.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return (found,)
    try:
        _loader, _, libraries, program = debian.command(
            "chromium", "usr/lib/chromium/chromium-headless-shell", ["chromium-headless-shell"]
        )
    except debian.Unavailable as error:
        raise debian.Unavailable(f"No Chromium: {error}. Install it (Debian: apt-get install chromium)") from error
    return (shutil.which("env") or "env", f"LD_LIBRARY_PATH={libraries}", program)


PROGRAMS: dict[str, Callable[[], tuple[str, ...]]] = {
    "micropython": micropython,
    "micropython-32": functools.partial(micropython, 32),
    "espeak-ng": espeak_ng,
    "chronyd": chronyd,
    "valgrind": valgrind,
    "chromium": chromium,
}


def main() -> None:
    names = sys.argv[1:2] or [name for name in PROGRAMS if name != "chromium"]
    if names[0] not in PROGRAMS:
        sys.exit(f"no program {names[0]!r}; there are {', '.join(PROGRAMS)}")
    commands = {}
    for name in names:
        try:
            commands[name] = PROGRAMS[name]()
        except debian.Unavailable as error:
            print(f"setup: {error}", file=sys.stderr)
    if sys.argv[1:]:
        if not commands:
            sys.exit(1)
        os.execv(commands[names[0]][0], [*commands[names[0]], *sys.argv[2:]])
    if "micropython" not in commands:
        sys.exit(1)  # without it neither the demonstration nor a test runs; the others are needed by some tests


if __name__ == "__main__":
    main()
