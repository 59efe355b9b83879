"""From the options of `rmx claims`, or of the tab, to what the claims are measured on."""

import shlex
from dataclasses import dataclass
from functools import lru_cache

from rmx.claims.claim import Subject
from rmx.compare.base_check import check_loaded
from rmx.compare.pair_options import PairOptions
from rmx.errors import RmxError
from rmx.models.load import Model, fingerprint
from rmx.models.model_pair import Pair
from rmx.models.workspace import Workspace
from rmx.paths import ASSETS
from rmx.zerogpu.calls import remote_of

MOST_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class ClaimOptions:
    """What is asked beside the pair; RmxError for a number that cannot be used."""

    pair: PairOptions
    samples: int = 8  # of one problem, for pass@k
    budget: int = 200_000  # tokens, for what choices decide

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= MOST_SAMPLES:
            raise RmxError(f"The number of samples must lie between 1 and {MOST_SAMPLES}; got {self.samples}.")
        if self.budget < 1:
            raise RmxError(f"The budget must be 1 token or more; got {self.budget}.")

    def subject(self, space: Workspace | None = None) -> Subject:
        """Load the pair and the problems; RmxError where either cannot be had, or a problem has no known answer."""
        return subject_of(self.pair.pair(space), self.pair, self.samples, self.budget)


def subject_of(pair: Pair, options: PairOptions, samples: int, budget: int) -> Subject:
    """What the claims are measured on, for a pair that is loaded."""
    problems = options.problems()
    if any(p.answer is None for p in problems):
        raise RmxError(f"{options.set_name} holds problems without a known answer, so nothing can be graded.")
    model, adapter, teacher = options.specs()
    return Subject(
        pair,
        options.set_name,
        tuple(problems),
        options.threshold(pair.base),
        options.seed,
        options.max_new_tokens,
        samples,
        budget,
        {"model": model, "adapter": adapter, "teacher": teacher, "style": shlex.join(options.style.words())},
        built_so(pair.base),
        calibration=options.calibration(pair.base),
        check=check_loaded(pair) if remote_of(pair) is None else None,  # no GPU is asked for what ends in a refusal
    )


def built_so(model: Model) -> bool:
    """Whether this is the bundled miniature, under whatever name."""
    return model.spec.partition("@")[0] == "mini" or model.revision == _bundled()


@lru_cache(maxsize=1)
def _bundled() -> str:
    return fingerprint(ASSETS / "mini")
