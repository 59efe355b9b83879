"""The line in front of an engine is fair, visible and can be left."""

import threading
import time

import pytest

from rmx.errors import Busy
from rmx.turns import Turns


def test_turns_come_in_the_order_of_arrival():
    turns, order, threads = Turns(), [], []
    first = turns.enter()

    def visit(name):
        with turns.turn():
            order.append(name)

    for name in "abc":
        thread = threading.Thread(target=visit, args=[name])
        thread.start()
        threads.append(thread)
        while turns.waiting() < 1 + len(threads):
            time.sleep(0.001)
    assert order == []
    turns.leave(first)
    for thread in threads:
        thread.join(5)
    assert order == ["a", "b", "c"]


def test_the_place_in_line_is_visible_and_leaving_moves_the_rest_up():
    turns = Turns()
    a, b, c = (turns.enter() for _ in range(3))
    assert [turns.wait(t, 0.01) for t in (a, b, c)] == [0, 1, 2]
    turns.leave(b)
    assert turns.wait(c, 0.01) == 1
    turns.leave(a)
    assert turns.wait(c, 0.01) == 0


def test_a_full_line_is_refused_in_a_sentence():
    turns = Turns(limit=1)
    turns.enter()
    with pytest.raises(Busy, match="Try again"):
        turns.enter()


def test_an_exception_gives_the_turn_back():
    turns = Turns()
    with pytest.raises(KeyError), turns.turn():
        raise KeyError
    assert turns.waiting() == 0


def test_patience_ends_and_the_place_is_given_up():
    turns = Turns()
    holder = turns.enter()
    with pytest.raises(Busy, match="busy"), turns.turn(patience=0.05):
        pass
    assert turns.waiting() == 1
    turns.leave(holder)
    with turns.turn(patience=0.05):
        assert turns.waiting() == 1


def test_a_closed_line_lets_nobody_in_and_who_is_in_finishes():
    turns = Turns()
    holder, waiting = turns.enter(), turns.enter()
    turns.close()
    with pytest.raises(Busy, match="being stopped"):
        turns.enter()
    turns.leave(holder)
    assert turns.wait(waiting, 0.01) == 0
    turns.leave(waiting)
