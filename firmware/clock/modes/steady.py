"""A normal clock: a tick each second."""

ORDER = 10
LEAST_MS = 1000


def plan(out, dice) -> None:
    for tick in range(60):
        out[tick] = 1000 * (tick + 1)
