"""Patch single tokens of the base's greedy decoding with the adapted model's choice, and see what comes of it.

Every arm decodes greedily; each step feeds both models the corrected prefix. Arms differ in where they patch and with
what (arXiv 2605.06241, section 4):

    base      nowhere                                 teacher   everything: the adapted model alone
    oracle    where the two disagree, the adapted choice
    random    where the two disagree, a random other token of the base's top 20
    matched   as many places as the oracle patched, drawn by chance, the same kind of random token
    entropy   where the base's entropy exceeds tau, the adapted choice
"""

import math
import random as rng
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rmx.config import NEW_TOKENS
from rmx.engine.entropy import capture
from rmx.engine.fair_queue import never
from rmx.engine.token_draws import prompt_key, uniform
from rmx.grading.answers import CUT
from rmx.models.model_pair import Pair, PairRun, PairStream, open_pair
from rmx.models.stopping import CompletionEnd
from rmx.models.zerogpu import on_gpu_worker, side_by_side
from rmx.records import Answer, Stop, is_fork

Arm = Literal["base", "teacher", "oracle", "random", "matched", "entropy"]
ARMS: tuple[Arm, ...] = ("base", "teacher", "oracle", "random", "matched", "entropy")
LABELS: dict[Arm, str] = {
    "base": "base",
    "teacher": "adapted",
    "oracle": "oracle",
    "random": "random",
    "matched": "matched",
    "entropy": "entropy gate",
}
POOL = 20  # a random token comes from the base's best


@dataclass(frozen=True, slots=True)
class Patched:
    """One token of an intervened decode, and the base's distribution that it was taken from."""

    pos: int
    id: int
    text: str
    entropy: float  # of the base, nats
    base_choice: int
    adapted_choice: int
    gated: bool  # entropy above tau
    wanted: bool  # the arm would patch here
    p: float  # the base's probability of the token; NaN where it is not shown
    q: float  # the adapted model's

    @property
    def patched(self) -> bool:
        """The token is not the one that the base would have taken."""
        return self.id != self.base_choice

    @property
    def differs(self) -> bool:
        """Whether the two models choose different tokens here."""
        return self.base_choice != self.adapted_choice


@dataclass(frozen=True, slots=True)
class PatchJob:
    """What to decode: a prompt, an arm, and how many patches it may make."""

    prompt_ids: tuple[int, ...]
    arm: Arm
    tau: float
    known: str | None = None
    budget: int | None = None  # the first n patches only
    places: tuple[int, ...] = ()  # completion positions that "matched" patches
    seed: int = 0
    max_new: int = NEW_TOKENS
    kept: tuple[Patched, ...] = ()  # what is known of this very decode already


@dataclass(frozen=True, slots=True)
class PairStep:
    """What both models say at one step of a batch: one entry for each row."""

    base: Tensor  # (rows, V) logits
    adapted: Tensor
    ours: list[int]  # the base's choices
    theirs: list[int]  # the adapted model's
    entropy: list[float]  # of the base, nats

    @classmethod
    def of(cls, stream: PairStream) -> "PairStep":
        """Read entropy and choices off the logits of a pair's rows."""
        cap = capture(stream.base, 1)
        # The same argmax as a lone decode takes: topk may break an exact tie the other way.
        ours, theirs = stream.base.argmax(-1).tolist(), stream.adapted.argmax(-1).tolist()
        return cls(stream.base, stream.adapted, ours, theirs, cap.entropy.tolist())


def choose(job: PatchJob, key: bytes, pos: int, step: PairStep, row: int) -> tuple[int, bool]:
    """The token that an arm takes at one place, were its budget unlimited, and whether it interferes there."""
    ours, theirs = step.ours[row], step.theirs[row]
    differs = ours != theirs
    gated = is_fork(step.entropy[row], job.tau)
    if job.arm == "teacher" or (job.arm == "oracle" and differs) or (job.arm == "entropy" and gated):
        return theirs, differs
    if (job.arm == "random" and differs) or (job.arm == "matched" and pos in job.places):
        return random_other(step.base[row], (ours, theirs), uniform(job.seed, key, 0, pos)), True
    return ours, False


