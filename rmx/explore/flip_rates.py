"""Do forks decide? Flip rates of single swaps at forks against swaps elsewhere, and what a swap is to be compared with.

The sceptic's question: if any token were swapped, would the answer not change as often? Each problem is solved
greedily; at every fork, and at as many other places drawn by chance, each of the other top-5 tokens is forced in turn
and decoding goes on greedily. A swap flips when a right answer becomes wrong or a wrong one right. Beside that, four
things are done at every fork:

    second      the second likeliest token is forced, and decoding goes on greedily
    null        the token that is there is forced, and decoding goes on greedily: nothing may change, not one token
    second_sampled   the second likeliest token is forced, and what follows is sampled
    resampled   nothing is forced: the token and what follows are sampled

What a swap does beyond resampling is the swap's own; what a null swap does is a fault of the measurement.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rmx.arguments import Sampling
from rmx.config import TOP_SHOWN
from rmx.data.problem_sets import load_set
from rmx.engine.token_draws import prompt_key, uniform
from rmx.errors import RmxError
from rmx.explore.generate import Job, solve_anew, swap
from rmx.models.load import Model
from rmx.models.stopping import continue_rows, is_cut
from rmx.records import Answer, Problem, TokenDist, Trace, is_fork
from rmx.stats.intervals import ratio_of_sums, share

Arm = Literal["second", "null", "second_sampled", "resampled"]
ARMS: tuple[Arm, ...] = get_args(Arm)


@dataclass(frozen=True, slots=True)
class Tried:
    """What one arm did at one fork."""

    arm: Arm
    pos: int
    flipped: bool  # right became wrong, or wrong right
    other_answer: bool
    same_tokens: bool  # the whole solution is what it was


@dataclass(frozen=True, slots=True)
class ProblemControls:
    """All arms at all forks of one greedy solution."""

    problem: str
    tokens: int  # of the solution, its end token left out
    forks: int
    tried: tuple[Tried, ...]

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ProblemControls":
        """What `dataclasses.asdict` has made of it."""
        return cls(**{**stored, "tried": tuple(Tried(**one) for one in stored["tried"])})


def controls_of(
    model: Model, problem: Problem, tau: float, temperature: float = 1.0, seed: int = 0, max_new: int = 160
) -> ProblemControls:
    """Solve a problem greedily and try every arm at each of its forks.

    Args:
        temperature: of what is sampled, above 0. seed: of the draws, which depend on it, the prompt and the place.
    """
    job, trace, forks, others = _solved(model, problem, tau, max_new)
    tried = [one for token in forks for one in _at(model, job, trace, token, temperature, seed)]
    return ProblemControls(problem.id, len(forks) + len(others), len(forks), tuple(tried))


def _solved(
    model: Model, problem: Problem, tau: float, max_new: int
) -> tuple[Job, Trace, list[TokenDist], list[TokenDist]]:
    """A greedy solution, its forks, and its other tokens but the end token."""
    job = Job(model.prompt_ids(problem.problem), Sampling(max_new_tokens=max_new), tau, known=problem.answer)
    trace = solve_anew(model, job)
    places = [t for t in trace.tokens if t.id not in model.stop_ids]
    forks = [t for t in places if is_fork(t.entropy, tau)]
    return job, trace, forks, [t for t in places if not is_fork(t.entropy, tau)]


def summarise(problems: Sequence[ProblemControls]) -> dict[str, Any]:
    """The flip rate of each arm over forks, with a 95 % interval over problems (n of them).

    Problems without a fork are not counted. `same_tokens` counts the forks at which the null swap changed no token.
    """
    with_forks = [p for p in problems if p.forks]
    forks = [float(p.forks) for p in with_forks]
    found: dict[str, Any] = {"problems": len(with_forks), "forks": sum(p.forks for p in problems)}
    for arm in ARMS:
        rows = [[t for t in p.tried if t.arm == arm] for p in with_forks]
        found[arm] = {
            "flip": ratio_of_sums([sum(t.flipped for t in row) for row in rows], forks),
            "other_answer": ratio_of_sums([sum(t.other_answer for t in row) for row in rows], forks),
        }
    found["null"]["same_tokens"] = sum(t.same_tokens for p in problems for t in p.tried if t.arm == "null")
    return found


# -- at one fork ------------------------------------------------------------------------------------------------------


def _at(model: Model, job: Job, trace: Trace, token: TokenDist, temperature: float, seed: int) -> Iterator[Tried]:
    second = next(c.id for c in token.top if c.id != token.id)
    greedy: tuple[tuple[Arm, int], ...] = (("second", second), ("null", token.id))
    for arm, token_id in greedy:
        _, branch = swap(model, job, trace, token.pos, token_id)
        yield _compared(arm, token.pos, trace, branch.ids, branch.answer)
    # Two completions go on from there: one begins with the forced token, the other is drawn altogether.
    kept, at, key = trace.ids[: token.pos], token.pos, prompt_key(job.prompt_ids)
    rows = continue_rows(
        model,
        job.prompt_ids,
        kept,
        [(second,), ()],
        max_new=job.sampling.max_new_tokens - at,
        sampling=Sampling(temperature, 1.0, seed, job.sampling.max_new_tokens),
        # Each fork has draws of its own: those of one sample number would be shared by all forks of a problem.
        draw=lambda row, place: uniform(seed, key, 2 * at + row, at + place),
        adapter=job.adapter,
    )
    sampled: tuple[Arm, ...] = ("second_sampled", "resampled")
    for arm, row in zip(sampled, rows, strict=True):
        ids = [*kept, *row]
        yield _compared(arm, at, trace, ids, _graded(model, job, ids))


def _compared(arm: Arm, pos: int, trace: Trace, ids: Sequence[int], answer: Answer) -> Tried:
    flipped = bool(trace.answer.correct) != bool(answer.correct)
    return Tried(arm, pos, flipped, answer.text != trace.answer.text, list(ids) == list(trace.ids))


# -- Do forks decide? Flip rates of single swaps at forks against swaps elsewhere -------------------------------------


@dataclass(frozen=True, slots=True)
class Flip:
    """What one forced token did to one greedy solution."""

    problem: str
    fork: bool
    pos: int
    p: float  # probability of the forced token at its place
    was_right: bool
    is_right: bool
    other_answer: bool

    @property
    def flipped(self) -> bool:
        """Whether the swap made a right answer wrong, or a wrong one right."""
        return self.was_right != self.is_right


def swaps_of(model: Model, problem: Problem, tau: float, rng: random.Random, max_new: int = 160) -> Iterator[Flip]:
    """Every swap at the forks of one greedy solution, and as many places elsewhere."""
    job, trace, forks, others = _solved(model, problem, tau, max_new)
    was_right = bool(trace.answer.correct)
    for token in [*forks, *rng.sample(others, min(len(forks), len(others)))]:
        alternatives = [c for c in token.top[:TOP_SHOWN] if c.id != token.id]
        answers = answers_after(model, job, trace.ids, token, [c.id for c in alternatives], max_new)
        for candidate, (_, graded) in zip(alternatives, answers, strict=True):
            yield Flip(
                problem.id, is_fork(token.entropy, tau), token.pos, candidate.p, was_right, bool(graded.correct),
                graded.text != trace.answer.text,
            )  # fmt: skip


def answers_after(
    model: Model, job: Job, ids: Sequence[int], token: TokenDist, alternatives: list[int], max_new: int
) -> list[tuple[str, Answer]]:
    """Completion texts after forcing each alternative, decoded as one batch, and what they answer."""
    kept, given, most = ids[: token.pos], [(token_id,) for token_id in alternatives], max_new - token.pos
    rows = continue_rows(model, job.prompt_ids, kept, given, max_new=most, adapter=job.adapter)
    whole = [[*kept, *row] for row in rows]
    return [(model.answer_text(row), _graded(model, job, row)) for row in whole]


def _graded(model: Model, job: Job, ids: Sequence[int]) -> Answer:
    """The answer of a completion; what was cut off is wrong."""
    return model.grade(job.prompt_ids, ids, job.known, cut=is_cut(model, job.prompt_ids, ids))


def summary(flips: Sequence[Flip]) -> dict[str, Any]:
    """Flip rates with 95 % Wilson intervals; `weighted` is the chance that a token drawn there flips the answer.

    The intervals treat swaps as independent, though swaps of one problem are not: read them as a lower bound of the
    true width.
    """
    places = {(f.problem, f.pos) for f in flips}
    wrong, right = [f for f in flips if not f.was_right], [f for f in flips if f.was_right]
    return {
        "places": len(places),
        "swaps": len(flips),
        "flip": share(sum(f.flipped for f in flips), len(flips)),
        "other_answer": share(sum(f.other_answer for f in flips), len(flips)),
        "wrong_to_right": share(sum(f.flipped for f in wrong), len(wrong)),
        "right_to_wrong": share(sum(f.flipped for f in right), len(right)),
        "weighted_flip_per_place": sum(f.p for f in flips if f.flipped) / len(places) if places else None,
        "places_that_can_flip": share(len({(f.problem, f.pos) for f in flips if f.flipped}), len(places)),
    }


def bench_forks(
    model: Model,
    set_name: str = "mini:test",
    limit: int = 100,
    tau: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Flip rates at forks and elsewhere on the first `limit` problems of a set, and those of the controls.

    Args:
        temperature: of the controls that sample.

    Raises:
        RmxError: the number of problems or the temperature cannot be used, or there is no such set.
    """
    if limit < 1:
        raise RmxError(f"The number of problems must be 1 or more; got {limit}.")
    if not Sampling(temperature, seed=seed).temperature > 0:
        raise RmxError("The controls are sampled: the temperature must be above 0.")
    tau = model.tau if tau is None else tau
    problems = load_set(set_name)[:limit]
    rng = random.Random(seed)
    flips, controls = list[Flip](), list[ProblemControls]()
    for i, problem in enumerate(problems):
        flips.extend(swaps_of(model, problem, tau, rng))
        controls.append(controls_of(model, problem, tau, temperature, seed))
        if progress:
            progress(i + 1, len(problems))
    forks, elsewhere = [f for f in flips if f.fork], [f for f in flips if not f.fork]
    return {
        "set": set_name,
        "problems": len(problems),
        "tau": tau,
        "seed": seed,
        "forks": summary(forks),
        "elsewhere": summary(elsewhere),
        "controls": summarise(controls) | {"temperature": temperature},
    }
