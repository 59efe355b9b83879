"""Rollouts: K graded completions of each problem, with the entropies of the very passes that chose their tokens."""

from collections.abc import Callable, Collection, Iterator, Sequence

from rmx.arguments import Sampling
from rmx.engine.continuous_batching import SampleRequest, longest_of, not_over, sample_continuously
from rmx.engine.decoding_memory import fitting_rows
from rmx.grading.answers import CUT
from rmx.models.load import Model
from rmx.models.stopping import Endings
from rmx.recipes.recipe import RolloutConfig
from rmx.records import Problem, Rollout, Stop

Key = tuple[str, int]  # a problem's id and which of its rollouts


def sample_rollouts(
    model: Model,
    problems: Sequence[Problem],
    config: RolloutConfig,
    seed: int,
    done: Collection[Key],
    *,
    adapter: str | None = None,
    rows: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Rollout]:
    """Sample what is missing of `config.k` completions of each problem, and yield each as it ends.

    Completions end with an end token, with a stop text of the prompt style or at a limit, not at their answer. A stage
    that broke off makes what is missing from the same draws; its order is another, and so may be a token where a draw
    falls on the edge between two (rmx/engine/continuous_batching.py). The engine's turn is taken for a quarter of a
    second at a time.

    Args:
        seed: of the draws, which depend on it, the prompt, the completion's number and the position alone.
        done: rollouts that are there already.
        rows: completions decoded together; None: as many as memory allows, 64 at most.
        cancelled: asked between steps; unfinished completions are dropped.
    """
    prompts = [model.prompt_ids(p.problem) for p in problems]
    sampling = Sampling(config.temperature, config.top_p, seed, config.max_new_tokens)
    missing = [
        SampleRequest(prompt, [gen for gen in range(config.k) if (problem.id, gen) not in done], sampling, adapter)
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    ended = sample_continuously(
        model.engine,
        missing,
        stop_ids=model.stop_ids,
        rows=rows or fitting_rows(model.engine, longest_of(missing)),
        over=Endings(model, prompts, answers=False) if model.style.stops else not_over,
        cancelled=cancelled,
    )
    for samples in ended:
        for s in samples:
            problem, prompt = problems[s.prompt], prompts[s.prompt]
            yield graded(model, problem, s.number, prompt, s.ids, s.stop, s.entropies)


def graded(
    model: Model,
    problem: Problem,
    gen_index: int,
    prompt_ids: Sequence[int],
    ids: Sequence[int],
    stop: Stop,
    entropies: Sequence[float] | None,
) -> Rollout:
    """A completion with its answer. Without a known answer nothing counts as right, nor does what was cut off."""
    answer = model.grade(prompt_ids, ids, problem.answer, cut=stop in CUT)
    return Rollout(
        problem_id=problem.id, gen_index=gen_index, input_ids=(*prompt_ids, *ids), prompt_length=len(prompt_ids),
        correct=bool(answer.correct), answer=answer.text, stop=stop,
        entropies=None if entropies is None else tuple(entropies),
    )  # fmt: skip
