"""Every mode, over random minutes: ten thousand on CPython, a thousand on a MicroPython."""

import json
import sys
from array import array

from clock import modes
from clock.dice import Dice

try:
    from micropython import heap_lock, heap_unlock
except ImportError:  # CPython, which has no such lock: the MicroPythons check this

    def heap_lock():
        pass

    heap_unlock = heap_lock

MINUTES = 10_000 if sys.implementation.name == "cpython" else 1000
FEW = 50
VECTORS = __file__.rsplit("/", 3)[0] + "/vectors/plans.json"

# Settings that are no mode's default, each by what it is for.
SETTINGS = (
    {},
    {"morse": "The quick brown fox jumps over the lazy dog. 0123456789", "pattern": [5, 3, 3, 2, 7]},
    {"morse": "t t", "pattern": [1, 8]},
    {
        "morse": "Why? \"Nothing, sir\" (at 5:30) = 'tick/tock' - e@mail + 1.",
        "pattern": [10_000, 1800] * 29 + [9999, 1500],
    },
    {"morse": "e", "pattern": [1]},
)


def minutes_at_random(count):
    """(seed, minute), both over the whole of what there is."""
    dice = Dice()
    dice.seed(3, 0)
    for _ in range(count):
        yield dice.word() << 14 | dice.word() >> 2, dice.word() << 14 | dice.word() >> 2


def each_plan(mode, count=MINUTES):
    out, dice = array("H", bytes(120)), Dice()
    for seed, minute in minutes_at_random(count):
        dice.seed(seed, minute)
        mode.plan(out, dice)
        yield out


def every_mode():
    """(name, mode): as the files are, and those that have settings with others too."""
    for number, settings in enumerate(SETTINGS):
        for name, mode in modes.able(settings):
            if number == 0 or name in ("morse", "pattern"):
                yield name, mode


def intervals(out):
    return [out[0]] + [out[i] - out[i - 1] for i in range(1, 60)]


def refusal(name, settings, least_ms=modes.LEAST_MS):
    try:
        modes.load(name, settings, least_ms)
    except ValueError as error:
        return str(error)
    raise AssertionError((name, settings, least_ms))


# All modes


def test_the_registry_is_the_files():
    names = modes.names()
    assert names[:2] == ["steady", "vetinari"] and names[-1] == "surprise"
    assert names == modes.files()
    orders = [modes._module(name).ORDER for name in names]
    assert orders == sorted(orders) and len(set(orders)) == len(names)
    text = refusal("nonsense", {})
    assert "nonsense" in text and "steady, vetinari" in text


def test_what_counts_as_a_file_of_a_mode():
    class Folder:
        @staticmethod
        def listdir(path):
            files = ["vetinari.mpy", "__init__.py", "steady.py", "steady.mpy", "._steady.py", ".py", "notes.txt"]
            files.append("__pycache__")
            return files

    real, modes.os = modes.os, Folder
    try:
        assert modes.files() == modes.names() == ["steady", "vetinari"]
    finally:
        modes.os = real


def test_every_plan_is_sixty_rising_times_that_end_with_the_minute():
    for name, mode in every_mode():
        least_ms = 60_000
        for out in each_plan(mode):
            before = 0
            for time_ms in out:
                if time_ms - before < least_ms:
                    least_ms = time_ms - before
                before = time_ms
            assert before == 60_000, name
        assert least_ms >= 125, name  # eight ticks a second, the default movement
        # What a mode says of itself is so, and no more than it must say. (`surprise` may not have met the quickest.)
        assert least_ms >= mode.LEAST_MS, name
        assert least_ms == mode.LEAST_MS or name in ("morse", "surprise"), (name, least_ms)


