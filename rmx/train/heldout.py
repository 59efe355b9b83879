"""Held-out checks while a model trains: greedy pass@1, what becomes of decisions, the best checkpoint, when to stop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rmx.engine.batch import greedy_rows
from rmx.engine.engine import CHUNK_BYTES
from rmx.errors import Stopped
from rmx.models.load import Model
from rmx.models.stopping import Endings
from rmx.records import Problem, Rollout, as_json
from rmx.runs.recipe import GateConfig, LossConfig
from rmx.stats.intervals import Estimate, paired_difference, quotient, share
from rmx.stats.text import points
from rmx.train.step.items import Item, make_items, with_advantages
from rmx.train.step.lora_policy import NAME, LoraPolicy
from rmx.train.step.loss import objective
from rmx.train.step.processes import Team, collected, dealt
from rmx.train.step.scoring import BaseFigures, make_batch, read_rows

# The event `check` of one checkpoint, as a line of `checks.json` keeps it; update 0 is the base:
# optimizer_step, epoch, pass@1, vs_base (paired; None at update 0), gap, delta_logp_pos, delta_logp_neg, pressure, kl,
# truncated, unparsed, seconds.
Check = dict[str, Any]

WINDOW = 5  # updates over which the anchor is averaged: single updates jump
CHANGE = "Train again with a lower lr, with neg_floor_nats (0.5, say) or with a higher kl_weight."


def below_base(base: Estimate, now: Estimate, vs_base: Estimate, best: str | None = None) -> str | None:
    """Validation accuracy below the base: the paired 95 % interval of now minus base lies below zero as a whole."""
    if vs_base["high"] is None or vs_base["high"] >= 0:
        return None
    change = points(vs_base, bounds=", 95 % {:+.1f} to {:+.1f}")
    return (
        f"Stopped: validation pass@1 fell from the base's {100 * base['value']:.1f} % to {100 * now['value']:.1f} % "
        f"({change}, n = {now['n']}). {kept(best)} {CHANGE}"
    )


def kl_away(kl_losses: Sequence[float], limit: float, best: str | None = None, window: int = WINDOW) -> str | None:
    """The anchor runs away: the mean kl_loss of the last `window` updates, and no fewer, exceeds `limit` nats."""
    last = kl_losses[-window:]
    if len(last) < window or not all(map(math.isfinite, last)) or (mean := math.fsum(last) / window) <= limit:
        return None
    return (
        f"Stopped: the model leaves the base where it should stay: KL(base || policy) outside the decisions averaged "
        f"{mean:.3f} nats over the last {window} updates, and {limit:g} is the limit (kl_limit). {kept(best)} {CHANGE}"
    )


def not_finite(loss: float, grad_norm: float, optimizer_step: int, best: str | None = None) -> str | None:
    """Loss or gradient is infinite or no number."""
    broken = [name for name, value in (("loss", loss), ("gradient", grad_norm)) if not math.isfinite(value)]
    if not broken:
        return None
    figures = f"loss {loss:g}, gradient norm {grad_norm:g}"
    return (
        f"Stopped: the {' and the '.join(broken)} of update {optimizer_step} {'is' if len(broken) == 1 else 'are'} not "
        f"finite ({figures}). {kept(best)} {CHANGE}"
    )


def kept(best: str | None) -> str:
    """What a stopped run leaves behind."""
    if best is None:
        return "The checkpoints made so far are kept; none was checked before this."
    return f"The checkpoints made so far are kept; {best} is the best of them and becomes the adapter."


def best_of(checks: Sequence[Check]) -> Check | None:
    """The checkpoint that becomes the adapter: highest pass@1, then larger gap, then the earlier; never the base."""

    def rank(check: Check) -> tuple[float, float, int]:
        gap = -math.inf if check["gap"] is None else check["gap"]
        return -(check["pass@1"]["value"] or 0.0), -gap, check["optimizer_step"]

    return min((check for check in checks if check["optimizer_step"]), key=rank, default=None)


def stops_early(checks: Sequence[Check], patience: int) -> str | None:
    """A sentence where the last `patience` checks (0: never) brought no better pass@1 than those before, else None."""
    rates = [check["pass@1"]["value"] or 0.0 for check in checks]
    before, last = rates[: len(rates) - patience], rates[len(rates) - patience :]
    if not patience or not before or max(last) > max(before):
        return None
    step = checks[before.index(max(before))]["optimizer_step"]
    where = f"update {step}" if step else "the base"
    return (
        f"Stopped early: the last {'check' if patience == 1 else f'{patience} checks'} brought no better validation "
        f"pass@1 than {where} with {100 * max(before):.1f} % (patience {patience})."
    )


# -- Greedy solutions of many problems as one batch, graded -----------------------------------------------------------


ROWS = 64  # problems decoded together
Solved = Callable[[int, int], None]  # hears how many problems this process has solved, of how many


@dataclass(frozen=True, slots=True)
class Solution:
    """One greedy completion of the problem `id`."""

    id: str
    ids: tuple[int, ...]  # the end token included
    text: str
    answer: str | None
    correct: bool | None  # None without a known answer, which counts as wrong
    truncated: bool  # cut off at the limit, so wrong


@dataclass(frozen=True, slots=True)
class Solutions:
    """The greedy completions of some problems, in their order."""

    each: tuple[Solution, ...]

    @property
    def right(self) -> list[bool]:
        return [bool(s.correct) for s in self.each]

    @property
    def pass_at_1(self) -> Estimate:
        """With its 95 % Wilson interval."""
        return share(sum(self.right), len(self.each))

    @property
    def truncated(self) -> int:
        return sum(s.truncated for s in self.each)

    @property
    def unparsed(self) -> int:
        """Without an answer; these count as wrong."""
        return sum(s.answer is None for s in self.each)

    def against(self, base: "Solutions") -> Estimate:
        """pass@1 minus the base's on the same problems, with a 95 % paired interval."""
        if [s.id for s in self.each] != [s.id for s in base.each]:
            raise ValueError("the two solved different problems")
        return paired_difference(base.right, self.right)

    def gap_closed(self, base: "Solutions", teacher: "Solutions") -> Estimate:
        """Share of the teacher's gain over the base that these have: (self - base) / (teacher - base) in pass@1.

        With a 95 % percentile bootstrap over problems; nothing but n where the interval of the teacher's gain is not
        above 0: a share of a gain that may not be there means nothing.
        """
        gain, ours, n = teacher.against(base), self.against(base), len(self.each)
        if not gain["n"] or gain["low"] <= 0:
            return {"value": None, "low": None, "high": None, "n": ours["n"]}
        rows = list(zip(base.right, self.right, teacher.right, strict=True))
        won, to_win = [float(s - b) for b, s, _ in rows], [float(t - b) for b, _, t in rows]
        return quotient(won, [1.0] * n, to_win, [1.0] * n)

    def json(self) -> list[dict[str, Any]]:
        return [asdict(s) for s in self.each]

    @classmethod
    def from_json(cls, stored: list[dict[str, Any]]) -> "Solutions":
        return cls(tuple(Solution(**{**row, "ids": tuple(row["ids"])}) for row in stored))


