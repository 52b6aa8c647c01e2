"""The journal, its power cut at every byte and every erase, on a model of NOR flash that takes back what it tried.

The model asks, before, while and after each byte that is programmed: if power failed now, what would the next start
make of it? So one run over the partition tries all of its states; what a trial changes is undone.
"""

import functools
import random

import pytest
from clock import journal

STEPS = 43_200
SECTORS = 16
BLANK = b"\xff" * journal.SECTOR_BYTES


class Flash:
    """`program(flash)` and `erase(flash)` are called in each state in which a cut can leave the byte or the sector."""

    def __init__(self, sectors: int = SECTORS) -> None:
        self.data = [bytearray(BLANK) for _ in range(sectors)]
        self.erases = [0] * sectors
        self.program = self.erase = None
        self.random = random.Random(1)
        self.undo: list | None = None
        self.unfit = -1  # a sector whose erase was cut, whatever it seems to hold: nothing may be programmed there

    def ioctl(self, command: int, argument: int) -> int:
        if command == 4:
            return len(self.data)
        assert command == 6
        if self.erase:
            old = bytes(self.data[argument])
            some = self.random.randbytes(len(old))
            head = old[: journal.FIRST]
            easier = bytes(a | b for a, b in zip(old, some, strict=True))
            mark = BLANK[:10] + old[10:16] + BLANK[16:]
            for left in (old, some, head + some[16:], head + BLANK[16:], some[:16] + BLANK[16:], easier, mark, BLANK):
                self.data[argument][:] = left
                self.unfit = argument
                self.erase(self)
            self.data[argument][:] = old
        if argument == self.unfit:
            self.unfit = -1
        self._save(argument, 0, BLANK)
        self.data[argument][:] = BLANK
        self.erases[argument] += 1
        return 0

    def readblocks(self, block: int, buffer: bytearray, offset: int) -> None:
        buffer[:] = self.data[block][offset : offset + len(buffer)]

    def writeblocks(self, block: int, buffer: bytes, offset: int) -> None:
        assert block != self.unfit, "used after an erase that was cut"
        sector = self.data[block]
        self._save(block, offset, buffer)
        for at, byte in enumerate(buffer, offset):
            old = sector[at]
            assert old == 0xFF or byte in (0, old), "a byte was written twice"
            if self.program:
                self.program(self)
                sector[at] = old & (byte | self.random.randrange(256))
                self.program(self)
            sector[at] = old & byte
        if self.program:
            self.program(self)

    def _save(self, block: int, offset: int, buffer: bytes) -> None:
        if self.undo is not None:
            self.undo.append((block, offset, bytes(self.data[block][offset : offset + len(buffer)])))

    def attempt(self, action) -> None:
        """Do something and take back what it did to the flash. Within it there are no further cuts."""
        cuts, erases, outer = (self.program, self.erase), list(self.erases), self.undo
        self.program = self.erase = None
        self.undo = []
        action()
        for block, offset, old in reversed(self.undo):
            self.data[block][offset : offset + len(old)] = old
        self.undo, self.erases, self.unfit = outer, erases, -1
        self.program, self.erase = cuts


class World:
    """A clock that ticks on a flash, with its rotor; `cut` asks what a start would make of this very moment."""

    def __init__(self, flash: Flash, position: int = 42_900, polarity: int = 1) -> None:
        self.flash = flash
        self.kept = journal.Journal(flash)
        self.kept.write(position, polarity)
        self.position, self.polarity = position, polarity  # the rotor's
        self.told = position  # by the owner, who sets the hands
        self.coming = 0  # a tick is being logged, or is logged and not yet given
        self.cuts = 0

    def tick(self) -> None:
        position, polarity = (self.position + 1) % STEPS, 1 - self.polarity
        self.coming = 1
        self.kept.commit(position, polarity)
        self.position, self.polarity = position, polarity
        self.coming = 0
        self.told = position
        self.kept.tidy()

    def set_hands(self, position: int) -> None:
        self.told = position
        self.kept.write(position, self.polarity)
        self.position = position

    def cut(self, flash: Flash) -> None:
        self.cuts += 1
        flash.attempt(self._start)

    def _start(self) -> None:
        kept = journal.Journal(self.flash)
        place = kept.place()
        assert place is not None
        position, polarity = place
        moved = (
            polarity != self.polarity
        )  # what the repeated pulse does: the rotor turns if it is of the other polarity
        assert moved <= self.coming, "a step gained"
        if self.told == self.position or moved:
            assert position == (self.position + moved) % STEPS, "a step lost"
        else:
            assert position in (self.position, self.told)
        if self.flash.unfit >= 0:
            position = (position + 17) % STEPS
            kept.write(position, polarity)
            assert journal.Journal(self.flash).place() == (position, polarity)
        if self.cuts % 61 == 0 or not 4 < kept._used < journal.SLOTS - 4:  # and it goes on from there
            for _ in range(6):
                position, polarity = (position + 1) % STEPS, 1 - polarity
                kept.commit(position, polarity)
                kept.tidy()
                assert journal.Journal(self.flash).place() == (position, polarity)


