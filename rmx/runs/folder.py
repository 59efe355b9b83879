"""A run's folder: what it was asked, how it stands, what happened, and its lock. Readers need nothing but these files.

Whoever wrote the files, only what has the shape that readers count on is let in. What is wrong in one field costs that
field; other runs, and pages that list them, must not notice.

A run has a process while one holds an exclusive lock (`flock`) on its file `lock`, which the system frees however that
ends. Whoever starts a run takes the lock first and leaves it to the new process as an open file, so there is no moment
in which a started run looks dead, and nobody can start it twice. A run that is queued without a process has "flags" in
its status; it is under way as well.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rmx.config import is_number
from rmx.errors import TrainError
from rmx.storage.safe_files import PART, Lines, clear_parts, disk, read_json, read_lines, write_json

Fits = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


def is_estimate(value: Any) -> bool:
    """{"value", "low", "high", "n"}: the value is known, the others may be null or missing."""
    if not isinstance(value, Mapping) or not is_number(value.get("value")):
        return False
    return all(value.get(name) is None or is_number(value[name]) for name in ("low", "high", "n"))


CONFIG_SHAPE: dict[str, Fits] = {
    "id": is_text, "created": is_number, "kind": is_text, "owner": is_text, "note": is_text, "set": is_text,
    "preset": is_text, "adapter": is_text, "teacher": is_text, "from_rollouts": is_text, "server": is_text,
    "command": is_texts, "taus": is_numbers,
}  # fmt: skip
STATUS_SHAPE: dict[str, Fits] = {
    "state": is_text, "message": is_text, "stage": is_text, "at": is_number, "of": is_number, "left": is_number,
    "ahead": is_number, "started": is_number, "came": is_number, "pid": is_number, "updated": is_number,
    "flags": is_texts,
}  # fmt: skip
# Of the events that a summary keeps: what lists and tables read.
DONE: dict[str, Fits] = {
    "seconds": is_number, "usd": is_number, "before": is_estimate, "after": is_estimate, "vs_base": is_estimate,
    "split": is_text, "adapter": is_text,
}  # fmt: skip
GATE: dict[str, Fits] = {"tau": is_number, "share": is_number}
CHECK: dict[str, Fits] = {"optimizer_step": is_number, "pass@1": is_estimate, "vs_base": is_estimate}


def fitting(found: Mapping[str, Any], shape: Mapping[str, Fits]) -> dict[str, Any]:
    """Without the fields that do not fit; null, and what the shape does not name, is let through."""
    return {k: v for k, v in found.items() if v is None or k not in shape or shape[k](v)}


def config_of(found: Any) -> dict[str, Any] | None:
    """A run's config; None where it does not say what was asked."""
    if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict) or not is_text(found.get("model")):
        return None
    return fitting(found, CONFIG_SHAPE)


def summary_of(found: Any) -> dict[str, Any]:
    """The last event of each kind that was kept, and the checks by their update."""
    if not isinstance(found, dict):
        return {}
    events = {kind: event for kind, event in found.items() if isinstance(event, dict)}
    upto, checks = found.get("upto"), events.get("checks", {})
    events |= {name: fitting(events[name], shape) for name, shape in (("done", DONE), ("gate", GATE)) if name in events}
    if "done" in events:
        events["done"]["sweep"] = sweep_of(events["done"].get("sweep"))
    if checks:
        events["checks"] = {step: fitting(c, CHECK) for step, c in checks.items() if is_check(c) and step.isdigit()}
    return events | ({"upto": upto} if type(upto) is int and upto >= 0 else {})


def is_check(event: Any) -> bool:
    """Whether an event of the kind "check" says of which update it is and what it found."""
    if not isinstance(event, Mapping) or type(event.get("optimizer_step")) is not int:
        return False
    return is_estimate(event.get("pass@1"))


def sweep_of(found: Any) -> dict[str, Any] | None:
    """The curve of a sweep; None where there is none."""
    if not isinstance(found, dict) or not isinstance(found.get("taus"), list):
        return None
    taus = [one for one in found["taus"] if isinstance(one, dict) and is_number(one.get("tau"))]
    chosen = found.get("chosen") if any(one["tau"] == found.get("chosen") for one in taus) else None
    return found | {"taus": taus, "chosen": chosen}


# -- A run's folder ---------------------------------------------------------------------------------------------------


