"""What a store keeps, in groups that leave memory together, and how jobs in it are halted."""

from dataclasses import dataclass, field
from threading import Event

import pytest

from rmx.errors import Busy, RmxError, SwapError
from rmx.storage.job_store import JobStore, MemoryShares


@dataclass
class Item:
    id: str
    owner: str | None = "anna"
    nbytes: int = 10
    done: bool = True
    tree: str = ""
    of: str | None = None
    stop: Event = field(default_factory=Event)

    def halt(self) -> None:
        self.stop.set()


def here(store: JobStore[Item]) -> set[str]:
    return {item.id for item in store.items()}


def test_an_item_is_found_by_its_id_and_what_is_gone_is_a_sentence() -> None:
    store: JobStore[Item] = JobStore("It is gone.", error=SwapError)
    item = store.add(Item("a"))
    assert store.find("a") is store.get("a") is item
    for wrong in ("b", None, 7, ["a"], {"id": "a"}):
        assert store.find(wrong) is None
        with pytest.raises(SwapError, match="It is gone"):
            store.get(wrong)
    with pytest.raises(SwapError):
        store.get("a", Event)  # another kind of item


def test_a_group_leaves_memory_as_a_whole_unless_work_on_it_is_going_on() -> None:
    store: JobStore[Item] = JobStore("", MemoryShares(most=1000, share=40), group=lambda item: item.tree)
    store.add(Item("old", tree="first"), Item("old too", tree="first"))
    busy = store.add(Item("busy", tree="second", done=False))
    store.add(Item("new", tree="third", nbytes=20))
    assert here(store) == {"busy", "new"}
    assert [item.id for item in store.group("second")] == ["busy"]
    assert store.kept.nbytes == 30
    busy.done, busy.nbytes = True, 30
    store.grow(busy)
    assert here(store) == {"busy"}


def test_what_needs_a_group_is_forgotten_with_it() -> None:
    store: JobStore[Item] = JobStore("", needs=lambda item: item.of)
    for item in (Item("map"), Item("patch", of="map"), Item("other")):
        store.add(item)
    store.forget("map")
    assert here(store) == {"other"}
    assert store.kept.nbytes == 10


def test_of_more_than_the_most_the_oldest_are_halted_and_forgotten() -> None:
    store: JobStore[Item] = JobStore("", most=2)
    first, *_ = [store.add(Item(name, done=False)) for name in "abc"]
    assert (here(store), first.stop.is_set()) == ({"b", "c"}, True)
    assert not store.get("b").stop.is_set()


def test_a_check_sees_all_items_and_what_it_refuses_is_not_kept() -> None:
    store: JobStore[Item] = JobStore("")
    store.add(Item("a"))

    def check(items: list[Item]) -> None:
        if items:
            raise Busy(f"{items[0].id} is under way.")

    with pytest.raises(RmxError, match="a is under way"):
        store.add(Item("b"), check=check)
    assert here(store) == {"a"}


def test_one_job_or_all_that_are_under_way_can_be_halted() -> None:
    store: JobStore[Item] = JobStore("")
    one, two, over = (store.add(Item(name, done=name == "c")) for name in "abc")
    store.halt("a")
    store.halt("unknown")
    assert [item.stop.is_set() for item in (one, two, over)] == [True, False, False]
    store.halt_all()
    assert [item.stop.is_set() for item in (one, two, over)] == [True, True, False]
