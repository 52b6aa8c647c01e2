"""What is kept in NVS over a loss of power: the mode, whether the hands are held, and the place without a journal.

Boards with the stock partition table have no journal (clock.journal). There the place is kept once a minute, where the
hands come to rest, and before a restart that the program itself makes: after a cut it is up to a minute old, and the
owner has to set the hands. NVS appends an entry of 32 bytes a write, 126 to a page, and erases its pages in turn: with
five of the six pages of 24 KiB in use by turns, 525,600 minutes a year are about 830 erases of each, of the 10,000 that
are the worst case.
"""

from clock import dial

NAMESPACE = "clock"
_BY_HAND = ("mode", "hold")  # the settings that the button changes, and their bits


class NvsStore:
    """nvs: an esp32.NVS of NAMESPACE. A failing write raises OSError, and nothing of the old value is lost."""

    def __init__(self, nvs) -> None:
        self._nvs = nvs

    # The place, with the same interface as clock.journal.Journal

    def place(self):
        """(position, polarity of the last pulse), or None if never written."""
        kept = self._number("place", 2 * dial.STEPS)
        return None if kept is None else (kept >> 1, kept & 1)

    def commit(self, position: int, polarity: int, resting: bool = False) -> None:
        """The next pulse, about to be armed, will bring the hands here with this polarity. Called before each pulse.

        resting: whether the hands will stay there.
        """
        if resting or position % 60 == 0:
            self.write(position, polarity)

    def write(self, position: int, polarity: int) -> None:
        """Keep the place now: both in one value, so that a cut cannot part them."""
        self._nvs.set_i32("place", position << 1 | polarity)
        self._nvs.commit()

    def tidy(self) -> bool:
        """Nothing has to be made ready for the next writes."""
        return False

    # What the owner chose

    def mode(self):
        """The name of the mode last chosen, or None."""
        name = bytearray(32)
        try:
            return bytes(name[: self._nvs.get_blob("mode", name)]).decode()
        except OSError:
            return None

    def choose(self, mode: str) -> None:
        self._nvs.set_blob("mode", mode.encode())
        self._nvs.commit()

    def goal(self):
        """The position at which the hands are held or to be held, or None: they follow the time."""
        return self._number("goal", dial.STEPS)

    def hold(self, goal) -> None:
        self._nvs.set_i32("goal", -1 if goal is None else goal)
        self._nvs.commit()

    def touch(self, setting: str) -> None:
        """A setting, `mode` or `hold`, was changed at the clock, and the server has not heard of it."""
        bits = self._number("changed", 4) or 0
        if not bits & 1 << _BY_HAND.index(setting):
            self._nvs.set_i32("changed", bits | 1 << _BY_HAND.index(setting))
            self._nvs.commit()

    def touched(self) -> list:
        """The settings of which the server has not heard."""
        bits = self._number("changed", 4) or 0
        return [setting for index, setting in enumerate(_BY_HAND) if bits & 1 << index]

    def heard(self) -> None:
        """The server has heard of all."""
        if self._number("changed", 4):
            self._nvs.set_i32("changed", 0)
            self._nvs.commit()

    def _number(self, key: str, end: int):
        try:
            number = self._nvs.get_i32(key)
        except OSError:
            return None  # ESP_ERR_NVS_NOT_FOUND
        return number if 0 <= number < end else None
