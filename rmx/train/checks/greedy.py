"""Greedy solutions of many problems as one batch, graded: pass@1 while a model trains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rmx.engine.batch import PaddedBatch
from rmx.errors import Stopped
from rmx.models.load import Model
from rmx.models.stopping import Ending
from rmx.records import Answer, Problem
from rmx.stats.intervals import Estimate, paired_difference, quotient, share
from rmx.train.step.processes import Team, collected, dealt

ROWS = 64  # problems decoded together


@dataclass(frozen=True, slots=True)
class Solution:
    """One greedy completion."""

    problem_id: str
    ids: tuple[int, ...]  # the end token included
    text: str
    answer: Answer
    truncated: bool  # cut off at the limit, so wrong

    def json(self) -> dict[str, Any]:
        """Ids, text and grade."""
        return {
            "id": self.problem_id, "ids": list(self.ids), "text": self.text, "answer": self.answer.text,
            "correct": self.answer.correct, "truncated": self.truncated,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Solution":
        answer = Answer(stored["answer"], stored["correct"])
        return cls(stored["id"], tuple(stored["ids"]), stored["text"], answer, stored["truncated"])


@dataclass(frozen=True, slots=True)
class Solutions:
    """The greedy completions of some problems, in their order."""

    each: tuple[Solution, ...]

    @property
    def right(self) -> list[bool]:
        return [bool(s.answer.correct) for s in self.each]

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
        return sum(s.answer.text is None for s in self.each)

    def against(self, base: "Solutions") -> Estimate:
        """pass@1 minus the base's on the same problems, with a 95 % paired interval."""
        if [s.problem_id for s in self.each] != [s.problem_id for s in base.each]:
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
        return [s.json() for s in self.each]

    @classmethod
    def from_json(cls, stored: list[dict[str, Any]]) -> "Solutions":
        return cls(tuple(map(Solution.from_json, stored)))


@torch.inference_mode()
def solve(
    model: Model,
    problems: Sequence[Problem],
    adapter: str | None,
    max_new: int,
    *,
    rows: int = ROWS,
    cancelled: Callable[[], bool] = lambda: False,
) -> Solutions:
    """Solve problems greedily, prompts of similar length together. The caller holds the engine's turn.

    The prefix cache is left out: an adapter in training is another one at every call. A cancel leaves what is there.
    """
    prompts = [model.prompt_ids(p.problem) for p in problems]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    rest = [_GreedyRow(model, prompt) for prompt in prompts]
    with model.engine.using(adapter):
        for start in range(0, len(order), rows):
            if cancelled():
                break
            _decode(model, [rest[i] for i in order[start : start + rows]], max_new, cancelled)
    return Solutions(tuple(_solution(model, problem, row) for problem, row in zip(problems, rest, strict=True)))


def solve_together(
    team: Team | None,
    model: Model,
    problems: Sequence[Problem],
    adapter: str | None,
    max_new: int,
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> Solutions:
    """The same, dealt to all processes, each of which gets all solutions, or Stopped where one was asked to stop."""
    if team is None:
        return solve(model, problems, adapter, max_new, cancelled=cancelled)
    order = sorted(range(len(problems)), key=lambda i: len(model.prompt_ids(problems[i].problem)))
    mine = [order[i] for i in dealt(len(order), team)]
    found = solve(model, [problems[i] for i in mine], adapter, max_new, cancelled=cancelled)
    if cancelled():
        raise Stopped
    pairs = collected(list(zip(mine, found.each, strict=True)), lambda pair: pair[0], team)
    return Solutions(tuple(solution for _, solution in pairs))


class _GreedyRow:
    """A prompt and its completion so far."""

    def __init__(self, model: Model, prompt: tuple[int, ...]) -> None:
        self.prompt, self.ids, self.over = prompt, list[int](), False
        self._ending = Ending(model, prompt, (), 1)

    def goes_on(self, token: int) -> bool:
        self.ids.append(token)
        self.over = self._ending(0, token)
        return not self.over


def _decode(model: Model, rows: Sequence[_GreedyRow], max_new: int, cancelled: Callable[[], bool]) -> None:
    batch, live = PaddedBatch(model.engine, [row.prompt for row in rows]), list(rows)
    for step in range(min(max_new, batch.room)):
        chosen = batch.logits.argmax(-1)
        going = [i for i, (row, token) in enumerate(zip(live, chosen.tolist(), strict=True)) if row.goes_on(token)]
        if not going or cancelled() or step + 1 == max_new:
            return
        if len(going) < len(live):
            batch.select(going)
            live, chosen = [live[i] for i in going], chosen[going]
        batch.feed(chosen)


def _solution(model: Model, problem: Problem, row: _GreedyRow) -> Solution:
    answer = model.grade(row.prompt, row.ids, problem.answer, cut=not row.over)
    return Solution(problem.id, tuple(row.ids), model.answer_text(row.ids), answer, truncated=not row.over)
