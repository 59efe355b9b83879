"""What a page may send in: the limits of the API hold for its events too, and nothing of a visitor's stays behind."""

import gc
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from rmx.arguments import Sampling
from rmx.config import MOST_NAME
from rmx.engine.fair_queue import as_owner
from rmx.errors import ModelError, ProblemError, RmxError, TrainError
from rmx.explore.generate import Branch
from rmx.models.load import Model
from rmx.models.model_pair import Pair
from rmx.models.workspace import Workspace
from rmx.prompt_styles import STYLES
from rmx.runs.job import MOST, Pin
from rmx.service import Limits
from rmx.ui.endpoints import limits_of
from rmx.ui.jobs.comparer import Comparer
from rmx.ui.jobs.evaluator import Evaluator
from rmx.ui.jobs.explorer import Explorer, Measurements, Sharing
from rmx.ui.jobs.page_jobs import OpenPages
from rmx.ui.jobs.training import Training
from rmx.ui.server.web_app import parts
from rmx.ui.settings import Settings
from rmx.ui.tabs.train_tab import FIELDS, TrainTab
from rmx.ui.visitor_cookie import owners_of

GREEDY = Sampling(max_new_tokens=40)
LIMITS = Limits()


@pytest.fixture
def space(mini) -> Workspace:
    space = Workspace(loader=lambda spec: mini)
    space.model("mini")
    return space


@pytest.fixture
def explorer(space) -> Explorer:
    return Explorer(space)


@pytest.fixture
def untouched(monkeypatch) -> None:
    """No text may reach the tokenizer: that alone takes seconds and a gigabyte."""

    def fail(*args: Any) -> None:
        raise AssertionError("the text was tokenised")

    monkeypatch.setattr(Model, "encode", fail)
    monkeypatch.setattr(Model, "prompt_ids", fail)


# -- texts ------------------------------------------------------------------------------------------------------------

TOO_LONG = [
    ("problem", LIMITS.characters, "The problem has 20,001 characters; 20,000 are the most here"),
    ("text", LIMITS.characters, "The solution has 20,001 characters; 20,000 are the most here"),
    ("known", LIMITS.answer, "The known answer has 1,001 characters; 1,000 are the most here"),
]


def given(field: str, text: str) -> dict[str, Any]:
    return {"problem": "What is 2 plus 3?"} | {field: text}


@pytest.mark.parametrize(("field", "most", "said"), TOO_LONG)
def test_a_text_that_the_api_would_refuse_is_refused_in_explore(field, most, said, explorer, untouched):
    about = given(field, "7" * (most + 1))
    problem, read = about.pop("problem"), about.pop("text", None)
    with pytest.raises(RmxError, match=said):
        explorer.start("mini", None, problem, GREEDY, 1.0, read=read, **about)
    assert explorer.runs.kept.nbytes == 0


@pytest.mark.parametrize(("field", "most", "said"), TOO_LONG)
def test_a_text_that_the_api_would_refuse_is_refused_in_compare(field, most, said, space, untouched):
    pair: Pair = SimpleNamespace(base=space.model("mini"))  # type: ignore[assignment]
    about = given(field, "7" * (most + 1))
    with pytest.raises(RmxError, match=said):
        Comparer(space).map(pair, about.pop("problem"), 1.0, source="text" if "text" in about else "base", **about)


def test_a_text_of_the_most_characters_is_taken(explorer):
    run = explorer.start("mini", None, "What is 2 plus 3?", GREEDY, 1.0, read="3 " * 200, known="7" * LIMITS.answer)
    assert run.job.known == "7" * LIMITS.answer
    with pytest.raises(RmxError, match="tokens and mini holds 512"):  # the model's own limit, not ours
        explorer.start("mini", None, "x" * LIMITS.characters, GREEDY, 1.0)


def test_pages_and_api_of_an_app_have_the_same_limits(space, monkeypatch):
    settings = Settings(max_new_tokens=77)
    made: list[Explorer] = []
    build = Explorer.__init__
    monkeypatch.setattr(Explorer, "__init__", lambda self, *a, **k: made.append(self) or build(self, *a, **k))
    parts(space, settings)
    assert [one.limits for one in made] == [limits_of(settings)]
    assert made[0].limits.max_new_tokens == 77