CONFIG, STATUS, EVENTS, SUMMARY = "config.json", "status.json", "events.jsonl", "summary.json"
SWEEP = "sweep.json"  # the curve of a sweep over thresholds, as far as it is known
LOCK, STOP, LOG = "lock", "stop", "log.txt"
LIVE = ("queued", "running", "stopping")  # states of a run that is under way
OVER = ("stopped", "interrupted", "failed", "done")
KEPT = ("rollouts", "selection", "gate", "done", "guard", "early")  # kinds whose last event the summary holds
DAMAGED = "Its status.json cannot be read. Resume goes on from what is kept of it."
LOOK = 0.2  # seconds between two looks for the stop file
LEFT = "RMX_RUN_LOCK"  # variable with the number of the open file that a starting process leaves to the new one
PATIENCE = 2.0  # seconds that another process may hold a lock that is wanted, as a look does


class RunFolder:
    """One run on disk. Many may read it; the process that holds its lock writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self.begun_for_us = False  # whether the process that started this one has put the run in the queue
        self._log: Lines | None = None
        self._summary: dict[str, Any] = {}
        self._looked, self._stop = 0.0, False

    @property
    def config(self) -> dict[str, Any]:
        """What the run was asked."""
        found = config_of(read_json(self.path / CONFIG))
        if found is None:
            raise TrainError(f"{self.path.name} is not a run: its config.json is missing or cannot be read.")
        return found

    @property
    def status(self) -> dict[str, Any]:
        """How it stands; "alive" says whether it is under way."""
        alive = self.held  # before the file: whoever ends in between has written the last word by then
        status = self._stored()
        if status["state"] not in LIVE:
            return status | {"alive": alive}
        alive = alive or _waits(status) or self.held  # or it began in between
        if not alive:
            damaged = status.get("message") == DAMAGED
            lost = DAMAGED if damaged else "Its process ended without a word. Resume goes on from the last checkpoint."
            status |= {"state": "interrupted", "message": lost, "left": None, "ahead": None}
        elif (self.path / STOP).exists():
            status["state"] = "stopping"
        return status | {"alive": alive}

    @property
    def state(self) -> str:
        return str(self.status["state"])

    @property
    def alive(self) -> bool:
        """Whether it is under way: some process works on it, or it is queued without one."""
        return self.waiting or self.held  # in this order: a process has the lock before the run waits no more

    @property
    def held(self) -> bool:
        """Whether some process works on it."""
        try:
            with (self.path / LOCK).open("rb") as file:
                return not _try_lock(file, fcntl.LOCK_SH)
        except OSError:
            return False

    @property
    def waiting(self) -> bool:
        """Whether it is queued without a process, to be started when its turn comes."""
        return _waits(self._stored())

    @property
    def flags(self) -> list[str]:
        """What a queued run is to be started with, behind `rmx train --resume ID`."""
        return list(self._stored().get("flags") or [])

    @property
    def pid(self) -> int | None:
        """The process that works on it; None where nobody does, or while it is only being started."""
        try:
            number = (self.path / LOCK).read_bytes()
        except OSError:
            return None
        return int(number) if number.isdigit() and self.held else None

    @property
    def summary(self) -> dict[str, Any]:
        """The last event of each kind that a list of runs needs, and the checks."""
        return summary_of(read_json(self.path / SUMMARY))

    @property
    def sweep(self) -> dict[str, Any] | None:
        """The curve of a sweep, with the thresholds that are trained so far; None of any other run."""
        return sweep_of(read_json(self.path / SWEEP))

    def events(self, start: int = 0, most: int = -1) -> tuple[list[dict[str, Any]], int]:
        """Whole events from byte `start` on, and the byte where the next begins; see `read_lines`."""
        found, after = read_lines(self.path / EVENTS, start, most)
        return [event for event in found if isinstance(event, dict) and is_text(event.get("kind"))], after

    def files(self, most: int = 500) -> list[dict[str, Any]]:
        """Its files as {"path", "bytes"}, by name; links and what is not whole yet are left out."""
        found = []
        for place, _, names in os.walk(self.path):
            for path in (Path(place) / name for name in names if not name.startswith(".") and not name.endswith(PART)):
                with suppress(FileNotFoundError):  # replaced or removed in between
                    about = path.lstat()
                    if stat.S_ISREG(about.st_mode):
                        found.append({"path": path.relative_to(self.path).as_posix(), "bytes": about.st_size})
        return sorted(found, key=lambda file: str(file["path"]))[:most]

    def _stored(self) -> dict[str, Any]:
        found, path = read_json(self.path / STATUS), self.path / STATUS
        begun = fitting(found, STATUS_SHAPE) if isinstance(found, dict) else {}
        told = found.get("state") if isinstance(found, dict) else path.exists()
        if told and begun.get("state") not in (*LIVE, *OVER):
            begun |= {"state": "running", "message": DAMAGED}  # interrupted, where no process works on it
        return {"state": "stopped", "message": "It has not begun."} | begun  # a process writes its pid before a state

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the process of this run for the length of a `with` block."""
        with disk(self.path):
            file = _inherited_lock(self.path / LOCK)
            self.begun_for_us = file is not None
            if file is None:
                file = self._free_lock()
                if self.waiting:
                    file.close()
                    raise self.under_way()
                self.clear_stop()  # one that was left for us may carry a stop that is meant for us
            file.seek(0)
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            clear_parts(self.path)
        try:
            yield
        finally:
            self.close()
            file.close()

    @contextmanager
    def lock_for_another(self) -> Iterator[int]:
        """Take the lock so that a new process gets it: yields the open file that it has to inherit."""
        with disk(self.path):
            file = self._free_lock()
        with file:
            yield file.fileno()

    def _free_lock(self) -> IO[bytes]:
        """The lock, given back by closing the file."""
        file, limit = (self.path / LOCK).open("a+b"), time.monotonic() + PATIENCE
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > limit:
                file.close()
                raise self.under_way()
            time.sleep(0.02)
        file.truncate(0)
        return file

    def under_way(self) -> TrainError:
        """What is said to who wants to begin it a second time."""
        return TrainError(f"The run {self.id} is under way already. Stop it first: rmx runs stop {self.id}")

    def create(self, config: Mapping[str, Any]) -> None:
        """Write the config of a new run."""
        with disk(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.change(config)

    def close(self) -> None:
        """Close the events; the next one opens them again."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def event(self, kind: str, figures: Mapping[str, Any]) -> None:
        """Append one event; those that lists of runs need go into the summary too."""
        event = {"t": round(time.time(), 3), "kind": kind, **figures}
        with disk(self.path):
            if self._log is None:
                self._log = Lines(self.path / EVENTS)
                self._summary = self.summary
                for told in self.events(self._summary.get("upto") or 0)[0]:  # by a process that was killed meanwhile
                    sum_up(self._summary, told)
            end = self._log.append(event)
            if sum_up(self._summary, event):
                write_json(self.path / SUMMARY, self._summary | {"upto": end})

    def set_status(self, **figures: Any) -> None:
        """Replace the fields given; the others stay."""
        found = read_json(self.path / STATUS)
        status = found if isinstance(found, dict) else {}
        with disk(self.path):
            write_json(self.path / STATUS, {**status, **figures, "updated": round(time.time(), 3)})

    def change(self, config: Mapping[str, Any]) -> None:
        """Replace what the run was asked, before it does it."""
        with disk(self.path):
            write_json(self.path / CONFIG, config)

    def note(self, text: str) -> None:
        """Replace the run's note."""
        self.change({**self.config, "note": text[:2000]})

    def request_stop(self) -> None:
        """Ask the run's process to end at its next step."""
        with disk(self.path):
            (self.path / STOP).touch()

    def clear_stop(self) -> None:
        (self.path / STOP).unlink(missing_ok=True)
        self._stop = False

    def stop_now(self) -> None:
        """The same request from within the process, as a signal makes it."""
        self._stop = True
        with suppress(TrainError):  # on a full disk it is still heeded, only not shown
            self.request_stop()

    def stop_wanted(self) -> bool:
        """Whether a stop was asked for; looks at the disk a few times a second at most."""
        if not self._stop and time.monotonic() - self._looked > LOOK:
            self._looked, self._stop = time.monotonic(), (self.path / STOP).exists()
        return self._stop


def _inherited_lock(path: Path) -> IO[bytes] | None:
    """The lock that the process which started this one took for it; None where there is none for this run."""
    number = os.environ.get(LEFT, "")
    try:
        if not number.isdigit() or not os.path.samestat(os.fstat(int(number)), path.stat()):
            return None
    except OSError:
        return None
    del os.environ[LEFT]  # for this process alone
    file = os.fdopen(int(number), "r+b")
    os.set_inheritable(file.fileno(), False)
    return file if _try_lock(file, fcntl.LOCK_EX) else None


def release_lock(number: int) -> None:
    """Give the lock of an open file back now, also where copies of this process still have the file open."""
    fcntl.flock(number, fcntl.LOCK_UN)


def _try_lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _waits(status: Mapping[str, Any]) -> bool:
    return status.get("state") == "queued" and status.get("flags") is not None


def sum_up(summary: dict[str, Any], event: Mapping[str, Any]) -> bool:
    """Take an event into a summary; whether it is one that belongs there."""
    if event["kind"] == "check":
        if not is_check(event):
            return False
        if event["optimizer_step"] == 0:  # of a sweep the next threshold begins
            summary["checks"] = {}
        summary.setdefault("checks", {})[str(event["optimizer_step"])] = event
    elif event["kind"] in KEPT:
        summary[event["kind"]] = event
    else:
        return False
    return True
