"""The power is cut at every block write and erase of LittleFS.

    micropython power_cuts.py FIRMWARE TOOLS notes|update|failure SEED [MUTATION]

A process of MicroPython plays the part of the board, over a flash in memory. Before each operation of the flash the
world is copied as a cut at this very moment would leave it (the page half programmed, the sector half erased, the
server's notes as they are), and the copy goes on from there: it starts, mends, sends all that waits, and is looked
at. Then the operation takes place, and the original goes on to the next one. In each copy, one more cut, at an
operation drawn by chance, hits the start itself and what follows.

Prints a JSON object of counts, or raises AssertionError at what must not be. A mutation is a mistake put into the
firmware, to see that it is found.
"""

import binascii
import hashlib
import json
import os
import random
import sys

import vfs

scenario_name, seed, mutation = sys.argv[3], int(sys.argv[4]), (sys.argv + [None])[5]
random.seed(seed)
sys.path[:0] = sys.argv[1:3]

import main as board_start  # noqa: E402
from device import log, update  # noqa: E402
from pendant import spool as spool_module  # noqa: E402
from pendant import upload, wav  # noqa: E402
from protocol_model import Model  # noqa: E402

BLOCK_BYTES = 4096
TOKEN = "t" * 43
STAMP = {"counter": "0badc0de", "start_ms": 1, "asleep_ms": 0}
VERSIONS = {
    "1": {"pendant/app.mpy": b"old app" * 60, "device/link.mpy": b"old link" * 700},
    "2": {"pendant/app.mpy": b"new app" * 80, "device/link.mpy": b"new link" * 800, "device/new.mpy": b"new" * 30},
}

log.info = lambda text: None
log.error = lambda what, problem=None: None


class Now:
    """Stands for asyncio in what has nothing to wait for here: there is no loop, the work is stepped by hand."""

    @staticmethod
    async def sleep(_seconds):
        pass


upload.asyncio = update.asyncio = Now


def finish(work):
    """What the coroutine returns; it never waits."""
    try:
        work.send(None)
    except StopIteration as e:
        return e.value
    raise AssertionError("waits for something")