# -- names ------------------------------------------------------------------------------------------------------------

LONG = "n" * (MOST_NAME + 1)


def test_names_of_any_length_get_nowhere(space, explorer):
    for ask in (
        lambda: space.model(LONG),
        lambda: space.adapter(space.model("mini"), LONG),
        lambda: explorer.start(LONG, None, "What?", GREEDY, 1.0),
    ):
        with pytest.raises(ModelError, match=r"may have at most 400") as caught:
            ask()
        assert len(str(caught.value)) < 200


def form(**more: Any) -> dict[str, Any]:
    about = {"model": "mini", "adapters": ["rl"], "set": "mini:test", "limit": 10, "n": 0, "temperature": 1.0}
    return about | {"top_p": 1.0, "seed": 0, "max_new_tokens": 40} | more


@pytest.mark.parametrize("field", ["model", "set"])
def test_an_evaluation_takes_no_name_of_any_length(field, space):
    with pytest.raises(RmxError) as caught:
        Evaluator(space).asked(form(**{field: LONG}), paths=True)
    assert "at most 400" in str(caught.value) or "400 are the most" in str(caught.value)


def train_form(**more: Any) -> list[Any]:
    about = {"model": "mini", "problem_set": "mini", "preset": "small", "pins": [], "sweep": ""} | more
    values = [about.pop(name, value) for name, value in train_values().items()]
    return [*(about[name] for name in ("model", "problem_set", "preset", "pins", "sweep")), *values]


def train_values() -> dict[str, Any]:
    from rmx.runs.recipe import SMALL
    from rmx.ui.jobs.training import shown_value

    flat = SMALL.flat()
    return {name: shown_value(flat[name]) for name in FIELDS}


@pytest.fixture
def train_tab(space, tmp_path) -> TrainTab:
    from rmx.runs.store import RunStore

    return TrainTab(Training(space, RunStore(tmp_path)), owners_of("127.0.0.1", False))


@pytest.mark.parametrize("field", ["model", "problem_set", "sweep", "targets", "lr"])
def test_a_run_takes_no_text_of_any_length(field, train_tab):
    assert train_tab.job(*train_form()).model == "mini"
    with pytest.raises(RmxError, match=r"400 are the most here"):
        train_tab.job(*train_form(**{field: "q_proj," * 100}))


# -- what stays behind ------------------------------------------------------------------------------------------------


def solved(explorer: Explorer, owner: str | None = None) -> Branch:
    run = explorer.start("mini", None, "What is 2 plus 3?", GREEDY, 1.0, owner=owner)
    for _ in explorer.stream(run):
        pass
    return run


def is_freed(reference: "weakref.ref[Any]") -> bool:
    gc.collect()
    return reference() is None


def test_a_page_that_has_shown_a_solution_does_not_keep_it_in_memory(explorer):
    visitors, run = OpenPages(), solved(explorer)
    visitors.begin("page", run)
    kept = weakref.ref(run)
    explorer.runs.kept.most = 0
    explorer.runs.kept.put("newer", 0, None, lambda: None)
    del run
    assert is_freed(kept)
    visitors.leave("page")  # nothing is left to halt


def test_an_evaluation_is_not_kept_by_the_page_that_looked_at_it(space):
    evaluator, others = Evaluator(space, measure=lambda job, problems: iter(())), {*threading.enumerate()}
    job = evaluator.start(evaluator.asked(form()))
    watching = OpenPages()
    watching.follow("page", job)
    for own in {*threading.enumerate()} - others:  # a job's thread holds it until the end
        own.join(10)
    assert job.done
    kept = weakref.ref(job)
    evaluator.kept.most = 0
    evaluator.kept.put("newer", 0, None, lambda: None)
    del job
    assert is_freed(kept)
    watching.leave("page")


def test_a_measurement_that_is_over_keeps_no_solution(explorer):
    worth, run = Measurements(explorer), solved(explorer)
    job = worth.start("sofar", {"run": run.id})
    for _ in worth.stream(job):
        pass
    assert worth.jobs.items() == []
    cut_short = worth.start("sofar", {"run": run.id})
    steps = worth.stream(cut_short)
    next(steps)
    worth.jobs.halt(cut_short.id)
    assert cut_short.stopped
    steps.close()
    assert worth.jobs.items() == []


