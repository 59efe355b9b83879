"""Where a solution leads greedily: the answer at the end of each sentence and behind each other word at its forks.

The answer so far is what the model would answer if it had to. After each sentence the model is made to conclude; all
sentences are one batch behind the cache of the solution. The most frequent of these answers, the mode over the
solution, stands beside the last one (after arXiv 2504.20708, which samples a continuation from each intermediate
thought where this forces the answer at once).

The ends of the alternatives are background work that nobody has asked for, so it is bounded and gives way to everything
that people do: each fork is one batch and one turn of the engine, the most undecided fork comes first, and what is
known already is not decoded again. An alternative that came to no end within its length has an unknown end, never a
guessed one.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch

from rmx.arguments import Sampling
from rmx.config import TOP_SHOWN
from rmx.engine.batch import continue_prefixes
from rmx.engine.decoding_memory import row_bytes
from rmx.engine.entropy import capture, logp_and_rank
from rmx.engine.fair_queue import never
from rmx.engine.scheduler import Decoding, Prefix, scheduler_of
from rmx.engine.token_draws import TokenFigures
from rmx.grading.answers import Answered, equal, grade, same_answers
from rmx.models.detokenizer import Detokenizer
from rmx.models.load import Model
from rmx.models.stopping import answer_reached, continue_rows
from rmx.models.zerogpu import CAP, decoding, on_gpu_worker, with_alternatives_at
from rmx.records import Answer, TokenDist, Trace, as_json, is_fork

# A line break, or a full stop, exclamation or question mark (with what closes behind it) before white space; not the
# point of a number (3.5 has no space behind it) nor of an item's number at the start of a line ("1. First").
_END = re.compile(r"""(?<!^\d)(?<!^\d\d)(?<!^\ \d)[.!?]+["'”’)\]}$*]*(?=\s|\Z)|\n""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sentence:
    """Tokens `start` … `end` - 1."""

    start: int
    end: int
    text: str


def sentences(texts: Sequence[str]) -> list[Sentence]:
    """Cut a completion into sentences; every token belongs to exactly one.

    A token that holds the end of a sentence is its last, even if it holds more; tokens of nothing but white space
    stay with what is before them.

    Args:
        texts: what each token adds to the text.
    """
    owner = [i for i, text in enumerate(texts) for _ in text]  # of each character
    ends = {owner[match.end() - 1] for match in _END.finditer("".join(texts))}
    found: list[Sentence] = []
    start = 0
    for i, text in enumerate(texts):
        begins = i > start and i - 1 in ends
        if begins and not text.strip() and text:
            ends.add(i)  # white space: the sentence ends behind it
        elif begins:
            found.append(Sentence(start, i, "".join(texts[start:i])))
            start = i
    if start < len(texts):
        found.append(Sentence(start, len(texts), "".join(texts[start:])))
    return found


def sentences_of(model: Model, tokens: Sequence[TokenDist]) -> list[Sentence]:
    """Sentences of a completion without its end token."""
    texts = [t.text for t in tokens]
    while texts and tokens[len(texts) - 1].id in model.stop_ids:
        texts.pop()
    return sentences(texts)


# -- The answer so far ------------------------------------------------------------------------------------------------


MAX_ANSWER = 32  # tokens inside the box
POSITIONS = 16_384  # cached positions of one batch: its rows times the length of the solution


@dataclass(frozen=True, slots=True)
class SoFarPoint:
    """The answer at the end of one sentence."""

    pos: int  # completion position of the sentence's last token
    answer: Answer
    forced: bool  # the model was made to conclude; False where the solution has given its answer already

    def json(self) -> dict[str, Any]:
        return {"pos": self.pos, "answer": self.answer.text, "correct": self.answer.correct, "forced": self.forced}


@dataclass(frozen=True, slots=True)
class SoFar:
    """The curve of the answer so far; each record holds everything so far."""

    points: tuple[SoFarPoint, ...]  # in the order of the solution
    of: int  # sentences
    final: Answer  # of the solution itself
    mode: Answer  # the most frequent answer over the points, the earliest among equals
    share: float | None  # of the points that have it; None without a point
    tokens_spent: int
    done: bool

    def json(self) -> dict[str, Any]:
        """The document of `rmx sofar`."""
        mode = {"answer": self.mode.text, "share": self.share, "correct": self.mode.correct}
        found = as_json(self, "points", "of") | {"mode": mode, "answer": self.final.json()}
        return found | {"tokens_spent": self.tokens_spent}

    def message(self) -> dict[str, Any]:
        """Return the message for the page; the caller adds "run" and "job"."""
        return self.json() | {"kind": "sofar", "done": self.done}


def _seconds(model: Model, trace: Trace, **_: object) -> float:
    """Of GPU: a short answer behind each sentence, as many at once as fit into a batch."""
    length = len(trace.prompt_ids) + len(trace.tokens)
    batches = 2 + len(sentences_of(model, trace.tokens)) * length // POSITIONS
    return batches * decoding(MAX_ANSWER, read=length)


@on_gpu_worker(
    seconds=_seconds,
    slim=lambda trace: (with_alternatives_at(trace, lambda _: False),),
    ended=lambda state: replace(state, done=True),
)
def sofar(
    model: Model,
    trace: Trace,
    *,
    known: str | None = None,
    cancelled: Callable[[], bool] = never,
) -> Iterator[SoFar]:
    """Force the answer at the end of each sentence; yields the state at once and after each batch.

    The engine's turn is taken for each batch. The last record has `done`.

    Args:
        trace: a finished solution. known: the right answer; without it nothing is graded.
    """
    ends = [s.end for s in sentences_of(model, trace.tokens)]
    found: dict[int, SoFarPoint] = {}
    waiting: dict[tuple[int, ...], list[int]] = {}  # sentence ends by the text that is put behind them
    for end in ends:
        given = _given(model, trace, end, known)
        if given.text is not None:
            found[end] = SoFarPoint(end - 1, given, forced=False)
        else:
            waiting.setdefault(_concluding(model, trace, end), []).append(end)
    spent = 0
    yield _state(trace, found, len(ends), known, spent)
    at_once = max(1, POSITIONS // (len(trace.prompt_ids) + len(trace.tokens)))
    for concluding, places in waiting.items():
        for i in range(0, len(places), at_once):
            rows = _force(model, trace, concluding, places[i : i + at_once], cancelled)
            if cancelled():
                break
            for end, row in zip(places[i:], rows, strict=False):
                text = model.answer_text([*concluding, *row])
                found[end] = SoFarPoint(end - 1, grade(text, known, styles=("boxed",)), forced=True)
                spent += len(row)
            yield _state(trace, found, len(ends), known, spent)
    yield _state(trace, found, len(ends), known, spent, done=True)


def _given(model: Model, trace: Trace, end: int, known: str | None) -> Answer:
    """The answer that the solution has given before `end`, in a box or behind ####."""
    text = model.answer_text(trace.ids[:end])
    return grade(text, known, styles=("boxed", "hash"), thinking=model.prompt_thinks(trace.prompt_ids))


def _concluding(model: Model, trace: Trace, end: int) -> tuple[int, ...]:
    """What makes the model name its answer; an open <think> block is closed first."""
    text = model.answer_text(trace.ids[:end])
    opened, closed = text.rfind("<think>"), text.rfind("</think>")
    thinks = opened > closed or (model.prompt_thinks(trace.prompt_ids) and closed < 0)
    return tuple(model.encode(("\n</think>" if thinks else "") + model.style.concluding))


def _force(
    model: Model, trace: Trace, concluding: Sequence[int], ends: Sequence[int], cancelled: Callable[[], bool]
) -> list[list[int]]:
    """The tokens that follow the concluding text behind each of `ends`, up to the brace that closes its box."""
    engine, prompt = model.engine, len(trace.prompt_ids)
    boxes = [_Box(model, concluding) for _ in ends]
    with engine.queue.when_free(cancelled) as mine:
        if not mine:
            return []
        return continue_prefixes(
            engine,
            [*trace.prompt_ids, *trace.ids],
            [prompt + end for end in ends],
            concluding,
            max_new=MAX_ANSWER,
            over=lambda row, token_id: boxes[row].closed_by(token_id) or token_id in model.stop_ids,
            adapter=trace.adapter,
            cancelled=cancelled,
        )


class _Box:
    """Counts braces until the box that the concluding text opened is closed."""

    def __init__(self, model: Model, concluding: Sequence[int]) -> None:
        self._pieces = model.detokenizer.stream(concluding)
        self._open, self._escaped = 1, False

    def closed_by(self, token_id: int) -> bool:
        for char in self._pieces.feed(token_id):
            if char in "{}" and not self._escaped:
                self._open += 1 if char == "{" else -1
            self._escaped = char == "\\" and not self._escaped
            if not self._open:
                return True
        return False


def _state(
    trace: Trace, found: dict[int, SoFarPoint], of: int, known: str | None, spent: int, done: bool = False
) -> SoFar:
    points = tuple(found[end] for end in sorted(found))
    mode, share = _mode([p.answer.text for p in points])
    correct = None if known is None else mode is not None and equal(mode, known)
    return SoFar(points, of, trace.answer, Answer(mode, correct), share, spent, done)


def _mode(answers: Sequence[Answered]) -> tuple[Answered, float | None]:
    """The most frequent answer and the share of all points that have it."""
    stands_for = same_answers(Counter(answers), lambda _: False)
    counts = Counter(stands_for[a] for a in answers if a is not None)
    if not counts:
        return None, (0.0 if answers else None)
    best, times = counts.most_common(1)[0]
    return best, times / len(answers)


# -- The ends of the alternatives at the forks ------------------------------------------------------------------------


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
        kept, rest = trace.ids[:pos], len(trace.tokens) - pos
        ids = [c.id for c in trace.tokens[pos].top[:TOP_SHOWN] if c.id != trace.tokens[pos].id]
        most = min(2 * rest + EXTRA, (budget - spent) // max(1, len(ids)))
        if cancelled() or most < rest:
            break
        about: dict[str, Any] = {"max_new": most, "adapter": trace.adapter, "cancelled": cancelled}
        rows = continue_rows(model, trace.prompt_ids, kept, [(i,) for i in ids], **about) if ids else []
        if cancelled():
            break
        spent += sum(map(len, rows))
        answers = [answer_reached(model, trace.prompt_ids, [*kept, *row], known) for row in rows]
        found[pos] = tuple(AlternativeEnd(row[0], answer) for row, answer in zip(rows, answers, strict=True))
        yield AlternativeEnds(dict(found), spent)
    yield AlternativeEnds(dict(found), spent, complete=not cancelled(), done=True)


# -- What could stand at a place --------------------------------------------------------------------------------------


LOOK_AHEAD = 16  # tokens after the alternative itself


@on_gpu_worker(seconds=lambda model, prefix, *_, length=LOOK_AHEAD, **__: decoding(length + 1, read=len(prefix)))
def look_ahead(
    model: Model,
    prefix: Sequence[int],
    alternatives: Sequence[int],
    adapter: str | None = None,
    length: int = LOOK_AHEAD,
    patience: float | None = None,
) -> list[list[int]]:
    """Greedy continuations of `prefix`, one for each alternative; each list begins with its alternative.

    Args:
        prefix: prompt and kept tokens, as ids.
        alternatives: token ids that could follow it.
        length: tokens after the alternative; a row ends early at an end token.
        patience: seconds to wait for the engine, see `Turns.turn`.
    """
    engine, most = model.engine, min(length + 1, model.engine.context - len(prefix))
    rows, read = [[token] for token in alternatives], Prefix(prefix, adapter, save=True)

    def take(row: list[int], figures: TokenFigures) -> bool:
        row.append(figures.token_id)
        return len(row) == most or figures.token_id in model.stop_ids

    asked = [
        Decoding(read, Sampling(), partial(take, row), given=tuple(row), top=1)
        for row in rows
        if row[0] not in model.stop_ids and most > 1
    ]
    seat_bytes = 0 if engine.fault is not None else len(asked) * row_bytes(engine, len(prefix) + length + 1)
    with engine.queue.turn(patience, seat_bytes) as ticket:
        for _ in scheduler_of(engine).run(asked, ticket):
            pass
    return rows


@lru_cache(maxsize=4)
def _texts(detokenizer: Detokenizer, size: int) -> tuple[str, ...]:
    return tuple(detokenizer.token_text(i).lower() for i in range(size))


@on_gpu_worker(seconds=lambda model, prefix, *_, **__: decoding(1, read=len(prefix)))
def search(
    model: Model,
    prefix: Sequence[int],
    query: str,
    adapter: str | None = None,
    limit: int = 30,
    patience: float | None = None,
) -> list[tuple[int, str, float, int]]:
    """Tokens whose text contains `query`, as (id, text, probability, rank) given `prefix`.

    All matches of the vocabulary are ranked before the list is cut. A query that is a token's whole text, give or
    take a leading space, comes first.
    """
    wanted = query.lower()
    engine = model.engine
    texts = _texts(model.detokenizer, engine.vocab_size)
    matches = [i for i, text in enumerate(texts) if wanted in text] if wanted else []
    if not matches:
        return []
    with engine.queue.turn(patience), engine.using(adapter):
        logits = engine.open(prefix, adapter=adapter).logits.float()
    ids = torch.tensor(matches, device=logits.device)
    rows = logits.expand(len(matches), -1)
    lse = capture(logits[None], 1).lse
    order = logits[ids].argsort(descending=True)[: 4 * limit]
    ids = ids[order]
    logp, rank = logp_and_rank(rows[: len(ids)], lse.expand(len(ids)), ids)
    found = [
        (int(i), model.detokenizer.token_text(int(i)), float(p), int(r))
        for i, p, r in zip(ids, logp.exp(), rank, strict=True)
    ]
    found.sort(key=lambda f: texts[f[0]].strip() != wanted.strip())
    return found[:limit]
