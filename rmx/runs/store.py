"""All runs of one folder: make, list, start, stop, resume, remove; and a run as one row of a table."""

import logging
import math
import os
import platform
import re
import secrets
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rmx import __version__
from rmx.config import runs_dir
from rmx.engine.fair_queue import current_owner
from rmx.errors import Busy, RmxError, TrainError
from rmx.runs.folder import CONFIG, RunFolder
from rmx.runs.job import DistillJob, TrainJob
from rmx.runs.queue import (
    PROGRAM,
    WAITED,
    await_first_word,
    begin_due,
    deciding,
    look,
    mind,
    runs_at_once,
    waiting_runs,
)
from rmx.runs.rates import Rates, load_rates, paper_costs
from rmx.runs.recipe import DistillRecipe, Recipe
from rmx.storage.safe_files import disk, read_json

MOST_WAITING, MOST_WAITING_OF_ONE = 8, 1  # runs in the queue, of all and of one owner
EVERY = 1.0  # seconds between two looks at the queue
GONE = ".removed-"  # begins the names of folders that are being deleted
log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
SliceStarter = Callable[[RunFolder, bool], object]  # starts a run in slices; of a dry run where the flag is set


class RunStore:
    """The runs in `root`. Any number of stores, in any number of processes, may look at the same folder.

    Args:
        private: ids are long, and knowing one is the permission to look: lists hold what who asks or nobody owns.
        slicer: what starts the runs of a model in slices of a lent GPU; None where they get a process of their own.
    """

    def __init__(
        self,
        root: Path | None = None,
        program: tuple[str, ...] = PROGRAM,
        private: bool = False,
        slicer: Callable[[str], SliceStarter | None] = lambda model: None,
    ) -> None:
        self.root = (root or runs_dir()).absolute()
        self._program, self.private, self._slicer = program, private, slicer
        self._guard, self._watching, self._asked = threading.Lock(), False, False  # of the thread that looks

    def create(
        self, job: TrainJob | DistillJob, owner: str | None = None, kind: str = "train", path: Path | None = None
    ) -> RunFolder:
        """A new run, not started yet; `path` is an empty or missing folder, else it gets a name in the store."""
        path = path or self.root / new_id(job.model, 12 if self.private else 2)
        with disk(path):
            if path.exists() and any(path.iterdir()):
                raise TrainError(f"{path} is not empty. Name another folder, or go on with its run: --resume {path}")
        folder = RunFolder(path)
        if isinstance(job, TrainJob) and job.taus:
            kind = "sweep"
        about = {"id": path.name, "created": round(time.time(), 3), "kind": kind, "owner": owner, "note": ""}
        folder.create(about | job.json() | {"versions": versions()})
        return folder

    def get(self, name: str) -> RunFolder:
        """The run of this id, or of the only id that begins so."""
        if isinstance(name, str) and _ID.fullmatch(name):
            found = [self.root / name]
            if not _is_run(found[0]):
                found = [] if self.private else [p for p in self._paths() if p.name.startswith(name)]
            if len(found) == 1:
                return RunFolder(found[0])
            if found:
                raise TrainError(f"Several runs begin with '{name}': {', '.join(p.name for p in found[:4])}.")
        raise TrainError(f"There is no run '{str(name)[:80]}'. rmx runs lists those that are there.")

    def all(self, everybodys: bool = False) -> list[RunFolder]:
        """All runs, the newest first; of a private store those that who asks may see, or `everybodys`."""
        runs = [RunFolder(path) for path in sorted(self._paths(), key=_stamp, reverse=True)]
        if everybodys or not self.private:
            return runs
        return [run for run in runs if owner_of(run) in (None, current_owner.get().owner)]

    def _paths(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return [path for path in self.root.iterdir() if not path.name.startswith(".") and _is_run(path)]

    def start(self, name: str, *extra: str) -> None:
        """Start or resume a run in a process of its own, which outlives this one, or queue it where others go first."""
        folder = self.get(name)
        if folder.alive:
            raise folder.under_way()
        if (begin := self._slicer(folder.config["model"])) is not None:
            if not set(extra) <= {"--dry-run"}:
                raise TrainError("On ZeroGPU a run goes on as it began. Start a new one with the other threshold.")
            with deciding(self.root):
                self._check_room(folder)
                begin(folder, bool(extra))
            return
        runs_at_once()  # refused before anything is written
        with deciding(self.root):  # two starts can neither take the last place in the queue nor begin the same run
            before = self._put_in_queue(folder, extra)
            begun, left = begin_due(self.root, self._program)
            refused = None if folder.alive else folder.status["message"]
        if left:
            self.watch()
        for other, child in begun:
            unsigned = True
            if other.id == folder.id:
                refused = await_first_word(folder, child, before)
                unsigned = folder.pid is None and child.poll() is None
            threading.Thread(target=mind, args=(other, child, unsigned), daemon=True).start()
        if refused is not None:
            raise TrainError(f"The run {folder.id} could not be started: {refused}")

    def _put_in_queue(self, folder: RunFolder, flags: tuple[str, ...]) -> dict[str, Any]:
        """Make a run one that waits without a process; returns the status that it had."""
        with folder.lock_for_another():
            before = folder.status
            if folder.waiting:
                raise folder.under_way()
            if before["state"] == "done":
                raise TrainError(f"The run {folder.id} is done; there is nothing left to do. Start a new one.")
            self._check_room(folder)
            folder.clear_stop()
            came = {"state": "queued", "came": time.time(), "flags": list(flags)}
            folder.set_status(**came, ahead=None, message=None, left=None, pid=None)
        return before

    def look(self) -> int:
        """Start the queued runs whose turn has come; returns how many wait on without a process."""
        return look(self.root, self._program)

    def watch(self) -> None:
        """Look about once a second from now on, in a thread, for as long as a run is queued without a process."""
        with self._guard:
            self._asked = True
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        said, left = "", 1
        while True:
            with self._guard:
                if not left and not self._asked:
                    self._watching = False
                    return
                self._asked = False
            try:
                left = self.look()
            except (RmxError, OSError) as error:  # a full disk, for one; the next look may go well
                if str(error) != said:
                    log.warning("No queued run can be started: %s", error)
                said, left = str(error), 1
            time.sleep(EVERY)

    def _check_room(self, folder: RunFolder) -> None:
        waiting, owner = [f for f in waiting_runs(self.root) if f.id != folder.id], folder.config.get("owner")
        if len(waiting) >= MOST_WAITING:
            raise Busy(f"{len(waiting)} runs wait already. Try again when some of them are over.")
        if owner is not None and sum(f.config.get("owner") == owner for f in waiting) >= MOST_WAITING_OF_ONE:
            raise Busy("A run of yours waits already. Stop it, or let it have its turn first.")

    def stop(self, name: str) -> None:
        """Ask a run to finish its step, write a checkpoint and end."""
        folder = self.get(name)
        if self._leave_queue(folder):
            return
        if not folder.alive:
            raise TrainError(f"The run {folder.id} is not under way; it is {folder.state}.")
        folder.request_stop()

    def _leave_queue(self, folder: RunFolder) -> bool:
        """Stop a run that is queued without a process; whether it was one."""
        if not folder.waiting:
            return False
        with deciding(self.root):
            if not folder.waiting:
                return False
            folder.set_status(state="stopped", message=WAITED, left=None, ahead=None, flags=None)
            folder.event("state", {"state": "stopped", "message": WAITED})
            folder.close()
        self.look()  # the others have moved up
        return True

    def kill(self, name: str) -> None:
        """End a run's process at once: it counts as interrupted, and can be resumed. A queued run is stopped."""
        folder = self.get(name)
        if self._leave_queue(folder):
            return
        number = folder.pid
        if number is None:
            raise TrainError(f"The run {folder.id} has no process to end; it is {folder.state}.")
        try:  # one that a store has started shares its session with its helpers
            (os.killpg if os.getsid(number) == number else os.kill)(number, signal.SIGKILL)
        except (ProcessLookupError, PermissionError) as error:
            raise TrainError(f"The process {number} of {folder.id} cannot be ended from here ({error}).") from error

    def remove(self, name: str) -> None:
        """Delete a run that no process works on, with all its files; a queued one leaves the queue."""
        folder = self.get(name)
        queued, away = folder.waiting, self.root / f"{GONE}{folder.id}-{secrets.token_hex(3)}"
        with folder.lock_for_another(), disk(folder.path):  # nobody can start it between the look and the move
            folder.path.rename(away)
        if queued:
            self.look()  # the others have moved up
        for left in self.root.glob(f"{GONE}*"):  # of removals that were cut short, too
            shutil.rmtree(left, ignore_errors=True)


def owner_of(folder: RunFolder) -> str | None:
    """Whose a run is; nobody's where it was started on a command line. An unreadable one is not shown around."""
    try:
        owner = folder.config.get("owner")
    except TrainError:
        return "unreadable"
    return owner if owner is None or isinstance(owner, str) else "unreadable"


def new_id(model: str, letters: int = 2) -> str:
    """When, which model, and random letters (two for each of `letters`) that tell runs of one minute apart."""
    name = re.sub(r"[^a-z0-9.]+", "-", Path(model.partition("@")[0]).name.lower()).strip("-.")[:24] or "model"
    return f"{datetime.now():%Y%m%d-%H%M}-{name}-{secrets.token_hex(letters)}"


def versions() -> dict[str, str]:
    """The packages that a run's figures depend on."""
    names = ("torch", "transformers", "peft", "accelerate")
    ours = {"python": platform.python_version(), "rmx-explorer": __version__}  # also where it runs uninstalled
    return ours | {name: metadata.version(name) for name in names}


def _is_run(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and (path / CONFIG).is_file()


def _stamp(path: Path) -> float:
    try:
        created = RunFolder(path).config.get("created")
    except TrainError:
        return 0.0
    return created if isinstance(created, int | float) else 0.0


# -- A run as one row of a table --------------------------------------------------------------------------------------


STAGES = "stages.json"


def measured(path: Path) -> dict[str, Any]:
    """{"stages": {stage: seconds}, "device": name | null} of a run's folder; over all its starts."""
    found = read_json(path / STAGES)
    stored: Mapping[str, Any] = found if isinstance(found, dict) else {}
    seconds = stored.get("seconds")
    numbers = seconds.items() if isinstance(seconds, dict) else ()
    stages = {str(name): float(s) for name, s in numbers if isinstance(s, int | float) and math.isfinite(s) and s >= 0}
    device = stored.get("device")
    return {"stages": stages, "device": device if isinstance(device, str) else None}


def dollars(path: Path, seconds: float | None, told: float | None, rates: Rates) -> float | None:
    """What `seconds` of a run cost on its machine; `told` where its machine is not known."""
    device = measured(path)["device"]
    if seconds is None or device is None:
        return told
    return rates.cost(seconds, device).usd


def costs(folders: Iterable[RunFolder], device: str, root: Path | None = None) -> dict[str, Any]:
    """Everything about money: the table, the rate of this machine (`device`), each run, the sum, the paper's table."""
    rates = load_rates(root)
    here, runs = rates.of(device), [cost for folder in folders if (cost := run_cost(folder, rates))]
    known = [run["usd"] for run in runs if run["usd"] is not None]  # of runs on machines with a rate
    usd, seconds = math.fsum(known) if known else None, math.fsum(run["seconds"] for run in runs)
    return {
        "rates": [rate.json() for rate in rates.rates],
        "override": rates.override,
        "machine": {"device": device, "rate": here and here.json(), "sentence": rates.cost(0, device).sentence},
        "runs": runs,
        "sum": {"usd": usd, "seconds": seconds, "runs": len(runs), "without": len(runs) - len(known)},
        "paper": paper_costs(),
    }


def run_cost(folder: RunFolder, rates: Rates) -> dict[str, Any] | None:
    """One run's line; None where it has measured nothing yet."""
    found = measured(folder.path)
    seconds = math.fsum(found["stages"].values())
    if not seconds:
        return None
    try:
        config, done = folder.config, folder.summary.get("done", {})
    except RmxError:
        return None
    device, told = found["device"], done.get("usd")
    rate = rates.of(device) if device else None
    return {
        "id": folder.id, "kind": config.get("kind", "train"), "model": str(config.get("model")), "device": device,
        "seconds": seconds, "stages": found["stages"], "usd": rates.cost(seconds, device).usd if device else told,
        "rate": rate.json() if rate else None, "vs_base": done.get("vs_base"),
    }  # fmt: skip


EMPTY: dict[str, Any] = {
    "id": "", "kind": "train", "model": None, "set": None, "preset": None, "state": "unreadable", "stage": None,
    "at": None, "of": None, "left": None, "message": None, "ahead": None, "tau": None, "gated": None, "before": None,
    "after": None, "vs_base": None, "on": None, "minutes": None, "usd": None, "owner": None, "created": 0.0,
    "note": "", "differs": {}, "taus": None, "has_adapter": False, "by_construction": False, "command": "",
}  # fmt: skip


def row(folder: RunFolder, rates: Rates | None = None) -> dict[str, Any]:
    """One run as a list shows it, its dollars by `rates` or the table as it stands; one that cannot be read says so."""
    try:
        return _row(folder, rates or load_rates())
    except (RmxError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = str(error) if isinstance(error, RmxError) else f"{folder.id} was not written by this version of rmx."
        return EMPTY | {"id": folder.id, "message": why}


def tested(found: dict[str, Any]) -> dict[str, Any]:
    """The row as a table shows it, whose figures are those of test problems: without what validation problems gave."""
    return found if found["on"] != "validation" else found | {"before": None, "after": None, "vs_base": None}


def _row(folder: RunFolder, rates: Rates) -> dict[str, Any]:
    config, status, summary = folder.config, folder.status, folder.summary
    kind = DistillRecipe if config.get("kind") == "distill" else Recipe
    departures = kind.from_json(config["recipe"]).departures()
    done = summary.get("done", {})
    minutes = _minutes(folder, status, done)
    return EMPTY | {
        "id": folder.id, "kind": config.get("kind", "train"), "model": str(config["model"]),
        "state": str(status["state"]),
        **{name: status.get(name) for name in ("stage", "at", "of", "left", "message", "ahead")}, **_gate(summary),
        **{name: config.get(name) for name in ("set", "preset", "taus", "owner")}, **_before_after(summary),
        "minutes": minutes,
        "usd": dollars(folder.path, None if minutes is None else 60 * minutes, done.get("usd"), rates),
        "created": float(config.get("created") or 0.0), "note": str(config.get("note") or ""),
        "differs": {name: ours for name, (_, ours) in departures.items()},
        "has_adapter": (folder.path / "adapter" / "adapter_config.json").is_file(),
        "by_construction": str(config["model"]).partition("@")[0] == "mini",
        "command": shlex.join(config.get("command", [])),
    }  # fmt: skip


def _minutes(folder: RunFolder, status: Mapping[str, Any], done: Mapping[str, Any]) -> float | None:
    """How long it worked, over all its starts; None where it has not worked yet."""
    if status["state"] == "done" and done.get("seconds") is not None:
        return float(done["seconds"]) / 60
    seconds = sum(measured(folder.path)["stages"].values())
    if status["state"] in ("running", "stopping") and status.get("started"):
        noted = folder.path / STAGES  # written at the end of each stage
        since = max(status["started"], noted.stat().st_mtime if noted.exists() else 0.0)
        seconds += max(0.0, time.time() - since)
    return seconds / 60 if seconds else None


def _gate(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Threshold and share of the gate; of a sweep that is done those of the threshold that was chosen."""
    gate, sweep = summary.get("gate", {}), summary.get("done", {}).get("sweep") or {}
    if (chosen := sweep.get("chosen")) is not None:
        gate = next((one for one in sweep["taus"] if one["tau"] == chosen), {})
    return {"tau": gate.get("tau"), "gated": gate.get("share")}


def _before_after(summary: Mapping[str, Any]) -> dict[str, Any]:
    """pass@1 before and after: of the final check, else of the validation checks so far."""
    done = summary.get("done", {})
    if done.get("after"):
        return {"before": done["before"], "after": done["after"], "vs_base": done["vs_base"], "on": done.get("split")}
    checks = [check for _, check in sorted(summary.get("checks", {}).items(), key=lambda item: int(item[0]))]
    if not checks:
        return {}
    best = next((c for c in reversed(checks) if c.get("best")), checks[-1])
    after = best if best["optimizer_step"] else {}
    figures = {"before": checks[0]["pass@1"], "after": after.get("pass@1"), "vs_base": after.get("vs_base")}
    return figures | {"on": "validation"}
