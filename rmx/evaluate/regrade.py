"""Kept completions looked at again, by the present rules and without a pass of any network."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rmx.config import Sampling
from rmx.errors import RmxError
from rmx.evaluate.contestants import Contestant
from rmx.evaluate.eval_report import EvalReport
from rmx.evaluate.evaluation import Evaluation, Shelves, hashed
from rmx.evaluate.sample_store import Answered, Shelf
from rmx.grading.answers import RULES
from rmx.zerogpu.calls import never


class Regrading(Evaluation):
    """An evaluation of what is kept: each answer is read from its token ids again and compared with the known one.

    Completions that were kept by the other rule of what counts as an answer are taken too: what a model writes does not
    depend on it. Problems of which a completion is missing are left out and counted. What is found is kept, so that
    later evaluations show it as well.
    """

    def run(self, cancelled: Callable[[], bool] = never) -> Iterator[EvalReport]:
        """Read and judge; the last report holds in `regraded` what has changed. RmxError where none is kept whole."""
        counts = ("completions", "changed", "answers_changed", "without_ids", "not_judged_before")
        changes = list[dict[str, Any]]()
        with self._opened() as shelves:
            left_out = self._leave_out(shelves)
            counted: dict[str, Any] = {**dict.fromkeys(counts, 0), "left_out": left_out, "changes": changes}
            for place in range(len(self.problems)):
                if cancelled():
                    break
                before = self._read_again(place, shelves, counted)
                solved = self._graded(place, shelves)
                self._solved.append(solved)
                for change in _changes(solved.problem.id, before, solved.verdicts):
                    counted["not_judged_before"] += change["before"]["correct"] is None
                    if change["before"]["correct"] not in (None, change["after"]["correct"]):
                        changes.append(change)
                counted["changed"] = len(changes)
                yield replace(self._report(len(self._solved) == len(self.problems)), regraded=counted)

    def _shelf(self, contestant: Contestant, sampling: Sampling, wanted: set[str]) -> Shelf:
        """The kept completions by the present rule, and those by the others which that one lacks."""
        style, key = contestant.model.style, contestant.key
        shelf = self._store.shelf(key, sampling, style, wanted, with_ids=True)
        for rule in RULES:
            if rule != style.answers:
                other = self._store.shelf(key, sampling, replace(style, answers=rule), wanted, with_ids=True)
                shelf.borrow(other)
        return shelf

    def _leave_out(self, shelves: Shelves) -> int:
        """Keep the problems alone of which everything is there; returns how many were left out."""
        places = [(shelf.found, number) for _, sampling, shelf in shelves for number in self._numbers(sampling)]
        there = [all((hashed(prompt), number) in found for found, number in places) for prompt in self._prompts]
        if not any(there):
            raise RmxError(
                "Of none of these problems all completions are kept. Evaluate once without --regrade, with the same "
                "models, samples, temperature and limit; what is kept may also have made room (RMX_KEPT_GB)."
            )
        self.problems = [p for p, whole in zip(self.problems, there, strict=True) if whole]
        self._prompts = [p for p, whole in zip(self._prompts, there, strict=True) if whole]
        return there.count(False)

    def _read_again(
        self, place: int, shelves: Shelves, counted: dict[str, Any]
    ) -> list[tuple[str, int | None, Answered, Answered, bool | None]]:
        """Read the answers of one problem; returns each as it was, as it is, and what it was judged to be."""
        found, prompt, known = [], self._prompts[place], self.problems[place].answer or ""
        for contestant, sampling, shelf in shelves:
            for number in self._numbers(sampling):
                was = shelf.found[hashed(prompt), number]
                right = False if was.truncated else shelf.judged(was.prompt, known, was.answer)
                now = replace(was, answer=contestant.model.find_answer(prompt, was.ids)) if was.ids else was
                shelf.read_again(now)
                counted["completions"] += 1
                counted["without_ids"] += not was.ids
                counted["answers_changed"] += now != was
                found.append((contestant.name, None if sampling.greedy else number, was, now, right))
        self._at += len(found)
        self._cached += len(found)
        return found


def _changes(
    problem: str, found: Sequence[tuple[str, int | None, Answered, Answered, bool | None]], verdicts: dict[str, bool]
) -> Iterator[dict[str, Any]]:
    """Each completion with its answer and verdict as they were and as they are; `sample` is null for the greedy one."""
    for model, sample, was, now, right in found:
        is_right = now.answer is not None and not now.truncated and verdicts[now.answer]
        yield {
            "id": problem,
            "model": model,
            "sample": sample,
            "before": {"answer": was.answer, "correct": right},
            "after": {"answer": now.answer, "correct": is_right},
        }
