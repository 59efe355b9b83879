"""The shift map over a problem set: how often base and adapted model part, where, and how noise compares.

Every problem is solved greedily by the base; both models, and a placebo, read that solution. Statistics are sums over
problems, with intervals by bootstrap over problems, because places of one solution are not independent.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rmx.compare.controls import Text, dtype_noise, placebo_pair, shape_noise, worst
from rmx.config import NEW_TOKENS
from rmx.engine.batch import continue_batch
from rmx.engine.engine import split_key
from rmx.engine.entropy import KINDS, Difference, capture, compare, kind_of
from rmx.errors import ModelError
from rmx.explore.calibration import Calibration
from rmx.models.base_state import Journal, chained, journal_of
from rmx.models.load import Model
from rmx.models.model_pair import Pair, read_both
from rmx.models.stopping import Ending
from rmx.prompt_styles import PromptStyle
from rmx.records import Problem, as_json, is_fork
from rmx.stats.intervals import Estimate, quotient, ratio_of_sums
from rmx.storage.safe_files import LineStore

TOPS = range(1, 11)
EDGES = [i / 10 for i in range(31)]  # nats, of the histogram; the last bin is open
NOISE_TEXTS = 8  # solutions on which the noise floor is measured
CALIBRATION_TEXTS = 48  # solutions on which the placebo's strength is found
PAPER = {
    "reranked": "1.0 – 4.1 %",
    "shifted": "0.01 – 0.12 %",
    "mean_rank": "2.14 – 2.39",
    "entropy_ratio": "5 – 12",
}  # arXiv 2605.06241, section 3: ranges over four pairs on MATH-500


@dataclass(frozen=True, slots=True)
class ReadPlaces:
    """All places of one solution, read by two models. Tensors are (T,) on the CPU."""

    problem: str
    entropy: Tensor  # of the base, nats
    rank: Tensor  # of the adapted model's choice under the base
    kl: Tensor
    near: Tensor  # bool: a disagreement within the noise

    @property
    def differs(self) -> Tensor:
        """Places (N,) bool at which the two models choose different tokens."""
        return self.rank > 1

    def row(self) -> dict[str, Any]:
        """Everything but the problem, fit for JSON; fp32 survives it bit by bit."""
        return {name: getattr(self, name).tolist() for name in ("entropy", "rank", "kl", "near")}

    @classmethod
    def of_row(cls, problem: str, row: dict[str, Any]) -> "ReadPlaces":
        """Read places back from what `row` returned."""
        near = torch.tensor(row["near"], dtype=torch.bool)
        entropy, kl = (torch.tensor(row[name], dtype=torch.float32) for name in ("entropy", "kl"))
        return cls(problem, entropy, torch.tensor(row["rank"], dtype=torch.long), kl, near)

    def of(self, kind: str) -> Tensor:
        """Mask of one class."""
        return torch.tensor([kind_of(int(r)) == kind for r in self.rank], dtype=torch.bool)


@dataclass(frozen=True, slots=True)
class ShiftFigures:
    """The statistics of many solutions."""

    places: tuple[ReadPlaces, ...]
    tau: float

    @property
    def positions(self) -> int:
        """How many places there are."""
        return sum(len(p.rank) for p in self.places)

    @property
    def disagreements(self) -> int:
        """How many of them the two models decide differently."""
        return sum(int(p.differs.sum()) for p in self.places)

    def json(self) -> dict[str, Any]:
        """Shares over all positions, ranks over disagreements; `intervals` holds the shares with their intervals."""
        shares = self.shares()
        plain = {name: estimate["value"] for name, estimate in shares.items()}
        return {
            "positions": self.positions,
            "disagreements": self.disagreements,
            "near_ties": sum(int(p.near.sum()) for p in self.places),
            **{name: value for name, value in plain.items() if not name.startswith("within_top_")},
            "mean_rank": self.mean_rank(),
            "entropy_ratio": self.entropy_ratio(),
            "within_top": {str(k): plain[f"within_top_{k}"] for k in TOPS},
            "intervals": shares,
            "entropy_histogram": self.histogram(),
        }

    def shares(self) -> dict[str, Estimate]:
        """Every share, and the mean KL, with intervals."""
        forks = [is_fork(p.entropy, self.tau) for p in self.places]
        differs = [p.differs for p in self.places]
        every = [torch.ones(len(p.rank)) for p in self.places]
        classes: dict[str, list[Tensor]] = {kind: [p.of(kind) for p in self.places] for kind in KINDS}
        return {
            **{kind: _share(masks, every) for kind, masks in classes.items()},
            "on_forks": _share([d & f for d, f in zip(differs, forks, strict=True)], differs),
            "on_forks_by_chance": _share(forks, every),
            "untouched": _share([~d.any()[None] for d in differs], [torch.ones(1) for _ in differs]),
            "mean_kl": _share([p.kl for p in self.places], every, counts=False),
            **{f"within_top_{k}": _share([p.differs & (p.rank <= k) for p in self.places], differs) for k in TOPS},
        }

    def mean_rank(self) -> Estimate:
        """Mean rank of the adapted model's choice under the base, where they disagree."""
        return _share([p.rank * p.differs for p in self.places], [p.differs for p in self.places], counts=False)

    def entropy_ratio(self) -> Estimate:
        """Mean base entropy where reranked over mean base entropy where unshifted."""
        reranked, same = ([p.of(kind) for p in self.places] for kind in ("reranked", "unshifted"))
        entropy = [p.entropy for p in self.places]
        return quotient(
            [float((h * mask).sum()) for h, mask in zip(entropy, reranked, strict=True)],
            [float(mask.sum()) for mask in reranked],
            [float((h * mask).sum()) for h, mask in zip(entropy, same, strict=True)],
            [float(mask.sum()) for mask in same],
        )

    def histogram(self) -> dict[str, Any]:
        """Counts of base entropies by class, in bins of 0.1 nats; the last bin holds everything above."""
        counts: dict[str, Any] = {}
        for kind in KINDS:
            values = torch.cat([p.entropy[p.of(kind)] for p in self.places] or [torch.zeros(0)])
            bins = torch.bucketize(values, torch.tensor(EDGES), right=True) - 1
            counts[kind] = torch.bincount(bins.clamp(0, len(EDGES) - 1), minlength=len(EDGES)).tolist()
        return {"edges": EDGES, **counts}


