"""What all verbs share: what they work on, and how they tell where they stand. No torch here."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rmx.recipes.job import TrainJob
from rmx.runs.folder import RunFolder
from rmx.runs.store import RunStore
from rmx.service.arguments import Limits, adapter_name, model_name, set_name

if TYPE_CHECKING:
    from rmx.models.workspace import Workspace

Document = dict[str, Any] | list[dict[str, Any]]
Cancelled = Callable[[], bool]
INTERVAL = 0.1  # seconds between deltas
NEW_TOKENS = 512  # where a call does not say


class RunControl(Protocol):
    """What one visitor may do with training runs, within the rules of the site."""

    def start(self, job: TrainJob, dry: bool) -> RunFolder:
        """Start a run, or queue it."""

    def stop(self, run: str) -> None:
        """Stop a run of the visitor's."""

    def resume(self, run: str, tau: float | None) -> None:
        """Go on with a run of the visitor's."""


def ignore(state: Any) -> None:
    """Hear a state of a long job, and do nothing."""


@dataclass(frozen=True)
class Site:
    """What the verbs work on, and how much one call may ask of it."""

    workspace: "Workspace"
    store: RunStore = field(default_factory=RunStore)
    limits: Limits | None = field(default_factory=Limits)  # None: the command line, which may name any path and amount
    model: str = "mini"  # where a call names none
    keep: bool = False  # what is measured on disk, to go on with
    recalibrate: bool = False  # make the solutions behind a share anew
    runs: RunControl | None = None  # of who asks; None: nobody may start any
    watch: Callable[[Any], None] = ignore  # hears every state of a long job

    def model_name(self, spec: str | None) -> str:
        """The model that is named, by default the site's own.

        Raises:
            ModelError: a path of the machine, or no name at all, from outside.
        """
        return (spec or self.model) if self.limits is None else model_name(spec or self.model, self.model)

    def adapter_name(self, spec: str | None, model: str | None) -> str | None:
        """The adapter that is named on a model, if any.

        Raises:
            ModelError: as `model_name`.
        """
        from rmx.models.adapter_names import bundled_adapters

        if not spec or self.limits is None:
            return spec or None
        return adapter_name(spec, bundled_adapters(self.workspace.model(self.model_name(model))))

    def set_name(self, name: str) -> str:
        """The problem set that is named.

        Raises:
            ProblemError: as `model_name`. Refused: not on this site.
        """
        found = name if self.limits is None else set_name(name)
        self.workspace.policy.admit_set(found)
        return found

    def at_most(self, asked: int | None, usual: int, limit: str) -> int:
        """What is asked, else what is usual, or as much of it as this limit allows."""
        if asked is not None:
            return asked
        return usual if self.limits is None else min(usual, getattr(self.limits, limit))

    def last(
        self, states: Iterator[Any], progress: Callable[[Any], dict[str, Any]], interval: float = 5 * INTERVAL
    ) -> Generator[Document, None, Any]:
        """Go through the states of a long job with deltas of its progress; returns the last one."""
        state, due = None, 0.0
        for state in states:
            self.watch(state)
            if time.monotonic() >= due:
                yield {"progress": progress(state)}
                due = time.monotonic() + interval
        return state


def without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in names}
