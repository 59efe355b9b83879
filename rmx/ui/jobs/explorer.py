"""The explore road for the token view: clicks to branches, what is measured of them, what is taken home or opened.

Nothing that comes in is believed: links and files are read strictly, models go through the workspace and its policy,
and what was read from a file is labelled as recorded until it has been decoded here.
"""

import json
import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

import torch

from rmx.arguments import Sampling
from rmx.config import TOP_SHOWN, check_tau
from rmx.engine.decoding_memory import out_of_memory
from rmx.engine.fair_queue import Kind, current_owner, iterate_as_owner
from rmx.errors import RmxError, SwapError, TrainError
from rmx.explore.generate import Branch, BranchStore, Job, Origin, read_job, swap_job
from rmx.explore.greedy_answers import AlternativeEnds, alternative_ends, fork_places, look_ahead, search, sofar
from rmx.explore.outcomes import OutcomeConfig, importance, outcomes
from rmx.explore.rescue import RescueConfig, rescue
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import TokenDist, Trace, shown_adapter
from rmx.runs.job import MOST, SHOWN, Pin
from rmx.service.checks import Limits, short_enough
from rmx.storage.job_store import JobStore
from rmx.trees.document import Tree, tree_of
from rmx.trees.gallery import Absent, load_tree, recorded_runs, revive, save_tree
from rmx.trees.link import ReplayPlan, TreeReplay, link_of, recipe_of, unpack
from rmx.trees.tree_page import read_any, tree_texts
from rmx.ui.jobs import page_jobs
from rmx.ui.jobs.page_jobs import INTERVAL, PATIENCE, Message, PageJob, field_of, line_and_error, stream_job

log = logging.getLogger(__name__)
FORCED, SPECIAL = 1, 2
PROMPT = 1024  # tokens of a prompt that may stand before a pin, beside those of a solution
FANNED = 0.35  # nats above which a token comes with its alternatives, for the fan at any threshold


