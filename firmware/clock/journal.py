"""Where the hands stand, kept over a loss of power at any instant: a byte of raw flash a tick, ahead of the pulse.

The partition `ticks` is a ring of sectors of 4 KiB. Each begins with a header that says where the hands stood and of
what polarity the last pulse was; each of the 4,080 bytes after it is a tick once it is no longer 0xFF. So

    position = the newest header's position + the number of its ticks,

and the polarity has alternated as often. No byte is ever written again with another value. At one byte a tick a sector
is erased 483 times in a year of 31,557,600 s, of the 10,000 that are the worst case for such flash.

What a cut does, and what is made of it at the next start:

- while a tick's byte is programmed: any of its bits may be cleared. If none is, the tick was not logged, nor was its
  pulse given. If any is, it counts, and its byte is completed.
- after that, until the pulse is over: nobody knows whether the hand moved. Therefore at each start the app gives the
  last pulse once more, *with the same polarity*: that moves a hand that had not moved, and no other.
- while a header is programmed: some of its bits are still ones. It carries the number of its zeros (J. M. Berger,
  1961): a bit that was not cleared makes that number too large, and bits missing in the number make it larger still, so
  no unfinished header passes. It is as if it had not been begun.
- while a sector is erased: random bits, or an intact old header. A header of random bits passes its checks once in some
  2^33 such cuts; an old one is not the newest. A sector is fit for use only if it is blank but for a mark, written
  after the erase, that names the very sequence number it is erased for: otherwise it is erased again.

Bits that a cut left half cleared may read otherwise the next time; so a tick or a header that may be the work of a cut
is programmed once more at the start, with the same value.

Pure: `partition` has the chip's interface (`esp32.Partition`) and is handed in.
"""

from clock import dial

SECTOR_BYTES = 4096
FIRST = 16  # where the ticks of a sector begin
SLOTS = SECTOR_BYTES - FIRST
ERASE_MS = 60  # what `tidy` may take at most: an erase of 45 ms, and a mark
_MARK = 10  # the header's length, and where the mark is: four bytes
_ERASE = 6  # ioctl: erase a block
_COUNT = 4  # ioctl: number of blocks


