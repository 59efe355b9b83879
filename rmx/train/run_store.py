"""All runs of one folder: make, list, start, stop, resume, remove. Runs are processes of their own. No torch here."""

import os
import platform
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rmx.errors import Busy, TrainError
from rmx.paths import runs_dir
from rmx.train.distill_recipe import DistillJob, DistillRecipe
from rmx.train.job import TrainJob
from rmx.train.recipe import Recipe
from rmx.train.run_folder import LIVE, LOG, RunFolder

MOST_WAITING, MOST_WAITING_OF_ONE = 8, 1  # runs in the queue, of all and of one owner
NICE = 10
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class RunStore:
    """The runs in `root`. Any number of stores, in any number of processes, may look at the same folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or runs_dir()).absolute()
        self._children: list[subprocess.Popen[bytes]] = []
        self._starting = threading.Lock()

    def create(
        self, job: TrainJob | DistillJob, owner: str | None = None, kind: str = "train", path: Path | None = None
    ) -> RunFolder:
        """A new run, not started yet; `path` is an empty or missing folder, else it gets a name in the store."""
        path = path or self.root / new_id(job.model)
        if path.exists() and any(path.iterdir()):
            raise TrainError(f"{path} is not empty. Name another folder, or go on with the run in it: --resume {path}")
        folder = RunFolder(path)
        about = {"id": path.name, "created": round(time.time(), 3), "kind": kind, "owner": owner, "note": ""}
        folder.create(about | job.json() | {"versions": versions()})
        return folder

    def get(self, name: str) -> RunFolder:
        """The run of this id, or of the only id that begins so.

        Raises:
            TrainError: there is none, or several.
        """
        if isinstance(name, str) and _ID.fullmatch(name):
            exact = self.root / name
            found = [exact] if _is_run(exact) else [p for p in self._paths() if p.name.startswith(name)]
            if len(found) == 1:
                return RunFolder(found[0])
            if found:
                raise TrainError(f"Several runs begin with '{name}': {', '.join(p.name for p in found[:4])}.")
        raise TrainError(f"There is no run '{str(name)[:80]}'. rmx runs lists those that are there.")

    def all(self) -> list[RunFolder]:
        """All runs, the newest first."""
        return [RunFolder(path) for path in sorted(self._paths(), key=_stamp, reverse=True)]

    def _paths(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return [path for path in self.root.iterdir() if not path.name.startswith(".") and _is_run(path)]

    # -- processes ----------------------------------------------------------------------------------------------------

    def start(self, name: str, *extra: str) -> None:
        """Start or resume a run in a process of its own, which outlives this one.

        Raises:
            TrainError: it is under way. Busy: too many wait.
        """
        folder = self.get(name)
        with self._starting:
            self._reap()
            if folder.alive:
                raise TrainError(f"The run {folder.id} is under way already.")
            self._check_room(folder.config.get("owner"))
            folder.clear_stop()
            folder.set_status(state="queued", ahead=None, message=None, came=time.time())
            child = _spawn(folder, self.root, extra)
            self._children.append(child)
            _await_lock(folder, child)

    def _check_room(self, owner: str | None) -> None:
        waiting = [f for f in self.all() if f.alive and f.status["state"] == "queued"]
        if len(waiting) >= MOST_WAITING:
            raise Busy(f"{len(waiting)} runs wait already. Try again when some of them are over.")
        if owner is not None and sum(f.config.get("owner") == owner for f in waiting) >= MOST_WAITING_OF_ONE:
            raise Busy("A run of yours waits already. Stop it, or let it have its turn first.")

    def stop(self, name: str) -> None:
        """Ask a run to finish its step, write a checkpoint and end.

        Raises:
            TrainError: it is not under way.
        """
        folder = self.get(name)
        if not folder.alive:
            raise TrainError(f"The run {folder.id} is not under way; it is {folder.state}.")
        folder.request_stop()

    def remove(self, name: str) -> None:
        """Delete a run that is not under way, with all its files.

        Raises:
            TrainError: it is under way.
        """
        folder = self.get(name)
        with folder.lock():  # nobody can start it between the look and the move
            away = self.root / f".removed-{folder.id}-{secrets.token_hex(3)}"
            folder.path.rename(away)
        shutil.rmtree(away, ignore_errors=True)

    def _reap(self) -> None:
        """Forget children that are over, so that no zombies stay."""
        self._children = [child for child in self._children if child.poll() is None]


def new_id(model: str) -> str:
    """When, which model, and four letters that tell runs of one minute apart."""
    name = re.sub(r"[^a-z0-9.]+", "-", Path(model.partition("@")[0]).name.lower()).strip("-.")[:24] or "model"
    return f"{datetime.now():%Y%m%d-%H%M}-{name}-{secrets.token_hex(2)}"


def versions() -> dict[str, str]:
    """The packages that a run's figures depend on."""
    names = ("rmx-explorer", "torch", "transformers", "peft", "accelerate")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def _is_run(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and (path / "config.json").is_file()


def _stamp(path: Path) -> float:
    """When a run was made; 0 where that cannot be read."""
    try:
        return float(RunFolder(path).config.get("created") or 0.0)
    except TrainError:
        return 0.0


def _spawn(folder: RunFolder, root: Path, extra: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """The run's process: out of this one's session, at low priority, with a core left for the app."""
    threads = str(max(1, (os.cpu_count() or 1) - 1))
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    environment = os.environ | {"RMX_RUNS": str(root), "PYTHONUNBUFFERED": "1"} | limits
    words = [sys.executable, "-m", "rmx", "train", "--resume", folder.id, *extra]
    if shutil.which("nice"):
        words = ["nice", "-n", str(NICE), *words]
    with (folder.path / LOG).open("ab") as log:
        log.write(f"$ {shlex.join(words)}\n".encode())
        log.flush()
        return subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _await_lock(folder: RunFolder, child: "subprocess.Popen[bytes]", patience: float = 30.0) -> None:
    """Wait until the process has taken the run's lock, so that it does not look interrupted while it starts."""
    limit = time.monotonic() + patience
    while time.monotonic() < limit and child.poll() is None and not folder.alive:
        time.sleep(0.05)
    if child.poll() not in (None, 0) and folder.status["state"] in ("interrupted", *LIVE):
        raise TrainError(f"The run {folder.id} could not be started; the end of its {LOG} says why.")


# -- rows of the table ------------------------------------------------------------------------------------------------


def row(folder: RunFolder) -> dict[str, Any]:
    """One run as a list shows it. A folder that cannot be read is a row that says so."""
    try:
        config = folder.config
        kind = DistillRecipe if config.get("kind") == "distill" else Recipe
        departures = kind.from_json(config["recipe"]).departures()
    except (TrainError, ValueError, TypeError) as error:
        return {"id": folder.id, "state": "unreadable", "message": str(error), "created": 0.0}
    status, summary = folder.status, folder.summary
    done, gate, created = summary.get("done", {}), summary.get("gate", {}), config.get("created")
    return {
        "id": folder.id,
        "kind": config.get("kind", "train"),
        "model": config["model"],
        "set": config.get("set"),
        "preset": config.get("preset"),
        "state": status["state"],
        **{name: status.get(name) for name in ("stage", "at", "of", "left", "message", "ahead")},
        "tau": gate.get("tau"),
        "gated": gate.get("share"),
        **_before_after(summary),
        "minutes": done["seconds"] / 60 if done.get("seconds") is not None else None,
        "usd": done.get("usd"),
        "owner": config.get("owner"),
        "created": created,
        "note": config.get("note", ""),
        "differs": {name: ours for name, (_, ours) in departures.items()},
        "has_adapter": (folder.path / "adapter" / "adapter_config.json").is_file(),
        "by_construction": config["model"] == "mini",
        "command": shlex.join(config.get("command", [])),
    }


def _before_after(summary: Mapping[str, Any]) -> dict[str, Any]:
    """pass@1 before and after: of the final check, else of the validation checks so far."""
    done = summary.get("done", {})
    if done.get("after"):
        return {"before": done["before"], "after": done["after"], "vs_base": done["vs_base"], "on": done.get("split")}
    checks = [check for _, check in sorted(summary.get("checks", {}).items(), key=lambda item: int(item[0]))]
    if not checks:
        return {"before": None, "after": None, "vs_base": None, "on": None}
    best = next((c for c in reversed(checks) if c.get("best")), checks[-1])
    after = best if best["optimizer_step"] else {}
    return {
        "before": checks[0]["pass@1"],
        "after": after.get("pass@1"),
        "vs_base": after.get("vs_base"),
        "on": "validation",
    }