def _share(above: Sequence[Tensor], below: Sequence[Tensor], counts: bool = True) -> Estimate:
    return ratio_of_sums([float(a.sum()) for a in above], [float(b.sum()) for b in below], counts=counts)


@dataclass(frozen=True, slots=True)
class ShiftReport:
    """Where a run over a set stands; each report holds everything so far."""

    set_name: str
    base: str
    adapted: str
    tau: float
    at: int  # problems done
    of: int
    seconds: float
    stage: str  # "reading", "placebo", "done"
    figures: ShiftFigures
    placebo: ShiftFigures | None = None
    placebo_strength: float | None = None
    noise: Difference | None = None
    dtype_noise: Difference | None = None
    stopped: bool = False
    style: PromptStyle | None = None  # how both models were asked
    calibration: Calibration | None = None  # what tau came from, where a share of tokens was asked for
    dtype: str | None = None  # of the base

    @property
    def done(self) -> bool:
        """Whether all problems are read."""
        return self.stage == "done"

    def json(self) -> dict[str, Any]:
        """The document of `rmx shifts --set`."""
        placebo = self.placebo.json() | {"strength": self.placebo_strength} if self.placebo else None
        noise = {"batch_shape": self.noise, "dtype": self.dtype_noise}
        return {
            "set": self.set_name,
            **as_json(self, "base", "adapted", "dtype", "tau", "style", "calibration"),
            "problems": self.at,
            **as_json(self, "of", "stopped"),
            **self.figures.json(),
            "placebo": placebo,
            "noise": {name: found.json() if found else None for name, found in noise.items()},
            "paper": PAPER,
            "seconds": round(self.seconds, 2),
        }


