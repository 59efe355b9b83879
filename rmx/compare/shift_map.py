"""A pair of models on one completion, every token with both distributions; and the options that name the pair.

The completion is the base's own by default, or the adapted model's, or a pasted text. While one of the models writes,
both take every step together, so that the map grows with the text; a given text is read in one pass under each.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from rmx.arguments import Checked, Count, Sampling, Seed, checked
from rmx.compare.controls import check_base, placebo_pair, shape_noise
from rmx.compare.shift_set import PAPER, ReadPlaces, ShiftFigures, places_of
from rmx.config import TOP_SHOWN
from rmx.data.problem_sets import load_set
from rmx.engine.engine import split_key
from rmx.engine.entropy import Capture, Difference, Kind, capture, compare, is_near_tie, kind_of, logp_and_rank
from rmx.engine.fair_queue import never
from rmx.engine.token_draws import Chooser
from rmx.errors import ModelError, RmxError
from rmx.explore.calibration import Calibration, calibration_of, threshold_of
from rmx.grading.answers import CUT
from rmx.models.detokenizer import TextStream
from rmx.models.load import Model
from rmx.models.model_pair import Pair, PairRun, make_pair, open_pair, read_both
from rmx.models.names import PAIRS
from rmx.models.stopping import CompletionEnd
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.models.zerogpu import on_gpu_worker, side_by_side
from rmx.records import Answer, Candidate, Problem, Stop, as_json, is_fork

Source = Literal["base", "adapted", "text"]
QUIET = 0.02  # nats of KL, below which an agreement is not worth listing


@dataclass(frozen=True, slots=True)
class View:
    """What one of the two models thinks at one place."""

    entropy: float  # nats
    logp: float  # of the token on screen
    rank: int  # of the token on screen
    top: tuple[Candidate, ...]  # best first


@dataclass(frozen=True, slots=True)
class Shift:
    """One token of a completion, read by both models on the same prefix."""

    pos: int
    id: int
    text: str
    kind: Kind
    base_gap: float  # logits, see divergence.Compared
    adapted_gap: float
    kl: float  # KL(base || adapted), nats
    rank: int  # of the adapted model's choice under the base
    p: float  # the base's probability of it
    back_rank: int  # of the base's choice under the adapted model
    back_p: float
    base: View
    adapted: View

    def near_tie(self, noise: float) -> bool:
        """Whether rounding alone could make the two agree; `noise` as in divergence.is_near_tie."""
        return is_near_tie(self.rank, self.base_gap, self.adapted_gap, noise)

    def json(self, tau: float, noise: float) -> dict[str, Any]:
        """Return the place as documents hold it; `noise` is that of `is_near_tie`."""
        return {
            "pos": self.pos,
            "id": self.id,
            "text": self.text,
            "class": self.kind,
            "near_tie": self.near_tie(noise),
            "fork": is_fork(self.base.entropy, tau),
            **as_json(self, "kl", "rank", "p", "back_rank", "back_p", "base", "adapted"),
        }


@dataclass(frozen=True, slots=True)
class MapJob:
    """What to map: a prompt, and the model that completes it."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    tau: float
    source: Source = "base"
    known: str | None = None
    read: tuple[int, ...] = ()  # the text's ids, for source "text"


