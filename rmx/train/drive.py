"""One run in this process: its turn in the queue, its stages, its events on disk, its state at the end, and the next.

Nothing here needs torch before the run's turn has come, so that waiting costs little.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from rmx.errors import RmxError, Stopped, TrainError, first_line
from rmx.runs.folder import RunFolder
from rmx.runs.job import DistillJob, TrainJob
from rmx.runs.queue import WAITED, deciding, look, niceness, wait_for_turn
from rmx.storage.safe_files import FULL, is_full

if TYPE_CHECKING:
    from rmx.train.step.processes import Team

log = logging.getLogger(__name__)
Tell = Callable[[str, dict[str, Any]], None]  # kind and figures of every event, as they happen

DRY = "Dry run: nothing was trained. Resume trains."
STOPPED = "Stopped; what it made is kept. Resume goes on from there."


def drive(folder: RunFolder, *, dry: bool = False, tell: Tell = lambda kind, figures: None) -> str:
    """Run to the end, to a stop or to a failure that the status tells; returns the final state.

    Of several processes under `accelerate launch` only the first has the folder; the others work along.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from rmx.train.step.processes import Team

        team = Team()
        with team.working():
            state = _work_along(folder, dry, team) if team.process_index else _alone(folder, dry, tell, team)
            team.leave(state)
            return state
    return _alone(folder, dry, tell)


def _alone(folder: RunFolder, dry: bool, tell: Tell, team: "Team | None" = None) -> str:
    """The same by the process that has the folder."""
    try:
        with folder.lock(), _stopped_by_signals(folder):
            return _driven(folder, dry, Told(folder, tell), team)
    finally:
        with suppress(RmxError, OSError):  # the run's own word counts; who looks next starts the next one
            look(folder.path.parent, nice=niceness(folder))


def _driven(folder: RunFolder, dry: bool, told: "Told", team: "Team | None") -> str:
    """The same by the process that holds the run's lock, on its turn."""
    try:
        with deciding(folder.path.parent):
            folder.set_status(pid=os.getpid(), message=None, left=None, flags=None, checking=None)
        if not wait_for_turn(folder, tell=told.waits):
            return told.over("stopped", WAITED)
        told("state", {"state": "running"})
        for kind, figures in pipeline(folder, dry, team, folder.stop_wanted):
            told(kind, figures)
        return told.over("stopped", DRY) if dry else told.over("done", told.struck)
    except Stopped:
        return told.over("stopped", STOPPED)
    except RmxError as error:
        told.over("failed", str(error))
        raise
    except KeyboardInterrupt:
        told.over("stopped", STOPPED)
        raise
    except Exception as error:
        if is_full(error):
            log.warning("%s: %s", folder.path, error)
            told.over("failed", FULL)
            raise TrainError(FULL) from error
        told.over("failed", f"A fault of rmx ({type(error).__name__}: {first_line(error)}). The log has more.")
        raise


class Told:
    """Where events go: to the folder, and to whoever watches this process. `struck` is the rule that ends the run."""

    def __init__(self, folder: RunFolder, tell: Tell = lambda kind, figures: None) -> None:
        self.folder, self.tell = folder, tell
        self.struck: str | None = None

    def __call__(self, kind: str, figures: dict[str, Any]) -> None:
        self.folder.event(kind, figures)
        if kind == "stage":
            self.folder.set_status(**figures)
        if kind in ("guard", "early") and "tau" not in figures:  # of a sweep it ends one threshold, not the run
            self.struck = figures["message"]
        self.tell(kind, figures)

    def waits(self, ahead: int) -> None:
        """To whoever watches; the folder's status says it to everybody else."""
        self.tell("state", {"state": "queued", "message": f"{ahead} {'run goes' if ahead == 1 else 'runs go'} first."})

    def over(self, state: str, message: str | None) -> str:
        """The last word."""
        self.folder.set_status(state=state, message=message, left=None, ahead=None)
        self("state", {"state": state, "message": message})
        return state


def pipeline(
    folder: RunFolder, dry: bool, team: "Team | None", stop: Callable[[], bool]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a run, of whatever kind it is; `stop` is asked between its steps."""
    from rmx.train.distillation import Distillation
    from rmx.train.pipeline import Pipeline, Sweep

    config = folder.config
    about: dict[str, Any] = {"events": lambda: folder.events()[0], "stop": stop}
    if config.get("kind") == "distill":
        made: Pipeline = Distillation(DistillJob.from_json(config), folder.path, config, stop=stop)
    elif config.get("kind") == "sweep":
        made = Sweep(TrainJob.from_json(config), folder.path, config, **about)
    else:
        about["stop"] = stop if team is None else team.stopping(stop)
        made = Pipeline(TrainJob.from_json(config), folder.path, config, **about, dry=dry, team=team)
    yield from made.events()


def _work_along(folder: RunFolder, dry: bool, team: "Team") -> str:
    """A process that is not the first: the same stages, without a word."""
    try:
        with _stopped_by_signals(folder):
            for _ in pipeline(folder, dry, team, folder.stop_wanted):
                pass
    except Stopped:
        return "stopped"
    return "done"


@contextmanager
def _stopped_by_signals(folder: RunFolder) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run at its next step; a second Ctrl-C ends it at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        folder.stop_now()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are somebody else's affair
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
