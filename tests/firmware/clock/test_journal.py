"""The journal on a model of NOR flash that can be cut at any instant; each byte of a whole pass is the host's test."""

from clock import journal

STEPS = 43_200


class PowerCut(Exception):
    pass


class Flash:
    """A `ticks` partition of a few sectors. A program clears bits only; `cut` numbers the operation that power fails
    in, counted in bytes programmed and sectors erased; `how` is what is left: before, some bits, or all of it."""

    def __init__(self, sectors=4):
        self.data = [bytearray(b"\xff" * 4096) for _ in range(sectors)]
        self.erases = [0] * sectors
        self.operations = 0
        self.cut = -1
        self.how = "before"
        self.random = 1

    def draw(self, n):
        self.random = (self.random * 16807) % 2147483647 if self.random < 1 << 17 else (self.random * 75) % 65537 + 1
        return self.random % n

    def _fails(self):
        self.operations += 1
        return self.operations - 1 == self.cut

    def ioctl(self, command, argument):
        if command == 4:
            return len(self.data)
        assert command == 6
        if self._fails():
            if self.how == "some":
                for index in range(4096):
                    self.data[argument][index] = self.draw(256)
            elif self.how == "after":
                self.data[argument][:] = b"\xff" * 4096
            raise PowerCut
        self.data[argument][:] = b"\xff" * 4096
        self.erases[argument] += 1
        return 0

    def readblocks(self, block, buffer, offset):
        buffer[:] = self.data[block][offset : offset + len(buffer)]

    def writeblocks(self, block, buffer, offset):
        sector = self.data[block]
        for index, byte in enumerate(buffer):
            old = sector[offset + index]
            if self._fails():
                if self.how == "some":
                    sector[offset + index] = old & (byte | self.draw(256))
                elif self.how == "after":
                    sector[offset + index] = old & byte
                raise PowerCut
            assert old == 0xFF or byte in (0, old), "a byte was written twice"  # but to complete what a cut left
            sector[offset + index] = old & byte


class Rotor:
    """Moves when the polarity changes, as a Lavet movement does."""

    def __init__(self, position, polarity):
        self.position = position
        self.polarity = polarity

    def pulse(self, polarity):
        if polarity != self.polarity:
            self.polarity = polarity
            self.position = (self.position + 1) % STEPS


def restart(flash, rotor):
    """What the app does at the start."""
    flash.cut = -1
    kept = journal.Journal(flash)
    rotor.pulse(kept.place()[1])
    return kept


def test_blank_journal_knows_nothing():
    assert journal.Journal(Flash()).place() is None


def test_ticks_and_hands_set_are_there_after_a_restart():
    flash = Flash()
    kept = journal.Journal(flash)
    kept.write(43_190, 1)
    for step in range(1, 9_000):
        kept.commit((43_190 + step) % STEPS, (1 + step) & 1)
        if step % 977 == 0:
            kept.tidy()
            again = journal.Journal(flash)
            assert again.place() == ((43_190 + step) % STEPS, (1 + step) & 1)
    kept.write(5, 0)
    assert journal.Journal(flash).place() == (5, 0)


def test_position_of_either_parity_with_either_polarity():
    for position in (0, 1, 43_199):
        for polarity in (0, 1):
            flash = Flash()
            journal.Journal(flash).write(position, polarity)
            assert journal.Journal(flash).place() == (position, polarity)


def test_an_unfinished_header_never_passes():
    flash = Flash(2)
    journal.Journal(flash).write(0x1234, 1)
    whole = bytes(flash.data[0][:16])
    assert journal._is_header(whole)
    for count in range(256):
        wrong = whole[:9] + bytes([count]) + whole[10:]
        assert journal._is_header(wrong) == (wrong == whole)
    for _ in range(3000):
        part = bytearray(whole)
        changed = False
        for index in range(10):
            left = flash.draw(256) & flash.draw(256) & ~whole[index] & 0xFF
            part[index] |= left
            changed = changed or left != 0
        assert not changed or not journal._is_header(part), part


