"""The clock's own random numbers: the same on CPython and on every MicroPython, with small integers only.

The generator is Chris Doty-Humphrey's sfc16 (from PractRand): three words of 16 bits and a counter of 16. Its
period is 65,536 at least and about 2^63 on average; a minute takes some hundred numbers. No intermediate exceeds 22
bits, so nothing becomes a big integer on a chip whose small integers have 31.
"""

_WORD = 0xFFFF
_MIXING = 12  # rounds after seeding: PractRand's ten, and two because the counter is seeded too


class Dice:
    """Uniform integers, seeded for each minute, so that a seed repeats a day and a restart repeats the minute."""

    def __init__(self) -> None:
        self.seed(0, 0)

    def seed(self, seed: int, minute: int) -> None:
        """Begin the sequence of (seed, minute), both 0 .. 2^30 - 1. Different pairs are different states."""
        self._seed = seed
        self.turn(minute)

    def turn(self, minute: int) -> None:
        """Begin the sequence of another minute, with the same seed."""
        self.minute = minute
        seed = self._seed
        self._a = seed >> 16  # mixed slowest, so it gets what changes least
        self._b = minute >> 16
        self._c = minute & _WORD
        self._counter = seed & _WORD
        for _ in range(_MIXING):
            self.word()

    def word(self) -> int:
        """The next 16 random bits."""
        total = (self._a + self._b + self._counter) & _WORD
        self._counter = (self._counter + 1) & _WORD
        self._a = self._b ^ (self._b >> 5)
        self._b = (self._c + (self._c << 3)) & _WORD
        self._c = ((self._c << 6 | self._c >> 10) + total) & _WORD
        return total

    def below(self, n: int) -> int:
        """Uniform in 0 .. n - 1, without bias; n is 1 .. 65,536."""
        end = 65536 - 65536 % n  # words from here on would make the small numbers likelier: drawn again
        while True:
            word = self.word()
            if word < end:
                return word % n
