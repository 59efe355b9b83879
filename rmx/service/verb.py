"""What all verbs share: what they work on, and how they tell where they stand. No torch here.

Models, adapters and problem sets that come from outside are named by presets, Hub ids, bundled names and run ids; a
path of this machine is never one of them.
"""

import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rmx.data.problem_sets import SETS, split_name
from rmx.errors import ModelError, ProblemError, shown
from rmx.models.adapter_names import bundled_adapters, run_adapter
from rmx.models.presets import PRESETS
from rmx.recipes.job import TrainJob
from rmx.runs.folder import RunFolder
from rmx.runs.store import RunStore
from rmx.service.arguments import Limits

if TYPE_CHECKING:
    from rmx.models.workspace import Workspace

Document = dict[str, Any] | list[dict[str, Any]]
Cancelled = Callable[[], bool]
INTERVAL = 0.1  # seconds between deltas
NEW_TOKENS = 512  # where a call does not say
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[A-Za-z0-9][\w.-]{0,99})?")


class RunControl(Protocol):
    """What one visitor may do with training runs, within the rules of the site."""

    def start(self, job: TrainJob, dry: bool) -> RunFolder: ...
    def stop(self, run: str) -> None: ...
    def resume(self, run: str, tau: float | None) -> None: ...


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
        """The model that is named, by default the site's own."""
        spec = spec or self.model
        if self.limits is None or spec == self.model or spec.partition("@")[0] in PRESETS or _on_the_hub(spec):
            return spec
        raise ModelError(f"There is no model {shown(spec)} here. Name a preset ({', '.join(PRESETS)}) or a Hub id.")

    def adapter_name(self, spec: str | None, model: str | None) -> str | None:
        """The adapter that is named on a model, if any."""
        if not spec or self.limits is None:
            return spec or None
        bundled = bundled_adapters(self.workspace.model(self.model_name(model)))
        if spec in bundled or _on_the_hub(spec) or (len(spec) < 200 and run_adapter(spec) is not None):
            return spec
        known = ", ".join(bundled) or "none is bundled with this model"
        raise ModelError(f"There is no adapter {shown(spec)} here. Bundled: {known}. Or name a run or a Hub id.")

    def set_name(self, name: str) -> str:
        """The problem set that is named."""
        if self.limits is not None and split_name(name)[0] not in SETS:
            raise ProblemError(f"There is no problem set {shown(name)} here. Sets are {', '.join(SETS)}.")
        found = name if self.limits is None else name.strip()
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


def _on_the_hub(spec: str) -> bool:
    """Whether it can only mean a repository of the Hub: no folder of this machine is called so."""
    return bool(HUB_ID.fullmatch(spec)) and not Path(spec).exists() and not Path(spec.partition("@")[0]).exists()


def without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The document without some of its keys."""
    return {key: value for key, value in document.items() if key not in names}
