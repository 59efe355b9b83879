"""The one stopping rule for the rows of a batch: an end token, a stop text, or the end of the line after the answer."""

from collections.abc import Collection, Sequence
from copy import deepcopy

from rmx.grading.answers import StopRule
from rmx.models.load import Model
from rmx.records import Stop


class Ending:
    """Decide token by token when and how each row of a batch ends; one rule and one decoder per row.

    Args:
        prompt_ids: of the prompt; a `<think>` that it opened must be closed before anything counts as an answer.
        kept: tokens that all rows share after the prompt.
        rows: how many rows there are.
        answers: whether a final answer ends a row too.
    """

    def __init__(
        self, model: Model, prompt_ids: Sequence[int], kept: Sequence[int], rows: int, answers: bool = True
    ) -> None:
        self._stop_ids = model.stop_ids
        rule, pieces = model.stop_rule(prompt_ids, answers), model.detokenizer.stream()
        for token_id in kept:
            rule.feed(pieces.feed(token_id))
        self._rules = [deepcopy(rule) for _ in range(rows)]
        self._pieces = [model.detokenizer.stream(kept) for _ in range(rows)]

    def __call__(self, row: int, token_id: int) -> bool:
        """Whether the row is over with this token."""
        return self.ended_by(row, token_id) is not None

    def ended_by(self, row: int, token_id: int) -> Stop | None:
        """What the row is over by with this token; None where it goes on."""
        rule = self._rules[row]
        rule.feed(self._pieces[row].feed(token_id))
        return "eos" if token_id in self._stop_ids else rule.ending


class Endings:
    """The same for samples of several prompts that begin at any time, as `sample_continuously` calls it."""

    def __init__(self, model: Model, prompts: Sequence[Sequence[int]], answers: bool = True) -> None:
        self._model, self._prompts, self._answers = model, prompts, answers
        self._going = dict[tuple[int, int], Ending]()

    def __call__(self, prompt: int, number: int, token_id: int) -> Stop | None:
        """What a sample is over by with this token; None where it goes on."""
        place = prompt, number
        if place not in self._going:
            self._going[place] = Ending(self._model, self._prompts[prompt], (), 1, self._answers)
        ended = self._going[place].ended_by(0, token_id)
        if ended is not None:
            del self._going[place]
        return ended


def stop_after(
    rule: StopRule, token_id: int | None, stop_ids: Collection[int], made: int, most: int, room: int
) -> Stop | None:
    """Decide what a completion, which `rule` has been fed, ends by with its newest token; None where it goes on.

    Args:
        made: tokens of the completion. most: upper bound of them. room: as many as the context holds.
    """
    if token_id in stop_ids:
        return "eos"
    if rule.ending is not None:
        return rule.ending
    if made >= most:
        return "length"
    return "context" if made >= room else None


def is_cut(model: Model, prompt_ids: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether a completion has no ending of its own: a limit has cut it off."""
    ending = Ending(model, prompt_ids, (), 1)
    return not any(ending(0, token_id) for token_id in ids)
