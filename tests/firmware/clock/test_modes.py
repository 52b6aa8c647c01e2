from array import array

from clock import modes
from clock.dice import Dice

try:
    from micropython import heap_lock, heap_unlock
except ImportError:  # CPython, which has no such lock: the MicroPythons check this

    def heap_lock():
        pass

    heap_unlock = heap_lock

MINUTES = 1000
FIRST = 29_736_000


def each_plan(module, seed=1, minutes=MINUTES):
    out, dice = array("H", bytes(120)), Dice()
    for minute in range(FIRST, FIRST + minutes):
        dice.seed(seed, minute)
        module.plan(out, dice)
        yield out


def test_the_registry_is_the_files():
    names = modes.names()
    assert names[:2] == ["steady", "vetinari"]
    assert len({modes.load(name).ORDER for name in names}) == len(names)
    try:
        modes.load("nonsense")
    except ValueError as error:
        assert "nonsense" in str(error) and "steady, vetinari" in str(error)
    else:
        raise AssertionError


def test_what_counts_as_a_file_of_a_mode():
    class Folder:
        @staticmethod
        def listdir(path):
            files = ["vetinari.mpy", "__init__.py", "steady.py", "steady.mpy", "._steady.py", ".py", "notes.txt"]
            files.append("__pycache__")
            return files

    real, modes.os = modes.os, Folder
    try:
        assert modes.names() == ["steady", "vetinari"]
    finally:
        modes.os = real


def test_every_plan_is_sixty_rising_times_that_end_with_the_minute():
    for name in modes.names():
        for out in each_plan(modes.load(name)):
            before = 0
            for time_ms in out:
                assert time_ms - before >= 125, (name, before, time_ms)  # eight ticks a second, the default movement
                before = time_ms
            assert before == 60_000, name


def test_equal_dice_give_equal_plans():
    for name in modes.names():
        first = [bytes(out) for out in each_plan(modes.load(name), minutes=20)]
        assert first == [bytes(out) for out in each_plan(modes.load(name), minutes=20)]


def test_planning_allocates_nothing():
    out, dice = array("H", bytes(120)), Dice()
    for name in modes.names():
        plan = modes.load(name).plan
        seed = dice.seed
        plan(out, dice)
        heap_lock()
        try:
            for minute in range(FIRST, FIRST + 50):
                seed(0x3FFFFFFF, minute)
                plan(out, dice)
        finally:
            heap_unlock()


def test_steady_is_steady():
    for out in each_plan(modes.load("steady"), minutes=2):
        assert list(out) == list(range(1000, 60_001, 1000))


def test_vetinaris_intervals_are_each_uniform():
    # For each of the sixty places: 500 .. 1,500 in 7 classes of 143 values, chi-squared with 6 degrees of freedom.
    # The chance of one place beyond 40 is below 1 in 2,000,000 if they are uniform; the seed is fixed.
    counts = [[0] * 7 for _ in range(60)]
    least, most = 1500, 500
    for out in each_plan(modes.load("vetinari")):
        before = 0
        for place in range(60):
            interval = out[place] - before
            before = out[place]
            least, most = min(least, interval), max(most, interval)
            counts[place][(interval - 500) // 143] += 1
    assert (least, most) == (500, 1500)
    for place in range(60):
        squares = sum((7 * count - MINUTES) ** 2 for count in counts[place])
        assert squares < 40 * 7 * MINUTES, (place, counts[place])
    whole = [sum(counts[place][kind] for place in range(60)) for kind in range(7)]
    # All places together. Pairs are mirrored, so the classes k and 6 - k are equal: half the freedom, twice the weight.
    assert whole[:3] == whole[:3:-1]
    squares = sum((7 * count - 60 * MINUTES) ** 2 for count in whole)
    assert squares < 2 * 35 * 7 * 60 * MINUTES, whole


def test_vetinaris_neighbours_do_not_follow_each_other():
    # The variance of a deviation is 83,500. Two neighbours are a mirrored pair once in 59 times, which makes the mean
    # product of neighbours -1,415, give or take 344 over 59,000; were mirror images side by side it would be -42,000.
    total = 0
    for out in each_plan(modes.load("vetinari")):
        deviations = [out[0] - 1000] + [out[i] - out[i - 1] - 1000 for i in range(1, 60)]
        total += sum(deviations[i] * deviations[i + 1] for i in range(59))
    mean = total // (59 * MINUTES)
    assert -3200 < mean < 400, mean


def intervals(out):
    return [out[0]] + [out[i] - out[i - 1] for i in range(1, 60)]


def one_odd(name, usual, odd):
    """All intervals are of `usual` but one of `odd`, whose place is uniform over the minute."""
    places = [0] * 60
    for out in each_plan(modes.load(name), minutes=MINUTES):
        found = intervals(out)
        strange = [place for place in range(60) if found[place] not in usual]
        assert len(strange) == 1 and found[strange[0]] in odd, (name, found)
        places[strange[0]] += 1
    squares = sum((60 * count - MINUTES) ** 2 for count in places)
    assert squares < 120 * 60 * MINUTES, places  # chi-squared, 59 degrees of freedom: beyond 120 once in 200,000


def test_hesitate_pauses_once():
    one_odd("hesitate", (983, 984), (1983, 1984))


def test_stumble_hurries_once():
    one_odd("stumble", (1012, 1013), (262, 263))


def test_rush_is_at_59_after_half_a_minute():
    for out in each_plan(modes.load("rush"), minutes=1):
        assert intervals(out) == [500] * 59 + [30_500]


def test_gravity_is_fast_down_and_slow_up():
    for out in each_plan(modes.load("gravity"), minutes=1):
        found = intervals(out)
        assert all(found[i] < 1000 for i in range(30)) and all(found[i] > 1000 for i in range(30, 60))
        assert min(found) == found[14] == 501 and max(found) == found[44] == 1499
        assert found[:15] == sorted(found[:15])[::-1] and found[30:45] == sorted(found[30:45])


def test_the_same_plan_on_every_interpreter():
    out = next(iter(each_plan(modes.load("vetinari"), seed=42)))
    assert list(out)[:8] == VETINARI


VETINARI = [907, 1886, 3207, 4363, 5034, 6406, 7343, 8246]
