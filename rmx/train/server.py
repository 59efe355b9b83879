"""Rollouts from any server that speaks the OpenAI protocol."""

from collections.abc import Callable, Collection, Iterator, Sequence

from rmx.errors import TrainError
from rmx.models import Model
from rmx.records import Problem, Rollout
from rmx.train.recipe import RolloutConfig


def server_rollouts(
    url: str,
    model: Model,
    problems: Sequence[Problem],
    config: RolloutConfig,
    seed: int,
    done: Collection[tuple[str, int]],
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Rollout]:
    """Sample what is missing of `config.k` completions of each problem by asking a server."""
    raise TrainError(f"Rollouts from a server ({url}) are not ready yet. Sample them here: leave --server out.")
