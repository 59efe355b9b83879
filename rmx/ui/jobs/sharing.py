"""What the page takes home and what it opens: links, files, the gallery, and decoding a tree again. No gradio in here.

Nothing that comes in is believed: links and files are read strictly, models go through the workspace and its policy,
and what was read from a file is labelled as recorded until it has been decoded here.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from rmx.config import check_tau
from rmx.engine.fair_queue import current_owner
from rmx.errors import RmxError, SwapError
from rmx.explore.branches import Branch, Origin
from rmx.trees.gallery import list_trees, load_tree
from rmx.trees.link import ReplayPlan, link_of, recipe_of, unpack
from rmx.trees.recorded import recorded_runs
from rmx.trees.save_to_hub import save_tree
from rmx.trees.tree import Tree, tree_of
from rmx.trees.tree_page import read_any, tree_texts
from rmx.trees.verify import TreeReplay
from rmx.ui.jobs.explorer import Explorer
from rmx.ui.jobs.page_jobs import Message, download, field_of

Begin = Callable[[Branch], Branch]


class Sharing:
    """Trees out of and into one explorer's memory."""

    def __init__(self, explorer: Explorer, max_new_tokens: int = 4096) -> None:
        self.explorer, self.max_new_tokens = explorer, max_new_tokens

    # -- out ------------------------------------------------------------------------------------------------------

    def link(self, data: object) -> Message:
        """{"run", "pos", "tau"} -> {"s": the value of a link's ?s=}.

        Raises:
            RmxError: nothing is finished yet, or the tree is too long for a link.
        """
        return {"s": link_of(self._tree(data))}

    def file(self, data: object) -> Message:
        """{"run", "pos", "tau", "format": "json" | "html" | "svg" | "csv"} -> {"name", "mime", "text"}.

        Raises:
            RmxError: nothing is finished yet, or another format.
        """
        tree = self._tree(data)
        return download(_slug(tree), tree_texts(tree), field_of(data, "format"))

    def save(self, data: object) -> Message:
        """{"run", "pos", "tau", "repo", "token"} -> {"url"}: the tree in a dataset of the visitor's on the Hub.

        Raises:
            RmxError: the Hub does not allow it.
        """
        tree = self._tree(data)
        repo, token = (str(field_of(data, key) or "").strip() for key in ("repo", "token"))
        return {"url": save_tree(tree_texts(tree)["json"](), f"{_slug(tree)}.json", repo, token)}

    def _tree(self, data: object) -> Tree:
        run, pos, tau = self.explorer.runs.get(field_of(data, "run")), field_of(data, "pos"), field_of(data, "tau")
        tree = tree_of(self.explorer.runs.group(run.tree), run.id, pos if type(pos) is int else None)
        return tree if tau is None else replace(tree, tau=check_tau(tau))

    # -- in -------------------------------------------------------------------------------------------------------

    def open_file(self, data: object) -> Message:
        """{"text"} of a file -> {"run"}: the branch of it to show, in memory now and labelled as recorded.

        Raises:
            RmxError: it is no tree.
        """
        text = field_of(data, "text")
        if not isinstance(text, str):
            raise RmxError("There is no text in this file.")
        return {"run": self._keep(read_any(text)).id}

    def open_piece(self, data: object) -> Message:
        """{"name"} of the gallery -> {"run"}.

        Raises:
            RmxError: no such tree.
        """
        return {"run": self._keep(load_tree(field_of(data, "name"))).id}

    @staticmethod
    def gallery() -> list[dict[str, Any]]:
        """What is in the gallery, for its list."""
        return [
            {"name": p.name, "kind": p.kind, "title": p.title, "model": p.model, "branches": p.branches}
            for p in list_trees()
        ]

    def _keep(self, tree: Tree) -> Branch:
        """Put a recorded tree into memory; returns the branch that was shown."""
        runs = recorded_runs(tree, current_owner.get().owner)
        self.explorer.runs.add(*runs)
        return runs[tree.shown]

    # -- decoding again ---------------------------------------------------------------------------------------------

    def open_link(self, value: str, owner: str | None, begin: Begin) -> Iterator[Message]:
        """Decode the tree of a link and stream it; the last message shows its branch with the verdict.

        Raises:
            RmxError: the link or its model cannot be had.
        """
        yield from self._again(unpack(value), Origin("link"), owner, begin)

    def verify(self, data: object, owner: str | None, begin: Begin) -> Iterator[Message]:
        """The same for a recorded tree: {"run"}.

        Raises:
            RmxError: it was not recorded, or its model cannot be had.
        """
        run = self.explorer.runs.get(field_of(data, "run"))
        if run.origin is None or run.origin.kind != "recorded":
            raise SwapError("This tree was decoded here; there is nothing to verify.")
        recorded = [r for r in self.explorer.runs.group(run.tree) if r.origin is run.origin]
        recipe = recipe_of(tree_of(recorded, run.id, run.show))
        yield from self._again(recipe, Origin("again", run.origin.licence), owner, begin)

    def _again(self, recipe: ReplayPlan, origin: Origin, owner: str | None, begin: Begin) -> Iterator[Message]:
        most = max(step.sampling.max_new_tokens for step in recipe.steps)
        if min(most, max(s.at + s.marks.length for s in recipe.steps)) > self.max_new_tokens:
            raise RmxError(f"At most {self.max_new_tokens} tokens here; this tree has more.")
        model = self.explorer.workspace.model(recipe.model)
        adapter = self.explorer.workspace.adapter(model, recipe.adapter)
        replay, stopped = TreeReplay(model, adapter, self._bounded(recipe), origin), False
        for run in replay.runs(owner):
            yield from self.explorer.stream(begin(self.explorer.runs.add(run)))
            cut = recipe.steps[len(replay.made) - 1].cut
            stopped = run.error is not None or (run.trace is not None and run.trace.stop == "cancelled" and not cut)
            if stopped:
                break
        if not stopped:
            verdict = replay.verdict()
            origin.same, origin.verdict = verdict.same, verdict.said
        else:
            origin.verdict = "stopped before it was compared"
        if replay.shown is not None:
            yield self.explorer.message(replay.shown, 0, whole=True)

    def _bounded(self, recipe: ReplayPlan) -> ReplayPlan:
        """No branch is decoded further than this site allows."""
        steps = []
        for step in recipe.steps:
            most = min(step.sampling.max_new_tokens, self.max_new_tokens)
            steps.append(replace(step, sampling=replace(step.sampling, max_new_tokens=most)))
        return replace(recipe, steps=tuple(steps))


def _slug(tree: Tree) -> str:
    """A file's name from the first words of the problem."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in tree.title or tree.model).split()
    return "-".join(words)[:48].strip("-").lower() or "solution"