class Explorer:
    """The explore road for the page: start, pick, halt, and the read-only questions."""

    def __init__(self, workspace: Workspace, runs: BranchStore | None = None, limits: Limits | None = None) -> None:
        self.workspace = workspace
        self.runs = runs or BranchStore()
        self.limits = limits or Limits()

    def start(
        self,
        spec: str,
        adapter: str | None,
        problem: str,
        sampling: Sampling,
        tau: float,
        *,
        known: str | None = None,
        known_computed: bool = False,
        raw: bool = False,
        read: str | None = None,
        show: int | None = None,
        owner: str | None = None,
        style: StyleOptions = StyleOptions(),  # noqa: B008  a frozen record
        set_name: str | None = None,
    ) -> Branch:
        """Make a tree: its first branch, not generated yet.

        Args:
            owner: the visitor who asks. set_name: whose problem it is; None: the visitor's own.
        """
        check_tau(tau)
        check_texts(self.limits, problem, known, read)
        model = self.workspace.model(spec).ask_in(style, set_name, raw)
        name = self.workspace.adapter(model, adapter)
        ids = model.prompt_ids(problem, raw)
        known = (known or "").strip() or None
        if read is None:
            job = Job(ids, sampling, tau, name, known)
        else:
            job = replace(read_job(model, ids, read, tau, known), adapter=name)
        about: dict[str, Any] = {"title": problem.strip(), "show": show, "known_computed": known_computed}
        run = Branch(model, job, model.detokenizer.text(ids), "", owner=owner, **about)
        run.tree = run.id
        return self.runs.add(run)

    def pick(self, data: object) -> Branch:
        """Make a branch from {"run", "pos", "token_ids" | "text"}."""
        run, pos = self._place(data)
        self.revive(run)
        ids, text = field_of(data, "token_ids"), field_of(data, "text")
        if isinstance(text, str) and ids is None:
            ids = run.model.encode(text[:2000])
        if not isinstance(ids, list):
            raise SwapError("Nothing to force: pick a token or type some text.")
        job = swap_job(run.job, run.tokens, pos, ids, run.model.engine.vocab_size)
        if run.job.read is not None:  # a pasted text goes on as if it had been generated
            job = replace(job, sampling=replace(job.sampling, max_new_tokens=max(len(run.tokens) * 2, 512)))
        return self.runs.add(run.branch(job))

    def revive(self, run: Branch) -> None:
        """Give a recorded branch its model where that is loaded by now."""
        space = self.workspace
        revive(run, lambda spec: space.model(spec) if spec in space.loaded else None)

    def copy(self, run: Branch, owner: str | None) -> Branch:
        """Make a tree of the visitor's own that begins with a solution that is finished already."""
        made = replace(run, owner=owner, id=secrets.token_urlsafe(12), tree="", tokens=list(run.tokens), _stop=Event())
        made.tree = made.id
        return self.runs.add(made)

    def stream(self, run: Branch) -> Iterator[Message]:
        """Generate a branch; yields a message at most a dozen times a second, the last one has the result."""
        work: dict[str, Any] = {"full": lambda: full_memory(run), "finish": lambda: self.runs.weigh_again(run)}
        tokens: dict[str, Any] = {"made": lambda: len(run.tokens), "sent": run.at or 0}
        messages = stream_job(run, _steps(run), lambda sent: self.message(run, sent), INTERVAL, **work, **tokens)
        yield from iterate_as_owner(run.owner, messages)

    def tail(self, data: object) -> Message:
        """Everything of a run from {"run", "start"} on."""
        return self.message(self.runs.get(field_of(data, "run")), page_jobs.start_of(data), True)

    def inspect(self, data: object) -> Message:
        """The distribution behind one token: {"run", "pos"}."""
        run, pos = self._place(data)
        token = run.tokens[pos]
        known = {k: v for k, v in token.json(run.job.tau).items() if k not in ("logp", "fork")}
        return known | {"p": token.p}

    def look(self, data: object) -> Message:
        """What each of the five alternatives at {"run", "pos"} would say next."""
        run, pos = self._place(data)
        if isinstance(run.model, Absent):
            return {"pos": pos, "alternatives": []}
        prefix = [*run.job.prompt_ids, *(t.id for t in run.tokens[:pos])]
        ids = [c.id for c in run.tokens[pos].top[:TOP_SHOWN]]
        rows = look_ahead(run.model, prefix, ids, run.job.adapter, patience=PATIENCE)
        detokenizer = run.model.detokenizer
        texts = [detokenizer.text([i for i in row[1:] if i not in detokenizer.special_ids]) for row in rows]
        return {"pos": pos, "alternatives": [{"id": i, "text": t} for i, t in zip(ids, texts, strict=True)]}

    def search(self, data: object) -> Message:
        """Tokens of the whole vocabulary that contain {"run", "pos", "q"}."""
        run, pos = self._place(data)
        self.revive(run)
        prefix = [*run.job.prompt_ids, *(t.id for t in run.tokens[:pos])]
        query = str(field_of(data, "q") or "")[:100]
        found = search(run.model, prefix, query, run.job.adapter, patience=PATIENCE)
        return {"tokens": [{"id": i, "text": t, "p": p, "rank": r} for i, t, p, r in found]}

    def pins(self, data: object) -> list[Pin]:
        """The tokens of {"pins": [{"run", "pos"}, ...]}, each once and at most `MOST`; what left memory is left out."""
        places, most = field_of(data, "pins"), self.limits.max_new_tokens + PROMPT
        found: dict[tuple[str, int], Pin] = {}
        for place in places if isinstance(places, list) else []:
            run, pos = self.runs.find(field_of(place, "run")), field_of(place, "pos")
            if run is not None and type(pos) is int and 0 <= pos < len(run.tokens) and len(found) < MOST:
                if (at := len(run.job.prompt_ids) + pos) > most:
                    raise TrainError(f"{at:,} tokens stand before this place; {most:,} are the most that a pin holds.")
                found.setdefault((run.id, pos), _pin(run, pos))
        return list(found.values())

    def message(self, run: Branch, start: int, whole: bool = False) -> Message:
        """Tokens from `start` on; with the opening facts at the beginning and the result at the end."""
        toks = [self._token(run, t) for t in run.tokens[start:]]
        message: Message = {"run": run.id, "start": start, "toks": toks, "done": run.done, **line_and_error(run)}
        if whole or start == (run.at or 0):
            message["open"] = self._open(run)
        if run.done:
            message["result"] = self._result(run)
            message["tree"] = [self._branch(r) for r in self.runs.group(run.tree)]
        return message

    def _token(self, run: Branch, t: TokenDist) -> list[Any]:
        flags = FORCED * t.forced | SPECIAL * (t.id in run.model.detokenizer.special_ids)
        return [t.text, round(t.entropy, 4), float(f"{t.p:.6g}"), t.rank, flags, _others(t, run.job.tau)]

    def _open(self, run: Branch) -> Message:
        job, parent = run.job, run.parent
        swap = {"at": run.at, "forced": len(job.forced) if parent else 0, **self._swap(run)}
        model = run.model.spec + (f" + {shown_adapter(job.adapter)}" if job.adapter else "")
        style = run.model.style.sentence() if run.model.style else None
        about = {"tau": job.tau, "label": _label(run), "model": model, "prompt": run.prompt, "style": style}
        known = {"known": job.known, "known_computed": run.known_computed, "title": run.title, "show": run.show}
        place = {"tree": run.tree, "parent": parent.id if parent else None}
        return place | swap | about | known | {"origin": run.origin.json() if run.origin else None}

    def _swap(self, run: Branch) -> Message:
        """What a branch forced and how likely it was; the probability is that of all its forced tokens together."""
        if run.parent is None or run.job.fork is None:
            return {"from_text": None, "from_id": None, "to_text": None, "to_ids": None, "to_p": None}
        at, n = len(run.job.kept), len(run.job.forced)
        logp = sum(t.logp for t in run.tokens[at : at + n])
        lone, text = run.model.detokenizer.token_text, run.model.detokenizer.text
        p = float(torch.tensor(logp).exp()) if len(run.tokens) > at else None
        said = {"from_text": lone(run.job.fork.id), "from_id": run.job.fork.id}
        return said | {"to_text": text(run.job.forced), "to_ids": list(run.job.forced), "to_p": p}

    def _result(self, run: Branch) -> Message:
        trace, made = run.trace, {"answer": _answer(run), "n": len(run.tokens)}
        if trace is None:
            return made | {"stop": "error"}
        return made | {"stop": trace.stop, "reuse": trace.reuse.json(), "seconds": round(trace.seconds, 3)}

    def _branch(self, run: Branch) -> Message:
        parent = run.parent.id if run.parent else None
        base = {"run": run.id, "parent": parent, "at": run.at, "label": _label(run), "answer": _answer(run)}
        return base | self._swap(run) | {"n": len(run.tokens), "stop": run.trace.stop if run.trace else "error"}

    def _place(self, data: object) -> tuple[Branch, int]:
        run, pos = self.runs.get(field_of(data, "run")), field_of(data, "pos")
        if type(pos) is not int or not 0 <= pos < len(run.tokens):
            raise SwapError(f"There is no token at position {pos}; there are {len(run.tokens)} so far.")
        return run, pos


