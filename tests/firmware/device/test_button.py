"""Debouncing, from tables of edges: (ms, down)."""

import asyncio

from device import button, log
from device.button import QUEUE, Debounce

PERIOD = 1 << 30


def changes(edges, asked, begin=0):
    """Changes that come out when the edges happen and `quiet_in_ms` is asked at the given times."""
    debounce, result, level = Debounce(), [], False
    for at, down in sorted(edges + [(t, None) for t in asked], key=lambda e: e[0]):
        if down is None:
            debounce.quiet_in_ms((begin + at) % PERIOD, level)
        else:
            level = down
            debounce.edge((begin + at) % PERIOD, down)
        change = debounce.pop()
        while change is not None:
            result.append((change[0], (change[1] - begin) % PERIOD))
            change = debounce.pop()
    return result


def test_clean_presses():
    assert changes([(100, True), (900, False)], [131, 931]) == [(True, 100), (False, 900)]


def test_bounces_are_one_change_with_the_time_of_the_first_edge():
    edges = [(100, True), (103, False), (104, True), (120, False), (121, True)]
    assert changes(edges, [130, 140, 152]) == [(True, 100)]


def test_over_the_wrap_of_ticks():
    assert changes([(100, True), (900, False)], [131, 931], PERIOD - 500) == [(True, 100), (False, 900)]


def test_shorter_than_the_debounce_is_nothing():
    assert changes([(100, True), (129, False)], [140, 200]) == []


def test_nobody_asks():
    """Changes are made out from the edges alone, up to the last one, which needs asking."""
    edges = [(100, True), (101, False), (102, True), (500, False), (900, True)]
    assert changes(edges, []) == [(True, 100), (False, 500)]
    assert changes(edges, [1000]) == [(True, 100), (False, 500), (True, 900)]


def test_how_long_to_wait():
    debounce = Debounce()
    assert debounce.quiet_in_ms(5, False) is None
    debounce.edge(10, True)
    assert debounce.quiet_in_ms(15, True) == 25
    debounce.edge(20, False)
    debounce.edge(21, True)
    assert debounce.quiet_in_ms(40, True) == 11
    assert debounce.quiet_in_ms(51, True) is None and debounce.down
    assert debounce.pop() == (True, 10) and debounce.pop() is None


def test_overflow_is_counted_and_stays_alternating():
    debounce = Debounce()
    presses = 3 * QUEUE
    for i in range(presses):
        debounce.edge(i * 1000, True)
        debounce.edge(i * 1000 + 100, False)
    debounce.quiet_in_ms(presses * 1000, False)
    kept = []
    change = debounce.pop()
    while change is not None:
        kept.append(change)
        change = debounce.pop()
    assert len(kept) == QUEUE
    assert debounce.dropped == 2 * presses - QUEUE
    assert [down for down, _ in kept] == [True, False] * (QUEUE // 2)
    assert kept[-1] == (False, (presses - 1) * 1000 + 100)  # the newest are kept


class Awake(button.Button):
    """A button without a pin, whose debouncer is handed in."""

    def __init__(self, debounce):
        self._debounce = debounce
        self._ticks_ms = lambda: 0
        self._pin = self

    def value(self):
        return 1


def test_overflow_is_logged_once():
    debounce = Debounce()
    for i in range(QUEUE):
        debounce.edge(i * 1000, True)
        debounce.edge(i * 1000 + 100, False)
    debounce.quiet_in_ms(QUEUE * 1000, False)
    log.reported(log.errors())
    for _ in range(3):
        asyncio.run(Awake(debounce).change())
        (line,) = log.errors()
        assert line.startswith("the button: %d changes" % QUEUE), line
