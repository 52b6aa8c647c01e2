"""Fast down from 12 to 6, slow up from 6 to 12, as if the hand had weight.

How much faster is a parabola over each half, half a second at 3 o'clock; what one step gains on the way down, the step
as far on the way up loses, so that the sum is exact.
"""

ORDER = 60
LEAST_MS = 501

WEIGHT_MS = 500


def plan(out, dice) -> None:
    at_ms = 0
    for tick in range(60):
        step = tick % 30
        gain_ms = WEIGHT_MS * (2 * step + 1) * (59 - 2 * step) // 900
        at_ms += 1000 - gain_ms if tick < 30 else 1000 + gain_ms
        out[tick] = at_ms
