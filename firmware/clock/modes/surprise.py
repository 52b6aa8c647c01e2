"""Another of the others each hour.

Which one follows from the seed and the hour (of UTC), so nothing has to be remembered. In an even hour it is drawn from
all; in an odd one from those that neither neighbouring hour has. So no hour is like the one before, and all modes come
equally often. A minute is planned just as the mode of the hour would plan it.
"""

from clock import modes

ORDER = 90


class Surprise:
    """others: at least three modes."""

    def __init__(self, others: list) -> None:
        self.others = others
        self.LEAST_MS = min([mode.LEAST_MS for mode in others])

    def plan(self, out, dice) -> None:
        minute = dice.minute
        chosen = self.others[self.choose(dice, minute // 60)]
        dice.turn(minute)
        chosen.plan(out, dice)

    def choose(self, dice, hour: int) -> int:
        """Which of the others an hour has; leaves the dice anywhere."""
        count = len(self.others)
        if hour % 2 == 0:
            dice.turn(hour)
            return dice.below(count)
        low, high = self.choose(dice, hour - 1), self.choose(dice, hour + 1)
        if low > high:
            low, high = high, low
        dice.turn(hour)
        drawn = dice.below(count - 1 - (low < high))
        drawn += drawn >= low
        return drawn + (low < high and drawn >= high)


def make(settings: dict, least_ms: int):
    others = [mode for _, mode in modes.able(settings, least_ms, without="surprise")]
    if len(others) < 3:
        raise ValueError("surprise: this movement can run %d other modes only; three are needed" % len(others))
    return Surprise(others)
