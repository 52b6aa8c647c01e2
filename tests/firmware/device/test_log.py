"""The last errors."""

from device import log


def test_bounded_and_printable():
    for i in range(20):
        log.error(f"number {i}\n\u00e9", OSError(5, "x" * 500))
    kept = log.errors()
    assert len(kept) == 5
    for i, line in enumerate(kept):
        assert line.startswith(f"number {15 + i}??: OSError: "), line
        assert len(line) <= 200 and all(" " <= c <= "~" for c in line)


def test_repeats_are_kept_once():
    log.error("a")
    log.error("b")
    log.error("b")
    log.error("a")
    assert log.errors()[-3:] == ["a", "b", "a"]


def test_the_list_is_a_copy():
    log.errors().append("x")
    assert "x" not in log.errors()


def test_what_was_reported_is_forgotten():
    log.reported(log.errors())
    log.error("a")
    log.error("b")
    carried = log.errors()
    log.error("a")
    log.error("c")
    log.reported(carried)
    assert log.errors() == ["a", "c"]  # those that came since are still to be reported
    for i in range(9):
        log.error("number %d" % i)
    log.reported(carried)  # none of them is there any more
    assert len(log.errors()) == 5
