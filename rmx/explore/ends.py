"""The end of every alternative at the forks of a solution: which answer each other word leads to, decoded greedily.

It is background work that nobody has asked for, so it is bounded and gives way to everything that people do: each fork
is one batch and one turn of the engine, the most undecided fork comes first, and what is known already is not decoded
again. An alternative that came to no end within its length has an unknown end, never a guessed one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rmx.config import TOP_SHOWN
from rmx.engine.batch import continue_batch
from rmx.models.load import Model
from rmx.models.stopping import Ending, is_cut
from rmx.records import Answer, Trace, is_fork
from rmx.zerogpu.calls import CAP, never, on_gpu_worker, with_alternatives_at

MOST_FORKS = 48  # of one solution whose alternatives are gone on with
BUDGET = 10_000  # tokens of all alternatives together
EXTRA = 32  # tokens that an alternative may have beyond twice the rest of the solution


@dataclass(frozen=True, slots=True)
class AlternativeEnd:
    """What one alternative leads to."""

    id: int  # of the token
    answer: Answer | None  # None: it came to no end within its length

    def message(self) -> list[Any]:
        """Return the end as the page reads it: [id, text, correct], or [id] where the end is unknown."""
        return [self.id] if self.answer is None else [self.id, self.answer.text, self.answer.correct]


@dataclass(frozen=True, slots=True)
class AlternativeEnds:
    """The ends that are known so far, by the position of their fork; each record holds everything so far."""

    found: dict[int, tuple[AlternativeEnd, ...]]
    tokens_spent: int
    complete: bool = False  # nothing that was to be decoded is left
    done: bool = False

    def message(self) -> dict[str, Any]:
        """Return the message for the page; the caller adds "run" and "job"."""
        known = [[pos, [end.message() for end in self.found[pos]]] for pos in sorted(self.found)]
        return {"kind": "ends", "ends": known, "complete": self.complete, "done": self.done}


def fork_places(trace: Trace, tau: float) -> list[int]:
    """The positions whose alternatives are worth going on with: forks above `tau`, the most undecided first."""
    forks = [t for t in trace.tokens if is_fork(t.entropy, tau)]
    return [t.pos for t in sorted(forks, key=lambda t: -t.entropy)[:MOST_FORKS]]


@on_gpu_worker(
    seconds=lambda *_, **__: float(CAP),  # how long the alternatives are is not known before
    slim=lambda trace, places: (with_alternatives_at(trace, lambda t: t.pos in set(places)), places),
    ended=lambda state: replace(state, done=True),
)
def alternative_ends(
    model: Model,
    trace: Trace,
    places: Sequence[int],
    *,
    known: str | None = None,
    budget: int = BUDGET,
    cancelled: Callable[[], bool] = never,
) -> Iterator[AlternativeEnds]:
    """Decode each alternative at each of `places` greedily to its end; yields the state after each place.

    The engine's turn is taken for each place. It ends where it is cancelled, or where the budget would not do for as
    many tokens as the solution has left. The last record has `done`.

    Args:
        trace: a finished solution. places: positions of it, in the order of the work.
        known: the right answer; without it nothing is graded.
        budget: tokens over all alternatives.
    """
    found: dict[int, tuple[AlternativeEnd, ...]] = {}
    spent = 0
    for pos in places:
        ids = [c.id for c in trace.tokens[pos].top[:TOP_SHOWN] if c.id != trace.tokens[pos].id]
        rest = len(trace.tokens) - pos
        most = min(2 * rest + EXTRA, (budget - spent) // max(1, len(ids)))
        if cancelled() or most < rest:
            break
        rows = _decode(model, trace, pos, ids, most, cancelled) if ids else []
        if cancelled():
            break
        spent += sum(map(len, rows))
        found[pos] = tuple(_end(model, trace, pos, row, known) for row in rows)
        yield AlternativeEnds(dict(found), spent)
    yield AlternativeEnds(dict(found), spent, complete=not cancelled(), done=True)


def _decode(
    model: Model, trace: Trace, pos: int, ids: Sequence[int], most: int, cancelled: Callable[[], bool]
) -> list[list[int]]:
    """Go on from `pos` once for each of `ids`, as one batch; each row has at most `most` tokens."""
    kept = trace.ids[:pos]
    with model.engine.queue.when_free(cancelled) as mine:
        if not mine:
            return []
        return continue_batch(
            model.engine,
            [*trace.prompt_ids, *kept],
            [(token_id,) for token_id in ids],
            max_new=most,
            over=Ending(model, trace.prompt_ids, kept, len(ids)),
            adapter=trace.adapter,
            cancelled=cancelled,
        )


def _end(model: Model, trace: Trace, pos: int, row: Sequence[int], known: str | None) -> AlternativeEnd:
    """What one alternative led to."""
    ids = [*trace.ids[:pos], *row]
    if is_cut(model, trace.prompt_ids, ids):
        return AlternativeEnd(row[0], None)
    return AlternativeEnd(row[0], model.grade(trace.prompt_ids, ids, known, cut=False))
