"""The fewest swaps that turn a wrong answer right, or break a right one.

No teacher: at each fork the other likely tokens are tried, and decoding goes on greedily. All single swaps come
before all pairs, so what is found first has the fewest swaps. The search looks at the known answer after each try;
it shows that the solution could have gone right, not that the model would have known. Sampling whole solutions for
as many tokens, with the same look at the answer, is the fair comparison and stands beside it.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from typing import Any, Literal

from rmx.arguments import Checked, Count, Sampling, Seed, Swaps, checked
from rmx.config import NEW_TOKENS, TOP_SHOWN
from rmx.engine.fair_queue import never
from rmx.engine.token_draws import TokenFigures, prompt_key, uniform
from rmx.errors import ProblemError, RmxError
from rmx.explore.generate import Generation, Job, forks_of, swap_job
from rmx.explore.outcomes import Meter
from rmx.models.load import Model
from rmx.models.stopping import Ending, answer_reached, continue_rows
from rmx.models.zerogpu import CAP, forks_only, on_gpu_worker
from rmx.records import Answer, Trace, as_json, is_fork
from rmx.stats.intervals import share, wilson

Goal = Literal["right", "wrong"]
COUNTS = ("no token", "one token", "two tokens", "three tokens", "four tokens")
NOTE = (
    "The search looks at the known answer after each try: it shows that the solution could have gone the other way, "
    "not that the model would have known."
)
HITS = "Whole solutions at temperature 1 for as many tokens; the known answer says which of them are hits."
ROWS = 32  # solutions in one batch of the resampling, at most


@checked
class RescueConfig(Checked):
    """What to search for, and how much to spend on it."""

    goal: Goal | None = None  # None: the opposite of what the solution is
    budget: Count = 20_000  # tokens of all tries; resampling may spend as many again
    most_swaps: Swaps = 3
    alternatives: int = TOP_SHOWN  # of each fork, the token that stands there counted
    seed: Seed = 0  # of the resampling
    max_new_tokens: Count = NEW_TOKENS  # bounds the whole completion, kept tokens included


@dataclass(frozen=True, slots=True)
class Swap:
    """One token put in the place of another."""

    pos: int
    from_id: int
    to_id: int
    from_text: str
    to_text: str

    @property
    def text(self) -> str:
        """The swap as a phrase."""
        return f"{self.from_text!r} → {self.to_text!r} at {self.pos}"

    def json(self) -> dict[str, Any]:
        """`from` and `to` are token ids, as `rmx trace --swap POS=ID` takes them."""
        ids = {"pos": self.pos, "from": self.from_id, "to": self.to_id}
        return ids | as_json(self, "from_text", "to_text", "text")


@dataclass(frozen=True, slots=True)
class Resampling:
    """Solutions at temperature 1, in the order of their sample numbers."""

    samples: int
    hits: int
    tokens_spent: int

    def json(self) -> dict[str, Any]:
        """`pass@n`: the chance that `samples` new solutions hold a hit, 1 - (1 - p)^n, with p's interval."""
        n = self.samples
        low, high = (1 - (1 - p) ** n for p in wilson(self.hits, n))
        value = 1 - (1 - self.hits / n) ** n if n else None
        return {
            **as_json(self, "samples", "hits", "tokens_spent"),
            "pass@1": share(self.hits, n),
            "pass@n": {"value": value, "low": low, "high": high, "n": n},
            "note": HITS,
        }


@dataclass(frozen=True, slots=True)
class Rescue:
    """Where a search stands; each record holds everything so far.

    To make the branch: apply the swaps one after the other, each to the greedy branch that the one before made.
    """

    goal: Goal
    known: str
    tried: int  # branches that were decoded to their end
    depth: int  # swaps per branch that are being tried
    tokens_spent: int
    budget: int
    swaps: tuple[Swap, ...]  # empty: not found (yet)
    answer: Answer | None  # of the branch that was found
    exhausted: bool  # nothing is left to try
    resampling: Resampling | None
    done: bool

    @property
    def found(self) -> bool:
        """Whether swaps that reach the goal are found."""
        return bool(self.swaps)

    @property
    def proven_fewest(self) -> bool:
        """Whether every branch with fewer swaps was decoded to its end: they are tried by their number of swaps."""
        return self.found

    @property
    def sentence(self) -> str:
        """The result, or how far the search is, as a sentence."""
        if self.found:
            return f"{COUNTS[len(self.swaps)]}: {', '.join(s.text for s in self.swaps)}"
        if not self.done:
            return f"searching: {self.tried} branches tried, {COUNTS[max(self.depth, 1)]} swapped"
        why = "nothing is left to try" if self.exhausted else "the search was ended before"
        return f"no swap found in {self.tried} branches; {why}"

    def json(self) -> dict[str, Any]:
        """The document of `rmx rescue`."""
        found = as_json(self, "goal", "known", "found", "swaps", "sentence", "answer", "tried", "depth")
        spent = as_json(self, "proven_fewest", "exhausted", "tokens_spent", "budget", "resampling")
        return found | spent | {"note": NOTE}

    def message(self) -> dict[str, Any]:
        """Return the message for the page; the caller adds "run", "job" and "branch"."""
        return self.json() | {"kind": "rescue", "done": self.done, "branch": None}