def test_one_sector_is_refused():
    try:
        journal.Journal(Flash(1))
    except ValueError as error:
        assert "two sectors" in str(error)
    else:
        raise AssertionError


def test_a_header_at_the_wrong_place_or_of_random_bits_does_not_count():
    flash = Flash()
    journal.Journal(flash).write(77, 1)
    flash.data[2][:] = flash.data[0]
    flash.data[2][4] = 78  # a later sequence number in the wrong sector, and one with a wrong check
    flash.data[0][0] = 9
    assert journal.Journal(flash).place() is None
    for _ in range(300):
        flash.data[1][:10] = bytes([flash.draw(256) for _ in range(10)])
        assert journal.Journal(flash).place() is None


def test_flash_that_fails_is_an_error_and_no_wrong_place():
    flash = Flash()
    kept = journal.Journal(flash)
    kept.write(100, 0)
    works = flash.writeblocks

    def fails(block, buffer, offset):
        raise OSError(5)

    flash.writeblocks = fails
    for step in (1, 2):
        try:
            kept.commit(100 + step, step & 1)
        except OSError:
            pass
        else:
            raise AssertionError
    flash.writeblocks = works
    kept.commit(103, 1)  # the clock ticked on meanwhile
    kept.commit(104, 0)
    assert journal.Journal(flash).place() == (104, 0)


def test_what_a_cut_left_half_done_is_completed():
    flash = Flash()
    kept = journal.Journal(flash)
    kept.write(100, 0)
    kept.commit(101, 1)
    flash.data[0][journal.FIRST] = 0xEF
    assert journal.Journal(flash).place() == (101, 1)
    assert flash.data[0][journal.FIRST] == 0
    flash = Flash()
    journal.Journal(flash).write(100, 0)
    before = flash.operations
    journal.Journal(flash)
    assert flash.operations == before + 10  # the header


def test_a_tick_costs_one_byte_and_no_erase():
    flash = Flash()
    kept = journal.Journal(flash)
    kept.write(0, 0)
    kept.tidy()
    before = flash.operations
    for step in range(1, 1001):
        kept.commit(step, step & 1)
        assert not kept.tidy()
    assert flash.operations == before + 1000


def cut_everywhere(first, last, how):
    """Tick through a change of sector; cut in operation first .. last - 1; restart; go on. The hand is right."""
    for cut in range(first, last):
        flash = Flash()
        flash.random = cut + 3
        kept = journal.Journal(flash)
        kept.write(43_000, 1)
        rotor = Rotor(43_000, 1)
        # Not one by one up to the end of the sector: the bytes in between are like any other.
        kept._partition.data[0][journal.FIRST : journal.FIRST + 4070] = bytes(4070)
        rotor.position = (43_000 + 4070) % STEPS
        kept = restart(flash, rotor)
        flash.operations = 0
        flash.cut, flash.how = cut, how
        pulsing = False
        try:
            for _ in range(30):
                position, polarity = (kept.place()[0] + 1) % STEPS, 1 - kept.place()[1]
                kept.commit(position, polarity)
                pulsing = True
                rotor.pulse(polarity)
                pulsing = False
                kept.tidy()
            ended = False
        except PowerCut:
            ended = True
        assert not pulsing
        kept = restart(flash, rotor)
        assert kept.place() == (rotor.position, rotor.polarity), (cut, how)
        for _ in range(20):
            position, polarity = (kept.place()[0] + 1) % STEPS, 1 - kept.place()[1]
            kept.commit(position, polarity)
            rotor.pulse(polarity)
            kept.tidy()
            assert (rotor.position, rotor.polarity) == (position, polarity), (cut, how)
        if not ended:
            return cut
    return None


def test_cut_in_every_operation_round_a_change_of_sector():
    for how in ("before", "some", "after"):
        assert cut_everywhere(0, 80, how) is not None