def random_other(base: Tensor, taken: Sequence[int], u: float) -> int:
    """A uniform draw, by a `u` in [0, 1), from the top 20 of the base's (V,) logits without both models' choices."""
    best = [i for i in base.topk(min(POOL, len(base))).indices.tolist() if i not in taken]
    return best[int(u * len(best))]


def matched_places(length: int, patches: int, seed: int, key: bytes) -> tuple[int, ...]:
    """As many completion positions as the oracle patched, drawn without replacement from the base's completion."""
    draw = rng.Random(seed.to_bytes(8, "little") + key)
    return tuple(sorted(draw.sample(range(length), min(patches, length))))


class Intervention(PairRun[Patched]):
    """An iterable over the new tokens of one arm on one problem; `tokens` has them all, kept ones included."""

    def __init__(self, pair: Pair, job: PatchJob, cancelled: Callable[[], bool] = never) -> None:
        self.pair, self.job, self.cancelled = pair, job, cancelled
        self.tokens: list[Patched] = list(job.kept)
        self.patches = sum(t.patched for t in job.kept)
        self.stop: Stop = "cancelled"
        self.seconds = 0.0
        self._end = CompletionEnd(pair.base, job.prompt_ids, job.max_new, pair.stop_ids)
        self._pieces = pair.base.detokenizer.stream()
        self._key = prompt_key(job.prompt_ids)
        for token in job.kept:
            self._end.feed(token.id, self._pieces.feed(token.id))

    def _from_here(self) -> Generator[Patched]:
        prefix = [*self.job.prompt_ids, *(t.id for t in self.job.kept)]
        with open_pair(self.pair, [prefix]) as stream:
            try:
                while not self.cancelled():
                    token = self.take(PairStep.of(stream), 0, detail=True)
                    yield token
                    if self.over():
                        break
                    self.pair.give_way(self.cancelled)
                    stream.feed([token.id])
            finally:
                stream.save()

    def _from_afar(self) -> Generator[Patched]:
        """The new tokens as another process makes them."""
        for item in patched(self.pair, self.job, cancelled=self.cancelled):
            if isinstance(item, Patched):
                self.tokens.append(item)
                self.patches += item.patched
                yield item
            else:
                self.stop = item

    def take(self, step: PairStep, row: int, detail: bool = False) -> Patched:
        """Choose the next token from one row of a batch and note it; `detail` adds what only a reader wants."""
        pos = len(self.tokens)
        token, wanted = choose(self.job, self._key, pos, step, row)
        if wanted and self.job.budget is not None and self.patches >= self.job.budget:
            token = step.ours[row]
        entropy, p, q = step.entropy[row], math.nan, math.nan
        if detail:
            both = torch.stack([step.base[row].float(), step.adapted[row].float()])
            p, q = both.log_softmax(-1)[:, token].exp().tolist()
        choices, gated = (step.ours[row], step.theirs[row]), is_fork(entropy, self.job.tau)
        taken = Patched(pos, token, self._pieces.feed(token), entropy, *choices, gated, wanted, p, q)
        self.tokens.append(taken)
        self.patches += taken.patched
        return taken

    def over(self) -> bool:
        """Whether the decode ends with the last token; sets `stop`."""
        return self.is_over(self._end.feed(self.tokens[-1].id, self.tokens[-1].text))

    @property
    def ids(self) -> list[int]:
        """Ids of the completion so far."""
        return [t.id for t in self.tokens]

    @property
    def result(self) -> "ArmResult":
        """What came of it so far."""
        answer = self.pair.base.grade(self.job.prompt_ids, self.ids, self.job.known, cut=self.stop in CUT)
        differs, gated = sum(t.differs for t in self.tokens), sum(t.gated for t in self.tokens)
        return ArmResult(
            self.job.arm, answer, len(self.tokens), self.patches, differs, gated, self.stop, tuple(self.ids)
        )


