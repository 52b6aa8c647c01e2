"""The intervals spell a text of yours in Morse: short, long, and a pause after each letter.

An interval is a dot or a dash, or the pause after a letter or a word; they are as 1 to 3, as in ITU-R M.1677-1, to 6 to
12. The text goes on where the last minute ended, and begins anew after its last word; each minute holds sixty intervals
of it, scaled to the minute. So nothing has to be remembered: the minute's number says where it begins.

Whatever the text, no interval is shorter than 133 ms: before each pause is a sign of 1 or 3, so sixty intervals weigh
at most 30 (3 + 12), and a dot is a 450th of the minute.
"""

from clock.modes import MINUTE_MS, TICKS, fill

ORDER = 70

TEXT = "offbeat"  # unless the configuration has another

_DOT, _DASH, _LETTER, _WORD = 1, 3, 6, 12

# A letter's place in it, in binary, is a 1 and then its signs, 0 for a dot and 1 for a dash; blanks are no letter's.
_CODE = (
    "  ETIANMSURWDKGO"
    "HVF L PJBXCYZQ  "
    "54 3   2  +    16=/   ( 7   8 90"
    "            ?     \"  .    @   '  -           )     ,    :"
)


class Morse:
    """weights: what the intervals of the text are to each other, its last pause included."""

    def __init__(self, text: str) -> None:
        self.weights = _weights(text)
        count = len(self.weights)
        minute = 0
        for tick in range(TICKS):
            minute += self.weights[tick % count]
        heaviest = minute
        for first in range(count):  # wherever in the text a minute may begin
            minute += self.weights[(first + TICKS) % count] - self.weights[first]
            heaviest = max(heaviest, minute)
        self.LEAST_MS = min(self.weights) * MINUTE_MS // heaviest

    def plan(self, out, dice) -> None:
        count = len(self.weights)
        fill(out, self.weights, dice.minute % count * TICKS % count)


def make(settings: dict, least_ms: int):
    return Morse(settings.get("morse", TEXT))


def _weights(text: str) -> bytes:
    weights = bytearray()
    for word in text.upper().split():
        for letter in word:
            place = _CODE.find(letter)
            if place < 0:
                raise ValueError("morse: there is no code for %r; there is for A-Z 0-9 .,:?'-/()\"=+@" % letter)
            sign = 64
            while not place & sign:
                sign >>= 1
            while sign > 1:
                sign >>= 1
                weights.append(_DASH if place & sign else _DOT)
            weights.append(_LETTER)
        weights[-1] = _WORD
    if not weights:
        raise ValueError("morse: the text has no letter")
    return bytes(weights)
