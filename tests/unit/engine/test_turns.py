"""The line in front of an engine is fair, visible and can be left."""

import threading
import time

import pytest

from rmx.engine.fair_queue import (
    BEGUN_EACH,
    HALF_LIFE,
    LOOK,
    RISE,
    SLICE,
    FairQueue,
    Kind,
    RequestOwner,
    Usage,
    as_owner,
    current_owner,
)
from rmx.errors import Busy


def test_turns_come_in_the_order_of_arrival():
    turns, order, threads = FairQueue(), [], []
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
    turns = FairQueue()
    a, b, c = (turns.enter() for _ in range(3))
    assert [turns.wait(t, 0.01) for t in (a, b, c)] == [0, 1, 2]
    turns.leave(b)
    assert turns.wait(c, 0.01) == 1
    turns.leave(a)
    assert turns.wait(c, 0.01) == 0


def test_a_full_line_is_refused_in_a_sentence():
    turns = FairQueue(limit=1)
    turns.enter()
    with pytest.raises(Busy, match="Try again"):
        turns.enter()


def test_an_exception_gives_the_turn_back():
    turns = FairQueue()
    with pytest.raises(KeyError), turns.turn():
        raise KeyError
    assert turns.waiting() == 0


def test_patience_ends_and_the_place_is_given_up():
    turns = FairQueue()
    holder = turns.enter()
    with pytest.raises(Busy, match="busy"), turns.turn(patience=0.05):
        pass
    assert turns.waiting() == 1
    turns.leave(holder)
    with turns.turn(patience=0.05):
        assert turns.waiting() == 1


def test_a_closed_line_lets_nobody_in_and_who_is_in_finishes():
    turns = FairQueue()
    holder, waiting = turns.enter(), turns.enter()
    turns.close()
    with pytest.raises(Busy, match="being stopped"):
        turns.enter()
    turns.leave(holder)
    assert turns.wait(waiting, 0.01) == 0
    turns.leave(waiting)


# -- whose turn comes -------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("rmx.engine.fair_queue.time.monotonic", clock)
    return clock


def enter(turns, owner, address=None, kind=Kind.WATCHED):
    with as_owner(RequestOwner(owner, address, kind)):
        return turns.enter()


def give_way(turns):
    """As the holder: give the turn back and wait for the next one."""
    (ticket,) = turns.step_back()
    turns.rejoin(ticket)
    return ticket


def served(turns, tickets, clock, seconds=1.0):
    """The names of these tickets in the order in which their turns come, when each holds the engine so long."""
    left, order = dict(tickets), []
    while left:
        name = next(name for name, ticket in left.items() if turns.wait(ticket, 0.0) == 0)
        clock.now += seconds
        turns.leave(left.pop(name))
        order.append(name)
    return order


def test_watched_goes_before_measured_before_bulk(clock):
    turns = FairQueue()
    holder = enter(turns, "anna")
    tickets = {kind.name: enter(turns, "ben", kind=kind) for kind in (Kind.BULK, Kind.MEASURED, Kind.WATCHED)}
    assert [turns.wait(t, 0.0) for t in tickets.values()] == [3, 2, 1]
    turns.leave(holder)
    assert served(turns, tickets, clock) == ["WATCHED", "MEASURED", "BULK"]


def test_of_one_kind_the_address_goes_first_that_had_least_then_the_owner_then_who_came(clock):
    turns = FairQueue()
    busy = enter(turns, "greedy", "there")
    clock.now = 5.0
    turns.leave(busy)
    holder = enter(turns, "somebody", "elsewhere")
    tickets = {
        "greedy": enter(turns, "greedy", "there"),
        "beside": enter(turns, "beside", "there"),
        "polite": enter(turns, "polite", "here"),
        "later": enter(turns, "other", "here too"),
    }
    turns.leave(holder)
    assert served(turns, tickets, clock, seconds=0.1) == ["polite", "later", "beside", "greedy"]


def test_many_cookies_of_one_address_do_not_keep_another_waiting(clock):
    turns = FairQueue()
    crowd = [enter(turns, f"cookie {i}", "there") for i in range(8)]
    clock.now = 0.25
    polite = enter(turns, "polite", "here")
    turns.leave(crowd.pop(0))
    assert turns.wait(polite, 0.0) == 0