def check_texts(limits: Limits, problem: str, known: str | None, solution: str | None) -> None:
    """Refuse texts that the API would refuse, before anything is made of them."""
    short_enough("The problem", problem, limits.characters)
    short_enough("The known answer", known, limits.answer)
    short_enough("The solution", solution, limits.characters)


def _steps(run: Branch) -> Iterator[bool]:
    """Generate a branch; yields True where its place in line has changed, False after each new token."""
    waiting, first = 0, run.at or 0
    for count in run.steps():
        if count == 0 and run.waiting != waiting:
            waiting = run.waiting
            yield True
        elif count > first:
            yield False


def _others(t: TokenDist, tau: float) -> str:
    """What could stand at a fork, as JSON of [id, [[id, probability, text], ...]]; "" where the fan needs nothing.

    It is one string, because gradio sends differences of nested lists that its own page cannot put together.
    """
    if t.entropy <= min(FANNED, tau):
        return ""
    top = [[c.id, float(f"{c.p:.3g}"), c.text] for c in t.top[:TOP_SHOWN]]
    return json.dumps([t.id, top], ensure_ascii=False, separators=(",", ":"))


def _label(run: Branch) -> str:
    return "read" if run.job.read is not None else run.job.sampling.label


def _answer(run: Branch) -> Message:
    return run.trace.answer.json() if run.trace else {"text": None, "correct": None}


