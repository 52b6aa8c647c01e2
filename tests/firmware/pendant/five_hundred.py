"""500 notes wait, in a small heap. Prints what it took, as JSON.

    micropython -X heapsize=256k five_hundred.py FIRMWARE IMAGE

The flash is a file of the host, so that the heap holds what it holds on a board: the spool, the upload, and in place
of the microphone's ring and of TLS a block of memory that is never given back.
"""

import asyncio
import gc
import hashlib
import json
import os
import sys

import vfs

sys.path[:0] = [sys.argv[1]]

from device import log  # noqa: E402
from pendant import wav  # noqa: E402
from pendant.spool import Spool  # noqa: E402
from pendant.upload import Upload  # noqa: E402

NOTES = 500
BLOCKS = 1536  # 6 MB
BALLAST_BYTES = 100_000
STAMP = {"counter": "0badc0de", "start_ms": 1, "asleep_ms": 0}


class Image:
    """Counts the reads."""

    def __init__(self, path):
        with open(path, "wb") as file:
            for _ in range(BLOCKS):
                file.write(b"\xff" * 4096)
        self._file = open(path, "r+b")
        self.reads = 0

    def readblocks(self, block, buffer, offset=0):
        self.reads += 1
        self._file.seek(block * 4096 + offset)
        self._file.readinto(buffer)

    def writeblocks(self, block, data, offset=0):
        self._file.seek(block * 4096 + offset)
        self._file.write(data)

    def ioctl(self, command, argument):
        return {4: BLOCKS, 5: 4096, 6: 0}.get(command)  # an erase: LittleFS writes what it needs


class Server:
    """Stands for the link and the server behind it, and keeps nothing but what it is being sent."""

    def __init__(self):
        self.notes = 0

    async def request(self, method, path, headers=(), body=None):
        if method == "HEAD":
            return 404, {}, b""
        file, offset, count = body
        file.seek(offset)
        data = file.read(count)
        assert offset == 0 and len(data) == count
        assert wav.read(data[:512], count).meta["start_ms"] == self.notes, "not in the order of their recording"
        self.notes += 1
        sha256 = "".join("%02x" % byte for byte in hashlib.sha256(data).digest())
        return 200, {}, json.dumps({"id": path[-19:], "length": count, "sha256": sha256}).encode()


def memory():
    gc.collect()
    return gc.mem_alloc()


ballast = bytearray(BALLAST_BYTES)
log.info = lambda text: None
image = Image(sys.argv[2])
vfs.VfsLfs2.mkfs(image)
vfs.mount(vfs.VfsLfs2(image), "/board")
spool = Spool("/board/notes", "p7", os.urandom)
for number in range(NOTES):
    writer = spool.writer(spool.new_id())
    STAMP["start_ms"] = number
    writer.write(wav.header(writer.note_id, STAMP, 0, 1))
    writer.write(bytes(256))
    writer.finish()
del writer, spool
took = {"notes": NOTES}

image.reads = 0
spool = Spool("/board/notes", "p7", os.urandom)
assert spool.recover() is None
took["reads at the start"] = image.reads
image.reads = 0
steps = 1
while not spool.load():
    steps += 1
took["reads of the list"], took["steps of the list"] = image.reads, steps
assert spool.waiting == NOTES

server = Server()
upload = Upload(server, spool, lambda: ("0badc0de", 1, 0))
marks = []
sent = upload.send


async def send(note_id):
    done = await sent(note_id)
    if server.notes % 50 == 1:
        marks.append(memory())
    return done


upload.send = send
assert asyncio.run(upload.send_all()) == (NOTES, 0)
assert spool.waiting == 0 and os.listdir("/board/notes") == []
took["least bytes"], took["most bytes"] = min(marks), max(marks)
print(json.dumps(took))