def test_what_somebody_had_is_forgotten_after_a_while(clock):
    turns = FairQueue()
    turns.leave(enter(turns, "anna"))
    held = enter(turns, "anna")
    clock.now = 8.0
    turns.leave(held)
    clock.now = 8.0 + 10 * HALF_LIFE
    recent = enter(turns, "ben")
    clock.now += 1.0
    turns.leave(recent)
    holder = enter(turns, "carl")
    tickets = {"ben": enter(turns, "ben"), "anna": enter(turns, "anna")}
    turns.leave(holder)
    assert served(turns, tickets, clock) == ["anna", "ben"]


@pytest.mark.parametrize("kind", [Kind.MEASURED, Kind.BULK])
def test_whatever_keeps_coming_nobody_waits_for_ever(kind, clock):
    turns = FairQueue()
    greedy = enter(turns, "greedy", "there")
    clock.now = 60.0  # it had more than anybody else
    turns.leave(greedy)
    holder = enter(turns, "first", "here")
    late, began, newcomers = enter(turns, "greedy", "there", kind), clock.now, 0
    while turns.wait(late, 0.0):
        newcomers += 1
        following = enter(turns, f"visitor {newcomers}", f"address {newcomers}")  # always somebody who had nothing yet
        clock.now += 0.5
        turns.leave(holder)
        holder = following if turns.wait(late, 0.0) else None
        assert clock.now - began < 100
    assert kind * RISE <= clock.now - began <= (kind + 1) * RISE + 1.0


def test_what_waits_longer_than_its_kind_allows_goes_before_what_came_just_now(clock):
    turns = FairQueue()
    holder = enter(turns, "anna")
    bulk = enter(turns, "ben", kind=Kind.BULK)
    clock.now = 3 * RISE
    watched = enter(turns, "carl")
    assert (turns.wait(bulk, 0.0), turns.wait(watched, 0.0)) == (1, 2)
    turns.leave(holder)
    assert turns.wait(bulk, 0.0) == 0


# -- shares -----------------------------------------------------------------------------------------------------------


def test_no_address_takes_more_than_a_share_of_the_line():
    turns = FairQueue(limit=9, per_owner=2, per_address=3)
    mine = [enter(turns, f"cookie {i}", "there") for i in range(3)]
    with pytest.raises(Busy, match="3 requests from your network"):
        enter(turns, "cookie 4", "there")
    enter(turns, "polite", "here")
    for _ in range(4):
        enter(turns, None)  # where addresses are not told apart there is no share
    turns.leave(mine[0])
    enter(turns, "cookie 4", "there")
    assert turns.waiting() == 8


def test_nobody_is_refused_for_what_nobody_has_asked_for():
    turns = FairQueue(limit=4, per_owner=2, per_address=3)
    for i in range(3):
        enter(turns, f"cookie {i}", "there", Kind.UNASKED)
    with pytest.raises(Busy, match="3 requests from your network"):
        enter(turns, "cookie 3", "there", Kind.UNASKED)
    for kind in (Kind.WATCHED, Kind.BULK):
        enter(turns, "cookie 0", "there", kind)
    with pytest.raises(Busy, match="2 requests of yours"):
        enter(turns, "cookie 0", "there")
    assert (turns.waiting(), turns.asked()) == (5, 2)
    with pytest.raises(Busy, match="5 requests wait"):
        enter(turns, None, kind=Kind.UNASKED)


def test_only_a_few_are_begun_at_the_same_time_and_the_others_wait_for_an_end(clock):
    turns = FairQueue()
    begun = [enter(turns, f"cookie {i}", "there") for i in range(BEGUN_EACH + 1)]
    for ticket in begun[:BEGUN_EACH]:  # each begins, and gives way to the next one
        assert turns.wait(ticket, 0.0) == 0
        clock.now += SLICE
        give_way(turns)
    assert turns.wait(begun[-1], 0.0) > 0
    holder = next(t for t in begun if turns.wait(t, 0.0) == 0)
    turns.leave(holder)
    assert turns.wait(begun[-1], 0.0) == 0


# -- giving way -------------------------------------------------------------------------------------------------------