def _pin(run: Branch, pos: int) -> Pin:
    before = tuple(t.id for t in run.tokens[:pos])
    text = (run.prompt + run.model.detokenizer.text(before))[-SHOWN:]
    token = run.tokens[pos]
    word = run.model.detokenizer.token_text(token.id)
    return Pin(run.model.spec, run.job.adapter, tuple(run.job.prompt_ids), before, token.id, run.job.known, text, word)


def full_memory(run: Branch) -> str:
    """Make room, and say that a branch has run out of memory."""
    run.model.engine.prefixes.clear()
    during = f"after {len(run.tokens)} tokens of {run.model.spec}"
    return out_of_memory("Shorten it or take a smaller model.", run.model.engine.device, during)


# -- What the page measures of a solution ------------------------------------------------------------------------------


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

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.jobs: JobStore[Measurement] = JobStore("This measurement is over.", most=400)

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

        def finish() -> None:
            job.done = True
            self.jobs.forget(job.id)

        def message(_: int) -> Message:
            state = job.last or {"kind": job.kind, "pos": job.pos}
            failed = {"done": True, "error": job.error} if job.error else {}
            return state | {"run": job.run.id, "job": job.id} | failed

        messages = stream_job(job, self._steps(job), message, 0.0, full=lambda: full_memory(job.run), finish=finish)
        kind = Kind.UNASKED if job.kind == "ends" else Kind.MEASURED
        yield from iterate_as_owner(job.run.owner, messages, kind)

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
        return page_jobs.download(_slug(tree), tree_texts(tree), field_of(data, "format"))

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

    def open_link(self, value: str, begin: Begin) -> Iterator[Message]:
        """Decode the tree of a link and stream it; the last message shows its branch with the verdict."""
        yield from self._again(unpack(value), Origin("link"), begin)

    def verify(self, data: object, begin: Begin) -> Iterator[Message]:
        """Do the same with a recorded tree: {"run"}."""
        run = self.explorer.runs.get(field_of(data, "run"))
        if run.origin is None or run.origin.kind != "recorded":
            raise SwapError("This tree was decoded here; there is nothing to verify.")
        recorded = [r for r in self.explorer.runs.group(run.tree) if r.origin is run.origin]
        recipe = recipe_of(tree_of(recorded, run.id, run.show))
        yield from self._again(recipe, Origin("again", run.origin.licence), begin)

    def _again(self, recipe: ReplayPlan, origin: Origin, begin: Begin) -> Iterator[Message]:
        longest, most = max(step.sampling.max_new_tokens for step in recipe.steps), self.max_new_tokens
        if min(longest, max(s.at + s.marks.length for s in recipe.steps)) > most:
            raise RmxError(f"At most {most} tokens here; this tree has more.")
        model = self.explorer.workspace.model(recipe.model)
        adapter = self.explorer.workspace.adapter(model, recipe.adapter)
        # No branch is decoded further than this site allows.
        bounded = [replace(s.sampling, max_new_tokens=min(s.sampling.max_new_tokens, most)) for s in recipe.steps]
        steps = tuple(replace(s, sampling=sampling) for s, sampling in zip(recipe.steps, bounded, strict=True))
        replay, stopped = TreeReplay(model, adapter, replace(recipe, steps=steps), origin), False
        for run in replay.runs(current_owner.get().owner):
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