@on_gpu_worker(
    seconds=lambda *_, **__: float(CAP),  # how many forks it tries is not known before
    slim=lambda trace, config: (forks_only(trace), config),
    ended=lambda state: replace(state, done=True),
)
def rescue(
    model: Model,
    trace: Trace,
    config: RescueConfig,
    *,
    known: str | None,
    cancelled: Callable[[], bool] = never,
) -> Iterator[Rescue]:
    """Search for the fewest swaps; yields the state at once, while and after each fork is tried.

    A branch that seems to do it is decoded once more by itself, as a swap on the page would be, and must still do it;
    those tokens are not counted. The engine's turn is taken for each fork. The last record has `done`.

    Args:
        trace: a finished solution.

    Raises:
        ProblemError: no known answer.
        RmxError: the solution is already what is asked for, or has no fork.
    """
    search = Search(model, trace, config, _goal(trace, config, known), known or "", cancelled)
    yield search.state()
    for _ in search.steps():
        yield search.state()
    if not cancelled():
        tokens = search.meter.spent
        for found in resample(model, trace, search.does_it, tokens, config.seed, config.max_new_tokens, cancelled):
            search.resampling = found
            yield search.state()
    yield search.state(done=True)


def _goal(trace: Trace, config: RescueConfig, known: str | None) -> Goal:
    if known is None:
        raise ProblemError("A rescue looks at the known answer, and none is known. Give it first.")
    right = bool(trace.answer.correct)
    goal: Goal = config.goal or ("wrong" if right else "right")
    if (goal == "right") == right:
        other = "wrong" if right else "right"
        raise RmxError(f"This solution is {goal} already. Ask for a {other} one, or take another problem.")
    return goal