@pytest.fixture
def quick(monkeypatch) -> None:
    """The checks of a header are a pure function of its bytes, and the same few are looked at again and again."""
    slow = journal._is_header
    known = functools.lru_cache(slow)
    monkeypatch.setattr(journal, "_is_header", lambda head: known(bytes(head)))


def pass_over(world: World, sectors: int, settings: bool) -> None:
    """Tick through so many sectors; in some, set the hands somewhere in the middle, which opens the next one."""
    flash = world.flash
    for number in range(sectors):
        stop = [None, 1, None, 3000, journal.SLOTS, None, journal.SLOTS - 1, 0][number % 8] if settings else None
        sector = world.kept._sector
        while world.kept._sector == sector:
            if world.kept._used == stop:
                world.set_hands(flash.random.randrange(STEPS))
            else:
                world.tick()


def test_cut_before_while_and_after_every_byte_of_a_whole_pass(quick):
    flash = Flash()
    world = World(flash)
    flash.program = flash.erase = world.cut
    pass_over(world, SECTORS + 1, settings=True)
    assert world.cuts > 3 * 10 * journal.SLOTS
    assert min(flash.erases) >= 1 and max(flash.erases) <= 3


def test_cut_in_the_middle_of_every_erase_of_three_passes(quick):
    flash = Flash()
    world = World(flash)
    flash.erase = world.cut
    pass_over(world, SECTORS, settings=False)
    before = list(flash.erases)
    pass_over(world, 2 * SECTORS, settings=False)
    assert world.cuts == 8 * (3 * SECTORS + 1)
    assert [after - early for early, after in zip(before, flash.erases, strict=True)] == [2] * SECTORS
    ticks_a_year = 31_557_600
    assert ticks_a_year / (SECTORS * journal.SLOTS) + 1 < 600


def test_cut_again_and_again_in_the_starts_themselves(quick):
    """A start completes what a cut left; it, too, is cut, and the next one; each time on top of what is left."""
    flash = Flash(3)
    chance = random.Random(5)

    class Cut(Exception):
        pass

    def perhaps(_: Flash) -> None:
        if chance.random() < 0.04:
            raise Cut

    position, polarity = 43_100, 0
    world = World(flash, position, polarity)
    cuts = 0
    for _ in range(60_000):
        coming = world.kept._used in (*range(5), *range(journal.SLOTS - 5, journal.SLOTS + 1))
        flash.program = flash.erase = perhaps if coming else None
        try:
            world.tick()
        except Cut:
            while True:
                cuts += 1
                try:
                    kept = journal.Journal(flash)
                    break
                except Cut:
                    continue
            place = kept.place()
            assert place is not None
            moved = place[1] != world.polarity
            assert moved <= world.coming
            assert place[0] == (world.position + moved) % STEPS
            world.kept, world.coming = kept, 0
            world.position, world.polarity = place
            world.told = place[0]
    assert cuts > 40


@pytest.mark.soak
def test_a_year_of_ticks_erases_no_sector_more_than_600_times():
    flash = Flash()
    kept = journal.Journal(flash)
    kept.write(0, 0)
    for tick in range(1, 31_557_601):
        kept.commit(tick % STEPS, tick & 1)
        if tick & 1023 == 0:
            kept.tidy()
    assert kept.place() == (31_557_600 % STEPS, 0)
    print("erases in a year:", max(flash.erases))
    assert 480 < max(flash.erases) < 600