def test_pins_of_long_prompts_are_refused_and_all_pins_of_a_page_are_small(explorer):
    document = {"model": "mini", "tau": 1.0, "prompt_ids": list(range(60_000)),
                "tokens": [{"id": 1, "text": "a", "entropy": 0.0, "logp": 0.0}]}  # fmt: skip
    import json

    opened = Sharing(explorer).open_file({"text": json.dumps(document)})["run"]
    with pytest.raises(TrainError, match="60,000 tokens stand before this place; 5,120 are the most"):
        explorer.pins({"pins": [{"run": opened, "pos": 0}]})
    run = solved(explorer)
    pins = explorer.pins({"pins": [{"run": run.id, "pos": pos} for pos in range(20)]})
    assert len(pins) == MOST
    assert all(isinstance(pin, Pin) for pin in pins)


def test_one_text_that_many_tokens_share_is_there_once(explorer):
    """A file of 60 kB whose every token names one text of 4,000 wide characters, 20 times over."""
    import json

    rows = [{"id": 1, "entropy": 0.0, "logp": 0.0, "top": [[1, 0.01]] * 20} for _ in range(200)]
    document = {"model": "mini", "tau": 1.0, "prompt_ids": [1], "texts": {"1": "🙂" * 4000}, "tokens": rows}
    with as_owner("anna"):
        opened = Sharing(explorer).open_file({"text": json.dumps(document, ensure_ascii=False)})
    run = explorer.runs.get(opened["run"])
    assert run.nbytes < 2_000_000  # 64 MB where each of the 4,200 has a copy of its own


def test_an_own_file_keeps_no_more_problems_than_an_evaluation_takes(space, monkeypatch):
    monkeypatch.setattr("rmx.ui.jobs.evaluator.MOST_PROBLEMS", 50)
    evaluator = Evaluator(space)
    reply = evaluator.take_file({"name": "a.csv", "text": "problem\n" + "a\n" * 300})
    assert reply["problems"] == 300
    assert len(evaluator.files.get(reply["file"]).problems) == 50


def test_own_files_leave_memory_with_their_owners_others_and_one_that_is_too_large_is_refused(space):
    from rmx.storage.job_store import MemoryShares

    evaluator = Evaluator(space, kept=MemoryShares(most=400_000, share=100_000))
    text = "problem\n" + "".join(f"How much is {i} and one?\n" for i in range(300))

    def take(owner: str) -> str:
        with as_owner(owner):
            return str(evaluator.take_file({"name": "a.csv", "text": text})["file"])

    bens = take("ben")
    files = [take("anna") for _ in range(4)]
    assert evaluator.files.get(bens)
    assert evaluator.files.get(files[-1])
    with pytest.raises(ProblemError):
        evaluator.files.get(files[0])
    with as_owner("anna"), pytest.raises(RmxError, match="a.csv takes 0.. MB of memory, and 0.1 MB are kept"):
        evaluator.take_file({"name": "a.csv", "text": text * 5})


def test_an_evaluation_reads_only_its_own_prompts_of_what_the_disk_holds(tmp_path, monkeypatch):
    from rmx.evaluate.sample_store import Answered, SampleStore

    monkeypatch.setattr("rmx.storage.safe_files.PIECE", 1000)
    shelf = SampleStore(tmp_path).shelf("weights", GREEDY, STYLES["boxed"])
    made = [Answered(f"prompt {i % 500}", i // 500, 3, "7", "eos") for i in range(1000)]
    for one in made:
        shelf.add(one)
    shelf.close()
    again = SampleStore(tmp_path).shelf("weights", GREEDY, STYLES["boxed"], {"prompt 7", "prompt 499", "new"})
    assert set(again.found) == {(f"prompt {i}", number) for i in (7, 499) for number in (0, 1)}
    assert list(SampleStore(tmp_path).shelf("weights", GREEDY, STYLES["boxed"]).found.values()) == made
