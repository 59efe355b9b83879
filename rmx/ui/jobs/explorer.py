"""The explore road for the token view: clicks to branches, branches to messages."""

import json
import logging
import secrets
from collections.abc import Iterator
from dataclasses import replace
from threading import Event
from typing import Any

import torch

from rmx.arguments import Sampling
from rmx.config import TOP_SHOWN, check_tau
from rmx.engine.decoding_memory import out_of_memory
from rmx.engine.fair_queue import iterate_as_owner
from rmx.errors import SwapError, TrainError
from rmx.explore.branches import Branch, BranchStore, look_ahead, search, swap_job
from rmx.explore.generate import Job, read_job
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.recipes.job import MOST, SHOWN, Pin
from rmx.records import TokenDist, shown_adapter
from rmx.service.checks import Limits, short_enough
from rmx.trees.gallery import Absent, revive
from rmx.ui.jobs.page_jobs import INTERVAL, PATIENCE, Message, field_of, line_and_error, start_of, stream_job

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
    ) -> Branch:
        """Make a tree: its first branch, not generated yet. `owner` is the visitor who asks."""
        check_tau(tau)
        check_texts(self.limits, problem, known, read)
        model = self.workspace.model(spec).ask_in(style, raw=raw)
        name = self.workspace.adapter(model, adapter)
        ids = model.prompt_ids(problem, raw)
        known = (known or "").strip() or None
        if read is None:
            job = Job(ids, sampling, tau, name, known)
        else:
            job = replace(read_job(model, ids, read, tau, known), adapter=name)
        prompt = model.detokenizer.text(ids)
        title = problem.strip()
        run = Branch(model, job, prompt, "", title=title, show=show, owner=owner, known_computed=known_computed)
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
        messages = stream_job(
            run,
            _steps(run),
            lambda sent: self.message(run, sent),
            INTERVAL,
            full=lambda: full_memory(run),
            finish=lambda: self.runs.weigh_again(run),
            made=lambda: len(run.tokens),
            sent=run.at or 0,
        )
        yield from iterate_as_owner(run.owner, messages)

    def tail(self, data: object) -> Message:
        """Everything of a run from {"run", "start"} on."""
        return self.message(self.runs.get(field_of(data, "run")), start_of(data), True)

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
                if (before := len(run.job.prompt_ids) + pos) > most:
                    raise TrainError(
                        f"{before:,} tokens stand before this place; {most:,} are the most that a pin holds."
                    )
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
        special = SPECIAL if t.id in run.model.detokenizer.special_ids else 0
        flags = (FORCED if t.forced else 0) | special
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
