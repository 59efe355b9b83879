"""The one stopping rule for the rows of a batch: an end token, a stop text, or the end of the line after the answer."""

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import Any

from rmx.engine.batch import continue_batch
from rmx.engine.fair_queue import never
from rmx.models.load import Model
from rmx.records import Answer, Stop


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


class CompletionEnd:
    """Decide token by token what one completion ends by, its limits included.

    Args:
        most: upper bound of its tokens; the context is another.
        stop_ids: end tokens, where they are not the model's own alone.
    """

    def __init__(
        self, model: Model, prompt_ids: Sequence[int], most: int, stop_ids: Collection[int] | None = None
    ) -> None:
        self._rule = model.stop_rule(prompt_ids)
        self._stop_ids = model.stop_ids if stop_ids is None else stop_ids
        self._most, self._room, self._made = most, model.engine.context - len(prompt_ids), 0

    def feed(self, token_id: int, text: str) -> Stop | None:
        """What the completion ends by with its next token, which adds `text`; None where it goes on."""
        self._rule.feed(text)
        self._made += 1
        if token_id in self._stop_ids:
            return "eos"
        if self._rule.ending is not None:
            return self._rule.ending
        if self._made >= self._most:
            return "length"
        return "context" if self._made >= self._room else None


def is_cut(model: Model, prompt_ids: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether a completion has no ending of its own: a limit has cut it off."""
    ending = Ending(model, prompt_ids, (), 1)
    return not any(ending(0, token_id) for token_id in ids)


def answer_reached(model: Model, prompt_ids: Sequence[int], ids: Sequence[int], known: str | None) -> Answer | None:
    """The final answer of a completion, graded; None where it was cut off: then it has none, whatever stands in it."""
    return None if is_cut(model, prompt_ids, ids) else model.grade(prompt_ids, ids, known, cut=False)


def continue_rows(
    model: Model,
    prompt_ids: Sequence[int],
    kept: Sequence[int],
    given: Sequence[Sequence[int]],
    *,
    cancelled: Callable[[], bool] = never,
    **options: Any,
) -> list[list[int]]:
    """Continue a completion once for each of `given`, as one batch in one turn; rows end as completions do.

    Args:
        kept: the completion so far. given, options: as `continue_batch` has them.

    Returns:
        The rows without `kept`; none where it was `cancelled` before the turn came.
    """
    with model.engine.queue.when_free(cancelled) as mine:
        if not mine:
            return []
        over = Ending(model, prompt_ids, kept, len(given))
        return continue_batch(model.engine, [*prompt_ids, *kept], given, over=over, cancelled=cancelled, **options)
