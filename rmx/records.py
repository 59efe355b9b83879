"""The records that travel between modules. Dicts are for JSON files and the wire only.

Positions: `pos` counts completion tokens from 0. A position's statistics belong to the distribution that chose the
token at that position, at temperature 1, in fp32.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload
from urllib.parse import unquote

from rmx.prompt_styles import PromptStyle

if TYPE_CHECKING:
    from torch import Tensor


# stop_sequence: one of the texts that the prompt style ends completions with.
Stop = Literal["eos", "answer", "stop_sequence", "length", "context", "cancelled", "read"]


@overload
def is_fork(entropy: float, tau: float) -> bool: ...
@overload
def is_fork(entropy: "Tensor", tau: float) -> "Tensor": ...
def is_fork(entropy: "float | Tensor", tau: float) -> "bool | Tensor":
    """Decide whether a token is a fork: whether its entropy exceeds the threshold.

    Args:
        entropy: nats of the distribution that chose the token, at temperature 1; of several tokens as a tensor.
        tau: threshold in nats; equality is no fork.

    Source: arXiv 2605.06241, section 3; strict ">" as in the official scripts.
    """
    return entropy > tau


def shown_adapter(key: str | None) -> str | None:
    """An adapter's key as documents and the screen have it: with the spec that it was asked for by."""
    return key and unquote(key)


def as_json(record: Any, *names: str) -> dict[str, Any]:
    """Attributes of a record as JSON has them: tuples as lists, other records by their `json` or field by field."""
    return {name: _plain(getattr(record, name)) for name in names}


def _plain(value: Any) -> Any:
    if hasattr(value, "json"):
        return value.json()
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return as_json(value, *(field.name for field in fields(value))) if is_dataclass(value) else value


@dataclass(frozen=True, slots=True)
class Candidate:
    """One token the model could have said."""

    id: int
    text: str
    p: float  # probability at temperature 1

    def json(self) -> dict[str, Any]:
        return {"id": self.id, "text": self.text, "p": self.p}


@dataclass(frozen=True, slots=True)
class TokenDist:
    """One token of a completion and the distribution that it was chosen from."""

    pos: int  # 0 = first completion token
    id: int
    text: str  # what this token adds to the text; "" inside a character that is not complete yet
    entropy: float  # nats, full vocabulary, temperature 1
    logp: float  # natural log of the probability of `id`
    rank: int  # 1 = the most likely token
    forced: bool  # put there by a swap, not chosen by the decoder
    top: tuple[Candidate, ...]  # best first

    @property
    def p(self) -> float:
        return math.exp(self.logp)

    @property
    def alternatives(self) -> tuple[Candidate, ...]:
        """What could have stood in its place, the likeliest first."""
        return tuple(candidate for candidate in self.top if candidate.id != self.id)

    def json(self, tau: float) -> dict[str, Any]:
        return {
            "pos": self.pos,
            "id": self.id,
            "text": self.text,
            "entropy": self.entropy,
            "logp": self.logp,
            "rank": self.rank,
            "fork": is_fork(self.entropy, tau),
            "forced": self.forced,
            "top": [c.json() for c in self.top],
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer found in a completion; `correct` is None where no known answer was given."""

    text: str | None
    correct: bool | None

    def json(self) -> dict[str, Any]:
        return {"text": self.text, "correct": self.correct}


@dataclass(frozen=True, slots=True)
class Reuse:
    """How many positions came out of the prefix cache and how many went through the network before the first token."""

    reused: int
    computed: int

    def json(self) -> dict[str, int]:
        return {"reused": self.reused, "computed": self.computed}


Step = Literal["eager", "cuda graph", "general"]


@dataclass(frozen=True, slots=True)
class StepPath:
    """How the steps of a completion were computed: what its rounding depends on, besides its text.

    Args:
        step: "cuda graph" where passes were replayed, "general" where the network can have no rows (recurrent state, no
            mask) and every sequence takes its own steps, else "eager".
        rows: slots of the largest pass that it had a part in; 1 where it was alone all the time.
    """

    step: Step
    rows: int

    def joined(self, other: "StepPath | None") -> "StepPath":
        """Return what both together are."""
        if other is None:
            return self
        return StepPath(
            "cuda graph" if "cuda graph" in (self.step, other.step) else self.step, max(self.rows, other.rows)
        )

    def json(self) -> dict[str, Any]:
        return {"step": self.step, "rows": self.rows}


@dataclass(frozen=True, slots=True)
class Trace:
    """A completion with its statistics and everything needed to repeat it."""

    model: str
    adapter: str | None
    revision: str
    dtype: str
    prompt_ids: tuple[int, ...]
    seed: int
    temperature: float
    top_p: float
    tau: float
    tokens: tuple[TokenDist, ...]
    answer: Answer
    stop: Stop
    reuse: Reuse
    seconds: float
    style: PromptStyle | None = None  # how it was asked; None where nothing is known of it
    path: StepPath | None = None  # None where no step was taken, or nothing is known of it

    @property
    def ids(self) -> list[int]:
        return [t.id for t in self.tokens]

    @property
    def text(self) -> str:
        return "".join(t.text for t in self.tokens)

    def forks(self) -> Iterator[TokenDist]:
        return (t for t in self.tokens if is_fork(t.entropy, self.tau))

    def json(self) -> dict[str, Any]:
        """The document of `rmx trace --json`; `path`, its last key, is null or a `StepPath`."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "adapter": shown_adapter(self.adapter),
            "prompt_ids": list(self.prompt_ids),
            "tokens": [t.json(self.tau) for t in self.tokens],
            "answer": self.answer.json(),
            "reuse": self.reuse.json(),
            "style": self.style.json() if self.style else None,
            "path": self.path.json() if self.path else None,
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its known answer."""

    id: str
    problem: str
    answer: str | None
    set: str = "own"
    split: str = "test"
    level: int | None = None  # of difficulty, where the set says it


@dataclass(frozen=True, slots=True)
class Rollout:
    """One graded completion of a problem, by token ids. Prediction position p is decided by logits at p and supervises
    input_ids[p + 1], so a completion's positions begin at prompt_length - 1."""

    problem_id: str
    gen_index: int  # which of its problem's completions, from 0
    input_ids: tuple[int, ...]  # prompt and completion, the end token included
    prompt_length: int
    correct: bool
    answer: str | None = None
    stop: Stop | None = None  # None where the file does not say
    entropies: tuple[float, ...] | None = None  # nats; one per completion token
    advantage: float | None = None  # set once the rollout is selected
    decision_positions: tuple[int, ...] | None = None  # prediction positions

    @property
    def completion_length(self) -> int:
        return len(self.input_ids) - self.prompt_length

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.input_ids[: self.prompt_length]

    @property
    def completion_ids(self) -> tuple[int, ...]:
        return self.input_ids[self.prompt_length :]


class RemoteCaller(Protocol):
    """Makes calls in the process that has the weights."""

    def stream(
        self, function: Callable[..., Any], where: Any, args: tuple[Any, ...], named: dict[str, Any], seconds: float
    ) -> Iterator[Any]:
        """Yield what the function yields there, or the one value that it returns.

        Args:
            function: a function of a module.
            where: the model or pair that is its first argument; None where it has none.
            args, named: its other arguments; all of them are pickled.
            seconds: the longest that it may take.

        Raises:
            RmxError: what it raised there, or the GPU could not be had.
        """
