"""What the claims are measured on, and the measurements: each is made once, and yields what it has so far."""

import random
import shlex
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from rmx.arguments import Checked, Count, Samples, checked
from rmx.claims.claim import StudyName, Subject
from rmx.claims.from_runs import read_runs
from rmx.compare.controls import check_loaded
from rmx.compare.intervene import ARMS
from rmx.compare.intervene_set import InterveneSet
from rmx.compare.shift_map import PairOptions
from rmx.compare.shift_set import ShiftSet
from rmx.config import ASSETS
from rmx.engine.token_draws import prompt_key
from rmx.errors import RmxError
from rmx.evaluate.eval_report import BASE, Contestant, EvalConfig
from rmx.evaluate.evaluation import Evaluation
from rmx.evaluate.sample_store import SampleStore
from rmx.explore.flip_rates import Flip, ProblemControls, controls_of, swaps_of
from rmx.explore.gate_recall import Locator, LocatorConfig
from rmx.models.base_state import journal_of, key_of
from rmx.models.load import Model, fingerprint
from rmx.models.model_pair import Pair
from rmx.models.workspace import Workspace
from rmx.models.zerogpu import remote_of
from rmx.runs.store import RunStore


@checked
class ClaimOptions(Checked):
    """What is asked beside the pair; RmxError for a number that cannot be used."""

    pair: PairOptions
    samples: Samples = 8  # of one problem, for pass@k
    budget: Count = 200_000  # tokens, for what choices decide

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
        {"model": model, "adapter": adapter, "teacher": teacher, "style": shlex.join(options.style.words())}
        | {"budget": str(budget)},
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


# -- The measurements behind the claims -------------------------------------------------------------------------------


Cancelled = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class StudyProgress:
    """Where a study stands; `found` holds everything so far, None before the first result."""

    at: int
    of: int
    found: Any


@dataclass(frozen=True, slots=True)
class Swaps:
    """Every forced token of some problems; a problem without forks has none."""

    problems: tuple[str, ...]
    flips: tuple[Flip, ...]
    controls: tuple[ProblemControls, ...] = ()  # null swaps and resampling at the forks of the same problems


def shifts(subject: Subject, cancelled: Cancelled) -> Iterator[StudyProgress]:
    """Both models, and a placebo, read the base's greedy solutions."""
    s, store = subject, subject.store
    run = ShiftSet(s.pair, s.set_name, s.problems, s.tau, s.max_new, True, s.seed, cancelled, store=store)
    for report in run:
        yield StudyProgress(report.at, report.of, report if report.at else None)


def interventions(subject: Subject, cancelled: Cancelled) -> Iterator[StudyProgress]:
    """All arms and the placebo, greedily."""
    s, store = subject, subject.store
    run = InterveneSet(s.pair, s.set_name, s.problems, ARMS, s.tau, s.seed, s.max_new, True, cancelled, store=store)
    for report in run:
        yield StudyProgress(len(report.problems), report.of, report if report.problems else None)


def swaps(subject: Subject, cancelled: Cancelled) -> Iterator[StudyProgress]:
    """Forced tokens at the base's forks and at as many other places, and the controls at the forks."""
    base, tau, most = subject.pair.base, subject.tau, subject.max_new
    done, flips, controls = list[str](), list[Flip](), list[ProblemControls]()
    with closing(
        journal_of(subject.store, "swaps", [(base, None)], tau=tau, seed=subject.seed, max_new=most)
    ) as journal:
        for problem in subject.problems:
            if cancelled():
                break
            name = f"{problem.id} {prompt_key(base.prompt_ids(problem.problem)).hex()} {problem.answer}"
            if (row := journal.get(name)) is not None:
                found, tried = [Flip(**flip) for flip in row["flips"]], ProblemControls.from_json(row["controls"])
            else:
                # A draw of its own for each problem, so that those before it need not be known.
                draw = random.Random(f"swaps/{subject.seed}/{problem.id}")
                found = list(swaps_of(base, problem, tau, draw, most))
                tried = controls_of(base, problem, tau, seed=subject.seed, max_new=most)
                journal.put(name, {"flips": [asdict(flip) for flip in found], "controls": asdict(tried)})
            done.append(problem.id)
            flips += found
            controls.append(tried)
            yield StudyProgress(len(done), len(subject.problems), Swaps(tuple(done), tuple(flips), tuple(controls)))


def locator(subject: Subject, cancelled: Cancelled) -> Iterator[StudyProgress]:
    """Continuations at gated and ungated places of the base's greedy solutions, within the budget of tokens."""
    config = LocatorConfig(seed=subject.seed, budget=subject.budget, max_new_tokens=subject.max_new)
    base, store = subject.pair.base, subject.store
    for report in Locator(base, subject.problems, subject.tau, config, subject.set_name, cancelled, store=store):
        yield StudyProgress(report.problems, report.of, report)


def runs(subject: Subject, cancelled: Cancelled) -> Iterator[StudyProgress]:
    """Finished training runs of this model, on this machine."""
    found = read_runs(RunStore(private=subject.private_runs), subject.asked.get("model") or subject.pair.base.spec)
    yield StudyProgress(len(found.all), len(found.all), found)


def evaluation(subject: Subject, cancelled: Cancelled) -> Iterator[StudyProgress]:
    """pass@k of both models over the same samples per problem; completions that are stored are not made again."""
    pair, spec = subject.pair, subject.asked.get("adapter") or subject.asked.get("teacher") or "adapted"
    two = [
        Contestant(BASE, pair.base.spec, pair.base, None, None, key_of(pair.base, None)),
        Contestant(spec, pair.name, pair.adapted, pair.adapter, spec, key_of(pair.adapted, pair.adapter)),
    ]
    most = subject.max_new
    config = EvalConfig(subject.samples, (), 1.0, 1.0, subject.seed, max_new_tokens=most, greedy=False)
    store = subject.store or SampleStore(readable=not subject.private_runs)
    run = Evaluation(two, list(subject.problems), config, subject.set_name, store=store)
    for report in run.run(cancelled):
        yield StudyProgress(report.at, report.of, report)


STUDIES: dict[StudyName, Callable[[Subject, Cancelled], Iterator[StudyProgress]]] = {
    "runs": runs,
    "shifts": shifts,
    "interventions": interventions,
    "swaps": swaps,
    "locator": locator,
    "evaluation": evaluation,
}