def solve(
    model: Model,
    problems: Sequence[Problem],
    adapter: str | None,
    max_new: int,
    *,
    team: Team | None = None,
    rows: int = ROWS,
    cancelled: Callable[[], bool] = lambda: False,
    solved: Solved = lambda at, of: None,
) -> Solutions:
    """Solve problems greedily, prompts of similar length together. The caller holds the engine's turn.

    The prefix cache is left out: an adapter in training is another one at every call. A cancel leaves what is there;
    of several processes, each of which gets all solutions, it raises Stopped.
    """
    prompts = [model.prompt_ids(p.problem) for p in problems]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    mine = [order[i] for i in dealt(len(order), team)]
    completions, ended, endings = {i: list[int]() for i in mine}, set[int](), Endings(model, prompts)

    def over(place: int, token: int) -> bool:
        completions[mine[place]].append(token)
        if endings(mine[place], 0, token) is None:
            return False
        ended.add(mine[place])
        solved(len(ended), len(mine))
        return True

    asked = [prompts[i] for i in mine]
    greedy_rows(model.engine, asked, over, max_new=max_new, rows=rows, adapter=adapter, cancelled=cancelled)
    solved(len(mine), len(mine))
    if team and cancelled():
        raise Stopped
    graded = [
        (i, _graded(model, problems[i], prompts[i], completions[i], truncated=i not in ended)) for i in sorted(mine)
    ]
    return Solutions(tuple(one for _, one in collected(graded, lambda pair: pair[0], team)))


