"""Updates over the air: fetches a version into the folder that does not run, and marks it for a trial.

The board's root has the folders `a/` and `b/`, each of one version's modules, and the file `active`, a JSON object that
is only ever replaced by one rename, so that at any cut of power it is the old one or the new one:

| key | meaning |
| --- | --- |
| `active` | the folder that runs: `a`, `b`, or empty (as without the file): modules in the root, installed by cable |
| `trial` | the folder of a version on trial, if there is one |
| `version` | that version |
| `tries` | how often that trial was begun; 0: marked, not yet restarted |
| `failed` | the version that was tried last and went back from |

`main.py`, never updated over the air, starts the trial and ends it if it fails; a confirmed one ends here. So this
format is for ever.
"""

import asyncio
import hashlib
import json
import os
from binascii import hexlify, unhexlify

from device.hmac import hmac_sha256, same

MANIFEST_BYTES = 16384  # the longest manifest
FILE_BYTES = 262144  # the longest file
_PIECE_BYTES = 2048
_SPARE_BLOCKS = 4  # left free beside the files: for `active` and the folders' growth
_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.+"


class UpdateError(OSError):
    """What was offered cannot be taken; the text says why. The running version stays."""


class Update:
    """The update's end on the board; one object for as long as the firmware runs.

    root: folder that holds `active`, `a` and `b`, without a slash at its end: "" on the board. fetch: a coroutine
    function of (path, sink, most_bytes) that does a GET of the server's `path`, hands the body of an answer 200, of at
    most most_bytes, to `sink(piece)`, and returns (status, headers with lower-case names); `Link.get` is one. It raises
    OSError. token: the device's. app: "pendant" or "clock". mpy: the `.mpy` files that can be loaded here, as reported.
    version: the one that runs.
    """

    def __init__(self, root: str, fetch, token: str, app: str, mpy: int, version: str):
        self._root = root
        self._fetch = fetch
        self._key = hashlib.sha256(token.encode()).digest()
        self._app = app
        self._mpy = mpy
        self._version = version
        self._state = _read(root)

    def in_trial(self) -> bool:
        """Whether the running version is on trial: no sleep and no restart until it is confirmed."""
        state = self._state
        return state.get("trial") is not None and state.get("version") == self._version and state.get("tries", 0) > 0

    def failed_version(self):
        """The version that was tried last and went back from, for the report; or None."""
        return self._state.get("failed")

    def confirmed(self) -> None:
        """The server has answered a check-in with 200: a trial ends well. At other times nothing is done.

        OSError if that could not be kept: call it again after the next check-in.
        """
        if self.in_trial():
            self._keep({"active": self._state["trial"]})

    async def take(self, version: str) -> bool:
        """Take an offered version. True: it is complete and marked; restart, as soon as nothing else is to be done.

        False: there is nothing to do, because it runs, was tried and failed, or this one is on trial itself. May be
        cancelled at any time, and raises UpdateError or fetch's OSError: what was fetched whole is not fetched again.
        """
        state = self._state
        if version in (self._version, state.get("failed")) or self.in_trial():
            return False
        if state.get("trial") is not None:
            if state.get("version") == version:
                return True
            del state["trial"]  # another one was offered before the restart: that folder is about to change
            self._keep(state)
        files = await self._manifest(version)
        inactive = "b" if state.get("active") == "a" else "a"
        folder = self._root + "/" + inactive
        await self._fill(folder, version, files)
        marked = {"active": state.get("active", ""), "trial": inactive, "version": version, "tries": 0}
        if "failed" in state:
            marked["failed"] = state["failed"]
        self._keep(marked)
        return True

    def _keep(self, state) -> None:
        with open(self._root + "/active.new", "w") as file:
            json.dump(state, file)
        os.rename(self._root + "/active.new", self._root + "/active")
        self._state = state

    async def _manifest(self, version):
        """The files of a version, [path, bytes, SHA-256], in a manifest that is the server's and for this board."""
        if not 1 <= len(version) <= 64 or not all(c in _NAME for c in version):
            raise UpdateError("the offered version has no name that could be one")
        received = bytearray()
        path = "/api/device/updates/" + version
        status, headers = await self._fetch(path, received.extend, MANIFEST_BYTES)
        if status != 200:
            raise UpdateError("update %s: the server answered %d" % (version, status))
        try:
            code = unhexlify(headers.get("offbeat-hmac", ""))
        except ValueError:
            code = b""
        body = bytes(received)
        if not same(code, hmac_sha256(self._key, body)):
            raise UpdateError("update %s refused: its manifest is not authentic (wrong HMAC)" % version)
        return read_manifest(body, version, self._app, self._mpy)

    async def _fill(self, folder, version, files):
        """Make the folder hold exactly these files. What is there already stays."""
        make_folder(folder)
        await remove_others(folder, {path for path, _, _ in files})
        missing = []
        folders = set()
        for entry in files:
            path, length, sha256 = entry
            if not await _matches(folder + "/" + path, length, sha256):
                missing.append(entry)
                if _exists(folder + "/" + path):
                    os.remove(folder + "/" + path)
            folders.update(_folders(path))
        self._check_room(missing, len(folders))
        for path, length, sha256 in missing:
            for parent in _folders(path):
                make_folder(folder + "/" + parent)
            target = folder + "/" + path
            with open(target, "wb") as file:
                address = "/api/device/updates/%s/%s" % (version, sha256)
                status, _ = await self._fetch(address, file.write, length)
            if status != 200:
                raise UpdateError("update %s: the server answered %d for %s" % (version, status, path))
            if not await _matches(target, length, sha256):
                raise UpdateError("update %s: %s is not what the manifest says" % (version, path))

    def _check_room(self, missing, folders):
        fields = os.statvfs(self._root or "/")
        block_bytes, free_bytes = fields[1], fields[1] * fields[4]
        blocks = 2 * folders + _SPARE_BLOCKS if missing else 0  # LittleFS keeps a folder in a pair of blocks
        for _, length, _ in missing:
            blocks += length // block_bytes + 1
        if blocks * block_bytes > free_bytes:
            raise UpdateError("no room for the update: %d of %d bytes are free" % (free_bytes, blocks * block_bytes))