@dataclass
class ShiftMap(PairRun[Shift]):
    """An iterable over the places of one completion."""

    pair: Pair
    job: MapJob
    cancelled: Callable[[], bool] = never
    shifts: list[Shift] = field(default_factory=list)
    stop: Stop = "cancelled"
    seconds: float = 0.0
    noise: Difference | None = None  # measured by `measure_noise`

    @property
    def ids(self) -> list[int]:
        """Ids of the completion so far."""
        return [s.id for s in self.shifts]

    @property
    def tolerance(self) -> float:
        """Logit noise within which a disagreement counts as a near tie; 0 until it was measured."""
        return self.noise.max_dlogit if self.noise else 0.0

    @property
    def answer(self) -> Answer:
        """The answer of the completion on screen."""
        return self.pair.base.grade(self.job.prompt_ids, self.ids, self.job.known, cut=self.stop in CUT)

    def _from_here(self) -> Generator[Shift]:
        for shift in self._read() if self.job.source == "text" else self._write():
            self.shifts.append(shift)
            yield shift

    def _from_afar(self) -> Generator[Shift]:
        """As another process makes them, with the noise that belongs to them."""
        for item in mapped(self.pair, self.job, cancelled=self.cancelled):
            if isinstance(item, Shift):
                self.shifts.append(item)
                yield item
            else:
                self.stop, self.noise = item

    def _read(self) -> Iterator[Shift]:
        """Score a given text: one pass under each model."""
        prompt, given = self.job.prompt_ids, self.job.read
        found: list[Shift] = []
        pieces = self.pair.base.detokenizer.stream()

        def on_rows(index: int, base: Tensor, adapted: Tensor) -> None:
            pos = index + 1 - len(prompt)
            ids = given[pos : pos + len(base)]
            found.extend(shifts_of(self.pair, pos, ids, base, adapted, pieces))

        read_both(self.pair, [*prompt, *given[:-1]], len(prompt) - 1, on_rows)
        self.stop = "read"
        yield from found

    def _write(self) -> Iterator[Shift]:
        """One model writes, both take every step."""
        job, model = self.job, self.pair.base
        pieces = model.detokenizer.stream()
        end = CompletionEnd(model, job.prompt_ids, job.sampling.max_new_tokens, self.pair.stop_ids)
        choose = Chooser(job.sampling, job.prompt_ids)
        with open_pair(self.pair, [job.prompt_ids]) as stream:
            try:
                while not self.cancelled():
                    logits = (stream.base if job.source == "base" else stream.adapted)[0]
                    token = choose(logits, int(logits.argmax()), len(self.shifts))
                    (shift,) = shifts_of(self.pair, len(self.shifts), [token], stream.base, stream.adapted, pieces)
                    yield shift
                    if self.is_over(end.feed(token, shift.text)):
                        break
                    self.pair.give_way(self.cancelled)
                    stream.feed([token])
            finally:
                stream.save()


def _seconds(pair: Pair, job: MapJob, **_: object) -> float:
    """Of GPU."""
    steps = 0 if job.source == "text" else job.sampling.max_new_tokens
    return side_by_side(steps, read=len(job.prompt_ids) + len(job.read)) + side_by_side(20)  # the noise


@on_gpu_worker(seconds=_seconds)
def mapped(
    pair: Pair, job: MapJob, cancelled: Callable[[], bool] = never
) -> Iterator[Shift | tuple[Stop, Difference | None]]:
    """A map for one who is not in this process: its places, then how it ended and the noise of its text."""
    found = ShiftMap(pair, job, cancelled)
    yield from found
    with pair.turn():
        ids = [*job.prompt_ids, *found.ids]
        yield found.stop, shape_noise(pair.base.engine, ids) if len(found.shifts) > 1 else None


def shifts_of(
    pair: Pair, pos: int, ids: Sequence[int], base: Tensor, adapted: Tensor, pieces: TextStream
) -> list[Shift]:
    """Records of consecutive places.

    Args:
        pos: completion position of ids[0]. ids: the tokens on screen.
        base, adapted: (len(ids), V) logits that decide them. pieces: has seen the tokens before.
    """
    if not ids:
        return []
    base, adapted = base[: len(ids)].float(), adapted[: len(ids)].float()
    found = compare(base, adapted)
    columns = (found.base_gap, found.adapted_gap, found.kl, found.rank, found.p, found.back_rank, found.back_p)
    views = _views(pair, ids, base), _views(pair, ids, adapted)
    rows = zip(ids, *(column.tolist() for column in columns), *views, strict=True)
    return [Shift(pos + i, token, pieces.feed(token), kind_of(row[3]), *row) for i, (token, *row) in enumerate(rows)]


def _views(pair: Pair, ids: Sequence[int], logits: Tensor) -> list[View]:
    cap: Capture = capture(logits, TOP_SHOWN)
    logp, rank = logp_and_rank(logits, cap.lse, torch.tensor(ids, device=logits.device))
    lone = pair.base.detokenizer.token_text
    tops = zip(cap.top_ids.tolist(), cap.top_logp.exp().tolist(), strict=True)
    return [
        View(h, lp, r, tuple(Candidate(i, lone(i), p) for i, p in zip(top, ps, strict=True)))
        for h, lp, r, (top, ps) in zip(cap.entropy.tolist(), logp.tolist(), rank.tolist(), tops, strict=True)
    ]


def largest(shifts: Sequence[Shift]) -> list[Shift]:
    """The twelve places where the two differ most: disagreements first, then agreements whose KL is worth a look."""
    worth = [s for s in shifts if s.rank > 1 or s.kl >= QUIET]
    return sorted(worth, key=lambda s: (s.rank > 1, s.kl), reverse=True)[:12]


# -- A pair and its problems, as verbs and pages name them, and the document of one map -------------------------------


