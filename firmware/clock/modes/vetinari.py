"""Each interval uniform in 500 to 1,500 ms, the sum exact: like the clock in Lord Vetinari's waiting room.

Why every interval is exactly uniform although their sum is fixed: thirty times, a deviation d is drawn uniformly from
-500 .. 500 and used twice, as 1,000 + d and as 1,000 - d. The distribution of d is symmetric, so both are uniform on
500 .. 1,500, and each pair is 2,000 ms whatever d is: thirty pairs are 60,000. The sixty are then shuffled by an order
that does not depend on them; whichever of them comes to stand in a place, it is a uniform one. Two intervals of one
minute are all but independent: the chance that they are a pair is 1 in 59.
"""

ORDER = 20
LEAST_MS = 500

SPREAD_MS = 500


def plan(out, dice) -> None:
    for tick in range(0, 60, 2):
        deviation = dice.below(2 * SPREAD_MS + 1) - SPREAD_MS
        out[tick] = 1000 + deviation
        out[tick + 1] = 1000 - deviation
    at_ms = 0
    for tick in range(60):
        chosen = tick + dice.below(60 - tick)  # Fisher and Yates: any of those that are left
        at_ms += out[chosen]
        out[chosen] = out[tick]
        out[tick] = at_ms
