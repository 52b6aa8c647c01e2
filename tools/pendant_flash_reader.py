"""Under MicroPython: for each line `IMAGE OFFSET BYTES`, the notes on that flash, as one line of JSON, name →
hexadecimal.

The file system is the one that is on the board, and it is only read: a simulated board may be using it.
"""

import binascii
import json
import os
import sys

import vfs


class Image:
    def __init__(self, file, offset, size_bytes):
        self._file = file
        self._offset = offset
        self._blocks = size_bytes // 4096

    def readblocks(self, block, buffer, offset=0):
        self._file.seek(self._offset + block * 4096 + offset)
        self._file.readinto(buffer)

    def writeblocks(self, block, buffer, offset=0):
        raise OSError(30)

    def ioctl(self, command, argument):
        return {4: self._blocks, 5: 4096, 6: 0}.get(command)


while True:
    line = sys.stdin.readline()
    if not line:
        break
    path, offset, size_bytes = line.rsplit(" ", 2)
    found = {}
    with open(path, "rb") as image:
        vfs.mount(vfs.VfsLfs2(Image(image, int(offset), int(size_bytes))), "/read")
        try:
            for name in os.listdir("/read/notes"):
                with open("/read/notes/" + name, "rb") as note:
                    found[name] = binascii.hexlify(note.read()).decode()
        except OSError:
            pass  # the firmware has not made the folder yet
        vfs.umount("/read")
    print(json.dumps(found))
