"""A little slow, and at a random place one hurried tick."""

ORDER = 50
LEAST_MS = 262

HURRY_MS = 750


def plan(out, dice) -> None:
    hurried = dice.below(60)  # comes after 262 or 263 ms instead of 1,012 or 1,013
    for tick in range(60):
        out[tick] = (60_000 + HURRY_MS) * (tick + 1) // 60 - (HURRY_MS if tick >= hurried else 0)
