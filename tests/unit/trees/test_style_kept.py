"""A prompt style stays with what was made in it: on the page, in files and links, in another process."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rmx.arguments import Sampling
from rmx.models.load import Model
from rmx.models.stand_ins import scripted_model
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.models.zerogpu import _model_name
from rmx.prompt_styles import STYLES
from rmx.runs.recipe import Recipe
from rmx.runs.store import RunStore
from rmx.storage.safe_files import DocumentError
from rmx.trees.document import Tree, read_tree, tree_document, tree_of
from rmx.trees.gallery import recorded_runs, revive
from rmx.trees.link import MOST_LINK, TreeReplay, link_of, pack, recipe_of, unpack
from rmx.ui.jobs.evaluator import Evaluator
from rmx.ui.jobs.explorer import Explorer
from rmx.ui.jobs.training import Training, shown_value
from rmx.ui.tabs.train_tab import FIELDS, TrainTab
from rmx.ui.visitor_cookie import owners_of
from tests.conftest import qwen, wrap
from tests.unit.trees.test_share_link import again
from tests.unit.trees.test_tree_file import grown
from tests.unit.ui.test_evaluator import FORM

DRAWN = Sampling(0.8, 0.9, 7, 24)
STOPPED = StyleOptions(stops=(" apples", "\n"), answers="boxed")


@pytest.fixture(scope="module")
def model() -> Model:
    return wrap(qwen())


@pytest.fixture(scope="module")
def letters(model: Model) -> tuple[str, ...]:
    """A stop text that the tree below comes to."""
    root = grown(model, [], sampling=DRAWN)[0]
    begun = "".join(t.text for t in root.tokens[:8])
    return (next(t.text for t in root.tokens[8:-1] if t.text and t.text not in begun),)


@pytest.fixture(scope="module")
def tree(model: Model, letters) -> Tree:
    asked = model.ask_in(StyleOptions(stops=letters, answers="boxed"))
    return tree_of(grown(asked, [(0, 5, 1)], sampling=DRAWN))


# -- the page


def test_a_solution_of_the_page_and_its_branches_keep_their_style() -> None:
    spoken = scripted_model(end=60)
    explorer = Explorer(Workspace(loader=lambda spec: spoken))
    run = explorer.start("scripted", None, "What?", Sampling(max_new_tokens=50), 1.5, style=STOPPED)
    list(explorer.stream(run))
    assert "stops at ' apples', '\\n'" in explorer.message(run, 0)["open"]["style"]
    assert run.trace is not None
    assert run.trace.stop == "stop_sequence"
    assert run.trace.style.answers == "boxed"
    branch = explorer.pick({"run": run.id, "pos": 0, "token_ids": [run.tokens[0].top[1].id]})
    assert branch.model.style == run.model.style
    assert spoken.style.stops == ()  # others are asked as ever


def test_the_evaluate_tab_asks_and_says_so(tmp_path) -> None:
    evaluator = Evaluator(Workspace("cpu"), RunStore(tmp_path))
    asked = evaluator.asked(FORM | {"style": "abel", "stops": "Human:\n\\n\\n", "answers": "boxed", "thinking": ""})
    assert asked.style == StyleOptions("abel", stops=("Human:", "\n\n"), answers="boxed")
    assert "--style abel --answers boxed --stop Human: --stop '\n\n' --json" in asked.command()
    assert evaluator.asked(FORM).style == StyleOptions()


def test_the_train_tab_asks_and_its_command_says_so(tmp_path) -> None:
    workspace = Workspace("cpu")
    tab = TrainTab(Training(workspace, RunStore(tmp_path)), owners_of("127.0.0.1", False))
    fields = [shown_value(Recipe().flat()[name]) for name in FIELDS]
    job = tab.job("mini", "mini", "paper", [], "", *fields, "abel", "", "", "Human:", "flexible")
    assert job.style == StyleOptions("abel", stops=("Human:",), answers="flexible")
    assert job.command_line().endswith("--style abel --answers flexible --stop Human:")
    assert tab.job("mini", "mini", "paper", [], "", *fields).style == StyleOptions()


# -- files and links


def test_a_file_keeps_the_style(tree: Tree, letters) -> None:
    assert tree.style.stops == letters
    for small in (True, False):
        back = read_tree(json.dumps(tree_document(tree, small)))
        assert back.style == tree.style
    document = tree_document(tree)
    del document["style"]  # as files of before have it
    assert read_tree(json.dumps(document)).style is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stops": ["a"] * 9}, "entries for the stop texts"),
        ({"stops": [1]}, "A text was expected for a stop text"),
        ({"answers": "any"}, "none that rmx knows"),
        ({"chat": 1}, "none that rmx knows"),
        ({"template": None}, "for the template"),
        ({"system": "x" * 60_000}, "for the system line"),
    ],
)
def test_a_hostile_style_is_refused(tree: Tree, change, words) -> None:
    document = tree_document(tree)
    document["style"] |= change
    with pytest.raises(DocumentError, match=words):
        read_tree(json.dumps(document))


def test_a_link_keeps_the_style_and_is_verified(model: Model, tree: Tree, letters) -> None:
    recipe = unpack(link_of(tree))
    assert recipe == recipe_of(tree)
    replay, verdict = again(model, recipe)
    assert verdict.same
    assert replay.model.style.stops == letters
    assert replay.made[0].trace.stop == tree.branches[0].stop == "stop_sequence"
    without = replace(recipe, style=replace(recipe.style, stops=()))
    assert not again(model, without)[1].same


def test_a_link_of_before_is_decoded_as_before(model: Model) -> None:
    """Whatever its family is asked by now: then nothing but an answer ended a completion."""
    runs = grown(model, [])
    recipe = unpack(pack(replace(recipe_of(tree_of(runs)), style=None)))
    stop = next(t.text for t in runs[0].tokens if t.text)
    today = model.with_style(replace(model.style, stops=(stop,), answers="boxed"))
    replay, verdict = again(today, recipe)
    assert verdict.same
    assert (replay.model.style.stops, replay.model.style.answers) == ((), "flexible")


def test_the_styles_of_the_presets_make_short_links(tree: Tree) -> None:
    plain = len(link_of(replace(tree, style=None)))
    for style in STYLES.values():
        assert len(link_of(replace(tree, style=style.recorded))) < plain + 40 < MOST_LINK


def test_a_recorded_tree_goes_on_in_its_style(model: Model, tree: Tree, letters) -> None:
    run = recorded_runs(tree, None)[0]
    assert run.trace.style == tree.style
    assert run.model.style == tree.style
    revive(run, lambda spec: model)
    assert run.model.style.stops == letters
    old = recorded_runs(replace(tree, style=None), None)[0]
    revive(old, lambda spec: model.with_style(STYLES["qwen"]))
    assert old.model.style.stops == ()


def test_a_replay_does_not_change_the_loaded_model(model: Model, tree: Tree) -> None:
    before = model.style
    TreeReplay(model, None, recipe_of(tree))
    assert model.style == before


# -- another process


def test_a_call_in_another_process_is_asked_in_the_same_style(model: Model) -> None:
    asked = model.ask_in(STOPPED)
    found = _model_name(asked).found(SimpleNamespace(model=lambda spec: model))
    assert found.style == asked.style
    assert found.stop_ids == asked.stop_ids