def test_a_holder_gives_way_after_its_slice_to_who_had_less_and_not_to_its_own(clock):
    turns = FairQueue()
    first = enter(turns, "anna", "there")
    second = enter(turns, "anna", "there")
    clock.now = 2 * SLICE
    assert not turns.overdue()  # its own come after it
    polite = enter(turns, "ben", "here")
    assert not turns.overdue()  # it has looked just now
    clock.now += 1.01 * LOOK
    assert turns.overdue()
    assert give_way(turns) is first
    assert (turns.wait(polite, 0.0), turns.wait(first, 0.0), turns.wait(second, 0.0)) == (0, 1, 2)
    clock.now += SLICE / 2
    assert not turns.overdue()
    turns.leave(polite)
    assert turns.wait(first, 0.0) == 0


def test_nobody_gives_way_to_a_higher_kind_or_before_the_slice_is_over(clock):
    turns = FairQueue()
    enter(turns, "anna")
    bulk = enter(turns, "ben", kind=Kind.BULK)
    clock.now = 4 * SLICE
    assert not turns.overdue()
    clock.now = 2 * RISE + 1  # by now it counts as watched, and has had nothing
    assert turns.overdue()
    turns.leave(bulk)
    assert not turns.overdue()


def test_what_was_called_off_has_the_next_turn_to_come_to_its_end(clock):
    turns = FairQueue()
    stopped = enter(turns, "anna", kind=Kind.BULK)
    watched = [enter(turns, f"visitor {i}") for i in range(3)]
    clock.now = 1.0
    give_way(turns)
    assert turns.wait(stopped, 0.0) == 3
    turns.hurry(stopped)
    assert turns.wait(stopped, 0.0) == 1
    turns.leave(watched[0])
    assert turns.wait(stopped, 0.0) == 0


def test_who_leaves_the_line_is_not_waited_for(clock):
    turns = FairQueue()
    holder, gone, last = (enter(turns, name) for name in ("anna", "ben", "carl"))
    turns.leave(gone)
    turns.leave(holder)
    assert turns.wait(last, 0.0) == 0
    turns.leave(last)
    assert turns.waiting() == 0
    with pytest.raises(ValueError):
        turns.step_back()


def test_no_turn_is_lost_among_many_threads():
    """Twelve threads come, wait, hold, give way and leave; never two at once, and everybody gets to the end."""
    turns, inside, ended, wrong = FairQueue(), [], [], []

    def work(name):
        with as_owner(RequestOwner(f"owner {name % 4}", f"address {name % 3}", Kind(name % 3))):
            for _ in range(40):
                ticket = turns.enter()
                if name == 5:  # one that never holds anything
                    turns.leave(ticket)
                    continue
                turns.wait(ticket)
                for _ in range(2):
                    inside.append(name)
                    if inside != [name]:
                        wrong.append(list(inside))
                    inside.pop()
                    give_way(turns)
                    turns.wait(ticket)
                turns.leave(ticket)
        ended.append(name)

    threads = [threading.Thread(target=work, args=[i], daemon=True) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ended) == list(range(12))
    assert wrong == []
    assert turns.waiting() == 0


def test_a_closed_line_lets_those_go_on_who_have_given_way(clock):
    turns = FairQueue()
    first, second = enter(turns, "anna"), enter(turns, "ben")
    clock.now = 1.0
    give_way(turns)
    turns.close()
    turns.leave(second)
    assert turns.wait(first, 0.0) == 0


def test_what_is_noted_of_owners_is_bounded(monkeypatch):
    monkeypatch.setattr("rmx.engine.fair_queue.MOST_KNOWN", 3)
    usage = Usage()
    for i in range(10):
        usage.add(f"cookie {i}", 1.0, 0.0)
    assert [usage.of(f"cookie {i}", 0.0) for i in range(10)] == [0.0] * 7 + [1.0] * 3
    assert usage.of("cookie 9", HALF_LIFE) == 0.5
    assert usage.of(None, 0.0) == 0.0


# -- who asks ---------------------------------------------------------------------------------------------------------


def test_an_owner_alone_keeps_address_and_kind_and_a_kind_keeps_the_owner():
    with as_owner(RequestOwner("anna", "here")):
        with as_owner("ben", Kind.MEASURED):
            assert current_owner.get() == RequestOwner("ben", "here", Kind.MEASURED)
            with as_owner("ben"):
                assert current_owner.get().kind is Kind.MEASURED
        assert current_owner.get() == RequestOwner("anna", "here")
    assert current_owner.get() == RequestOwner()
