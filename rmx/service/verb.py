"""What all verbs share: what they work on, how they tell where they stand."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from rmx.engine.fair_queue import Kind
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.prompt_styles import AnswerRule
from rmx.runs.store import RunStore
from rmx.service.arguments import LATER, Limits, between

Document = dict[str, Any] | list[dict[str, Any]]
Cancelled = Callable[[], bool]
INTERVAL = 0.1  # seconds between deltas
NEW_TOKENS = 512  # where a call does not say


@dataclass(frozen=True)
class Site:
    """What the verbs work on, and how much one call may ask of it."""

    workspace: Workspace
    store: RunStore = field(default_factory=RunStore)
    limits: Limits = field(default_factory=Limits)
    model: str = "mini"  # where a call names none


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A call: its arguments."""

    kind: ClassVar[Kind] = Kind.MEASURED  # of its turns at a model

    def steps(self, site: Site, cancelled: Cancelled) -> Iterator[Document]:
        """Deltas and, last, the document; ends early without one where it is cancelled before there is any.

        Raises:
            RmxError: any mistake in the arguments, in a sentence.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Asking(Verb):
    """What the verbs that ask a model have in common: how its problems are asked."""

    style: Annotated[str | None, "the prompt style, by its name; by default the one of the model's family"] = field(
        default=None, metadata=LATER
    )
    system: Annotated[str | None, "the system message of a chat prompt; an empty text leaves it out"] = field(
        default=None, metadata=LATER
    )
    template: Annotated[str | None, "a prompt template with {problem} in it, instead of the style's own"] = field(
        default=None, metadata=LATER
    )
    thinking: Annotated[
        Literal["on", "off"] | None, "on or off: whether a model with a thinking mode thinks before it answers"
    ] = field(default=None, metadata=LATER)
    stop: Annotated[list[str] | None, "texts that end a completion, instead of those of the style"] = field(
        default=None, metadata=LATER
    )
    answers: Annotated[
        AnswerRule | None,
        "what counts as an answer: boxed (a box alone) or flexible (a box, or what comes nearest to one)",
    ] = field(default=None, metadata=LATER)

    def style_options(self) -> StyleOptions:
        """What is asked of the prompt.

        Raises:
            PromptError: it cannot be used.
        """
        thinking = None if self.thinking is None else self.thinking == "on"
        stops = None if self.stop is None else tuple(stop for stop in self.stop if stop)
        return StyleOptions(self.style, self.system, self.template, thinking, stops, self.answers)


def last(
    states: Iterator[Any], progress: Callable[[Any], dict[str, Any]], interval: float = 5 * INTERVAL
) -> Generator[Document, None, Any]:
    """Go through the states of a long job with deltas of its progress; returns the last one."""
    state, due = None, 0.0
    for state in states:
        if time.monotonic() >= due:
            yield {"progress": progress(state)}
            due = time.monotonic() + interval
    return state


def without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in names}


def new_tokens(asked: int | None, limits: Limits) -> int:
    if asked is None:
        return min(NEW_TOKENS, limits.max_new_tokens)
    return between("max_new_tokens", asked, 1, limits.max_new_tokens)
