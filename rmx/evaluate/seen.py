"""How many of the problems a model was trained on: what a run's own files can say of its adapter."""

from collections.abc import Sequence

from rmx.data.splits import overlap
from rmx.errors import RmxError
from rmx.recipes.job import TrainJob, problems_of
from rmx.records import Problem
from rmx.runs.store import RunStore


def trained_on(spec: str | None, problems: Sequence[Problem], store: RunStore | None = None) -> int | None:
    """How many of `problems` were among those that the run `spec` (`ID` or `ID/step_N`) trained on.

    None where nothing is known: the adapter is no run's, it was trained on stored rollouts, or its set is gone.
    """
    if not spec:
        return None
    try:
        config = (store or RunStore()).get(spec.partition("/")[0]).config
        if config.get("kind") == "distill" or config.get("from_rollouts"):
            return None
        return overlap(problems_of(TrainJob.from_json(config)).train, problems)
    except (RmxError, KeyError, TypeError, ValueError):
        return None