class Journal:
    """The same interface as clock.store.NvsStore has for the place. OSError of the partition passes through."""

    def __init__(self, partition) -> None:
        self._partition = partition
        self._sectors = partition.ioctl(_COUNT, 0)
        if self._sectors < 2:
            raise ValueError("the partition ticks must have two sectors or more: one is erased while the other counts")
        self._byte = bytearray(1)
        self._tick = bytes(1)
        self._sector = -1
        self._sequence = 0
        self._used = SLOTS  # ticks of this sector; as if full while there is no sector
        self._position = self._polarity = 0
        self._next_is_clean = False
        self._find()

    def place(self):
        """(position, polarity of the last pulse), or None if the journal is blank."""
        return None if self._sector < 0 else (self._position, self._polarity)

    def commit(self, position: int, polarity: int, resting: bool = False) -> None:
        """The next pulse, about to be armed, will bring the hands here with this polarity. Called before each pulse.

        resting: whether the hands will stay there; it makes no difference here.
        """
        if (self._position + 1) % dial.STEPS != position or self._polarity == polarity or self._sector < 0:
            self.write(position, polarity)
            return
        if self._used == SLOTS:
            self._open(self._position, self._polarity)
        self._partition.writeblocks(self._sector, self._tick, FIRST + self._used)
        self._used += 1
        self._position, self._polarity = position, polarity

    def write(self, position: int, polarity: int) -> None:
        """The hands stand here now, wherever they stood before, and this was the last pulse's polarity."""
        self._open(position, polarity)
        self._position, self._polarity = position, polarity

    def tidy(self) -> bool:
        """Erase the next sector if it is not clean. To be called just after a tick, when ERASE_MS are free.

        True if it did something.
        """
        if self._sector < 0 or self._next_is_clean:
            return False
        self._clean((self._sector + 1) % self._sectors)
        return True

    # Sectors

    def _open(self, position: int, polarity: int) -> None:
        """Go on in the next sector."""
        sector = (self._sector + 1) % self._sectors
        if not self._next_is_clean:
            self._clean(sector)
        header = bytearray(_MARK)
        self._put(header, self._sequence + 1)
        header[4], header[5], header[6] = position & 0xFF, position >> 8, polarity
        check = _crc16(header, 7)
        header[7], header[8] = check & 0xFF, check >> 8
        header[9] = _zeros(header, 9)
        self._next_is_clean = False  # even if the next line fails
        self._partition.writeblocks(sector, header, 0)
        self._sector = sector
        self._sequence += 1
        self._used = 0

    def _clean(self, sector: int) -> None:
        """Make a sector fit for the next sequence number."""
        self._partition.ioctl(_ERASE, sector)
        mark = bytearray(4)
        self._put(mark, self._sequence + 1)
        self._partition.writeblocks(sector, mark, _MARK)
        self._next_is_clean = True

    @staticmethod
    def _put(out: bytearray, number: int) -> None:
        for index in range(4):
            out[index] = number >> 8 * index & 0xFF

    # At the start

    def _find(self) -> None:
        head = bytearray(_MARK)
        for sector in range(self._sectors):
            self._partition.readblocks(sector, head, 0)
            sequence = _number(head, 0)
            if sequence > self._sequence and (sequence - 1) % self._sectors == sector and _is_header(head):
                self._sector, self._sequence = sector, sequence
        if self._sector < 0:
            return
        self._partition.readblocks(self._sector, head, 0)
        self._used = self._count()
        self._position = ((head[4] | head[5] << 8) + self._used) % dial.STEPS
        self._polarity = head[6] ^ self._used & 1
        if self._used:
            self._partition.writeblocks(self._sector, self._tick, FIRST + self._used - 1)
        else:
            self._partition.writeblocks(self._sector, head, 0)
        self._next_is_clean = self._is_clean((self._sector + 1) % self._sectors)

    def _count(self) -> int:
        """Ticks of the sector: where its bytes become 0xFF, by halving."""
        low, high = 0, SLOTS
        while low < high:
            middle = (low + high) // 2
            self._partition.readblocks(self._sector, self._byte, FIRST + middle)
            if self._byte[0] == 0xFF:
                high = middle
            else:
                low = middle + 1
        return low

    def _is_clean(self, sector: int) -> bool:
        piece = bytearray(256)
        for offset in range(0, SECTOR_BYTES, len(piece)):
            self._partition.readblocks(sector, piece, offset)
            if offset == 0:
                if _number(piece, _MARK) != self._sequence + 1:
                    return False
                piece[_MARK : _MARK + 4] = b"\xff" * 4
            if piece != b"\xff" * len(piece):
                return False
        return True


def _number(data, at: int) -> int:
    """Four bytes, the highest two bits left out: 2^30 sectors are some millions of years."""
    return data[at] | data[at + 1] << 8 | data[at + 2] << 16 | (data[at + 3] & 0x3F) << 24


def _is_header(head) -> bool:
    position = head[4] | head[5] << 8
    return (
        head[9] == _zeros(head, 9)
        and head[7] | head[8] << 8 == _crc16(head, 7)
        and head[6] < 2
        and position < dial.STEPS
    )


def _zeros(data, count: int) -> int:
    """How many bits of the first `count` bytes are zero."""
    zeros = 8 * count
    for index in range(count):
        byte = data[index]
        while byte:
            zeros -= 1
            byte &= byte - 1
    return zeros


def _crc16(data, count: int) -> int:
    """CRC-16/XMODEM (polynomial 0x1021, begins with 0) of the first `count` bytes."""
    crc = 0
    for index in range(count):
        crc ^= data[index] << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc
