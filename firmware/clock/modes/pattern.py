"""A pattern of your own, scaled to the minute; unless you set one, a slow waltz."""

from array import array

from clock.modes import MINUTE_MS, TICKS, fill

ORDER = 80

WALTZ = (2, 1, 1)


class Pattern:
    """weights: what the intervals are to each other, taken in turn from the beginning of each minute."""

    def __init__(self, weights) -> None:
        self.weights = weights
        out = array("H", bytes(2 * TICKS))
        self.plan(out, None)
        self.LEAST_MS = min([out[tick] - (out[tick - 1] if tick else 0) for tick in range(TICKS)])

    def plan(self, out, dice) -> None:
        fill(out, self.weights)


def make(settings: dict, least_ms: int):
    """Weights are refused with which a tick would be shorter than the movement allows."""
    mode = Pattern(settings.get("pattern", WALTZ))
    if least_ms > mode.LEAST_MS:
        total = sum([mode.weights[tick % len(mode.weights)] for tick in range(TICKS)])
        raise ValueError(
            "pattern: with a weight of %d, ticks are %d ms apart, but this movement needs %d; "
            "each weight must be 1/%d or more of the sum over the minute's sixty ticks, which is %d"
            % (min(mode.weights), mode.LEAST_MS, least_ms, MINUTE_MS // least_ms, total)
        )
    return mode
