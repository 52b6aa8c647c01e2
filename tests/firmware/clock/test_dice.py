from clock.dice import Dice


def test_a_seed_and_minute_repeat_and_are_the_same_on_every_interpreter():
    dice = Dice()
    for seed, minute, expected in WORDS:
        for _ in range(2):
            dice.seed(seed, minute)
            assert [dice.word() for _ in range(6)] == expected, (seed, minute)


WORDS = (
    (0, 0, [40177, 32342, 62645, 1146, 31004, 28102]),
    (1, 29_736_000, [44291, 19073, 35304, 6462, 19455, 8303]),
    (1, 29_736_001, [24709, 35795, 31106, 8230, 60739, 6185]),
    (2, 29_736_000, [61620, 49884, 1652, 21540, 10187, 2192]),
    (0x3FFFFFFF, 0x3FFFFFFF, [55121, 34322, 27884, 56958, 1909, 205]),
)


def test_turning_to_another_minute_keeps_the_seed():
    dice = Dice()
    for seed, minute, expected in WORDS:
        dice.seed(seed, 12_345)
        assert dice.minute == 12_345
        dice.turn(minute)
        assert dice.minute == minute
        assert [dice.word() for _ in range(6)] == expected, (seed, minute)


def test_neighbouring_minutes_and_seeds_have_nothing_in_common():
    dice = Dice()
    seen = set()
    for seed in range(20):
        for minute in range(29_736_000, 29_736_050):
            dice.seed(seed, minute)
            seen.add(tuple([dice.word() for _ in range(4)]))
    assert len(seen) == 1000
    firsts = [words[0] for words in seen]
    # Bits of the first words, over 1000 draws: half of them set, give or take five standard deviations of 16.
    for bit in range(16):
        assert 420 < sum(word >> bit & 1 for word in firsts) < 580, bit


def test_below_is_uniform():
    dice = Dice()
    for n in (1, 2, 3, 7, 60, 1001):
        counts = [0] * n
        draws = 40 * n
        for minute in range(draws):
            if minute % 50 == 0:
                dice.seed(7, minute)
            counts[dice.below(n)] += 1
        # Chi-squared: mean n - 1, variance 2 (n - 1); within five standard deviations, squared to stay with integers.
        excess = sum((count - 40) ** 2 for count in counts) - 40 * (n - 1)
        assert excess <= 0 or excess * excess <= 40 * 40 * 25 * 2 * (n - 1), n


def test_below_has_no_bias_for_a_large_range():
    # 43,691 is two thirds of 65,536: without drawing again the lower half would come twice as often as the upper.
    dice = Dice()
    dice.seed(3, 4)
    low = sum(dice.below(43_691) < 21_845 for _ in range(4000))
    assert 1840 < low < 2160, low


def test_below_takes_the_whole_range():
    dice = Dice()
    assert all(dice.below(1) == 0 for _ in range(10))
    assert max(dice.below(65_536) for _ in range(200)) > 60_000
