"""The flash chip: one image file. NOR: programming turns ones into zeros, an erase of a 4 KiB sector turns all to ones.

Data reach the file while their cost is charged, so a power cut leaves what a real one would: pages before it are
there, pages after it are not, the page being programmed has any subset of its bits cleared; a sector being erased has
random bits, or is still as it was.
"""

from .clock import clock

SECTOR_BYTES = 4096
PAGE_BYTES = 256


class Flash:
    def __init__(self, image):
        self._image = image  # a binary file, unbuffered, open for reading and writing
        self._page = bytearray(PAGE_BYTES)
        self.during = []  # called with the length in us of each operation: caches are off, interrupts wait

    def read(self, offset, buffer):
        self._image.seek(offset)
        self._image.readinto(buffer)

    def _charge(self, us):
        for action in self.during:
            action(us)
        clock.spend(us, False)

    def erase(self, offset, cost_us):
        assert offset % SECTOR_BYTES == 0
        if clock.random_below(2):
            self._fill(offset, random=True)
        self._charge(cost_us)
        self._fill(offset, random=False)

    def _fill(self, offset, random):
        """A sector with ones, or with random bits; page by page, for the board's heap may be small."""
        page = self._page
        for index in range(PAGE_BYTES):
            page[index] = clock.random_below(256) if random else 0xFF
        for start in range(0, SECTOR_BYTES, PAGE_BYTES):
            self._write(offset + start, page)

    def _write(self, offset, data):
        self._image.seek(offset)
        self._image.write(data)

    def program(self, offset, data, ns_per_byte, us_per_page):
        data = memoryview(data)
        done = 0
        while done < len(data):
            count = min(len(data) - done, PAGE_BYTES - (offset + done) % PAGE_BYTES)
            page = memoryview(self._page)[:count]
            self.read(offset + done, page)
            # While it is being programmed, some of the bits that become zero still are ones.
            for index in range(count):
                page[index] &= data[done + index] | clock.random_below(256)
            self._write(offset + done, page)
            self._charge(us_per_page + count * ns_per_byte // 1000)
            self.read(offset + done, page)
            for index in range(count):
                page[index] &= data[done + index]
            self._write(offset + done, page)
            done += count


class Partition:
    """`esp32.Partition`: `writeblocks` without an offset erases first, with one it only programs."""

    BOOT = 0
    RUNNING = 1
    TYPE_APP = 0
    TYPE_DATA = 1
    flash = None
    table = ()  # of (type, subtype, offset, bytes, label)

    def __init__(self, label, block_size=SECTOR_BYTES):
        found = [row for row in self.table if row[4] == label]
        if label in (self.BOOT, self.RUNNING):
            found = [row for row in self.table if row[0] == self.TYPE_APP][:1]
        if not found:
            raise OSError(-261)  # ESP_ERR_NOT_FOUND
        self._row = found[0]
        self._block_bytes = block_size

    @classmethod
    def find(cls, type=1, subtype=0xFF, label=None, block_size=SECTOR_BYTES):
        return [
            cls(row[4], block_size)
            for row in cls.table
            if row[0] == type and subtype in (0xFF, row[1]) and label in (None, row[4])
        ]

    def info(self):
        kind, subtype, offset, size_bytes, label = self._row
        return (kind, subtype, offset, size_bytes, label, False)

    def _at(self, block, offset, length):
        where = block * self._block_bytes + offset
        if where < 0 or where + length > self._row[3]:
            raise OSError(-258)  # ESP_ERR_INVALID_ARG
        return self._row[2] + where

    def readblocks(self, block, buffer, offset=0):
        self.flash.read(self._at(block, offset, len(buffer)), buffer)

    def writeblocks(self, block, buffer, offset=None):
        where = self._at(block, offset or 0, len(buffer))
        if offset is None:
            for sector in range(where, where + len(buffer), SECTOR_BYTES):
                self._erase(sector)
        self._program(where, buffer)

    def _erase(self, where):
        self.flash.erase(where, clock.costs["flash_erase_us"])
        clock.deliver()

    def _program(self, where, buffer):
        self.flash.program(where, buffer, 0, clock.costs["flash_program_us"])
        clock.deliver()

    def ioctl(self, command, argument):
        if command == 4:
            return self._row[3] // self._block_bytes
        if command == 5:
            return self._block_bytes
        if command == 6:
            for sector in range(0, self._block_bytes, SECTOR_BYTES):
                self._erase(self._at(argument, sector, SECTOR_BYTES))
            return 0
        return None


class FileSystemPartition(Partition):
    """The vfs partition under LittleFS, with LittleFS' measured pace instead of the raw costs."""

    def _erase(self, where):
        self.flash.erase(where, clock.costs["littlefs_erase_us"])

    def _program(self, where, buffer):
        self.flash.program(where, buffer, clock.costs["littlefs_program_ns_per_byte"], 0)