def test_the_same_plans_on_every_interpreter():
    with open(VECTORS) as file:
        vectors = json.load(file)
    assert {vector["mode"] for vector in vectors} == set(modes.names())
    out, dice = array("H", bytes(120)), Dice()
    for vector in vectors:
        dice.seed(vector["seed"], vector["minute"])
        modes.load(vector["mode"], vector["settings"]).plan(out, dice)
        assert list(out) == vector["plan"], vector


def test_a_minute_is_the_same_whatever_was_planned_before():
    out, dice = array("H", bytes(120)), Dice()
    for name, mode in every_mode():
        first = [bytes(out) for out in each_plan(mode, FEW)]
        again = []
        for seed, minute in list(minutes_at_random(FEW))[::-1]:
            dice.seed(seed, minute)
            mode.plan(out, dice)
            again.append(bytes(out))
        assert first == again[::-1], name


def test_planning_allocates_nothing():
    out, dice = array("H", bytes(120)), Dice()
    for _, mode in every_mode():
        seed, plan = dice.seed, mode.plan
        plan(out, dice)
        heap_lock()
        try:
            for minute in range(0x3FFFFFFF - 200, 0x3FFFFFFF):
                seed(0x3FFFFFFF, minute)
                plan(out, dice)
        finally:
            heap_unlock()


def test_a_slower_movement_refuses_the_modes_that_are_too_quick():
    for least_ms in (125, 143, 167, 200, 250, 334, 500):
        refused = []
        able = modes.able({}, least_ms, refused=refused)
        assert "steady" in [name for name, _ in able] and len(able) + len(refused) == len(modes.files())
        for _, mode in able:
            for out in each_plan(mode, FEW):
                assert min(intervals(out)) >= least_ms
    assert [text.split(" ")[0] for text in refused] == ["stumble", "morse"]
    assert "262 ms" in refused[0] and "500" in refused[0]
    assert "stumble" not in modes.names({}, 334) and "stumble" in modes.names({}, 250)


# Each mode


def test_steady_is_steady():
    for out in each_plan(modes.load("steady"), FEW):
        assert list(out) == list(range(1000, 60_001, 1000))


