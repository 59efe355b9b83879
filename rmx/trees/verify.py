"""Decode a tree again from its recipe, and say whether the same tokens came, or where they part."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rmx.config import Sampling
from rmx.errors import ModelError, PromptError, SwapError
from rmx.explore.branches import Branch, Origin
from rmx.explore.generate import Job
from rmx.explore.swap import swap_job
from rmx.models.load import Model
from rmx.trees.link import ReplayPlan, ReplayStep
from rmx.trees.tree import adapter_hash


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of decoding a tree again."""

    same: bool
    said: str


class TreeReplay:
    """A recipe on a model. `runs()` hands out each branch, not generated yet; `verdict()` compares what came of them.

    Branches are decoded as their recipe says, one after another: that is what tells whether the same tokens come. A
    text that was read has its tokens in the recipe and takes one pass.
    """

    def __init__(self, model: Model, adapter: str | None, recipe: ReplayPlan, origin: Origin | None = None) -> None:
        style = replace(recipe.style, why="as it was recorded") if recipe.style else model.style.unrecorded
        self.model, self.adapter, self.recipe, self.origin = model.with_style(style), adapter, recipe, origin
        self.made: list[Branch | None] = []  # None: a branch that could not be made
        _check_fit(model, recipe)

    def runs(self, owner: str | None = None) -> Iterator[Branch]:
        """Each branch in turn; the caller generates it before asking for the next."""
        for place, step in enumerate(self.recipe.steps):
            run = self._run(place, step, owner)
            self.made.append(run)
            if run is not None:
                yield run

    def _run(self, place: int, step: ReplayStep, owner: str | None) -> Branch | None:
        recipe = self.recipe
        show = recipe.pos if place == recipe.shown else None
        facts: dict[str, Any] = {"title": recipe.title, "show": show, "owner": owner, "origin": self.origin}
        if step.parent is None:
            job = Job(recipe.prompt_ids, _bounded(step), recipe.tau, self.adapter, recipe.known, read=step.given)
            run = Branch(self.model, job, self.model.detokenizer.text(recipe.prompt_ids), tree="", **facts)
            run.tree = run.id
            return run
        parent = self.made[step.parent]
        if parent is None or parent.error:
            return None
        above = replace(parent.job, sampling=_bounded(step))
        try:
            job = swap_job(above, parent.tokens, step.at, step.forced, self.model.engine.vocab_size)
        except SwapError:  # the parent came out shorter
            return None
        return Branch(self.model, job, parent.prompt, parent.tree, parent, **facts)

    @property
    def shown(self) -> Branch | None:
        """The branch that was on screen; the root where that one could not be made."""
        wanted = self.made[self.recipe.shown] if self.recipe.shown < len(self.made) else None
        return wanted or (self.made[0] if self.made else None)

    def verdict(self) -> Verdict:
        """Whether all branches have the same tokens; else the first place where they part, and what differs here."""
        for place, step in enumerate(self.recipe.steps):
            run = self.made[place] if place < len(self.made) else None
            name = "the solution" if place == 0 else f"branch {place + 1}"
            if run is None:
                said = f"{name} cannot be decoded here: what it leaves came out shorter"
                return Verdict(False, said + self._differs())
            ids = [t.id for t in run.tokens]
            found = step.marks.parts(self.recipe.prompt_ids, ids, step.at)
            length = step.at + step.marks.length
            if found is None and len(ids) > length and not step.cut:
                found = (length, length)
            if found is not None:
                first, last = found
                where = f"at token {first}" if first == last else f"between tokens {first} and {last}"
                return Verdict(False, f"parts {where} of {name}{self._differs()}")
        count = len(self.recipe.steps)
        branches = f" in all {count} branches" if count > 1 else ""
        return Verdict(True, f"verified: same tokens{branches}{self._differs()}")

    def _differs(self) -> str:
        """What is not as it was where the tree was made."""
        recipe, here = self.recipe, self.model
        found = []
        if here.revision != recipe.revision:
            found.append(f"the model here is revision {here.revision[:20]}, not {recipe.revision[:20]}")
        mine = adapter_hash(here, self.adapter)
        if recipe.adapter_hash is not None and mine is not None and mine != recipe.adapter_hash:
            found.append(f"the adapter {recipe.adapter} has other weights here")
        if here.dtype != recipe.dtype:
            found.append(f"computed in {here.dtype} here, in {recipe.dtype} there")
        return "".join(f"; {what}" for what in found)


def _bounded(step: ReplayStep) -> Sampling:
    """Its own sampling; a branch that was stopped by hand is decoded no further than it came."""
    length = step.at + step.marks.length
    return replace(step.sampling, max_new_tokens=length) if step.cut else step.sampling


def _check_fit(model: Model, recipe: ReplayPlan) -> None:
    ids = (*recipe.prompt_ids, *(i for s in recipe.steps for i in (*s.forced, *(s.given or ()))))
    if max(ids) >= model.engine.vocab_size:
        raise ModelError(f"This tree is not of {model.spec}: it holds the token id {max(ids)}, which that model lacks.")
    length = len(recipe.prompt_ids) + len(recipe.steps[0].given or ())
    if length >= model.engine.context:
        raise PromptError(f"The prompt has {length} tokens and {model.spec} holds {model.engine.context}.")
