"""The one stopping rule for the rows of a batch: an end token, or the end of the line after the final answer."""

from collections.abc import Sequence
from copy import deepcopy

from rmx.answers import StopRule
from rmx.models import Model


class Ending:
    """Told each row's tokens in order, says when that row is over; one rule and one decoder per row.

    Args:
        prompt_ids: of the prompt; a `<think>` that it opened must be closed before anything counts as an answer.
        kept: tokens that all rows share after the prompt.
        rows: how many rows there are.
    """

    def __init__(self, model: Model, prompt_ids: Sequence[int], kept: Sequence[int], rows: int) -> None:
        self._stop_ids = model.stop_ids
        rule, pieces = StopRule(thinking=model.prompt_thinks(prompt_ids)), model.detokenizer.stream()
        for token_id in kept:
            rule.feed(pieces.feed(token_id))
        self._rules = [deepcopy(rule) for _ in range(rows)]
        self._pieces = [model.detokenizer.stream(kept) for _ in range(rows)]

    def __call__(self, row: int, token_id: int) -> bool:
        return self._rules[row].feed(self._pieces[row].feed(token_id)) or token_id in self._stop_ids