def noise(count):
    """Random bytes, the same in each run."""
    return b"".join(random.getrandbits(32).to_bytes(4, "little") for _ in range((count + 3) // 4))[:count]


class Flash:
    """A block device in memory. `before(flash, at, data)` is called before each operation; an erase has no data."""

    def __init__(self, size_bytes):
        self.data = bytearray(b"\xff" * size_bytes)
        self.before = None
        self.operations = 0

    def readblocks(self, block, buffer, offset=0):
        at = block * BLOCK_BYTES + offset
        buffer[:] = memoryview(self.data)[at : at + len(buffer)]

    def writeblocks(self, block, data, offset=0):
        at = block * BLOCK_BYTES + offset
        self._announce(at, data)
        self.program(at, data)

    def program(self, at, data):
        for index in range(len(data)):  # NOR: zeros stay zeros
            self.data[at + index] &= data[index]

    def ioctl(self, command, argument):
        if command == 4:
            return len(self.data) // BLOCK_BYTES
        if command == 5:
            return BLOCK_BYTES
        if command == 6:
            self._announce(argument * BLOCK_BYTES, None)
            self.data[argument * BLOCK_BYTES : (argument + 1) * BLOCK_BYTES] = b"\xff" * BLOCK_BYTES
            return 0
        return None

    def _announce(self, at, data):
        self.operations += 1
        if self.before is not None:
            self.before(self, at, data)


def half_done(flash, at, data, kind):
    """What a cut within the operation leaves of it."""
    if data is None:
        for index in range(at, at + BLOCK_BYTES, 64):
            flash.data[index : index + 64] = noise(64) if kind == "bits" else b"\xff" * 64
            if kind != "bits" and random.getrandbits(6) == 0:
                return
    elif kind == "bits":  # any subset of the bits that become zero still are ones
        flash.program(at, bytes(a | b for a, b in zip(data, noise(len(data)))))
    else:
        flash.program(at, data[: random.getrandbits(8) % len(data)])


class World:
    """A board's flash, the server beside it, and what they owe each other.

    stored: notes of which the pendant said that they are stored, by the id drawn at the recording. unfinished: of
    which it did not: the one that it is writing, and one that did not fit, of which something may be there until the
    next one is begun. depth: how many cuts led here.
    """

    def __init__(self, flash, folder, server, stored, unfinished, depth):
        self.flash = flash
        self.folder = folder
        self.server = server
        self.stored = stored
        self.unfinished = unfinished
        self.depth = depth
        self.spool = self.upload = None

    def start(self):
        """Power on. Returns what the spool says of what it mended."""
        vfs.mount(vfs.VfsLfs2(self.flash), self.folder)
        self.spool = spool_module.Spool(self.folder + "/notes", "p7", noise)
        said = self.spool.recover()
        self.upload = upload.Upload(self, self.spool, lambda: ("0badc0de", 5, 0))
        return said

    async def request(self, method, path, headers=(), body=None):
        """Stands for the Link."""
        told = {"authorization": "Bearer " + TOKEN, "host": "offbeat"}
        for name, value in headers() if callable(headers) else headers:
            told[name.lower()] = str(value)
        if isinstance(body, tuple):
            file, offset, count = body
            file.seek(offset)
            body = file.read(count)
            assert len(body) == count
        return self.server.answer(method, path, told, body or b"")

    def store(self, blocks):
        """Record and store, as the application does; OSError when the flash is full."""
        note_id = self.spool.new_id()
        sound = noise(256)
        data = wav.header(note_id, STAMP, 0, blocks) + sound * blocks
        self.unfinished[note_id] = data
        writer = self.spool.writer(note_id)
        try:
            head = len(data) - 256 * blocks
            writer.write(data[:head])
            for at in range(head, len(data), BLOCK_BYTES):
                writer.write(data[at : at + BLOCK_BYTES])
            assert writer.finish() == note_id
        except OSError:
            writer.abandon()
            raise
        self.unfinished.clear()
        self.stored[note_id] = data
        return note_id

    def send(self):
        finish(self.upload.send_all())

    def look(self, said):
        """All that waited has been sent: is everything as it should be?"""
        names = os.listdir(self.folder + "/notes")
        aside = [name for name in names if name.endswith(".bad")]
        assert self.spool.waiting == 0 and len(aside) == len(names), names
        assert self.server.violations == [], self.server.violations
        seen = {}
        for server_id, note in self.server.notes.items():
            assert note.complete, "%s came in part" % server_id
            read = wav.read(bytes(note.data[:512]), len(note.data))
            assert read is not None, "%s is no note" % server_id
            meta_id = read.meta["id"]
            assert meta_id not in seen, "%s arrived twice" % meta_id
            seen[meta_id] = bytes(note.data)
        for note_id, data in self.stored.items():
            assert note_id in seen, "%s is lost" % note_id
            assert seen.pop(note_id) == data, "%s is damaged" % note_id
        for note_id, data in seen.items():  # of which nobody said that they are stored
            assert note_id in self.unfinished and len(seen) == 1, "where does %s come from?" % note_id
            whole = self.unfinished[note_id]
            assert data == whole[: len(data)], "%s is damaged" % note_id
            if data != whole:
                told = self.depth > 1 or note_id in said  # else the start before this one said it
                assert wav.read(data[:512], len(data)).cut and told, "%s is not marked" % note_id
                counts["cut notes kept"] += 1
        for name in aside:
            with open(self.folder + "/notes/" + name, "rb") as file:
                data = file.read()
            assert data in [note[: len(data)] for note in self.unfinished.values()], "%s is damaged" % name
            assert not seen and len(aside) == 1 and len(data) < 600, "%s has sound" % name
            counts["set aside"] += 1
        return seen


counts = {"operations": 0, "cuts": 0, "cuts after a cut": 0, "cut notes kept": 0, "set aside": 0}


class Cutter:
    """Hooks into a world's flash and lets copies of it go on from a cut. `after(copy)`: from the start on."""

    def __init__(self, world, after, copies):
        self.world = world
        self.after = after
        self.copies = copies  # flashes to work in, one for each depth
        self.only = None  # the one operation to cut at; None: each

    def __call__(self, flash, at, data):
        world = self.world
        if world.depth == 0:
            counts["operations"] += 1
        elif flash.operations != self.only:
            return
        kinds = ("before", "bits", "prefix")
        for kind in kinds if world.depth == 0 else (kinds[random.getrandbits(8) % 3],):
            self.cut(flash, at, data, kind)

    def cut(self, flash, at, data, kind):
        counts["cuts after a cut" if self.world.depth else "cuts"] += 1
        copy = self.copies[self.world.depth]
        copy.before, copy.operations = None, 0
        copy.data[:] = flash.data
        if kind != "before":
            half_done(copy, at, data, kind)
        old = self.world
        world = World(
            copy, "/cut%d" % old.depth, old.server.clone(), dict(old.stored), dict(old.unfinished), old.depth + 1
        )
        if world.depth < 2:
            copy.before = Cutter(world, self.after, self.copies)
            copy.before.only = 1 + random.getrandbits(8) % 40
        try:
            self.after(world)
        except Exception:
            print("after a cut (%s) at operation %d, %r of %s" % (kind, flash.operations, world.depth, at))
            raise
        copy.before = None
        vfs.umount(world.folder)


def after_notes(world):
    said = world.start() or ""
    world.send()
    kept = world.look(said)
    if world.depth == 1:  # and it goes on
        world.stored.update(kept)
        world.unfinished.clear()
        for name in os.listdir(world.folder + "/notes"):  # what was set aside, and looked at
            os.remove(world.folder + "/notes/" + name)
        world.store(2)
        world.send()
        world.look("")


def three_notes(world):
    """Record, store, send, delete; the second gets a new id on the way; the last but one does not fit at first."""
    world.start()
    world.store(3)
    taken = world.store(20)
    world.server.taken.add(taken)
    world.store(140)
    full = False
    try:
        world.store(400)
    except OSError:
        full = True
    assert full, "the flash is too large for this scenario"
    world.send()
    world.store(40)
    world.send()
    world.look("")


def fetch_from(files):
    """Stands for Link.get, beside a server that has these files."""
    entries = [[path, len(data), sha256_of(data)] for path, data in sorted(files.items())]
    manifest = json.dumps({"version": "2", "app": "pendant", "mpy": 774, "files": entries}).encode()
    bodies = {sha256_of(data): data for data in files.values()}
    key = hashlib.sha256(TOKEN.encode()).digest()

    async def fetch(path, sink, most_bytes):
        data = bodies.get(path.rsplit("/", 1)[1], manifest)
        assert len(data) <= most_bytes
        for at in range(0, len(data), 512):
            sink(data[at : at + 512])
        return 200, {"offbeat-hmac": binascii.hexlify(update.hmac_sha256(key, manifest)).decode()}

    return fetch


def sha256_of(data):
    return binascii.hexlify(hashlib.sha256(data).digest()).decode()


def version_in(root, folder):
    """The version of which the folder has every file, byte for byte, and nothing that another version could need."""
    for version, files in VERSIONS.items():
        try:
            for path, data in files.items():
                with open("%s/%s/%s" % (root, folder, path), "rb") as file:
                    if file.read() != data:
                        break
            else:
                return version
        except OSError:
            pass
    raise AssertionError("the folder %r is neither the old nor the new version" % folder)


def updated(world):
    """From any state on: start, take the update, restart into the trial, confirm it, start again."""
    root = world.folder
    fetch = fetch_from(VERSIONS["2"])
    for _ in range(3):
        folder, trial = board_start.choose(root, False)
        version = version_in(root, folder)
        assert trial <= (version == "2") and (version == "1" or folder == "b")
        task = update.Update(root, fetch, TOKEN, "pendant", 774, version)
        if trial:
            task.confirmed()
        elif version == "1":
            assert finish(task.take("2"))
    assert (folder, trial, version) == ("b", False, "2")


def gone_back(world):
    """The same with a version that fails: the old one runs again, from the root, and the new one is not taken twice."""
    root = world.folder
    fetch = fetch_from(VERSIONS["2"])
    for _ in range(3):
        folder, trial = board_start.choose(root, False)
        version = version_in(root, folder)
        assert trial == (version == "2") and folder == ("a" if trial else "")
        task = update.Update(root, fetch, TOKEN, "pendant", 774, version)
        if trial:
            assert board_start.give_up(root)
        else:
            assert finish(task.take("2")) == (task.failed_version() is None)
    assert (folder, version, task.failed_version()) == ("", "1", "2")


def after_update(world):
    world.start()
    updated(world)


def after_failure(world):
    world.start()
    gone_back(world)


def installed(world, folder="/a", other="/b", active='{"active": "a"}'):
    """What is on the flash before the update."""
    root = world.folder
    vfs.mount(vfs.VfsLfs2(world.flash), root)
    for name in (folder or "/pendant", folder + "/pendant", folder + "/device", other):
        update.make_folder(root + name)
    for path, data in VERSIONS["1"].items():
        with open(root + folder + "/" + path, "wb") as file:
            file.write(data)
    if active:
        with open(root + "/active", "w") as file:
            file.write(active)
    with open(root + other + "/stale.mpy", "w") as file:  # of the version before
        file.write("x" * 5000)
    vfs.umount(root)


def by_cable(world):
    installed(world, "", "/a", "")


def mutate():
    """The mistake called `mutation`."""
    if mutation == "delete before the confirmation":
        answered = World.request

        async def request(world, method, path, headers=(), body=None):
            if method == "PATCH":
                confirmed(world.spool, path.rsplit("/", 1)[1])
            return await answered(world, method, path, headers, body)

        def confirmed(spool, note_id, *_):
            piece, at = spool._find(note_id)
            if piece is not None:
                os.remove(spool.path(note_id))
                spool._forget(piece, at)
            return True

        World.request = request
        spool_module.Spool.confirm = confirmed
    elif mutation == "copy in place of the rename":

        def rename(old, new):
            with open(old, "rb") as source, open(new, "wb") as target:
                target.write(source.read())
            os.remove(old)

        stock = {name: getattr(os, name) for name in ("mkdir", "stat", "remove", "statvfs", "ilistdir", "listdir")}
        spool_module.os = type("Os", (), {name: staticmethod(work) for name, work in stock.items()})
        spool_module.os.rename = staticmethod(rename)
    elif mutation == "mark before the files":
        filled = update.Update._fill

        def fill(task, folder, version, files):
            task._keep({"active": "a", "trial": "b", "version": version, "tries": 0})
            return filled(task, folder, version, files)

        update.Update._fill = fill
    else:
        raise ValueError("no such mutation: " + mutation)


def blank(world):
    pass


SCENARIOS = {
    "notes": (blank, three_notes, after_notes, 36),
    "update": (installed, after_update, after_update, 64),
    "failure": (by_cable, after_failure, after_failure, 64),
}

if mutation is not None:
    mutate()
prepare, scenario, after, blocks = SCENARIOS[scenario_name]
flash = Flash(blocks * BLOCK_BYTES)
vfs.VfsLfs2.mkfs(flash)
world = World(flash, "/board", Model("p7", TOKEN), {}, {}, 0)
prepare(world)
flash.before = Cutter(world, after, [Flash(len(flash.data)) for _ in range(2)])
scenario(world)
print(json.dumps(counts))
