"""Trees as documents: what is written is read back, and nothing that is not a tree gets through."""

import copy
import json
import random
from typing import Any

import pytest

from rmx.arguments import Sampling
from rmx.explore.generate import Branch, Job, swap_job
from rmx.models.load import Model
from rmx.models.workspace import Workspace
from rmx.service import Site, call
from rmx.storage.safe_files import MOST_CHARACTERS, DocumentError, parse
from rmx.trees.document import Tree, read_tree, tree_document, tree_of
from tests.conftest import qwen, wrap


def grown(
    model: Model, swaps: list[tuple[int, int, int]], problem: str = "1 + 1?", sampling: Any = None
) -> list[Branch]:
    """Runs of one tree: the root, then a branch for each (parent, position, rank of the token in its top)."""
    ids = model.prompt_ids(problem)
    job = Job(ids, sampling or Sampling(max_new_tokens=24), 1.0, known="2")
    root = Branch(model, job, model.detokenizer.text(ids), "tree", title=problem)
    runs = [root]
    list(root.steps())
    for parent, pos, rank in swaps:
        above = runs[parent]
        token = above.tokens[pos].top[rank].id
        branch = swap_job(above.job, above.tokens, pos, [token], model.engine.vocab_size)
        runs.append(Branch(model, branch, root.prompt, "tree", above, problem))
        list(runs[-1].steps())
    return runs


@pytest.fixture(scope="module")
def tree() -> Tree:
    runs = grown(wrap(qwen()), [(0, 5, 1), (1, 9, 2), (0, 3, 1)])
    return tree_of(runs, runs[2].id, 10)


def dumped(tree: Tree, small: bool = False) -> str:
    return json.dumps(tree_document(tree, small))


def test_a_document_is_read_back_as_it_was(tree: Tree) -> None:
    assert (tree.shown, tree.pos, [b.parent for b in tree.branches]) == (2, 10, [None, 0, 1, 0])
    back = read_tree(dumped(tree))
    assert [back.ids(i) for i in range(4)] == [tree.ids(i) for i in range(4)]
    assert back.branches[2].tokens == tree.branches[2].tokens
    assert (back.title, back.prompt, back.known) == ("1 + 1?", tree.prompt, "2")
    assert [b.sampling for b in back.branches] == [b.sampling for b in tree.branches]
    assert back.branches[1].forced_ids == (tree.branches[0].tokens[5].top[1].id,)


def test_a_small_document_keeps_ids_texts_and_forks(tree: Tree) -> None:
    small = dumped(tree, small=True)
    back = read_tree(small)
    assert len(small) < 0.35 * len(dumped(tree))
    for i in range(4):
        for old, new in zip(tree.tokens(i), back.tokens(i), strict=True):
            assert (new.id, new.text, new.rank, new.forced) == (old.id, old.text, old.rank, old.forced)
            assert [c.text for c in new.top] == [c.text for c in old.top[:5]]
            assert (new.entropy > tree.tau) == (old.entropy > tree.tau)
            assert new.logp == pytest.approx(old.logp, abs=1e-4)


def test_the_root_of_a_document_is_a_plain_trace(tree: Tree) -> None:
    document = tree_document(tree)
    assert document["tokens"] == [t.json(tree.tau) for t in tree.tokens(0)]
    assert {"prompt_ids", "seed", "temperature", "answer", "stop", "reuse", "seconds"} <= document.keys()


def test_what_rmx_trace_prints_is_read(mini: Model) -> None:
    *_, documents = call(Site(Workspace("cpu")), "swap", {"problem": "241", "swaps": "28=879,31=1"})
    one = read_tree(json.dumps(documents[0]))
    assert (len(one.branches), one.model, one.tau) == (1, "mini", 1.0)
    chain = read_tree(json.dumps(documents))
    assert [(b.parent, b.at, b.forced) for b in chain.branches] == [(None, 0, 0), (0, 28, 1), (1, 31, 1)]
    assert [chain.ids(i) for i in range(3)] == [[t["id"] for t in d["tokens"]] for d in documents]
    assert chain.shown == 2