@dataclass
class ShiftSet:
    """An iterable of reports, one after each problem; holds the engines for one problem at a time."""

    pair: Pair
    set_name: str
    problems: Sequence[Problem]
    tau: float
    max_new: int = NEW_TOKENS
    with_placebo: bool = True
    seed: int = 0
    cancelled: Callable[[], bool] = lambda: False
    calibration: Calibration | None = None  # what tau came from
    store: LineStore | None = None  # what earlier runs of the same have found, and where this one keeps it
    _texts: list[Text] = field(default_factory=list)
    _places: list[ReadPlaces] = field(default_factory=list)
    _noise: Difference | None = None
    _dtype_noise: Difference | None = None

    def __iter__(self) -> Iterator[ShiftReport]:
        self._began = time.perf_counter()
        models = [(self.pair.base, None), (self.pair.adapted, self.pair.adapter)]
        with closing(journal_of(self.store, "shifts", models, seed=self.seed, max_new=self.max_new)) as self._journal:
            yield from self._run()

    def _run(self) -> Iterator[ShiftReport]:
        prompts = [self.pair.base.prompt_ids(problem.problem) for problem in self.problems]
        # The noise that decides what is a near tie is that of the texts before, so a piece is named by them too.
        self._names = chained(prompts)
        for problem, prompt, name in zip(self.problems, prompts, self._names, strict=True):
            if self.cancelled():
                break
            if (row := self._journal.get(name)) is not None:
                self._take(problem, prompt, row)
            else:
                with self.pair.when_free(self.cancelled) as mine:
                    if not mine:
                        break
                    self._solve(problem, prompt, name)
            yield self._report("reading")
        if self._places and self.with_placebo and not self.cancelled():
            yield from self._with_noise()
        else:
            yield self._report("done")

    def _solve(self, problem: Problem, prompt: tuple[int, ...], name: str) -> None:
        completion = greedy_ids(self.pair.base, prompt, None, self.max_new, self.cancelled, reuse=False)
        if self.cancelled():
            return  # half a solution is no solution
        text: Text = ([*prompt, *completion], len(prompt) - 1)
        if len(self._texts) < NOISE_TEXTS:
            self._noise = worst(self._noise, shape_noise(self.pair.base.engine, text[0]))
            self._dtype_noise = worst(self._dtype_noise, dtype_noise(self.pair.base, text[0]))
        self._texts.append(text)
        self._places.append(places_of(self.pair, problem.id, text, self._tolerance))
        noise = {"noise": self._noise, "dtype": self._dtype_noise}
        self._journal.put(name, {"ids": completion, **noise, **self._places[-1].row()})

    def _take(self, problem: Problem, prompt: tuple[int, ...], row: dict[str, Any]) -> None:
        """A problem that an earlier run has done."""
        self._texts.append(([*prompt, *row["ids"]], len(prompt) - 1))
        self._places.append(ReadPlaces.of_row(problem.id, row))
        self._noise, self._dtype_noise = (
            Difference(*row[name]) if row[name] is not None else None for name in ("noise", "dtype")
        )

    @property
    def _tolerance(self) -> float:
        return self._noise.max_dlogit if self._noise else 0.0

    def _with_noise(self) -> Iterator[ShiftReport]:
        """The same solutions under a placebo that reranks as often."""
        yield self._report("placebo")
        texts = self._texts[:CALIBRATION_TEXTS]
        piece = f"strength {self._names[len(texts) - 1]}"
        noise = known_placebo(self._journal, piece, self.pair, texts, self.seed, self.cancelled)
        if noise is None:
            yield self._report("done")
            return
        strength = split_key(str(noise.adapter))[1]
        read: list[ReadPlaces] = []
        for place, text, name in zip(self._places, self._texts, self._names, strict=False):
            if self.cancelled():
                break
            piece = f"placebo {strength!r} {self._tolerance!r} {name}"
            if (row := self._journal.get(piece)) is not None:
                read.append(ReadPlaces.of_row(place.problem, row))
                continue
            with noise.when_free(self.cancelled) as mine:
                if not mine:
                    break
                read.append(places_of(noise, place.problem, text, self._tolerance))
            self._journal.put(piece, read[-1].row())
        yield self._report("done", ShiftFigures(tuple(read), self.tau), strength)

    def _report(self, stage: str, placebo: ShiftFigures | None = None, strength: float | None = None) -> ShiftReport:
        return ShiftReport(
            self.set_name,
            self.pair.base.spec,
            self.pair.name,
            self.tau,
            len(self._places),
            len(self.problems),
            time.perf_counter() - self._began,
            stage,
            ShiftFigures(tuple(self._places), self.tau),
            placebo,
            strength,
            self._noise,
            self._dtype_noise,
            stopped=self.cancelled(),
            style=self.pair.base.style,
            calibration=self.calibration,
            dtype=self.pair.base.dtype,
        )


def known_placebo(
    journal: Journal, piece: str, pair: Pair, texts: Sequence[Text], seed: int, cancelled: Callable[[], bool]
) -> Pair | None:
    """The placebo of a pair, of the strength that a journal knows or that is found; None if cancelled or impossible."""
    row = journal.get(piece)
    with pair.when_free(cancelled) as mine:
        if not mine:
            return None
        try:
            noise = placebo_pair(pair, texts, seed, cancelled, None if row is None else row["strength"])
        except ModelError:
            return None
    if row is None and not cancelled():
        journal.put(piece, {"strength": split_key(str(noise.adapter))[1]})
    return noise


@torch.inference_mode()
def greedy_ids(
    model: Model,
    prompt: Sequence[int],
    adapter: str | None,
    max_new: int,
    cancelled: Callable[[], bool] = lambda: False,
    reuse: bool = True,
) -> list[int]:
    """A greedy completion without any statistics; the caller holds the engine's turn. `reuse` False reads anew."""
    ending = Ending(model, prompt, (), 1)
    return continue_batch(
        model.engine, prompt, [()], max_new=max_new, over=ending, adapter=adapter, cancelled=cancelled, reuse=reuse
    )[0]


def places_of(pair: Pair, problem: str, text: Text, noise: float) -> ReadPlaces:
    """Read one text under both models, anew; the caller holds `pair.turn()`."""
    ids, start = text
    columns: list[tuple[Tensor, ...]] = []

    def on_rows(_: int, base: Tensor, adapted: Tensor) -> None:
        found = compare(base, adapted)
        near = (found.rank > 1) & (torch.minimum(found.base_gap, found.adapted_gap) <= 2 * noise)
        columns.append((capture(base, 1).entropy, found.rank, found.kl, near))

    read_both(pair, ids[:-1], start, on_rows, reuse=False)
    entropy, rank, kl, near = (torch.cat([c[i] for c in columns]).cpu() for i in range(4))
    return ReadPlaces(problem, entropy, rank, kl, near)
