from clock import dial


def test_a_reading_and_its_position():
    for text, position in (
        ("12:00:00", 0),
        ("12:00:01", 1),
        ("01:00:00", 3600),
        ("10:08:30", 36_510),
        ("11:59:59", 43_199),
    ):
        assert dial.parse(text) == position
        assert dial.parse(dial.text(position)) == position
    assert dial.text(0) == "12:00:00"
    assert dial.text(43_199) == "11:59:59"
    assert dial.parse("22:08:30") == dial.parse("10:08:30")


def test_what_is_not_a_reading_is_refused_with_its_text():
    for text in (
        "",
        "12",
        "12:00",
        "12:60:00",
        "12:00:60",
        "24:00:00",
        "-1:00:00",
        "1:2:3:4",
        "a:b:c",
        "12:00:000",
        "::",
    ):
        try:
            dial.parse(text)
        except ValueError as error:
            assert '"' + text + '"' in str(error)
        else:
            raise AssertionError(text)


def test_what_hands_should_show():
    minute = 29_736_000  # 2026-07-16 00:00 UTC
    assert minute % 1440 == 0
    assert dial.showing(minute, 0) == 0
    assert dial.showing(minute, 3 * 3600) == 3 * 3600
    assert dial.showing(minute, -3600) == 11 * 3600
    assert dial.showing(minute + 1, 0) == 60
    assert dial.showing(minute + 720, 0) == 0
    assert dial.showing(minute + 719, 7 * 3600 + 20 * 60 + 5) == (719 * 60 + 26_405) % 43_200


def test_steps_go_forward_only():
    assert dial.steps(10, 12) == 2
    assert dial.steps(12, 10) == 43_198
    assert dial.steps(43_199, 0) == 1
    assert dial.steps(5, 5) == 0
