"""Double speed to :59, then waits there for thirty seconds."""

ORDER = 40
LEAST_MS = 500


def plan(out, dice) -> None:
    for tick in range(59):
        out[tick] = 500 * (tick + 1)
    out[59] = 60_000