@on_gpu_worker(
    seconds=lambda pair, job, **_: side_by_side(job.max_new - len(job.kept), len(job.prompt_ids) + len(job.kept))
)
def patched(pair: Pair, job: PatchJob, cancelled: Callable[[], bool] = never) -> Iterator[Patched | Stop]:
    """A decode for one who is not in this process: its new tokens, and how it ended."""
    made = Intervention(pair, job, cancelled)
    yield from made
    yield made.stop


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm on one problem."""

    arm: Arm
    answer: Answer
    tokens: int
    patches: int  # tokens that are not the base's choice
    disagreements: int  # places where the two models' choices differ
    gated: int  # places whose entropy exceeds tau
    stop: Stop
    ids: tuple[int, ...] = ()

    def row(self) -> dict[str, Any]:
        """Everything but the answer, which is read from the ids again."""
        return {"ids": list(self.ids), "tokens": self.tokens} | self._counts()

    def _counts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("patches", "disagreements", "gated", "stop")}

    @classmethod
    def of_row(cls, arm: Arm, answer: Answer, row: dict[str, Any]) -> "ArmResult":
        """Read a result back from what `row` returned."""
        return cls(arm, answer, **(row | {"ids": tuple(row["ids"])}))

    def json(self) -> dict[str, Any]:
        return {"answer": self.answer.json(), "n": self.tokens} | self._counts()


@dataclass(frozen=True, slots=True)
class ArmProblem:
    """A problem as the arms see it."""

    id: str
    prompt_ids: tuple[int, ...]
    known: str | None


@dataclass(frozen=True)
class AllArms:
    """Every asked arm on some problems, all of them rows of one batch.

    The teacher is decoded by itself, never through the oracle, so that their equality is a finding.
    """

    pair: Pair
    problems: Sequence[ArmProblem]
    arms: Sequence[Arm]
    tau: float
    seed: int = 0
    max_new: int = NEW_TOKENS
    cancelled: Callable[[], bool] = never

    def run(self) -> list[dict[Arm, ArmResult]]:
        """One entry per problem; the caller holds `pair.turn()`. Arms that a cancel cut off are left out."""
        matched = "matched" in self.arms
        first = [a for a in ARMS if a != "matched" and (a in self.arms or (matched and a in ("base", "oracle")))]
        found: list[dict[Arm, ArmResult]] = [{} for _ in self.problems]
        self._decode([(f, self._job(p, arm)) for f, p in zip(found, self.problems, strict=True) for arm in first])
        if matched and not self.cancelled():
            self._decode([(f, self._matched(p, f)) for f, p in zip(found, self.problems, strict=True)])
        return [{arm: o for arm, o in results.items() if arm in self.arms} for results in found]

    def _job(self, asked: ArmProblem, arm: Arm, places: tuple[int, ...] = ()) -> PatchJob:
        return PatchJob(asked.prompt_ids, arm, self.tau, asked.known, None, places, self.seed, self.max_new)

    def _matched(self, asked: ArmProblem, found: dict[Arm, ArmResult]) -> PatchJob:
        length, patches = found["base"].tokens, found["oracle"].patches
        return self._job(asked, "matched", matched_places(length, patches, self.seed, prompt_key(asked.prompt_ids)))

    @torch.inference_mode()
    def _decode(self, asked: Sequence[tuple[dict[Arm, ArmResult], PatchJob]]) -> None:
        """Decode jobs in step, and put what comes of each where it belongs; a finished row leaves the batch."""
        jobs = [job for _, job in asked]
        arms = [Intervention(self.pair, job) for job in jobs]
        live, done = list(range(len(arms))), set[int]()
        # Read anew, so that nothing depends on what was computed before.
        with open_pair(self.pair, [job.prompt_ids for job in jobs], reuse=False) as stream:
            while live and not self.cancelled():
                step = PairStep.of(stream)
                tokens = [arms[i].take(step, row).id for row, i in enumerate(live)]
                going = [row for row, i in enumerate(live) if not arms[i].over()]
                done.update(i for row, i in enumerate(live) if row not in going)
                if not going:
                    break
                self.pair.give_way(self.cancelled)
                if len(going) < len(live):
                    stream.select(going)
                    live, tokens = [live[row] for row in going], [tokens[row] for row in going]
                stream.feed(tokens)
        for i in sorted(done):
            found, job = asked[i]
            found[job.arm] = arms[i].result
