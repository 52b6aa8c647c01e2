"""Under MicroPython: for each line `IMAGE OFFSET BYTES`, the notes on that flash: JSON, name → hexadecimal.

The file system is the one that is on the board, and it is only read: a simulated board may be using it.
"""

import binascii
import json
import os
import sys

import vfs  # type: ignore[import-not-found]  # MicroPython's

TYPE_CHECKING = False  # for the type checker alone: MicroPython has no `typing`
if TYPE_CHECKING:
    from typing import BinaryIO


class Image:
    def __init__(self, file: "BinaryIO", offset: int, size_bytes: int) -> None:
        self._file = file
        self._offset = offset
        self._blocks = size_bytes // 4096

    def readblocks(self, block: int, buffer: bytearray, offset: int = 0) -> None:
        self._file.seek(self._offset + block * 4096 + offset)
        self._file.readinto(buffer)  # type: ignore[attr-defined]

    def writeblocks(self, block: int, buffer: bytearray, offset: int = 0) -> None:
        raise OSError(30)

    def ioctl(self, command: int, argument: int) -> int | None:
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
