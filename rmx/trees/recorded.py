"""A tree that was recorded elsewhere, as branches to look at; with its model, where that is loaded, to go on from."""

from collections.abc import Sequence
from typing import Any, NoReturn, cast

from rmx.errors import SwapError
from rmx.explore.branches import Branch, Origin
from rmx.explore.generate import Job
from rmx.models.adapter_names import adapter_name
from rmx.models.load import Model
from rmx.records import Trace, shown_adapter
from rmx.trees.tree import Tree


class Texts:
    """What a recorded tree knows of its tokens' texts; stands in for a Detokenizer."""

    def __init__(self, tree: Tree) -> None:
        self.special_ids = tree.special
        self._texts = {c.id: c.text for b in tree.branches for t in b.tokens for c in t.top}
        for branch in tree.branches:
            for token in branch.tokens:
                self._texts.setdefault(token.id, token.text)

    def token_text(self, token_id: int) -> str:
        return self._texts.get(token_id, f"⟪{token_id}⟫")

    def text(self, ids: Sequence[int]) -> str:
        return "".join(map(self.token_text, ids))


class Absent:
    """Stands in for a model that is not loaded: it can be looked at, and says what is missing when it is asked."""

    def __init__(self, tree: Tree) -> None:
        self.spec, self.revision, self.dtype, self.tau = tree.model, tree.revision, tree.dtype, tree.tau
        self.style = tree.style
        self.detokenizer = Texts(tree)
        self.highest = max(_ids(tree))
        self.adapters: list[str] = []

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise SwapError(
            f"This tree was recorded with {self.spec}, which is not loaded here. "
            "Load it under Model, or press Verify, to go on from it."
        )


def recorded_runs(tree: Tree, owner: str | None) -> list[Branch]:
    """The tree's branches as finished runs, labelled as recorded; none of them is added anywhere yet."""
    absent, origin = Absent(tree), Origin("recorded", tree.licence, tree.adapter_hash)
    model = cast(Model, absent)
    adapter = adapter_name(tree.adapter) if tree.adapter else None
    runs: list[Branch] = []
    for place, branch in enumerate(tree.branches):
        tokens = tree.tokens(place)
        parent = runs[branch.parent] if branch.parent is not None else None
        given = tuple(t.id for t in tokens) if branch.read and parent is None else None
        job = Job(tree.prompt_ids, branch.sampling, tree.tau, adapter, tree.known, read=given)
        if parent is not None:
            job = Job(
                tree.prompt_ids, branch.sampling, tree.tau, adapter, tree.known, tokens[: branch.at],
                branch.forced_ids, parent.tokens[branch.at],
            )  # fmt: skip
        run = Branch(model, job, tree.prompt or "", runs[0].tree if runs else "", parent, _title(tree), owner=owner)
        run.tree = run.tree or run.id
        run.origin, run.tokens = origin, list(tokens)
        run.show = tree.pos if place == tree.shown else None
        sampling = branch.sampling
        run.trace = Trace(
            tree.model, tree.adapter, tree.revision, tree.dtype, tree.prompt_ids, sampling.seed, sampling.temperature,
            sampling.top_p, tree.tau, tokens, branch.answer, branch.stop, branch.reuse, branch.seconds, tree.style,
        )  # fmt: skip
        runs.append(run)
    runs[0].stand_in = vars(absent.detokenizer)
    return runs


def revive(run: Branch, loaded: Any) -> None:
    """Give a recorded run its model where that is loaded meanwhile, so that it can be gone on from.

    Args:
        loaded: model spec -> the loaded Model, or None.

    Raises:
        SwapError: what is loaded under that name has other weights, or not these tokens.
    """
    absent: Any = run.model
    if not isinstance(absent, Absent):
        return
    model = loaded(absent.spec)
    if model is None:
        return
    if model.revision != absent.revision:
        raise SwapError(
            f"This tree was recorded with revision {absent.revision[:20]} of {absent.spec}; "
            f"{model.revision[:20]} is loaded here. Verify shows what differs."
        )
    adapter = run.job.adapter
    if adapter is not None and adapter not in model.engine.adapters:
        raise SwapError(f"This tree was recorded with the adapter {shown_adapter(adapter)}. Press Verify to load it.")
    if absent.highest >= model.engine.vocab_size or len(run.job.prompt_ids) + len(run.tokens) >= model.engine.context:
        raise SwapError(f"This tree does not fit {absent.spec}: it holds tokens that the model lacks.")
    run.model = model.with_style(absent.style or model.style.unrecorded)


def _title(tree: Tree) -> str | None:
    return tree.title or (None if tree.prompt else f"A solution of {tree.model}")


def _ids(tree: Tree) -> set[int]:
    return {*tree.prompt_ids, *(c for b in tree.branches for t in b.tokens for c in (t.id, *(a.id for a in t.top)))}
