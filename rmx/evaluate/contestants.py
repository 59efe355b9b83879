"""What an evaluation asks of every model: how many samples, drawn how, and up to which k."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rmx.config import Sampling
from rmx.data.problem_sets import load_set
from rmx.errors import ProblemError, RmxError
from rmx.models.base_state import key_of
from rmx.models.load import Model
from rmx.models.model_pair import ask_alike
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import Problem
from rmx.stats.pass_at_k import powers

MOST_SAMPLES = 256  # per problem


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Settings shared by all models of an evaluation. The defaults of the draws are the paper's."""

    n: int = 16  # samples per problem; 0: greedy only
    k: tuple[int, ...] = ()  # tries of pass@k; () means 1, 2, 4 ... n
    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 0
    max_new_tokens: int = 2048
    greedy: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or not 0 <= self.n <= MOST_SAMPLES:
            raise RmxError(f"Samples per problem must be a whole number from 0 to {MOST_SAMPLES}; got {self.n}.")
        if not self.n and not self.greedy:
            raise RmxError("Nothing to evaluate: no samples and no greedy solution.")
        Sampling(self.temperature, self.top_p, self.seed, self.max_new_tokens)
        if self.n and self.temperature == 0:
            raise RmxError("Samples at temperature 0 are all the same. Raise it, or ask for no samples (n = 0).")
        object.__setattr__(self, "k", tuple(sorted(set(self.k))) or powers(self.n))
        for k in self.k:
            if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= max(self.n, 1):
                raise RmxError(f"pass@k needs k from 1 to the number of samples, {self.n}; got {k}.")

    def json(self) -> dict[str, Any]:
        """Return the settings as the document of an evaluation holds them."""
        return {
            "samples": self.n,
            "k": list(self.k),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
        }


BASE = "base"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One model of an evaluation."""

    name: str  # "base", or the spec of its adapter or checkpoint
    label: str
    model: Model
    adapter: str | None  # its name on the engine
    spec: str | None
    key: str  # of the weights, their precision and the adapter's weights: the same key, the same completions


def contestants_of(
    workspace: Workspace,
    model: str,
    adapters: Sequence[str] = (),
    teachers: Sequence[str] = (),
    style: StyleOptions = StyleOptions(),  # noqa: B008  a frozen record
    set_name: str | None = None,
) -> list[Contestant]:
    """The base first, then its adapters, then other checkpoints; a spec that is named twice counts once.

    Everybody is asked the same ids, in the base's way: else a difference could be the prompt's.

    Args:
        adapters: bundled names, runs (`ID` or `ID/step_N`), folders, Hub ids. teachers: specs of full checkpoints.
        style: what is asked of the prompt. set_name: of the problems.

    Raises:
        ModelError: one of them cannot be had, or has other tokens than the base. PromptError: no style for the base.
    """
    base = workspace.model(model).ask_in(style, set_name)
    found = [Contestant(BASE, base.spec, base, None, None, key_of(base, None))]
    for spec in dict.fromkeys(adapters):
        name = workspace.adapter(base, spec)
        found.append(Contestant(spec, f"{base.spec} + {spec}", base, name, spec, key_of(base, name)))
    for spec in dict.fromkeys(teachers):
        other = ask_alike(workspace.model(spec), base)
        found.append(Contestant(spec, other.spec, other, None, spec, key_of(other, None)))
    return found


def with_answers(set_name: str, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of a set (default split: test); ProblemError where one has no known answer."""
    if limit is not None and limit < 1:
        raise RmxError(f"The number of problems must be 1 or more; got {limit}.")
    return answered(load_set(set_name)[:limit], set_name)


def answered(problems: list[Problem], set_name: str) -> list[Problem]:
    """The same problems; ProblemError where one of them has no known answer, so that nothing could be right."""
    without = [p.id for p in problems if p.answer is None]
    if without:
        raise ProblemError(
            f"{len(without)} of {len(problems)} problems of {set_name} have no known answer (the first: "
            f"{without[0][:60]!r}). Accuracy needs one for each."
        )
    return problems
