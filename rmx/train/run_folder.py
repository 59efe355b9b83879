"""A run's folder: what it was asked, how it stands, what happened. Readers need nothing but these files.

A run is alive while a process holds an exclusive lock on its file `lock`. The system frees the lock when the process
ends, however it ends, so a run that was killed is known by its status and the missing lock. Nothing here needs torch.
"""

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rmx.errors import TrainError

CONFIG, STATUS, EVENTS, SUMMARY = "config.json", "status.json", "events.jsonl", "summary.json"
LOCK, STOP, LOG = "lock", "stop", "log.txt"
LIVE = ("queued", "running", "stopping")  # states of a run that some process works on
OVER = ("stopped", "interrupted", "failed", "done")
KEPT = ("rollouts", "selection", "gate", "done", "guard", "early")  # kinds whose last event the summary holds
LOOK = 0.2  # seconds between two looks for the stop file


class RunFolder:
    """One run on disk. Many may read it; the process that holds its lock writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self._log: IO[bytes] | None = None
        self._summary: dict[str, Any] | None = None
        self._looked, self._stop = 0.0, False

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """What the run was asked.

        Raises:
            TrainError: this is no run's folder.
        """
        found = _read(self.path / CONFIG)
        if not isinstance(found, dict) or "recipe" not in found:
            raise TrainError(f"{self.path.name} is not a run: its config.json is missing or cannot be read.")
        return found

    @property
    def status(self) -> dict[str, Any]:
        """How it stands; "alive" says whether a process works on it."""
        found = _read(self.path / STATUS)
        status = found if isinstance(found, dict) else {"state": "stopped", "message": "It has not begun."}
        alive = self.alive
        if not alive and status.get("state") in LIVE:
            lost = "Its process ended without a word. Resume goes on from the last checkpoint."
            status |= {"state": "interrupted", "message": lost, "left": None}
        if alive and status.get("state") == "running" and (self.path / STOP).exists():
            status["state"] = "stopping"
        return status | {"alive": alive}

    @property
    def state(self) -> str:
        return str(self.status["state"])

    @property
    def alive(self) -> bool:
        """Whether some process holds the lock."""
        try:
            with (self.path / LOCK).open("rb") as file:
                return not _try_lock(file, fcntl.LOCK_SH)
        except OSError:
            return False

    @property
    def summary(self) -> dict[str, Any]:
        """The last event of each kind that a list of runs needs, and the checks."""
        found = _read(self.path / SUMMARY)
        return found if isinstance(found, dict) else {"checks": {}}

    def events(self, start: int = 0, most: int = -1) -> tuple[list[dict[str, Any]], int]:
        """Whole events from byte `start` on, and the byte where the next begins. A torn last line is left for later.

        Args:
            most: bytes to read at most; all by default. A longer line than that is never split.
        """
        try:
            with (self.path / EVENTS).open("rb") as file:
                file.seek(start)
                data = file.read(most)
                if most > 0 and b"\n" not in data:
                    data += file.readline()
        except OSError:
            return [], start
        whole = data[: data.rfind(b"\n") + 1]
        found = (_parsed(line) for line in whole.splitlines())
        return [event for event in found if event is not None], start + len(whole)

    # -- writing ------------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the process of this run for the length of a `with` block.

        Raises:
            TrainError: another process is.
        """
        with _disk(self.path), (self.path / LOCK).open("a+b") as file:
            if not _take_lock(file):
                raise TrainError(f"The run {self.id} is under way already. Stop it first: rmx runs stop {self.id}")
            try:
                yield
            finally:
                if self._log is not None:
                    self._log.close()
                    self._log = None

    def create(self, config: Mapping[str, Any]) -> None:
        """Write the config of a new run."""
        with _disk(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / CONFIG, config)

    def event(self, kind: str, figures: Mapping[str, Any]) -> None:
        """Append one event; those that lists of runs need go into the summary too."""
        event = clean({"t": round(time.time(), 3), "kind": kind, **figures})
        with _disk(self.path):
            if self._log is None:
                self._log = self._open_events()
            self._log.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
            self._log.flush()
            self._sum_up(kind, event)

    def set_status(self, **figures: Any) -> None:
        """Replace the fields given; the others stay."""
        found = _read(self.path / STATUS)
        status = found if isinstance(found, dict) else {}
        with _disk(self.path):
            write_json(self.path / STATUS, clean({**status, **figures, "updated": round(time.time(), 3)}))

    def change(self, config: Mapping[str, Any]) -> None:
        """Replace what the run was asked, before it does it."""
        with _disk(self.path):
            write_json(self.path / CONFIG, config)

    def note(self, text: str) -> None:
        """Replace the run's note."""
        with _disk(self.path):
            write_json(self.path / CONFIG, {**self.config, "note": text[:2000]})

    def _open_events(self) -> IO[bytes]:
        """Open for appending, without the line that a crash may have torn."""
        path = self.path / EVENTS
        if path.exists():
            data = path.read_bytes()
            os.truncate(path, data.rfind(b"\n") + 1)
        return path.open("ab", buffering=0)

    def _sum_up(self, kind: str, event: dict[str, Any]) -> None:
        if self._summary is None:
            self._summary = self.summary
        if kind in KEPT:
            self._summary[kind] = event
        elif kind == "check":
            self._summary.setdefault("checks", {})[str(event["optimizer_step"])] = event
        else:
            return
        write_json(self.path / SUMMARY, self._summary)

    # -- stopping -----------------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Ask the run's process to end at its next step."""
        with _disk(self.path):
            (self.path / STOP).touch()

    def clear_stop(self) -> None:
        (self.path / STOP).unlink(missing_ok=True)
        self._stop = False

    def stop_now(self) -> None:
        """The same request from within the process, as a signal makes it."""
        self._stop = True

    def stop_wanted(self) -> bool:
        """Whether a stop was asked for; looks at the disk a few times a second at most."""
        if not self._stop and time.monotonic() - self._looked > LOOK:
            self._looked, self._stop = time.monotonic(), (self.path / STOP).exists()
        return self._stop


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one move, forced to disk."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def clean(value: Any) -> Any:
    """The same for JSON: numbers that are none become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None


def _take_lock(file: IO[bytes], patience: float = 2.0) -> bool:
    """Take the lock; whoever only looks whether it is free holds it for a moment, so one try is not enough."""
    limit = time.monotonic() + patience
    while not _try_lock(file, fcntl.LOCK_EX):
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


def _try_lock(file: IO[bytes], kind: int) -> bool:
    """Take the lock if it is free; it is given back when the file is closed."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """What the disk says against it, as a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TrainError(f"The disk of {path.parent} is full. Make room, then resume the run.") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise TrainError(f"{path.parent} cannot be written to ({error.strerror}). Set RMX_RUNS.") from error
        raise