@checked
class PairOptions(Checked):
    """A base, what it is compared with, and the problems that both are asked."""

    model: str = "mini"
    adapter: str | None = None
    teacher: str | None = None
    preset: str | None = None  # a pair by name, in place of the three above
    strength: float = 1.0
    tau: float | None = None
    tau_share: float | None = None  # share of the base's tokens above tau, in its place
    recalibrate: bool = False  # make the solutions behind the share anew
    seed: Seed = 0
    max_new_tokens: Count = 512
    set_name: str = "mini"
    limit: Annotated[int | None, Field(ge=1)] = None
    style: StyleOptions = StyleOptions()  # noqa: RUF009  a frozen record

    def specs(self) -> tuple[str, str | None, str | None]:
        """Model, adapter and teacher. The bundled model is compared with its RL partner where nothing else is named."""
        if self.preset is not None:
            if self.preset not in PAIRS:
                raise RmxError(f"There is no pair '{self.preset}'. Known: {', '.join(PAIRS)}.")
            named = PAIRS[self.preset]
            return named.base, named.adapter, named.teacher
        partner = "rl" if self.adapter is None and self.teacher is None and self.model == "mini" else self.adapter
        return self.model, partner, self.teacher

    def pair(self, space: Workspace | None = None, own: bool = False, raw: bool = False) -> Pair:
        """Load both models, for the set or for a problem of the user's `own`; `raw` gives its prompt as it stands."""
        model, adapter, teacher = self.specs()
        name = None if own else self.set_name
        return make_pair(space or Workspace(), model, adapter, teacher, self.strength, self.style, name, raw)

    def threshold(self, model: Model) -> float:
        """The tau that was asked for, else that of the share that was asked for, else the model's own."""
        return threshold_of(model, self.tau, self.tau_share, self.set_name, self.recalibrate)

    def calibration(self, model: Model) -> Calibration | None:
        """What `threshold` came from, once it was asked for; None without a share."""
        return None if self.tau_share is None else calibration_of(model, self.tau_share, self.set_name)

    def problems(self) -> list[Problem]:
        """The first `limit` problems of the set."""
        return load_set(self.set_name)[: self.limit]


def map_document(found: ShiftMap) -> dict[str, Any]:
    """What `rmx shifts PROMPT` prints of a map that is done: with its noise, a placebo and the check of the base."""
    ids = [*found.job.prompt_ids, *found.ids]
    with found.pair.turn():
        found.noise = shape_noise(found.pair.base.engine, ids)
    return map_json(found) | {"placebo": map_placebo(found), "base_check": check_base(found.pair, ids).json()}


def map_places(found: ShiftMap) -> ReadPlaces:
    """A map's places, for the same statistics as a set's."""
    columns: dict[str, list[Any]] = {"entropy": [s.base.entropy for s in found.shifts]}
    columns |= {"rank": [s.rank for s in found.shifts], "kl": [s.kl for s in found.shifts]}
    return ReadPlaces.of_row("prompt", columns | {"near": [s.near_tie(found.tolerance) for s in found.shifts]})


def map_json(found: ShiftMap) -> dict[str, Any]:
    """Figures and tokens of one map."""
    figures = ShiftFigures((map_places(found),), found.job.tau)
    return {
        "base": found.pair.base.spec,
        "adapted": found.pair.name,
        **as_json(found.pair.base, "revision", "dtype"),
        **as_json(found.job, "source", "tau"),
        "problems": 1,
        **figures.json(),
        "paper": PAPER,
        **as_json(found, "noise", "answer", "stop"),
        **as_json(found.job, "prompt_ids"),
        **as_json(found.pair.base, "style"),
        "tokens": [s.json(found.job.tau, found.tolerance) for s in found.shifts],
        "seconds": round(found.seconds, 3),
    }


def map_placebo(
    found: ShiftMap, cancelled: Callable[[], bool] = lambda: False, patience: float | None = None
) -> dict[str, Any] | None:
    """What a placebo of equal reranked share does to the same text; None where there is too little, or none fits."""
    if len(found.shifts) < 2:
        return None
    prompt = found.job.prompt_ids
    text = ([*prompt, *found.ids], len(prompt) - 1)
    with found.pair.turn(patience):
        try:
            noise = placebo_pair(found.pair, [text], cancelled=cancelled)
        except ModelError:
            return None
        places = places_of(noise, "prompt", text, found.tolerance)
    figures = ShiftFigures((places,), found.job.tau).json()
    kept = ("reranked", "shifted", "mean_rank", "entropy_ratio", "on_forks", "disagreements")
    return {name: figures[name] for name in kept} | {"strength": split_key(str(noise.adapter))[1]}
