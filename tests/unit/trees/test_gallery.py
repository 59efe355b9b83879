"""The gallery: each tree is what its list says of it, small, and decodes again to the same tokens."""

import pytest

from rmx.data.words import draw_words
from rmx.errors import ProblemError
from rmx.models.load import Model
from rmx.models.style_options import StyleOptions
from rmx.trees.document import Tree
from rmx.trees.gallery import DRAWN, FOLDER, MODEL, PICKED, SET, STEPS, list_trees, load_tree
from rmx.trees.link import TreeReplay, recipe_of


def shows(tree: Tree) -> str:
    """What a tree shows, by its answers."""
    first, *others = (bool(b.answer.correct) for b in tree.branches)
    word = "right" if first else "wrong"
    return f"{word} → {'wrong' if first else 'right'}" if (not first) in others else f"stays {word}"


@pytest.mark.parametrize(("name", "problem_id", "kind"), PICKED)
def test_a_tree_shows_what_its_list_says(name: str, problem_id: str, kind: str) -> None:
    tree = load_tree(name)
    problem = next(p for p in draw_words("test", DRAWN, levels=STEPS) if p.id == problem_id)
    assert problem.level in STEPS
    assert (tree.title, tree.known, tree.model, tree.licence) == (problem.problem, problem.answer, MODEL, "Apache-2.0")
    assert shows(tree) == kind
    assert len(tree.branches) >= 3
    for branch in tree.branches[1:]:
        assert tree.tokens(branch.parent or 0)[branch.at].entropy > tree.tau  # every swap is at a fork
    assert (FOLDER / f"{name}.json").stat().st_size < 150_000


def test_the_list_is_the_folder() -> None:
    assert {p.name for p in list_trees()} == {f.stem for f in FOLDER.glob("*.json")}
    assert {p.kind for p in list_trees()} >= {"wrong → right", "right → wrong", "stays wrong"}
    for wrong in ("../mini/config", "", None, {"a": 1}):
        with pytest.raises(ProblemError):
            load_tree(wrong)


@pytest.mark.slow
@pytest.mark.real
def test_the_smallest_tree_is_decoded_to_the_same_tokens(smol: Model) -> None:
    tree = min((load_tree(p.name) for p in list_trees()), key=lambda t: t.size)
    replay = TreeReplay(smol.ask_in(StyleOptions(), SET), None, recipe_of(tree))
    for run in replay.runs():
        for _ in run.steps():
            pass
    assert replay.verdict().said == f"verified: same tokens in all {len(tree.branches)} branches"