def test_vetinaris_intervals_are_each_uniform():
    # For each of the sixty places: 500 .. 1,500 in 7 classes of 143 values, chi-squared with 6 degrees of freedom.
    # The chance of one place beyond 40 is below 1 in 2,000,000 if they are uniform; the seeds are fixed.
    counts = [[0] * 7 for _ in range(60)]
    least, most = 1500, 500
    pairs = 0  # sum of the products of neighbours' deviations
    for out in each_plan(modes.load("vetinari")):
        before = deviation = 0
        for place in range(60):
            interval = out[place] - before
            before = out[place]
            counts[place][(interval - 500) // 143] += 1
            if interval < least:
                least = interval
            if interval > most:
                most = interval
            pairs += deviation * (interval - 1000)
            deviation = interval - 1000
    assert (least, most) == (500, 1500)
    for place in range(60):
        squares = sum((7 * count - MINUTES) ** 2 for count in counts[place])
        assert squares < 40 * 7 * MINUTES, (place, counts[place])
    whole = [sum(counts[place][kind] for place in range(60)) for kind in range(7)]
    # All places together. Pairs are mirrored, so the classes k and 6 - k are equal: half the freedom, twice the weight.
    assert whole[:3] == whole[:3:-1]
    squares = sum((7 * count - 60 * MINUTES) ** 2 for count in whole)
    assert squares < 2 * 35 * 7 * 60 * MINUTES, whole
    # Neighbours: the variance of a deviation is 83,500. Two are a mirrored pair once in 59 times, which makes the mean
    # product -1,415, give or take 344 over 59,000; were mirror images side by side it would be -42,000.
    mean = pairs // (59 * MINUTES)
    assert -3200 < mean < 400, mean


def one_odd(name, usual, odd):
    """All intervals are of `usual` but one of `odd`, whose place is uniform over the minute."""
    places = [0] * 60
    for out in each_plan(modes.load(name)):
        found = intervals(out)
        strange = [place for place in range(60) if found[place] not in usual]
        assert len(strange) == 1 and found[strange[0]] in odd, (name, found)
        places[strange[0]] += 1
    squares = sum((60 * count - MINUTES) ** 2 for count in places)
    assert squares < 120 * 60 * MINUTES, places  # chi-squared, 59 degrees of freedom: beyond 120 once in 200,000


def test_hesitate_pauses_once_for_a_second_more_and_is_within_2_percent_otherwise():
    one_odd("hesitate", range(980, 1021), range(1960, 2041))


def test_stumble_hurries_once_and_is_within_2_percent_slower_otherwise():
    one_odd("stumble", range(1001, 1021), (262, 263))


def test_rush_is_at_59_after_half_a_minute_and_waits_for_thirty_seconds():
    for out in each_plan(modes.load("rush"), FEW):
        assert intervals(out) == [500] * 59 + [30_500]


def test_gravity_is_fast_down_and_slow_up():
    for out in each_plan(modes.load("gravity"), FEW):
        found = intervals(out)
        assert all(found[i] < 1000 for i in range(30)) and all(found[i] > 1000 for i in range(30, 60))
        assert min(found) == found[14] == 501 and max(found) == found[44] == 1499
        assert found[:15] == sorted(found[:15])[::-1] and found[30:45] == sorted(found[30:45])


# A table of its own, so that a slip of the finger in the mode's is found: letters by dots and dashes of each length.
MORSE = {
    ".": "e", "-": "t", "..": "i", ".-": "a", "-.": "n", "--": "m", "...": "s", "..-": "u", ".-.": "r", ".--": "w",
    "-..": "d", "-.-": "k", "--.": "g", "---": "o", "....": "h", "...-": "v", "..-.": "f", ".-..": "l", ".--.": "p",
    ".---": "j", "-...": "b", "-..-": "x", "-.-.": "c", "-.--": "y", "--..": "z", "--.-": "q",
    ".----": "1", "..---": "2", "...--": "3", "....-": "4", ".....": "5", "-....": "6", "--...": "7", "---..": "8",
    "----.": "9", "-----": "0", ".-.-.-": ".", "--..--": ",", "---...": ":", "..--..": "?", ".----.": "'",
    "-....-": "-", "-..-.": "/", "-.--.": "(", "-.--.-": ")", ".-..-.": '"', "-...-": "=", ".-.-.": "+", ".--.-.": "@",
}  # fmt: skip


def heard(mode, minutes):
    """What somebody hears who takes down some minutes from the 0th on."""
    out, dice, text, signs = array("H", bytes(120)), Dice(), "", ""
    for minute in range(minutes):
        dice.seed(1, minute)
        mode.plan(out, dice)
        found = intervals(out)
        longest = max(found)  # a pause after a word or a letter, or a dash: what it is, the ratios below must tell
        for unit in (longest // 12, longest // 6, longest // 3, longest):
            kinds = [(interval + unit // 2) // unit for interval in found] if unit else []
            near = all(abs(interval - kind * unit) * 10 <= interval for interval, kind in zip(found, kinds))
            if kinds and near and set(kinds) <= {1, 3, 6, 12}:
                break
        else:
            raise AssertionError(found)
        for kind in kinds:
            if kind in (1, 3):
                signs += "." if kind == 1 else "-"
            else:
                text += MORSE[signs] + (" " if kind == 12 else "")
                signs = ""
    return text


def test_morse_spells_the_text_over_several_minutes():
    for settings in SETTINGS:
        if settings.get("morse") == "e":
            continue  # dots and words of one letter: the same
        text = " ".join(settings.get("morse", "offbeat").lower().split()) + " "
        found = heard(modes.load("morse", settings), 8)
        assert len(found) > 50 and found == (text * 250)[: len(found)], found
    assert heard(modes.load("morse", {"morse": "e"}), 1) == "e " * 30


def test_morse_refuses_what_it_cannot_spell():
    assert "'~'" in refusal("morse", {"morse": "a~b"})
    assert "no letter" in refusal("morse", {"morse": " \n"})
    assert "morse has ticks 292 ms apart" in refusal("morse", {}, 300)


def test_morse_is_never_quicker_than_133_ms():
    # By all texts of up to three letters out of those that differ most in weight.
    letters = ("e", "t", "i", "0", " ")
    least = 60_000
    for first in letters:
        for second in letters:
            for third in letters:
                text = first + second + third
                if text != "   ":
                    least = min(least, modes.load("morse", {"morse": text}).LEAST_MS)
    assert least >= 133, least


def test_a_pattern_is_scaled_to_the_minute():
    for weights in ([2, 1, 1], [1], [1, 3], [5, 3, 3, 2, 7], list(range(20, 80)), [10_000] * 59 + [9999], [500, 1500]):
        total = sum(weights[i % len(weights)] for i in range(60))
        for out in each_plan(modes.load("pattern", {"pattern": weights}), 1):
            passed = 0
            for tick in range(60):
                passed += weights[tick % len(weights)]
                assert out[tick] == passed * 60_000 // total, (weights, tick)
    assert intervals(out)[:2] == [500, 1500]  # so weights may be milliseconds


def test_a_pattern_too_quick_for_the_movement_is_refused_with_the_reason():
    text = refusal("pattern", {"pattern": [1, 20]})
    assert text.startswith("pattern: ") and "95 ms" in text and "125" in text and "1/480" in text and "630" in text
    assert modes.load("pattern", {"pattern": [1, 20]}, 95)
    assert modes.load("pattern", {"pattern": [20] + [1] * 59}).LEAST_MS == 759
    refused = []
    able = [name for name, _ in modes.able({"pattern": [1, 20]}, refused=refused)]
    assert refused == [text] and "pattern" not in able and "surprise" in able


def test_surprise_is_another_mode_each_hour():
    surprise = modes.load("surprise")
    others = [mode for name, mode in modes.able() if name != "surprise"]
    count = len(others)
    out, other, dice = array("H", bytes(120)), array("H", bytes(120)), Dice()
    for seed in (1, 0x3FFFFFFF):
        dice.seed(seed, 0)
        before, hours = None, [0] * count
        for hour in range(MINUTES):
            chosen = surprise.choose(dice, hour)
            assert chosen != before, hour
            before = chosen
            hours[chosen] += 1
        squares = sum((count * hour - MINUTES) ** 2 for hour in hours)
        assert squares < 40 * count * MINUTES, hours  # chi-squared, 7 degrees of freedom: beyond 40 once in 800,000
        for hour in range(20):
            chosen = surprise.choose(dice, hour)
            for minute in (0, 1, 59):
                dice.seed(seed, 60 * hour + minute)
                surprise.plan(out, dice)
                dice.seed(seed, 60 * hour + minute)
                others[chosen].plan(other, dice)
                assert out == other, (hour, minute)


def test_surprise_never_takes_itself_nor_a_mode_that_cannot_run():
    for settings, least_ms, absent in (
        ({}, 125, ()),
        ({"morse": "~"}, 125, ("morse",)),
        ({}, 334, ("stumble", "morse")),
    ):
        surprise = modes.load("surprise", settings, least_ms)
        able = [name for name in modes.names(settings, least_ms) if name != "surprise"]
        assert len(surprise.others) == len(able) == len(modes.files()) - 1 - len(absent)
        assert not any(mode is surprise or hasattr(mode, "others") for mode in surprise.others)
        dice = Dice()
        dice.seed(5, 0)
        assert {surprise.choose(dice, hour) for hour in range(300)} == set(range(len(able)))


def test_surprise_needs_three_others():
    assert "three" in refusal("surprise", {}, 1001)
