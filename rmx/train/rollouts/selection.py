"""Which rollouts teach: problems at the edge of competence, without the longest rollouts, each with its advantage."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rmx.errors import TrainError
from rmx.grading.answers import CUT
from rmx.recipes.recipe import SelectionConfig
from rmx.records import Rollout

LEAST_STD = 1e-8  # so that a problem whose rollouts are all alike gives advantages of 0
LEAST_PROBLEMS = 2  # of mixed success; one alone would be learned by heart


@dataclass(frozen=True, slots=True)
class Selection:
    """What is trained on, and what became of the rest."""

    rollouts: tuple[Rollout, ...]  # each with its advantage; problem by problem, the nearest to one half first
    problems: int  # sampled
    sampled: int  # rollouts
    kept: int  # problems
    trimmed: int  # rollouts of the kept problems that were among the longest
    out: Mapping[str, int]  # problems that were left out, by reason
    alike: int  # kept problems whose remaining rollouts are all right or all wrong; they pull nowhere
    histogram: tuple[int, ...]  # sampled problems with 0, 1, ... right
    kept_histogram: tuple[int, ...] = ()  # the same of those that were kept

    @property
    def right(self) -> int:
        return sum(r.correct for r in self.rollouts)

    def json(self) -> dict[str, Any]:
        """The event `selection`."""
        return {
            "problems": self.problems, "sampled": self.sampled, "kept": self.kept, "rollouts": len(self.rollouts),
            "trimmed": self.trimmed, "right": self.right, "wrong": len(self.rollouts) - self.right,
            "out": dict(self.out), "alike": self.alike, "histogram": list(self.histogram),
            "kept_histogram": list(self.kept_histogram),
        }  # fmt: skip


def select(rollouts: Sequence[Rollout], config: SelectionConfig) -> Selection:
    """Keep problems of mixed success, trim the longest of their rollouts, and give the rest their advantages.

    The result does not depend on the order of `rollouts`.

    Source: arXiv 2605.06241, section 5. Trimming pools the rollouts of the kept problems and comes before the
    advantages, so that these have mean 0 over what is trained on.
    """
    groups = _by_problem(rollouts)
    histogram = pass_histogram(rollouts, max(map(len, groups.values()), default=0))
    rights = {name: sum(r.correct for r in group) for name, group in groups.items()}
    mixed = [name for name, group in groups.items() if 0 < rights[name] < len(group)]
    if len(mixed) < min(LEAST_PROBLEMS, config.select):
        raise TrainError(_too_few(len(mixed), histogram))
    kept = sorted(mixed, key=lambda name: _edge(name, groups[name]))[: config.select]
    pooled = [r for name in kept for r in groups[name]]
    short = shortest(pooled, config.trim)
    left = _by_problem(short)
    alike = sum(len({r.correct for r in left.get(name, ())}) < 2 for name in kept)
    if alike == len(kept):
        raise TrainError(
            f"The longest rollouts were trimmed, and no problem has both right and wrong ones left. "
            f"Raise trim above {config.trim:g} (1 keeps all), or sample more rollouts per problem (k)."
        )
    out = {
        "all_right": sum(rights[name] == len(group) for name, group in groups.items()),
        "all_wrong": sum(right == 0 for right in rights.values()),
        "further_from_half": len(mixed) - len(kept),
    }
    teach = with_advantages([r for name in kept for r in left.get(name, ())])
    counts = len(groups), len(rollouts), len(kept), len(pooled) - len(short)
    return Selection(tuple(teach), *counts, out, alike, histogram, pass_histogram(pooled, len(histogram) - 1))


def shortest(rollouts: Sequence[Rollout], share: float) -> list[Rollout]:
    """All but the longest in their order: 1 - share of them is dropped, rounded down; of equal ones the later."""
    ranked = sorted(range(len(rollouts)), key=lambda i: (rollouts[i].completion_length, *_name(rollouts[i])))
    dropped = int(len(rollouts) * (1 - share) + 1e-9)  # 5 x (1 - 0.8) is a hair below 1 in floating point
    keep = set(ranked[: len(rollouts) - dropped])
    return [r for i, r in enumerate(rollouts) if i in keep]


def with_advantages(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Each rollout with A = (r - mean) / max(std, 1e-8) over the given rollouts of its problem; r is 0 or 1, std that
    of the population. Nothing is clipped here: the loss does that.

    Source: arXiv 2605.06241, section 5.
    """
    rewards: dict[str, np.ndarray[Any, Any]] = {
        name: np.array([r.correct for r in group], dtype=float) for name, group in _by_problem(rollouts).items()
    }
    stats = {name: (float(r.mean()), max(float(r.std()), LEAST_STD)) for name, r in rewards.items()}
    return [replace(r, advantage=(r.correct - stats[r.problem_id][0]) / stats[r.problem_id][1]) for r in rollouts]


def pass_histogram(rollouts: Iterable[Rollout], k: int) -> tuple[int, ...]:
    """How many problems have 0, 1, ... k right rollouts."""
    groups = _by_problem(rollouts)
    right = Counter(sum(r.correct for r in group) for group in groups.values())
    if right and max(right) > k:
        raise ValueError(f"a problem has {max(right)} right rollouts of {k}")
    return tuple(right[n] for n in range(k + 1))


def tau_of_share(rollouts: Sequence[Rollout], share: float) -> float:
    """The threshold in nats above which a share (0 to 1) of all completion tokens of these rollouts lies.

    Exactly floor(share x tokens) lie above it where no two are equal, fewer where equal ones stand at the edge.
    """
    if any(r.entropies is None for r in rollouts):
        raise TrainError("A share of tokens needs every rollout's entropies. Score the rollouts first, or give --tau.")
    pooled = np.sort(np.concatenate([np.zeros(0), *(np.asarray(r.entropies, dtype=float) for r in rollouts)]))[::-1]
    if not len(pooled):
        raise TrainError("The rollouts have no completion tokens, so no threshold can be found. Sample them anew.")
    kept = int(len(pooled) * share + 1e-9)
    return float(pooled[kept]) if kept < len(pooled) else 0.0


def _by_problem(rollouts: Iterable[Rollout]) -> dict[str, list[Rollout]]:
    groups: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in sorted(rollouts, key=_name):
        groups[rollout.problem_id].append(rollout)
    return dict(groups)


def _name(rollout: Rollout) -> tuple[str, int]:
    return rollout.problem_id, rollout.gen_index


def _edge(name: str, group: Sequence[Rollout]) -> tuple[float, int, float, str]:
    """Sorts problems: nearest to one half, then fewer truncated, then shorter, then by name."""
    right, n = sum(r.correct for r in group), len(group)
    truncated = sum(r.stop in CUT for r in group)
    return abs(2 * right - n) / n, truncated, sum(r.completion_length for r in group) / n, name


def _too_few(mixed: int, histogram: Sequence[int]) -> str:
    counts = ", ".join(f"{right} right: {n}" for right, n in enumerate(histogram) if n)
    found = "No problem has" if not mixed else "Only one problem has"
    never, always = histogram[0], histogram[-1]
    if never >= always:
        way = "take easier problems, a longer max_new_tokens"
    else:
        way = "take harder problems, a higher temperature"
    return (
        f"{found} both right and wrong rollouts, and only such problems teach (problems by right rollouts of "
        f"{len(histogram) - 1}: {counts or 'none'}). Sample more problems or more rollouts per problem (k), or {way}."
    )
