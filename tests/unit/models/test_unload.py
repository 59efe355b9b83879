"""Models given back: the memory is free, what was made with them stays readable, and goes on when they are back."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import gradio as gr
import pytest
from peft import LoraConfig, get_peft_model

from rmx.arguments import Sampling
from rmx.engine.engine import Engine
from rmx.engine.fair_queue import never
from rmx.errors import Busy, ModelError
from rmx.models.load import Model
from rmx.models.model_pair import make_pair
from rmx.models.workspace import Workspace
from rmx.models.zerogpu import ZeroWorkspace
from rmx.ui.jobs.comparer import Comparer
from rmx.ui.jobs.explorer import Explorer, Measurements
from rmx.ui.tabs.explore_form import MemoryPanel, gigabytes
from rmx.ui.visitor_cookie import Owners, Visitor, stranger
from tests.conftest import qwen, wrap

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """A LoRA that says something else than the base."""
    network = get_peft_model(qwen(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    network.save_pretrained(tmp_path / "lora")
    return str(tmp_path / "lora")


def made(seeds: dict[str, int]) -> Workspace:
    """A workspace whose models are random, each from its seed."""

    def loader(spec: str) -> Model:
        model = wrap(qwen(seeds[spec]))
        model.spec = spec
        return model

    return Workspace(loader=loader)


def solved(explorer: Explorer, spec: str, adapter: str | None = None):
    run = explorer.start(spec, adapter, "What is 2 + 2?", Sampling(max_new_tokens=12), 1.0)
    list(explorer.stream(run))
    assert run.error is None
    return run


def bare_network(model: Model):
    """The innermost network, without PEFT around it."""
    network = model.engine.model
    return weakref.ref(network.get_base_model() if hasattr(network, "get_base_model") else network)


def test_the_network_its_adapters_and_its_caches_leave_memory_although_solutions_are_kept(folder):
    space = made({"mini": 0, "a": 0})
    explorer = Explorer(space)
    run, other = solved(explorer, "a"), solved(explorer, "a", folder)
    engine = run.model.engine
    assert len(engine.prefixes) > 0
    network, head = bare_network(run.model), weakref.ref(engine.model.get_output_embeddings().weight)
    weights = sum(t.nbytes for t in (*engine.model.parameters(), *engine.model.buffers()))
    size = space.sizes()["a"]
    assert size == weights + engine.prefixes.nbytes
    assert space.unload("a") == size
    assert (network(), head()) == (None, None)
    assert engine.prefixes.nbytes == 0
    assert space.loaded == []
    assert space.sizes() == {}
    for kept in (run, other):  # as text
        told = explorer.tail({"run": kept.id, "start": 0})
        assert len(told["toks"]) == 12
        assert explorer.inspect({"run": kept.id, "pos": 3})["top"]


def test_a_kept_solution_says_what_is_missing_and_goes_on_when_the_model_is_back():
    space = made({"a": 0})
    explorer = Explorer(space)
    run = solved(explorer, "a")
    swap = {"run": run.id, "pos": 4, "token_ids": [run.tokens[4].top[1].id]}
    expected = explorer.pick(swap)
    list(explorer.stream(expected))
    space.unload("a")
    with pytest.raises(ModelError, match="a was unloaded. Load it again, under Model"):
        explorer.pick(swap)
    with pytest.raises(ModelError, match="a was unloaded"):
        explorer.look({"run": run.id, "pos": 4})
    space.model("a")
    branch = explorer.pick(swap)
    list(explorer.stream(branch))
    assert branch.error is None
    assert [t.id for t in branch.tokens] == [t.id for t in expected.tokens]
    assert branch.trace.reuse.reused == 0  # nothing of before is left to be reused


def test_other_weights_under_the_same_name_are_not_taken_for_the_old_ones():
    seeds = {"a": 0}
    space = made(seeds)
    before = space.model("a")
    space.unload("a")
    seeds["a"] = 1
    loader = space._load

    def changed(spec: str) -> Model:
        model = loader(spec)
        model.revision = "another"
        return model

    space._load = changed
    assert space.model("a").engine is not before.engine
    with pytest.raises(ModelError, match="was unloaded"), before.engine.using(None):
        pass


def test_a_comparison_stays_readable_and_says_what_is_missing(folder):
    space = made({"a": 0})
    comparer = Comparer(space)
    run = comparer.map(make_pair(comparer.workspace, "a", folder, "", 1.0), "What is 2 + 2?", 1.0, max_new=8)
    list(comparer.stream(run))
    assert run.error is None
    network = bare_network(run.pair.base)
    space.unload("a")
    assert network() is None
    assert len(comparer.tail({"id": run.id, "start": 0})["toks"]) == run.made
    run = comparer.map(run.pair, "What is 2 + 3?", 1.0, max_new=8)
    last = list(comparer.stream(run))[-1]
    assert "a was unloaded" in last["error"]


def test_a_model_in_use_is_refused_and_stays_whole():
    space = made({"a": 0})
    model = space.model("a")
    inside, go_on = threading.Event(), threading.Event()

    def use() -> None:
        with model.engine.queue.turn():
            inside.set()
            assert go_on.wait(20)

    thread = threading.Thread(target=use)
    thread.start()
    assert inside.wait(20)
    with pytest.raises(Busy, match="Somebody uses a at the moment"):
        space.unload("a")
    assert space.model("a") is model
    go_on.set()
    thread.join(20)
    assert space.unload("a") > 0


def test_what_nobody_has_asked_for_steps_aside_for_the_unloading(monkeypatch):
    monkeypatch.setattr("rmx.engine.fair_queue.SLICE", 0.0)
    monkeypatch.setattr("rmx.engine.fair_queue.LOOK", 0.0)
    space = made({"a": 0})
    explorer = Explorer(space)
    measurements = Measurements(explorer)
    run = solved(explorer, "a")
    turns, give_way, under_way = space.model("a").engine.queue, Engine.give_way, threading.Event()

    def give_way_once_somebody_waits(engine, cancelled=never):
        under_way.set()
        while turns.waiting() < 2:
            time.sleep(0.001)
        give_way(engine, cancelled)

    monkeypatch.setattr(Engine, "give_way", give_way_once_somebody_waits)
    with ThreadPoolExecutor(1) as pool:
        states = measurements.stream(measurements.start("ends", {"run": run.id, "tau": 0.0}))
        ends = pool.submit(lambda: list(states)[-1])
        assert under_way.wait(20)
        assert turns.asked() == 0
        assert space.unload("a") > 0
        assert "a was unloaded" in ends.result(20)["error"]


def test_what_cannot_be_unloaded():
    space = made({"mini": 0})
    space.model("mini")
    with pytest.raises(ModelError, match="always stays"):
        space.unload("mini")
    with pytest.raises(ModelError, match="'b' is not loaded"):
        space.unload("b")
    lent = ZeroWorkspace(gpu=lambda **_: lambda function: function)
    with pytest.raises(ModelError, match="On ZeroGPU"):
        lent.unload("a")


def test_a_model_that_is_evicted_or_damaged_is_not_listed():
    space = made({"a": 0})
    space.model("a").engine.fault = "damaged"
    assert space.sizes() == {}


# -- the page ---------------------------------------------------------------------------------------------------------

OWNERS = Owners(b"k" * 32, token="a-token-of-the-owner")


def request_of(visitor: Visitor) -> SimpleNamespace:
    return SimpleNamespace(cookies={OWNERS.cookie: OWNERS.value(visitor)}, headers={}, client=None)


@pytest.mark.parametrize(
    ("public", "admin", "may"), [(False, False, True), (False, True, True), (True, False, False), (True, True, True)]
)
def test_who_may_unload(public, admin, may):
    space = made({"a": 0})
    space.model("a")
    panel, request = MemoryPanel(space, OWNERS, public), request_of(Visitor(stranger().id, admin))
    group, shown = panel.look(request)
    assert group.visible is may
    if not may:
        with pytest.raises(gr.Error, match="Only the machine's owner"):
            panel.unload("a", request)
        assert space.loaded == ["a"]
        return
    assert [value for _, value in shown.choices] == ["a"]
    assert shown.choices[0][0] == f"a · {gigabytes(space.sizes()['a'])}"
    group, left, said = panel.unload("a", request)
    assert (group.visible, left.choices) == (False, [])
    assert "was unloaded" in said
    assert space.loaded == []


def test_a_press_without_a_choice_is_a_sentence():
    panel = MemoryPanel(made({}), OWNERS, False)
    with pytest.raises(gr.Error, match="Choose"):
        panel.unload(None, request_of(stranger()))


def test_sizes_in_words():
    assert [gigabytes(n) for n in (15_231_233_024, 538_000_000, 4_360_000)] == ["15.23 GB", "0.54 GB", "0.004 GB"]


def test_nothing_else_is_alive():
    """The measure itself: a network that somebody still holds is seen."""
    space = made({"a": 0})
    network = space.model("a").engine.model
    seen = weakref.ref(network)
    space.unload("a")
    gc.collect()
    assert seen() is network


def test_an_adapter_that_two_ask_for_at_once_stays(folder):
    """Who asks makes it the newest; the second one must not find it taken out by the first."""

    class Slow(dict):
        def pop(self, name):
            found = super().pop(name)
            time.sleep(0.2)
            return found

        def __contains__(self, name):
            found = super().__contains__(name)
            time.sleep(0.05)
            return found

    space = made({"one": 1})
    model = space.model("one")
    name = space.adapter(model, folder)
    model.engine.adapters = Slow(model.engine.adapters)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(space.adapter, model, folder) for _ in range(2)]
        assert [one.result(10) for one in asked] == [name, name]
    assert list(model.engine.adapters) == [name]
