"""Programs from Debian's packages without root: downloaded, unpacked into a cache folder, started from there.

Nothing is installed system-wide. Packages come from the machine's own Debian mirror, whose address is read from apt's
own configuration, with apt's own check of signatures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(os.environ.get("OFFBEAT_CACHE", Path(__file__).resolve().parents[1] / ".cache"))
#: By machine: Debian's name for its libraries' folder, and the loader in it.
LOADERS = {
    "x86_64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "aarch64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
    "i386": ("i386-linux-gnu", "ld-linux.so.2"),
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Unavailable(RuntimeError):
    """The program can be had neither from the PATH nor from Debian; says what to do."""


def unpack(name: str, packages: list[str], *, suite: str | None = None, architecture: str | None = None) -> Path:
    """The folder into which `packages` are unpacked, with all that they depend on; downloads them at the first call.

    suite: a newer suite than the machine's own, by code name. architecture: another than the machine's own.
    Raises Unavailable, with the reason and what to do.
    """
    target = CACHE / name
    if target.exists():
        return target
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not here: this needs Debian, or the program on the PATH")
    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"setup: bringing {', '.join(packages)} from Debian into {_shown(target)}", flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        work = Path(scratch)
        os.chmod(work, 0o755)
        options = _private_apt(work, suite, architecture)
        _apt(["update", "-qq"], options, work)
        _apt(["install", "-qq", "-y", "--download-only", "--no-install-recommends", *packages], options, work)
        root = work / "root"
        root.mkdir()
        for package in sorted((work / "cache" / "archives").glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
        try:
            root.rename(target)
        except OSError:
            if not target.exists():  # else another process was quicker
                raise
    return target


def command(
    name: str, program: str, packages: list[str], *, suite: str | None = None, architecture: str | None = None
) -> tuple[str, ...]:
    """How to start a program out of packages as `unpack` takes them: the first words of a command line.

    program: its path inside them. It runs on the libraries unpacked with it, through their own loader.
    """
    if sys.platform != "linux" or os.uname().machine not in LOADERS:
        raise Unavailable("Debian's packages do not run here")
    native = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    if native != "amd64" and architecture == "i386":
        raise Unavailable("Debian's i386 packages do not run here")
    root = unpack(name, packages, suite=suite, architecture=None if architecture == native else architecture)
    triplet, loader_name = LOADERS["i386" if architecture == "i386" else os.uname().machine]
    libraries = [
        root / "usr/lib" / triplet,
        root / "lib" / triplet,
        root / "usr/lib" / triplet / "pulseaudio",
    ]
    loader = next((folder / loader_name for folder in libraries if (folder / loader_name).exists()), None)
    if loader is None or not (root / program).exists():
        raise Unavailable(f"{_shown(root)} is not whole: remove it and try again")
    return (str(loader), "--library-path", ":".join(map(str, libraries)), str(root / program))


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _mirror() -> tuple[str, str]:
    """(address, suite) of the machine's own Debian mirror, as apt knows it."""
    wanted = "$(REPO_URI)|$(CODENAME)|$(COMPONENT)|$(ORIGIN)|$(CREATED_BY)"
    lines = subprocess.run(
        ["apt-get", "indextargets", "--format", wanted], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    rows = [line.split("|") for line in lines]
    for address, code_name, component, origin, created_by in rows:
        if created_by == "Packages" and component == "main" and origin == "Debian" and "-" not in code_name:
            return address, code_name
    raise Unavailable("apt knows no mirror of Debian itself: `apt-get update` never ran here, or this is not Debian")


def _private_apt(work: Path, suite: str | None, architecture: str | None) -> list[str]:
    """Options that keep apt inside `work`: own sources, lists and cache."""
    address, own_suite = _mirror()
    if not KEYRING.exists():
        raise Unavailable(f"{KEYRING} is missing: install the package debian-archive-keyring")
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "cache" / "archives" / "partial").mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {address} {suite or own_suite} main\n")
    options = {
        "Dir::Etc::sourcelist": str(work / "sources.list"),
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": str(work / "lists"),
        "Dir::State::status": str(work / "status"),
        "Dir::Cache": str(work / "cache"),
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
    }
    if architecture:
        options |= {"APT::Architecture": architecture, "APT::Architectures": architecture}
    return [f"-o{key}={value}" for key, value in options.items() if value]


def _apt(command: list[str], options: list[str], work: Path) -> None:
    done = subprocess.run(
        ["apt-get", *options, *command], cwd=work, capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise Unavailable(f"apt-get {command[0]} failed: {reason[0]} (is the network there?)")