def _graded(model: Model, problem: Problem, prompt: tuple[int, ...], ids: Sequence[int], truncated: bool) -> Solution:
    answer = model.grade(prompt, ids, problem.answer, cut=truncated)
    return Solution(problem.id, tuple(ids), model.answer_text(ids), answer.text, answer.correct, truncated)


# -- What training does to decisions that it does not train on: held-out rollouts, read under base and policy ---------


LOSS = LossConfig(kl_on="completion")  # the paper's decision term; KL on the other completion positions
TOKENS = 4096  # padded tokens read together
GATE = GateConfig()  # by entropy, whatever gate a run trains with, so that its ablations can be compared


@dataclass(frozen=True, slots=True)
class Contrast:
    """Means over the decision tokens of held-out rollouts; None where there is no such token."""

    delta_logp_pos: float | None  # nats, policy minus base, on decision tokens of right rollouts
    delta_logp_neg: float | None  # of wrong ones
    pressure: float | None  # sum of |A| CE over wrong decision tokens / the same sum over right ones
    kl: float | None  # nats, mean KL(base || policy) over the completion positions that are no decisions

    @property
    def gap(self) -> float | None:
        """How much further right choices moved up than wrong ones: delta_logp_pos - delta_logp_neg."""
        if self.delta_logp_pos is None or self.delta_logp_neg is None:
            return None
        return self.delta_logp_pos - self.delta_logp_neg


def contrast(seen: Tensor, kl_sum: float, kl_positions: int) -> Contrast:
    """Means out of the (4, 2) sums over decision tokens that `objective` gives.

    Source: contrastive gap and neg_pressure_sum / pos_pressure_sum as the official trainer logs them.
    """
    (_, _), (delta_pos, delta_neg), (push_pos, push_neg), (pos, neg) = seen.tolist()
    pairs = (delta_pos, pos), (delta_neg, neg), (push_neg, push_pos), (kl_sum, kl_positions)
    return Contrast(*(above / below if below else None for above, below in pairs))


def decision_items(rollouts: Sequence[Rollout], tau: float, max_seq_len: int) -> list[Item]:
    """Held-out rollouts as items, decided by entropy, with advantages among their problem's; shortest first."""
    items = make_items(with_advantages(rollouts), GATE, tau, LOSS, max_seq_len, seed=0)
    return sorted(items, key=lambda item: len(item.rollout.input_ids))


@torch.no_grad()
def diagnose(policy: LoraPolicy, items: Sequence[Item], figures: BaseFigures, team: Team | None = None) -> Contrast:
    """Read all items under the policy and, where `figures` does not know it yet, under the base.

    Several processes add up their sums in one order. The caller holds the engine's turn.
    """
    # Without a linear head all logits of the tokens that are read at once are there together.
    room = TOKENS if policy.head else CHUNK_BYTES // (4 * policy.model.engine.vocab_size)
    groups = list(_groups(items, room))
    mine = [(nth, _sums(policy, groups[nth], figures)) for nth in dealt(len(groups), team)]
    seen, kl_sum, kl_positions = torch.zeros(4, 2, dtype=torch.float64), 0.0, 0
    for _, (more, kl, positions) in collected(mine, lambda pair: pair[0], team):
        seen, kl_sum, kl_positions = seen + more, kl_sum + kl, kl_positions + positions
    return contrast(seen, kl_sum, kl_positions)