def resample(
    model: Model,
    trace: Trace,
    hit: Callable[[Sequence[int]], bool],
    budget: int,
    seed: int,
    max_new_tokens: int,
    cancelled: Callable[[], bool] = never,
) -> Iterator[Resampling]:
    """Sample whole solutions until they have `budget` tokens together, the one that crosses it counted.

    A sample depends on (seed, prompt, sample number, position). Yields after each batch; a batch that is cancelled is
    not counted.

    Args:
        hit: called with the tokens of a whole solution; whether it counts as a hit.
    """
    samples = hits = spent = 0
    key, sampling = prompt_key(trace.prompt_ids), Sampling(1.0, 1.0, seed, max_new_tokens)
    while spent < budget and not cancelled():
        size = max(1, min(ROWS, -(-(budget - spent) // len(trace.tokens))))
        rows = continue_rows(
            model,
            trace.prompt_ids,
            (),
            [()] * size,
            max_new=max_new_tokens,
            sampling=sampling,
            draw=lambda row, place, first=samples: uniform(seed, key, first + row, place),
            adapter=trace.adapter,
            cancelled=cancelled,
        )
        if cancelled():
            return
        for row in rows:
            if spent >= budget:
                break
            samples, spent = samples + 1, spent + len(row)
            hits += hit(row)
        yield Resampling(samples, hits, spent)


@dataclass(frozen=True, slots=True)
class SearchFork:
    """A fork of a branch and the tokens that could stand there."""

    pos: int
    top: tuple[tuple[int, float], ...]  # (id, probability), likeliest first


@dataclass(frozen=True, slots=True)
class SearchBranch:
    """A decoded branch: its tokens, what was swapped in it, and the forks behind the last swap."""

    ids: tuple[int, ...]
    swaps: tuple[tuple[int, int], ...]  # (position, token put there)
    p: float  # product of the swapped tokens' probabilities
    places: tuple[SearchFork, ...]


@dataclass
class Search:
    """The state of a best-first search."""

    model: Model
    trace: Trace
    config: RescueConfig
    goal: Goal
    known: str
    cancelled: Callable[[], bool]
    tried: int = 0
    depth: int = 0
    found: tuple[Swap, ...] = ()
    answer: Answer | None = None
    exhausted: bool = False
    resampling: Resampling | None = None
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self.meter = Meter(self.config.budget)
        self._queue: list[tuple[int, float, int, SearchBranch, SearchFork]] = []
        self._number = count()  # breaks ties: first come, first served
        self._seen: set[tuple[int, ...]] = set()
        k = self.config.alternatives
        places = tuple(SearchFork(t.pos, tuple((c.id, c.p) for c in t.top[:k])) for t in forks_of(self.trace))
        self._push(SearchBranch(tuple(self.trace.ids), (), 1.0, places))

    def state(self, done: bool = False) -> Rescue:
        """Summarise the search so far."""
        return Rescue(
            self.goal, self.known, self.tried, self.depth, self.meter.spent, self.meter.budget, self.found, self.answer,
            exhausted=self.exhausted, resampling=self.resampling, done=done,
        )  # fmt: skip

    def steps(self) -> Generator[None]:
        """Try fork after fork until a branch does it or nothing is left; yields when there is something to report."""
        while self._queue and not self.found and not self.cancelled():
            swaps, _, _, branch, place = heappop(self._queue)
            self.depth = swaps
            candidates = self._candidates(branch, place)
            if not candidates:
                continue
            if self.meter.left < len(candidates):
                return
            whole = yield from self._try(branch, place, candidates)
            yield
            if not whole:
                return
        self.exhausted = not self._queue and not self.found and not self.cancelled()

    # -- the queue ------------------------------------------------------------------------------------------------

    def _push(self, branch: SearchBranch) -> None:
        """Queue the forks of a branch: fewest swaps first, then by the likeliest branch that can come of them."""
        if len(branch.swaps) >= self.config.most_swaps:
            return
        for place in branch.places:
            best = max((p for i, p in place.top if i != branch.ids[place.pos]), default=0.0)
            heappush(self._queue, (len(branch.swaps) + 1, -branch.p * best, next(self._number), branch, place))

    def _candidates(self, branch: SearchBranch, place: SearchFork) -> list[tuple[int, float]]:
        """The tokens to try at a fork, likeliest first, without beginnings that were tried before."""
        found = []
        for token_id, p in place.top:
            beginning = (*branch.ids[: place.pos], token_id)
            if token_id != branch.ids[place.pos] and beginning not in self._seen:
                self._seen.add(beginning)
                found.append((token_id, p))
        return found

    # -- trying ---------------------------------------------------------------------------------------------------

    def _try(
        self, branch: SearchBranch, fork: SearchFork, candidates: Sequence[tuple[int, float]]
    ) -> Generator[None, None, bool]:
        """Decode all alternatives of one fork as one batch; whether they came to their ends."""
        kept = branch.ids[: fork.pos]
        ending = Ending(self.model, self.trace.prompt_ids, kept, len(candidates))
        ended, places = set[int](), [list[SearchFork]() for _ in candidates]

        def over(row: int, token_id: int) -> bool:
            if ending(row, token_id):
                ended.add(row)
            return row in ended

        def seen(row: int, place: int, figures: TokenFigures) -> None:
            if is_fork(figures.entropy, self.trace.tau):
                places[row].append(SearchFork(fork.pos + place, tuple(figures.top[: self.config.alternatives])))

        rows, whole = yield from self.meter.decode(
            self.model.engine,
            [*self.trace.prompt_ids, *kept],
            [(token_id,) for token_id, _ in candidates],
            max_new=self.config.max_new_tokens - fork.pos,
            over=over,
            seen=seen,
            adapter=self.trace.adapter,
            cancelled=self.cancelled,
        )
        for i, ((token_id, p), row) in enumerate(zip(candidates, rows, strict=False)):  # no rows where it was cancelled
            if not whole and i not in ended:
                continue
            self.tried += 1
            swaps = (*branch.swaps, (fork.pos, token_id))
            child = SearchBranch((*kept, *row), swaps, branch.p * p, tuple(places[i]))
            if not self.found and self.does_it(child.ids):
                self._confirm(child)
            self._push(child)
        return whole

    def does_it(self, ids: Sequence[int]) -> bool:
        """Whether a completion has a right answer, or, where that is the goal, one that is there and wrong."""
        return self._answer(ids) is not None

    def _answer(self, ids: Sequence[int]) -> Answer | None:
        """The answer of a completion that does it; None for others, and for one that was cut off."""
        answer = answer_reached(self.model, self.trace.prompt_ids, ids, self.known)
        if answer is None or answer.text is None or bool(answer.correct) != (self.goal == "right"):
            return None
        return answer

    def _confirm(self, branch: SearchBranch) -> None:
        """Make the branch swap by swap, each decoded by itself: a batch may round a near tie the other way."""
        trace = self.trace
        sampling = Sampling(max_new_tokens=self.config.max_new_tokens)
        job = Job(trace.prompt_ids, sampling, trace.tau, trace.adapter, self.known)
        made: list[Swap] = []
        tokens = trace.tokens
        for pos, to in branch.swaps:
            if pos >= len(tokens):
                return
            made.append(Swap(pos, tokens[pos].id, to, tokens[pos].text, self.model.detokenizer.token_text(to)))
            job = swap_job(job, tokens, pos, [to], self.model.engine.vocab_size)
            tokens = Generation(self.model, job, self.cancelled).run().tokens
        answer = self._answer([t.id for t in tokens])
        if answer is not None and not self.cancelled():
            self.found, self.answer = tuple(made), answer
