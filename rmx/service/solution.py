"""Verbs about one solution: solve, swap, and measure what it hangs on."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rmx.config import TOP_KEPT
from rmx.engine.fair_queue import Kind
from rmx.explore.branches import Branch
from rmx.explore.generate import Job
from rmx.explore.importance import MOST_FORKS, importance
from rmx.explore.outcomes import OutcomeConfig, outcomes
from rmx.explore.rescue import RescueConfig, rescue
from rmx.explore.swap import swap_job
from rmx.models.adapter_names import bundled_adapters
from rmx.models.load import Model
from rmx.records import Trace as Solution
from rmx.service.arguments import Limits, adapter_name, between, model_name, set_name, short_enough, swaps_of
from rmx.service.measure import MeasuredSolution, TraceOptions, asked, outcomes_json, prepare, rescue_json
from rmx.service.verb import INTERVAL, Asking, Cancelled, Document, Site, last, new_tokens, without

Goal = Literal["right", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Solving(Asking):
    """What all verbs about one solution have in common."""

    prompt: Annotated[str | None, "a problem in your own words; else name one of a set"] = None
    problem: Annotated[str | None, "a problem of the set, by its id or 0-based index"] = None
    set: Annotated[str, "a problem set by its name, such as mini, arith or gsm8k, with :train or :test"] = "mini"
    answer: Annotated[str | None, "the known answer of the prompt, which its solution is graded against"] = None
    model: Annotated[str | None, "a preset or a Hub id; by default the model of this app"] = None
    adapter: Annotated[
        str | None, "a LoRA adapter on the model: a bundled name (rl, reasonmaxxer), a training run's id or a Hub id"
    ] = None
    raw: Annotated[bool, "send the prompt to the model as it stands, without a prompt template"] = False
    tau: Annotated[
        float | None, "entropy in nats above which a token is a fork; by default the model's own threshold"
    ] = None
    max_new_tokens: Annotated[int | None, "upper bound of the whole completion, in tokens; 512 by default"] = None

    def options(self, site: Site, **more: Any) -> TraceOptions:
        """As the command line has them."""
        limits = site.limits
        spec = model_name(self.model or site.model, site.model)
        name = set_name(self.set)
        site.workspace.policy.admit_set(name)
        adapter = self.adapter or None
        if adapter is not None:
            adapter = adapter_name(adapter, bundled_adapters(site.workspace.model(spec)))
        return TraceOptions(
            prompt=short_enough("prompt", self.prompt, limits.characters),
            problem=self.problem,
            set_name=name,
            raw=self.raw,
            answer=short_enough("answer", self.answer, limits.answer),
            model=spec,
            adapter=adapter,
            tau=self.tau,
            max_new_tokens=new_tokens(self.max_new_tokens, limits),
            style=self.style_options(),
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class Sampled(Solving):
    """A solution that may be drawn at random."""

    temperature: Annotated[float, "sampling temperature; 0 decodes greedily"] = 0.0
    top_p: Annotated[
        float, "nucleus sampling: the likeliest tokens with this share of the probability are drawn from"
    ] = 1.0
    seed: Annotated[int, "seed of the random draws; the same seed gives the same tokens"] = 0
    cold: Annotated[bool, "compute everything anew: no cached prefix is reused"] = False
    top: Annotated[int, "how many of the likeliest tokens are listed for each position, 1 to 20"] = TOP_KEPT
    brief: Annotated[bool, "list only the forks and the forced tokens, beside the whole text"] = False

    def sampled(self, site: Site, **more: Any) -> TraceOptions:
        between("top", self.top, 1, TOP_KEPT)
        draws = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed, "cold": self.cold}
        return self.options(site, **draws, **more)

    def documents(self, options: TraceOptions, site: Site, traces: Sequence[Solution]) -> list[dict[str, Any]]:
        """The documents of traces; with `brief` their text, and only the tokens that matter."""
        about = asked(options, site.workspace, traces)
        return [self._shown(trace.json() | about, trace) for trace in traces]

    def _shown(self, found: dict[str, Any], trace: Solution) -> dict[str, Any]:
        if self.brief:
            found["tokens"] = [t for t in found["tokens"] if t["fork"] or t["forced"]]
            kept = without(found, "prompt_ids", "prompt", "special")
            found = {"text": trace.text, "length": len(trace.tokens)} | kept
        return found | {"tokens": [self.cut(t) for t in found["tokens"]]}

    def cut(self, token: dict[str, Any]) -> dict[str, Any]:
        return token | {"top": token["top"][: self.top]}


@dataclass(frozen=True, kw_only=True)
class TraceRequest(Sampled):
    """Solve a problem, or read a given solution, and see the distribution behind every token.

    The document has the tokens with their entropy, probability and likeliest alternatives, marks the forks (tokens at
    which the model was undecided), and names the answer. Positions (pos) count from 0 and are what `swap` takes.
    """

    kind: ClassVar[Kind] = Kind.WATCHED
    tau_share: Annotated[
        float | None,
        "the share of tokens that shall be forks, between 0 and 1; the threshold is worked out from it, instead of tau",
    ] = None
    prompt_ids: Annotated[list[int] | None, "the prompt as token ids, instead of a text"] = None
    read: Annotated[str | None, "a solution to be scored token by token, instead of generating one"] = None

    def steps(self, site: Site, cancelled: Cancelled) -> Iterator[Document]:
        ids = None if self.prompt_ids is None else tuple(self.prompt_ids)
        between("the number of prompt_ids", len(ids or ()), 0, site.limits.characters)
        read = short_enough("read", self.read, site.limits.characters)
        options = self.sampled(site, tau_share=self.tau_share, prompt_ids=ids, read=read)
        model, job = prepare(options, site.workspace)
        trace = yield from written(model, job, cancelled, self.cut)
        yield self.documents(options, site, [trace])[0]


@dataclass(frozen=True, kw_only=True)
class SwapRequest(Sampled):
    """Solve a problem, put other tokens in the place of some of its tokens, and see whether the answer changes.

    Each swap keeps what stands before its position, forces its token and lets the model go on; it applies to the branch
    that the one before made. The document is the list of solutions, the unswapped first. Give the
    arguments of the trace.
    """

    kind: ClassVar[Kind] = Kind.WATCHED
    swaps: Annotated[str, "POSITION=TOKEN_ID, separated by commas, such as 28=879"] = ""

    def steps(self, site: Site, cancelled: Cancelled) -> Iterator[Document]:
        swaps = swaps_of(self.swaps, site.limits.swaps)
        options = self.sampled(site)
        model, job = prepare(options, site.workspace)
        found = [(yield from written(model, job, cancelled, self.cut, {"branch": 0}))]
        for pos, token_id in swaps:
            if cancelled():
                break
            job = swap_job(job, found[-1].tokens, pos, [token_id], model.engine.vocab_size)
            found.append((yield from written(model, job, cancelled, self.cut, {"branch": len(found)})))
        yield self.documents(options, site, found)


def written(
    model: Model,
    job: Job,
    cancelled: Cancelled,
    cut: Callable[[dict[str, Any]], dict[str, Any]] = lambda token: token,
    about: Mapping[str, Any] | None = None,
) -> Generator[Document, None, Solution]:
    """Generate, with deltas of new tokens a few times a second; returns the solution, or as much of it as there is."""
    run = Branch(model, job, prompt="", tree="")
    sent, told, due = len(job.kept), 0, 0.0
    for count in run.steps():
        if cancelled():
            run.halt()
        if not count and run.waiting != told:
            told = run.waiting
            yield {**(about or {}), "waiting": told}
        if count > sent and time.monotonic() >= due:
            yield {**(about or {}), "start": sent, "tokens": [cut(t.json(job.tau)) for t in run.tokens[sent:count]]}
            sent, due = count, time.monotonic() + INTERVAL
    assert run.trace is not None
    return run.trace


# -- what a solution hangs on -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OutcomesRequest(Solving):
    """What each alternative of a place is worth: sample on from it many times and count the answers that are reached.

    Without `pos` this is done at the forks of the highest entropy, and the document says which of them decide. Shares
    come with 95 % intervals; the right answer counts or, where none is known, that of the solution itself.
    """

    pos: Annotated[
        int | None, "position in the greedy solution whose alternatives are measured; by default every fork is"
    ] = None
    forks: Annotated[int, "how many forks are measured where no pos is given: those of the highest entropy"] = (
        MOST_FORKS
    )
    samples: Annotated[
        int | None, "samples of each alternative, at most; by default 64, or 24 where no pos is given"
    ] = None
    budget: Annotated[
        int | None, "tokens to sample in all, at most; by default 50,000, or 200,000 where no pos is given"
    ] = None
    temperature: Annotated[float, "temperature of the samples"] = 1.0
    top_p: Annotated[float, "nucleus sampling of the samples: the share of the probability that is drawn from"] = 1.0
    seed: Annotated[int, "seed of the samples"] = 0
    brief: Annotated[bool, "leave out the token ids of the prompt"] = False

    def steps(self, site: Site, cancelled: Cancelled) -> Iterator[Document]:
        config = self._config(site.limits)
        forks = between("forks", self.forks, 1, site.limits.forks)
        solved = yield from solve(self.options(site), site, cancelled)
        model, trace, known = solved.model, solved.trace, solved.known
        if self.pos is None:
            states: Iterator[Any] = importance(model, trace, config, known=known, forks=forks, cancelled=cancelled)
        else:
            states = outcomes(model, trace, self.pos, config, known=known, cancelled=cancelled)
        state = yield from last(states, lambda s: {"tokens_spent": s.tokens_spent, "budget": config.budget})
        found = outcomes_json(solved, config, state)
        yield without(found, "prompt_ids") if self.brief else found

    def _config(self, limits: Limits) -> OutcomeConfig:
        samples, budget = (24, 200_000) if self.pos is None else (64, 50_000)
        return OutcomeConfig(
            samples=between("samples", samples if self.samples is None else self.samples, 1, limits.samples),
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            budget=between(
                "budget", min(budget, limits.budget) if self.budget is None else self.budget, 1, limits.budget
            ),
            max_new_tokens=new_tokens(self.max_new_tokens, limits),
        )


@dataclass(frozen=True, kw_only=True)
class RescueRequest(Solving):
    """The fewest swaps that turn a wrong answer right, or break a right one. The right answer must be known.

    `swaps` of the document, written as POSITION=TOKEN_ID, are what `swap` takes.
    """

    goal: Annotated[
        Goal | None, "what the swaps shall make of the answer; by default the opposite of what the solution is"
    ] = None
    budget: Annotated[int, "tokens that the search may generate, at most"] = 20_000
    most_swaps: Annotated[int, "how many swaps a rescue may need, at most: 1 to 4"] = 3
    seed: Annotated[int, "seed of the solutions that are sampled for comparison"] = 0
    brief: Annotated[bool, "leave out the token ids of the prompt"] = False

    def steps(self, site: Site, cancelled: Cancelled) -> Iterator[Document]:
        budget = between("budget", self.budget, 1, site.limits.budget)
        most = new_tokens(self.max_new_tokens, site.limits)
        config = RescueConfig(self.goal, budget, self.most_swaps, seed=self.seed, max_new_tokens=most)
        solved = yield from solve(self.options(site), site, cancelled)
        states = rescue(solved.model, solved.trace, config, known=solved.known, cancelled=cancelled)
        found = rescue_json(solved, config, (yield from last(states, lambda s: {"at": s.tried, "stage": s.sentence})))
        yield without(found, "prompt_ids") if self.brief else found


def solve(options: TraceOptions, site: Site, cancelled: Cancelled) -> Generator[Document, None, MeasuredSolution]:
    """The greedy solution that is measured, with the deltas of its tokens."""
    model, job = prepare(options, site.workspace)
    return MeasuredSolution(model, (yield from written(model, job, cancelled)), job.known)
