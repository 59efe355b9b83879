"""A tree in an address: there and back, bounded, and what comes of decoding it again."""

import base64
import json
import random
import zlib
from dataclasses import replace

import pytest

from rmx.arguments import Sampling
from rmx.errors import ModelError
from rmx.explore.generate import Origin
from rmx.models.load import Model
from rmx.storage.safe_files import DocumentError
from rmx.trees.document import Tree, tree_of
from rmx.trees.link import (
    MOST_LINK,
    ReplayPlan,
    TooLong,
    TreeReplay,
    Verdict,
    link_of,
    marks_of,
    pack,
    recipe_of,
    unpack,
)
from tests.conftest import qwen, wrap
from tests.unit.trees.test_tree_file import grown

PROMPT, IDS = (1, 2, 3), list(range(40, 100))


@pytest.fixture(scope="module")
def model() -> Model:
    return wrap(qwen())


@pytest.fixture(scope="module")
def tree(model: Model) -> Tree:
    runs = grown(model, [(0, 5, 1), (1, 9, 2), (0, 3, 1)], sampling=Sampling(0.8, 0.9, 7, 24))
    return tree_of(runs, runs[2].id, 10)


def again(model: Model, recipe: ReplayPlan) -> tuple[TreeReplay, Verdict]:
    replay = TreeReplay(model, None, recipe, Origin("link"))
    for run in replay.runs("visitor"):
        list(run.steps())
    return replay, replay.verdict()


@pytest.mark.parametrize("block", [1, 4, 16, 64])
def test_marks_tell_where_tokens_part(block: int) -> None:
    marks = marks_of(PROMPT, IDS, 10, block)
    assert (marks.length, len(marks.marks), len(marks.seal)) == (50, 2 * -(-50 // block), 8)
    assert marks.parts(PROMPT, IDS, 10) is None
    assert marks.parts(PROMPT, [*IDS, 7], 10) is None  # what comes after is not marked
    for at in (10, 11, 33, 58, 59):
        other = [*IDS]
        other[at] += 1
        first, last = marks.parts(PROMPT, other, 10) or (0, 0)
        assert first <= at <= last < first + block
    assert marks.parts((1, 2, 4), IDS, 10) == (10, 10 + min(block, 50) - 1)
    first, last = marks.parts(PROMPT, IDS[:37], 10) or (0, 0)  # it ended early
    assert first <= 37 <= last <= 37
    assert last - first < block


def test_a_link_holds_the_recipe(tree: Tree) -> None:
    value = link_of(tree)
    assert len(value) < 1000
    assert set(value) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert unpack(value) == recipe_of(tree)


def test_marks_grow_coarser_and_the_title_goes_before_a_link_is_refused(tree: Tree) -> None:
    value = link_of(tree)
    assert unpack(value).steps[0].marks.block == 1
    shorter = unpack(link_of(tree, len(value) - 40))
    assert (shorter.steps[0].marks.block, shorter.title) == (2, "1 + 1?")
    noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=6000))
    assert unpack(link_of(replace(tree, title=noise))).title is None
    with pytest.raises(TooLong, match="Download the file"):
        link_of(tree, 200)
    with pytest.raises(TooLong, match="24 branches"):
        link_of(replace(tree, branches=tree.branches[:1] * 25))


def test_decoding_a_link_again_gives_the_same_tokens(model: Model, tree: Tree) -> None:
    replay, verdict = again(model, unpack(link_of(tree)))
    assert verdict == Verdict(True, "verified: same tokens in all 4 branches")
    made = [run for run in replay.made if run is not None]
    assert [[t.id for t in run.tokens] for run in made] == [tree.ids(i) for i in range(4)]
    assert {run.tree for run in made} == {made[0].id}
    assert (replay.shown, made[2].show, made[0].show, made[3].owner) == (made[2], 10, None, "visitor")


def test_a_link_says_where_it_parts(model: Model, tree: Tree) -> None:
    ids = tree.ids(1)
    ids[14] = (ids[14] + 1) % 256
    recipe = recipe_of(tree)
    changed = replace(recipe.steps[1], marks=marks_of(tree.prompt_ids, ids, 5, 1))
    _, verdict = again(model, replace(recipe, steps=(recipe.steps[0], changed, *recipe.steps[2:])))
    assert verdict == Verdict(False, "parts at token 14 of branch 2")
    shorter = replace(recipe.steps[0], marks=marks_of(tree.prompt_ids, tree.ids(0)[:20], 0, 4))
    _, verdict = again(model, replace(recipe, steps=(shorter,), shown=0))
    assert verdict == Verdict(False, "parts at token 20 of the solution")
    cut = replace(shorter, cut=True)  # by hand, so nothing is known of what would have come
    assert again(model, replace(recipe, steps=(cut,), shown=0))[1].same


def test_what_differs_here_is_said(model: Model, tree: Tree) -> None:
    other = wrap(qwen(seed=1))
    _, verdict = again(other, replace(recipe_of(tree), revision="abc", dtype="bfloat16"))
    assert not verdict.same
    assert "the model here is revision test, not abc" in verdict.said
    assert "computed in float32 here, in bfloat16 there" in verdict.said


def test_a_tree_of_another_vocabulary_is_refused(model: Model, tree: Tree) -> None:
    with pytest.raises(ModelError, match="token id 70000"):
        TreeReplay(model, None, replace(recipe_of(tree), prompt_ids=(70_000,)))


def folded(plain: object) -> str:
    return "1" + base64.urlsafe_b64encode(zlib.compress(json.dumps(plain).encode())).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "2abc",
        "1!!!",
        "1é",
        "1" + "A" * (MOST_LINK + 1000),
        folded(None),
        folded([]),
        folded({}),
        folded({"z": 1}),
    ],
)
def test_no_link_at_all(value: str) -> None:
    with pytest.raises(DocumentError):
        unpack(value)


def test_a_link_that_unfolds_without_end_is_refused() -> None:
    bomb = folded("0" * 2_000_000)
    assert len(bomb) < MOST_LINK
    with pytest.raises(DocumentError, match="cut off or changed"):
        unpack(bomb)


def test_damaged_links_never_crash(tree: Tree) -> None:
    value, draw = link_of(tree), random.Random(2)
    plain = zlib.decompress(base64.urlsafe_b64decode(value[1:] + "=" * (-len(value[1:]) % 4))).decode()
    refused = 0
    for _ in range(300):
        k = draw.randrange(len(plain))
        text = plain[:k] + draw.choice(["9", "-1", "[]", "null", '"', "{", ""]) + plain[k + draw.randrange(3) :]
        damaged = "1" + base64.urlsafe_b64encode(zlib.compress(text.encode())).rstrip(b"=").decode()
        try:
            unpack(damaged)
        except DocumentError:
            refused += 1
    assert refused > 150
    for k in range(1, len(value), 17):
        with pytest.raises(DocumentError):
            unpack(value[:k])


def test_a_link_bounds_what_it_asks_for(tree: Tree) -> None:
    recipe = recipe_of(tree)
    greedy = replace(recipe.steps[0], marks=marks_of((), [1] * 19_990, 0, 1024))
    with pytest.raises(DocumentError, match="at most 20,000 are decoded"):
        unpack(pack(replace(recipe, steps=(greedy, replace(recipe.steps[1], marks=marks_of((), [1] * 40, 0, 1024))))))
