"""A public site fetches no problem set for its visitors, whatever they ask; its owner names those that it may."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from datasets.naming import camelcase_to_snakecase

from rmx.data.problem_sets import _ON_HUB, REPOSITORIES, is_cached
from rmx.errors import Refused, RmxError
from rmx.explore.generate import BranchStore
from rmx.models.site_rules import SiteRules
from rmx.models.workspace import Workspace
from rmx.records import Problem
from rmx.runs.job import TrainJob
from rmx.runs.recipe import PRESETS
from rmx.service import Site, call
from rmx.ui.jobs.claims_jobs import Claims
from rmx.ui.jobs.comparer import Comparer
from rmx.ui.jobs.evaluator import Evaluator
from rmx.ui.jobs.explorer import Explorer
from rmx.ui.jobs.training import Training
from rmx.ui.page import build_app
from rmx.ui.settings import Settings
from rmx.ui.tabs.compare_tab import ClaimsTab, CompareTab
from rmx.ui.tabs.explore_tab import ExploreTab

FORM = {"model": "mini", "limit": 2, "n": 0, "temperature": 0.6, "top_p": 0.95, "seed": 0, "max_new_tokens": 4}
REQUEST = SimpleNamespace(session_hash="s")


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What is fetched from the Hub; nothing is cached."""
    found: list[str] = []

    def fetch(name: str, split: str) -> Any:
        found.append(name)
        return (Problem("0", "Ann has 3 apples and 4 pears. How many fruits?", "7", name, split),)

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RMX_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("rmx.data.problem_sets.fetch", fetch)
    return found


@pytest.fixture
def space(mini) -> Workspace:
    made = Workspace("cpu", loader=lambda spec: mini, policy=SiteRules(public=True, training="on"))
    made.model("mini")
    return made


def roads(space: Workspace, name: str) -> dict[str, Any]:
    """Every way in which a visitor can name a problem set."""
    settings, evaluator, training = Settings(public=True), Evaluator(space), Training(space)
    explore, compare = ExploreTab(Explorer(space, BranchStore()), settings), CompareTab(Comparer(space), settings)
    claims, site = ClaimsTab(Claims(space), settings), Site(space)
    pair, job = ("mini+rl", "", "", "", 1.0), TrainJob("mini", name, PRESETS["quick"], "quick")
    asked = (*pair[:4], name, 2, False, 1.2, 0, 1, 100, 0, 4)

    def verb(what: str, **given: Any) -> Any:
        return lambda: list(call(site, what, {"set": name, "max_new_tokens": 2, **given}, lambda: False))

    return {
        "Explore: a set": lambda: explore.choose_set(name),
        "Explore: a problem": lambda: explore.choose_problem(name, "0"),
        "Compare": lambda: list(compare.over_set("shifts")(REQUEST, *pair, name, 2, 1.2, 4)),  # type: ignore[arg-type]
        "Evaluate": lambda: evaluator.asked(FORM | {"set": name}),
        "Claims": lambda: list(claims.measure_all("", REQUEST, *asked)),  # type: ignore[arg-type]
        "Train: plan": lambda: training.plan(job),
        "Train: start": lambda: training.start(job, SimpleNamespace(public="eve", admin=False)),  # type: ignore[arg-type]
        "trace": verb("trace", problem="0"),
        "swap": verb("swap", problem="0", swaps="1=300"),
        "outcomes": verb("outcomes", problem="0", pos=1),
        "rescue": verb("rescue", problem="0"),
        "shifts of a problem": verb("shifts", problem="0"),
        "shifts of a set": verb("shifts", limit=1),
        "intervene": verb("intervene", limit=1),
    }


@pytest.mark.parametrize("name", ["gsm8k:test", "gsm8k", "math500", "aime24:test"])
def test_every_road_to_a_set_of_the_hub_is_refused_and_says_which_there_are(
    name: str, space: Workspace, fetched: list[str]
) -> None:
    for road, ask in roads(space, name).items():
        try:
            said = json.dumps(ask(), default=str)
        except (RmxError, gr.Error) as error:
            said = str(error)
        assert "This public site has the problem sets mini, arith, words. Duplicate" in said, (road, said)
    assert fetched == []


def test_a_set_that_is_named_is_read(mini, fetched: list[str]) -> None:
    policy = Settings(public=True, sets="gsm8k, aime24").policy
    assert policy.problem_sets() == ["mini", "arith", "words", "gsm8k", "aime24"]
    space = Workspace("cpu", loader=lambda spec: mini, policy=policy)
    roads(space, "gsm8k:test")["Explore: a set"]()
    assert fetched == ["gsm8k"]
    with pytest.raises(Refused, match="the problem sets mini, arith, words, gsm8k, aime24"):
        policy.admit_set("math500")


# `math` is read from two repositories; tests/unit/data/test_hub_sets.py has it.
@pytest.mark.parametrize("name", [name for name in REPOSITORIES if name != "math"])
def test_a_set_that_was_fetched_before_is_read(name: str, tmp_path: Path) -> None:
    owner, _, repository = REPOSITORIES[name].partition("/")
    folder = tmp_path / "cache" / f"{owner}___{camelcase_to_snakecase(repository)}"
    config = _ON_HUB[name][1] or "default"
    assert not is_cached(name)
    for place in (f"{config}/0.0.0/a1", "other/0.0.0/a1", f"{config}/0.0.0/a1.incomplete"):
        (folder / place).mkdir(parents=True)
    assert not is_cached(name)
    (folder / config / "0.0.0" / "a1" / "dataset_info.json").write_text("{}")
    assert is_cached(name)
    policy = SiteRules(public=True)
    assert policy.problem_sets() == ["mini", "arith", "words", name]
    policy.admit_set(f"{name}:test")


@pytest.mark.slow
def test_lists_on_the_page_offer_what_is_allowed_only(space: Workspace) -> None:
    def offered(space: Workspace, settings: Settings) -> dict[str, set[str]]:
        page = build_app(space, settings)
        lists = {getattr(b, "elem_id", None): getattr(b, "choices", None) for b in page.blocks.values()}
        found = {name: lists[name] for name in ("set", "pair-set", "evaluate-set", "claims-set", "train-set")}
        return {name: {value.partition(":")[0] for _, value in choices} for name, choices in found.items()}

    public = offered(space, Settings(public=True))
    assert public.pop("evaluate-set") == {"mini", "arith", "words", "own file"}
    assert set(map(frozenset, public.values())) == {frozenset({"mini", "arith", "words"})}
    private = offered(Workspace("cpu", loader=lambda spec: space.model("mini")), Settings())
    assert all("gsm8k" in names for names in private.values())


def test_a_name_that_is_no_set_of_the_hub_is_one_sentence_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMX_SETS", "gsm8k,/etc/passwd")
    with pytest.raises(RmxError, match="RMX_SETS cannot be .*/etc/passwd is none of the Hub's sets"):
        Settings.from_environment()
