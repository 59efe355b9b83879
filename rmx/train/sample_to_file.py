"""`rmx rollouts`: the first stage alone, into a file that `rmx train --from-rollouts` or the official scripts read."""

from collections.abc import Iterator
from pathlib import Path

from rmx.models.load import load
from rmx.recipes.job import TrainJob, problems_of
from rmx.train.data_stages import Draw, rollout_log, sample, threshold
from rmx.train.rollouts.file import write_official
from rmx.train.rollouts.selection import select
from rmx.train.stages import Context, Event
from rmx.train.step.scoring import score


def sample_to_file(job: TrainJob, out: Path, official: bool = False) -> Iterator[Event]:
    """Sample K rollouts of each problem; a file that was begun under the same settings is completed.

    Args:
        official: select, score and gate them too, and write what the official scripts read; the rollouts themselves
            lie beside it in a file of the same name that ends in .jsonl.

    Raises:
        TrainError: the file has other settings, or nothing is left by the selection.
    """
    log = out.with_suffix(".jsonl") if official else out
    model = load(job.model, job.device, job.dtype).ask_in(job.style, job.set_name)
    run = Context(job, out.parent, model, problems_of(job), lambda: False)
    yield from sample(run, [Draw(log.name, run.problems.train, job.recipe.rollouts, job.recipe.seed)])
    if official:
        found = rollout_log(run, log.name, job.recipe.rollouts, job.recipe.seed).read()
        chosen = select(found, job.recipe.selection)
        yield "selection", chosen.json()
        scored = list(score(run.model, chosen.rollouts))
        tau = threshold(run, scored)
        write_official(out, scored, run.model.tau if tau is None else tau)