def read_manifest(body: bytes, version: str, app: str, mpy: int) -> list:
    """The files of an authentic manifest: [path, bytes, SHA-256 in hexadecimal], paths relative to the folder.

    UpdateError where it is for another version, app or mpy, or not as docs/protocol.md has it.
    """
    try:
        manifest = json.loads(body)
        told = (manifest["version"], manifest["app"], manifest["mpy"])
        files = [[path, length, sha256] for path, length, sha256 in manifest["files"]]
    except (ValueError, TypeError, KeyError) as e:
        raise UpdateError("update refused: its manifest is malformed: %r" % e)
    if told != (version, app, mpy):
        raise UpdateError("update refused: it is %r, and not %r" % (told, (version, app, mpy)))
    if not files or len({str(path) for path, _, _ in files}) != len(files):
        raise UpdateError("update refused: no files, or two of one name")
    for path, length, sha256 in files:
        if not _is_path(path):
            raise UpdateError("update refused: a file named %r" % str(path)[:80])
        if not isinstance(length, int) or not 0 <= length <= FILE_BYTES:
            raise UpdateError("update refused: the length of %s is %r" % (path, length))
        if not isinstance(sha256, str) or len(sha256) != 64 or not all(c in "0123456789abcdef" for c in sha256):
            raise UpdateError("update refused: the SHA-256 of %s is malformed" % path)
    return files


def _is_path(path) -> bool:
    if not isinstance(path, str) or len(path) > 100 or path in ("main.py", "main.mpy"):
        return False
    parts = path.split("/")
    if len(parts) > 4 or not path.endswith((".py", ".mpy")):
        return False
    return all(part and part[0] != "." and all(c in _NAME for c in part) for part in parts)


def _folders(path):
    """`x` and `x/y` of `x/y/z.mpy`."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _exists(path) -> bool:
    try:
        os.stat(path)
        return True
    except OSError:
        return False


def _is_folder(path) -> bool:
    return os.stat(path)[0] & 0x4000 != 0


def make_folder(path: str) -> None:
    """Make the folder if it is not there. A file in its place is removed."""
    if _exists(path):
        if _is_folder(path):
            return
        os.remove(path)
    os.mkdir(path)


async def remove_others(folder: str, keep, below: str = "") -> None:
    """Remove all files from `folder` whose paths relative to it are not in `keep`, and the folders left empty."""
    for name in os.listdir(folder):
        path = folder + "/" + name
        if _is_folder(path):
            await remove_others(path, keep, below + name + "/")
            if below + name in keep or not os.listdir(path):
                os.rmdir(path)
        elif below + name not in keep:
            os.remove(path)
        await asyncio.sleep(0)  # a press must not wait for all of them


async def _matches(path, length, sha256) -> bool:
    if not _exists(path) or _is_folder(path) or os.stat(path)[6] != length:
        return False
    digest = hashlib.sha256()
    piece = memoryview(bytearray(_PIECE_BYTES))
    with open(path, "rb") as file:
        while True:
            count = file.readinto(piece)
            if not count:
                break
            digest.update(piece[:count])
            await asyncio.sleep(0)  # a press must not wait for all of it
    return hexlify(digest.digest()).decode() == sha256


def _read(root) -> dict:
    try:
        with open(root + "/active") as file:
            state = json.load(file)
    except (OSError, ValueError):  # none yet: the modules are in the root
        return {}
    return state if isinstance(state, dict) else {}