def _sums(policy: LoraPolicy, group: Sequence[Item], figures: BaseFigures) -> tuple[Tensor, float, int]:
    """What one batch adds to the arguments of `contrast`; base and policy as they decode, without dropout."""
    batch = make_batch(group, LOSS, policy.device)
    with policy.model.engine.using(NAME):
        rows = read_rows(policy, batch, figures)
    sums, seen = objective(rows, batch.pull, torch.ones_like(batch.pull), batch.decision, LOSS)
    return seen.cpu(), float(sums.anchor), batch.anchors


def _groups(items: Sequence[Item], room: int) -> Iterator[list[Item]]:
    group: list[Item] = []
    for item in items:
        width = max(len(i.rollout.input_ids) for i in (*group, item))
        if group and width * (len(group) + 1) > room:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


# -- Checks on the validation split while a model trains --------------------------------------------------------------


FIGURES_BYTES = 256 << 20  # of the base on held-out rollouts; what does not fit is read anew at each check
SAMPLES = 6  # solutions shown before and after


class HeldOut:
    """The validation problems and held-out rollouts of one run, and what the base did on them."""

    def __init__(
        self,
        policy: LoraPolicy,
        problems: Sequence[Problem],
        rollouts: Sequence[Rollout],
        *,
        tau: float,
        max_new: int,
        max_seq_len: int,
        cancelled: Callable[[], bool] = lambda: False,
        team: Team | None = None,
        solved: Solved = lambda at, of: None,
    ) -> None:
        self.solved = solved
        self.policy, self.problems, self.max_new, self.cancelled = policy, list(problems), max_new, cancelled
        self.items = decision_items(rollouts, tau, max_seq_len)
        self.figures, self.team = BaseFigures(FIGURES_BYTES), team
        self._base: Solutions | None = None
        self.latest: Solutions | None = None

    @property
    def base(self) -> Solutions:
        """The base's greedy solutions, made at first need."""
        if self._base is None:
            self._base = self._solve(None)
        return self._base

    def share(self, other: "HeldOut") -> None:
        """Take over what another run on the same problems and rollouts knows of the base."""
        self._base = self.latest = other.base
        self.figures = other.figures

    def check(self, optimizer_step: int, epoch: float) -> Check:
        """Measure the policy as it is; at update 0 the base. The caller holds the engine's turn."""
        began, base = time.perf_counter(), self.base
        now = self.latest = self._solve(NAME) if optimizer_step else base
        vs_base = now.against(base) if optimizer_step else None
        contrast = diagnose(self.policy, self.items, self.figures, self.team)
        return {
            "optimizer_step": optimizer_step, "epoch": epoch, "pass@1": now.pass_at_1, "vs_base": vs_base,
            "gap": contrast.gap, **asdict(contrast), "truncated": now.truncated, "unparsed": now.unparsed,
            "seconds": round(time.perf_counter() - began, 2),
        }  # fmt: skip

    def samples(self, optimizer_step: int, limit: int = SAMPLES) -> dict[str, Any]:
        """The samples event: first those problems whose grade changed, then others, before and after."""
        rows = list(zip(self.problems, self.base.each, (self.latest or self.base).each, strict=True))
        rows.sort(key=lambda row: row[1].correct == row[2].correct)

        said = ("text", "answer", "correct")
        problems = [
            {"id": p.id, "problem": p.problem, "known": p.answer}
            | {"before": as_json(one, *said), "after": as_json(two, *said)}
            for p, one, two in rows[:limit]
        ]
        return {"optimizer_step": optimizer_step, "problems": problems}

    def _solve(self, adapter: str | None) -> Solutions:
        asked = self.policy.model, self.problems, adapter, self.max_new
        return solve(*asked, team=self.team, cancelled=self.cancelled, solved=self.solved)
