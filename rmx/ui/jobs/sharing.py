"""What the page takes home and what it opens: links, files, the gallery, and decoding a tree again.

Nothing that comes in is believed: links and files are read strictly, models go through the workspace and its policy,
and what was read from a file is labelled as recorded until it has been decoded here.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from rmx.config import check_tau
from rmx.engine.fair_queue import current_owner
from rmx.errors import RmxError, SwapError
from rmx.explore.branches import Branch, Origin
from rmx.trees.gallery import load_tree
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

    def link(self, data: object) -> Message:
        """{"run", "pos", "tau"} -> {"s": the value of a link's ?s=}."""
        return {"s": link_of(self._tree(data))}

    def file(self, data: object) -> Message:
        """{"run", "pos", "tau", "format": "json" | "html" | "svg" | "csv"} -> {"name", "mime", "text"}."""
        tree = self._tree(data)
        return download(_slug(tree), tree_texts(tree), field_of(data, "format"))

    def save(self, data: object) -> Message:
        """{"run", "pos", "tau", "repo", "token"} -> {"url"}: the tree in a dataset of the visitor's on the Hub."""
        tree = self._tree(data)
        repo, token = (str(field_of(data, key) or "").strip() for key in ("repo", "token"))
        return {"url": save_tree(tree_texts(tree)["json"](), f"{_slug(tree)}.json", repo, token)}

    def _tree(self, data: object) -> Tree:
        run, pos, tau = self.explorer.runs.get(field_of(data, "run")), field_of(data, "pos"), field_of(data, "tau")
        tree = tree_of(self.explorer.runs.group(run.tree), run.id, pos if type(pos) is int else None)
        return tree if tau is None else replace(tree, tau=check_tau(tau))

    def open_file(self, data: object) -> Message:
        """{"text"} of a file -> {"run"}: the branch of it to show, in memory now and labelled as recorded."""
        text = field_of(data, "text")
        if not isinstance(text, str):
            raise RmxError("There is no text in this file.")
        return {"run": self._keep(read_any(text)).id}

    def open_piece(self, data: object) -> Message:
        """{"name"} of the gallery -> {"run"}."""
        return {"run": self._keep(load_tree(field_of(data, "name"))).id}

    def _keep(self, tree: Tree) -> Branch:
        """Put a recorded tree into memory; returns the branch that was shown."""
        runs = recorded_runs(tree, current_owner.get().owner)
        self.explorer.runs.add(*runs)
        return runs[tree.shown]

    def open_link(self, value: str, owner: str | None, begin: Begin) -> Iterator[Message]:
        """Decode the tree of a link and stream it; the last message shows its branch with the verdict."""
        yield from self._again(unpack(value), Origin("link"), owner, begin)

    def verify(self, data: object, owner: str | None, begin: Begin) -> Iterator[Message]:
        """Do the same with a recorded tree: {"run"}."""
        run = self.explorer.runs.get(field_of(data, "run"))
        if run.origin is None or run.origin.kind != "recorded":
            raise SwapError("This tree was decoded here; there is nothing to verify.")
        recorded = [r for r in self.explorer.runs.group(run.tree) if r.origin is run.origin]
        recipe = recipe_of(tree_of(recorded, run.id, run.show))
        yield from self._again(recipe, Origin("again", run.origin.licence), owner, begin)

    def _again(self, recipe: ReplayPlan, origin: Origin, owner: str | None, begin: Begin) -> Iterator[Message]:
        longest, most = max(step.sampling.max_new_tokens for step in recipe.steps), self.max_new_tokens
        if min(longest, max(s.at + s.marks.length for s in recipe.steps)) > most:
            raise RmxError(f"At most {most} tokens here; this tree has more.")
        model = self.explorer.workspace.model(recipe.model)
        adapter = self.explorer.workspace.adapter(model, recipe.adapter)
        # No branch is decoded further than this site allows.
        bounded = [replace(s.sampling, max_new_tokens=min(s.sampling.max_new_tokens, most)) for s in recipe.steps]
        steps = tuple(replace(s, sampling=sampling) for s, sampling in zip(recipe.steps, bounded, strict=True))
        replay, stopped = TreeReplay(model, adapter, replace(recipe, steps=steps), origin), False
        for run in replay.runs(owner):
            yield from self.explorer.stream(begin(self.explorer.runs.add(run)))
            cut = recipe.steps[len(replay.made) - 1].cut
            stopped = run.error is not None or (run.trace is not None and run.trace.stop == "cancelled" and not cut)
            if stopped:
                break
        if stopped:
            origin.verdict = "stopped before it was compared"
        else:
            verdict = replay.verdict()
            origin.same, origin.verdict = verdict.same, verdict.said
        if replay.shown is not None:
            yield self.explorer.message(replay.shown, 0, whole=True)


def _slug(tree: Tree) -> str:
    """A file's name from the first words of the problem."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in tree.title or tree.model).split()
    return "-".join(words)[:48].strip("-").lower() or "solution"
