"""Stage 5 of a run: the best checkpoint, solved against the base on test problems once, becomes the adapter."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rmx.records import Problem
from rmx.train.checks.greedy import Solutions, solve_together
from rmx.train.publish.adapter_folder import finish_adapter
from rmx.train.publish.provenance import base_of, provenance
from rmx.train.stages import Context, Event, StageProgress
from rmx.train.step.lora_policy import NAME, load_weights
from rmx.train.training_stage import TrainingLoop, written

EVALUATION, ADAPTER = "evaluation.json", "adapter"


def final_stage(run: Context, training: TrainingLoop) -> Iterator[Event]:
    """Load the best checkpoint, which no test problem has decided, and measure it; yields progress only."""
    name = chosen(training)
    if name is None:
        return
    load_weights(training.trainer.policy.network, training.folder / name)
    training.trainer.policy.changed()
    problems = run.problems.test
    stored = run.read(EVALUATION)
    if not problems or (stored and stored["checkpoint"] == name):
        return
    progress = StageProgress("final", 2 * len(problems))
    yield progress.event()
    before = solved(run, problems, None)
    progress.at = len(problems)
    yield progress.event()
    after = solved(run, problems, NAME)
    if run.main:
        run.write(EVALUATION, evaluation(name, problems, before, after))
    progress.at = progress.of
    yield progress.event()


def solved(run: Context, problems: list[Problem], adapter: str | None) -> Solutions:
    """Greedy solutions of the base or of an adapter; Stopped where a stop was asked for meanwhile."""
    with run.model.engine.queue.turn():
        asked = run.team, run.model, problems, adapter, run.job.recipe.rollouts.max_new_tokens
        found = solve_together(*asked, cancelled=run.stop)
    run.check_stop()
    return found


def evaluation(name: str, problems: list[Problem], before: Solutions, after: Solutions) -> dict[str, Any]:
    """What `evaluation.json` holds: greedy pass@1 on the test problems, before and after, with every solution."""
    return {
        "checkpoint": name, "set": problems[0].set, "split": problems[0].split, "before": before.pass_at_1,
        "after": after.pass_at_1, "vs_base": after.against(before),
        "truncated": {"before": before.truncated, "after": after.truncated},
        "unparsed": {"before": before.unparsed, "after": after.unparsed},
        "problems": {"before": before.json(), "after": after.json()},
    }  # fmt: skip


def chosen(training: TrainingLoop) -> str | None:
    """Name of the checkpoint that becomes the adapter; None where there is none."""
    there = written(training.folder)
    return training.best or (f"step_{there[-1]}" if there else None)


def finish(
    run: Context, training: TrainingLoop, config: Mapping[str, Any], events: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write the adapter with its card; returns what is told of it when the run is done."""
    name = chosen(training)
    found = run.read(EVALUATION) or {}
    done = {
        "updates": training.trainer.updates, "adapter": ADAPTER if name else None, "best": name,
        "split": found.get("split"), **{key: found.get(key) for key in ("before", "after", "vs_base")},
    }  # fmt: skip
    if name:
        story = provenance(config, events, base_of(run.model), done | {"seconds": run.took})
        finish_adapter(run.folder / ADAPTER, story, training.folder / name)
    return done
