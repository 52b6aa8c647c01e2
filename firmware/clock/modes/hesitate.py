"""Ticks imperceptibly faster than a second, and at a random place pauses for a second more."""

ORDER = 30
LEAST_MS = 983

PAUSE_MS = 1000


def plan(out, dice) -> None:
    paused = dice.below(60)  # comes after 1,983 or 1,984 ms; all others after 983 or 984
    for tick in range(60):
        out[tick] = (60_000 - PAUSE_MS) * (tick + 1) // 60 + (PAUSE_MS if tick >= paused else 0)
