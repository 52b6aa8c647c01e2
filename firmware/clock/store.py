"""Where the hands stand and in what mode, kept in NVS over a loss of power.

Written once a minute, and a mode at once: after a cut the place is up to a minute old, and the owner has to set the
hands. That is what boards with the stock partition table get. NVS appends an entry of 32 bytes a write, 126 to a page,
and erases its pages in turn: with five of the six pages of 24 KiB in use by turns, 525,600 minutes a year are about
830 erases of each, of the 10,000 that are the worst case.
"""

from clock import dial

NAMESPACE = "clock"


class NvsStore:
    """nvs: an esp32.NVS of NAMESPACE. A failing write raises OSError, and nothing of the old place is lost."""

    def __init__(self, nvs) -> None:
        self._nvs = nvs

    def place(self):
        """(position, polarity of the last pulse), or None if never written."""
        try:
            kept = self._nvs.get_i32("place")
        except OSError:
            return None  # ESP_ERR_NVS_NOT_FOUND
        if not 0 <= kept < 2 * dial.STEPS:
            return None
        return kept >> 1, kept & 1

    def commit(self, position: int, polarity: int) -> None:
        """The next pulse, about to be armed, will bring the hands here with this polarity. Called before each pulse."""
        if position % 60 == 0:
            self.write(position, polarity)

    def write(self, position: int, polarity: int) -> None:
        """Keep the place now: both in one value, so that a cut cannot part them."""
        self._nvs.set_i32("place", position << 1 | polarity)
        self._nvs.commit()

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
