"""What the page measures of a solution, and what it takes home or opens: links, files, the gallery.

Nothing that comes in is believed: links and files are read strictly, models go through the workspace and its policy,
and what was read from a file is labelled as recorded until it has been decoded here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rmx.arguments import Sampling
from rmx.config import check_tau
from rmx.engine.fair_queue import Kind, current_owner, iterate_as_owner
from rmx.errors import RmxError, SwapError
from rmx.explore.branches import Branch, Origin, swap_job
from rmx.explore.greedy_answers import AlternativeEnds, alternative_ends, fork_places, sofar
from rmx.explore.outcomes import OutcomeConfig, importance, outcomes
from rmx.explore.rescue import RescueConfig, rescue
from rmx.records import Trace
from rmx.storage.job_store import JobStore
from rmx.trees.document import Tree, tree_of
from rmx.trees.gallery import load_tree, recorded_runs, save_tree
from rmx.trees.link import ReplayPlan, TreeReplay, link_of, recipe_of, unpack
from rmx.trees.tree_page import read_any, tree_texts
from rmx.ui.jobs.explorer import Explorer, full_memory
from rmx.ui.jobs.page_jobs import Message, PageJob, download, field_of, stream_job

SAMPLES, BUDGET = 64, 60_000  # of one fork: samples per alternative, tokens over all
SAMPLES_EACH, BUDGET_ALL = 16, 120_000  # the same at every fork of a solution
BUDGET_RESCUE = 60_000


@dataclass(eq=False)
class Measurement(PageJob):
    """One measurement under way on a page."""

    kind: str
    run: Branch
    pos: int | None = None  # of outcomes
    states: Iterator[Any] = field(init=False)
    last: Message = field(default_factory=dict)  # the newest state, as the page gets it


class Measurements:
    """The measuring jobs of all pages."""

    def __init__(self, explorer: Explorer, keep: int = 400) -> None:
        self.explorer = explorer
        self.jobs: JobStore[Measurement] = JobStore("This measurement is over.", most=keep)

    def start(self, kind: str, data: object) -> Measurement:
        """Make a job, not begun yet.

        Args:
            kind: what is measured: "outcomes" of each alternative at {"run", "pos"}, "importance" of every fork of
                {"run"}, the "rescue" that turns it right or wrong, by {"goal"}, its answer "sofar", or the "ends" of
                the alternatives at the forks above {"tau"}, which nobody has asked for.
        """
        run = self.explorer.runs.get(field_of(data, "run"))
        if run.trace is None or not run.trace.tokens:
            raise SwapError("Wait until the solution is finished, then measure it.")
        self.explorer.revive(run)
        pos, tokens = field_of(data, "pos") if kind == "outcomes" else None, run.trace.tokens
        if kind == "outcomes" and (type(pos) is not int or not 0 <= pos < len(tokens)):
            raise SwapError(f"There is no token at position {pos}; there are {len(tokens)}.")
        job = Measurement(kind, run, pos)
        if kind == "ends":
            job.states = _ends(job, run.trace, check_tau(field_of(data, "tau")))
        else:
            job.states = _states(job, run.trace, field_of(data, "goal"))
        return self.jobs.add(job)

    def stream(self, job: Measurement) -> Iterator[Message]:
        """Yield the job's states as messages; the last one is done, whatever happens. Then the job is forgotten."""
        messages = stream_job(
            job,
            self._steps(job),
            lambda _: _message(job),
            0.0,
            full=lambda: full_memory(job.run),
            finish=lambda: self._finish(job),
        )
        kind = Kind.UNASKED if job.kind == "ends" else Kind.MEASURED
        yield from iterate_as_owner(job.run.owner, messages, kind)

    def _finish(self, job: Measurement) -> None:
        job.done = True
        self.jobs.forget(job.id)

    def _steps(self, job: Measurement) -> Iterator[bool]:
        for state in job.states:
            job.last = state.message()
            if job.last.get("done") and job.kind == "rescue":
                job.last["branch"] = self._branch(job.run, state) if state.found else None
            if not job.last.get("done"):
                yield True

    def _branch(self, run: Branch, state: Any) -> str | None:
        """Make the branches that a rescue found: one for each swap, continued greedily as the search did."""
        for swap in state.swaps:
            job = swap_job(run.job, run.tokens, swap.pos, [swap.to_id], run.model.engine.vocab_size)
            job = replace(job, sampling=Sampling(max_new_tokens=_limit(run)))
            run = self.explorer.runs.add(run.branch(job))
            for _ in run.steps():
                pass
            self.explorer.runs.weigh_again(run)
        return run.id


def _states(job: Measurement, trace: Trace, goal: Any) -> Iterator[Any]:
    """What the library measures for a job, state after state."""
    model, most = job.run.model, _limit(job.run)
    about: dict[str, Any] = {"known": job.run.job.known, "cancelled": lambda: job.stopped}
    if job.pos is not None:
        config = OutcomeConfig(samples=SAMPLES, budget=BUDGET, max_new_tokens=most)
        return outcomes(model, trace, job.pos, config, **about)
    if job.kind == "importance":
        config = OutcomeConfig(samples=SAMPLES_EACH, budget=BUDGET_ALL, max_new_tokens=most)
        return importance(model, trace, config, **about)
    if job.kind == "rescue":
        wanted = goal if goal in ("right", "wrong") else None
        return rescue(model, trace, RescueConfig(goal=wanted, budget=BUDGET_RESCUE, max_new_tokens=most), **about)
    return sofar(model, trace, **about)


def _ends(job: Measurement, trace: Trace, tau: float) -> Iterator[AlternativeEnds]:
    """The ends that are known, then those that are decoded; a lent GPU is not spent on what nobody has asked for."""
    run, places = job.run, fork_places(trace, tau)
    known = {pos: ends for pos in places if (ends := run.owner_at(pos).ends.get(pos)) is not None}
    left = [pos for pos in places if pos not in known]
    if run.model.engine.remote or not left:
        yield AlternativeEnds(known, 0, complete=True, done=True)
        return
    yield AlternativeEnds(known, 0)
    about: dict[str, Any] = {"known": run.job.known, "cancelled": lambda: job.stopped}
    for state in alternative_ends(run.model, trace, left, **about):
        for pos, ends in state.found.items():
            run.owner_at(pos).ends.setdefault(pos, ends)
        yield replace(state, found=known | state.found)


def _limit(run: Branch) -> int:
    """Most tokens of what is sampled; a pasted text was read without a limit, so it gets one."""
    most = run.job.sampling.max_new_tokens
    return most if run.job.read is None else max(most, 512)


def _message(job: Measurement) -> Message:
    """The newest state of a job."""
    state = job.last or {"kind": job.kind, "pos": job.pos}
    return state | {"run": job.run.id, "job": job.id} | ({"done": True, "error": job.error} if job.error else {})


# -- What the page takes home and what it opens -----------------------------------------------------------------------


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
