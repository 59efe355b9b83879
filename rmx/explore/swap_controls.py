"""What a swap is to be compared with: forcing the token that is there already, and drawing on without forcing any.

At every fork of a greedy solution four things are done, and each is compared with that solution's answer:

    second      the second likeliest token is forced, and decoding goes on greedily
    null        the token that is there is forced, and decoding goes on greedily: nothing may change, not one token
    second_sampled   the second likeliest token is forced, and what follows is sampled
    resampled   nothing is forced: the token and what follows are sampled

What a swap does beyond resampling is the swap's own; what a null swap does is a fault of the measurement.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rmx.config import Sampling
from rmx.engine.batch import continue_batch
from rmx.engine.token_draws import draw_rows, prompt_key, uniform
from rmx.explore.generate import Job, solve_anew
from rmx.explore.swap import swap
from rmx.models.load import Model
from rmx.models.stopping import Ending, is_cut
from rmx.records import Answer, Problem, TokenDist, Trace, is_fork
from rmx.stats.intervals import ratio_of_sums

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
    job = Job(model.prompt_ids(problem.problem), Sampling(max_new_tokens=max_new), tau, known=problem.answer)
    trace = solve_anew(model, job)
    places = [t for t in trace.tokens if t.id not in model.stop_ids]
    forks = [t for t in places if is_fork(t.entropy, tau)]
    tried = [one for token in forks for one in _at(model, job, trace, token, temperature, seed)]
    return ProblemControls(problem.id, len(places), len(forks), tuple(tried))


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
    rows = _sampled(model, job, trace.ids[: token.pos], second, temperature, seed)
    sampled: tuple[Arm, ...] = ("second_sampled", "resampled")
    for arm, ids in zip(sampled, rows, strict=True):
        graded = model.grade(job.prompt_ids, ids, job.known, cut=is_cut(model, job.prompt_ids, ids))
        yield _compared(arm, token.pos, trace, ids, graded)


def _compared(arm: Arm, pos: int, trace: Trace, ids: Sequence[int], answer: Answer) -> Tried:
    flipped = bool(trace.answer.correct) != bool(answer.correct)
    return Tried(arm, pos, flipped, answer.text != trace.answer.text, list(ids) == list(trace.ids))


def _sampled(
    model: Model, job: Job, kept: Sequence[int], forced: int, temperature: float, seed: int
) -> list[list[int]]:
    """Two completions that go on from `kept`: one begins with the forced token, the other is drawn from there."""
    engine, key, place = model.engine, prompt_key(job.prompt_ids), len(kept)

    def choose(logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
        # Each fork has draws of its own: those of one sample number would be shared by all forks of a problem.
        at = [uniform(seed, key, 2 * place + row, place + step) for row in rows]
        return draw_rows(logits, temperature, 1.0, at)

    with engine.queue.turn(), engine.using(job.adapter), torch.inference_mode():
        prefix = [*job.prompt_ids, *kept]
        first = int(choose(engine.open(prefix, adapter=job.adapter).logits[None], [1], 0)[0])
        rows = continue_batch(
            engine,
            prefix,
            [forced, first],
            max_new=job.sampling.max_new_tokens - place,
            over=Ending(model, job.prompt_ids, kept, 2),
            choose=choose,
            adapter=job.adapter,
        )
    return [[*kept, *row] for row in rows]