def test_a_list_that_is_no_chain_of_swaps_is_refused(mini: Model) -> None:
    documents = [list(call(Site(Workspace("cpu")), "trace", {"problem": i}))[-1] for i in ("1", "2")]
    with pytest.raises(DocumentError, match="another model or prompt"):
        read_tree(json.dumps(documents))
    with pytest.raises(DocumentError, match="no swap of the one before"):
        read_tree(json.dumps([documents[0], documents[0]]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("format",), "other", "not a trace or a tree"),
        (("version",), 2, "version 2"),
        (("tau",), float("nan"), "not JSON"),
        (("tau",), -1, "tau"),
        (("tau",), True, "tau"),
        (("prompt_ids",), [], "prompt_ids"),
        (("prompt_ids", 0), 2**31, "prompt_ids"),
        (("prompt_ids", 0), 1.0, "prompt_ids"),
        (("model",), 7, "model"),
        (("model",), "m" * 401, "401 characters"),
        (("title",), "x" * 50_001, "title"),
        (("shown",), 4, "shown"),
        (("pos",), 10_000, "pos"),
        (("tokens",), [], "no tokens"),
        (("tokens",), "text", "a list was expected"),
        (("tokens", 3), 7, "Token 3"),
        (("tokens", 3, "id"), -1, "id of token 3"),
        (("tokens", 3, "pos"), 4, "place 3"),
        (("tokens", 3, "entropy"), 1e9, "entropy of token 3"),
        (("tokens", 3, "logp"), "0", "log-probability of token 3"),
        (("tokens", 3, "rank"), 0, "rank of token 3"),
        (("tokens", 3, "forced"), 1, "'forced' of token 3"),
        (("tokens", 3, "text"), None, "text of token 3"),
        (("tokens", 3, "top"), [[1]], "id and probability|pair"),
        (("tokens", 3, "top", 0, "p"), 2, "probability"),
        (("tokens", 3, "id"), 5, "digest"),
        (("answer",), [], "answer"),
        (("answer", "correct"), "yes", "correct"),
        (("stop",), "never", "stopped at"),
        (("temperature",), 99, "temperature"),
        (("seed",), -1, "seed"),
        (("branches",), {}, "branches"),
        (("branches", 0, "parent"), 1, "earlier branch"),
        (("branches", 0, "parent"), None, "earlier branch"),
        (("branches", 0, "at"), 24, "leaves its parent"),
        (("branches", 0, "forced"), 0, "forced"),
        (("branches", 1), [], "Branch 3"),
        (("texts",), {"x": "y"}, "no token id"),
        (("special",), [-1], "special"),
    ],
)
def test_a_wrong_document_is_one_sentence(tree: Tree, path: tuple[Any, ...], value: Any, says: str) -> None:
    document = tree_document(tree)
    at: Any = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(DocumentError, match=f"(?i){says}") as error:
        read_tree(json.dumps(document))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "7", '"tree"', "[]", "[[]]", "{}", "[" * 100_000, '{"a":' * 50_000, "1" * 5000, "[NaN]", "\x00"],
)
def test_no_document_at_all(text: str) -> None:
    with pytest.raises(DocumentError):
        read_tree(text)


def test_sizes_are_bounded() -> None:
    with pytest.raises(DocumentError, match="at most 4 are read"):
        parse(" " * (MOST_CHARACTERS + 1))


def test_lone_surrogates_do_not_travel_on(tree: Tree) -> None:
    document = tree_document(tree)
    document["title"] = "a\ud83db"
    read_tree(json.dumps(document)).title.encode("utf-8")  # type: ignore[union-attr]


@pytest.mark.slow
def test_random_damage_never_crashes_the_reader(tree: Tree) -> None:
    """Whatever stands in a place of the document: it is read, or refused in a sentence."""
    draw = random.Random(0)
    odd = [None, True, -1, 0, 1.5, 2**70, 1e308, "", "x", "<script>", [], {}, [[]], [1, 2], {"id": 1}, "\ud800", -0.0]
    whole = tree_document(tree, small=True)
    read, said = 0, []
    for _ in range(200):
        document = copy.deepcopy(whole)
        at: Any = document
        while isinstance(at, dict | list) and at:
            key: Any = draw.choice(list(at)) if isinstance(at, dict) else draw.randrange(len(at))
            below = at[key]
            if not isinstance(below, dict | list) or not below or draw.random() < 0.25:
                if draw.random() < 0.2:
                    del at[key]
                else:
                    at[key] = draw.choice(odd)
                break
            at = below
        try:
            read_tree(json.dumps(document))
            read += 1
        except DocumentError as error:
            said.append(str(error))
    assert 0 < read < 180
    assert all(10 < len(sentence) < 400 for sentence in said)
