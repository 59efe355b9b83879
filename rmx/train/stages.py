"""What the stages of a run share: its folder, its model, who stops it, and how progress is told."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmx.errors import Stopped, TrainError, first_line
from rmx.models.load import Model
from rmx.recipes.job import Problems, TrainJob
from rmx.storage.safe_files import disk, write_json
from rmx.train.step.processes import Team

Event = tuple[str, dict[str, Any]]  # kind and figures
INTERVAL = 0.5  # seconds between two progress events of a stage


@dataclass
class Context:
    """One run under way."""

    job: TrainJob
    folder: Path
    model: Model
    problems: Problems
    stop: Callable[[], bool]
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage, over all starts of this run
    team: Team | None = None  # of several processes
    teacher: str | None = None  # of a distillation: whose solutions are sampled; None: the base's
    adapter: str | None = None  # the teacher, where it is an adapter of `model`

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.team is None or self.team.is_main_process

    @property
    def took(self) -> float:
        """Seconds of all stages so far."""
        return round(sum(self.seconds.values()), 1)

    def meet(self) -> None:
        """Wait until all processes of the run are here."""
        if self.team is not None:
            self.team.meet()

    def check_stop(self) -> None:
        """Raise Stopped if the run was asked to stop."""
        if self.stop():
            raise Stopped

    def read(self, name: str) -> dict[str, Any] | None:
        """A stage's file, None where the stage is not complete."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = f"{name} of this run cannot be read ({first_line(error)})"
            raise TrainError(f"{why}. Remove it to make it anew.") from error
        return found

    def write(self, name: str, content: dict[str, Any]) -> None:
        """A stage's file, in one move: it is there whole or not at all."""
        with disk(self.folder / name):
            write_json(self.folder / name, content)


@dataclass
class StageProgress:
    """How far a stage is, how long it may take still, and when to say so."""

    stage: str
    of: int
    at: int = 0

    def __post_init__(self) -> None:
        self._began, self.first, self._due = time.monotonic(), self.at, 0.0

    @property
    def left(self) -> float | None:
        """Seconds, at the pace so far."""
        done = self.at - self.first
        return round((time.monotonic() - self._began) * (self.of - self.at) / done, 1) if done > 0 else None

    def advance(self) -> Iterator[Event]:
        """One more is done; tell so where it is time."""
        self.at += 1
        if self.due():
            yield self.event()

    def due(self) -> bool:
        """Whether it is time to tell."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + INTERVAL
        return True

    def event(self) -> Event:
        return "stage", {"stage": self.stage, "at": self.at, "of": self.of, "left": self.left}
