"""How far a long job is, for whoever waits for it: a bar on a terminal, a line every few seconds in a log.

All of it goes to stderr, so that stdout holds what a command prints and nothing else.
"""

import os
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

EVERY = 5.0  # seconds between two lines of a log


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar without the thread that looks after stalled ones: jobs fork and start processes."""

    monitor_interval = 0


class Progress:
    """The progress of one job, stage by stage, on stderr; a context manager, which ends its last line."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = sys.stderr if file is None else file
        self._bar: Any = None
        self._what, self._line = "", ""
        self._began = self._due = time.monotonic()
        self._shown = True  # whether the last line of the log is written

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, what: str, at: int, of: int, note: str = "") -> None:
        """Say that `at` of `of` are done of a stage, with a note; another `what` begins another stage."""
        if what != self._what:
            self.close()
            self._what, self._began = what, time.monotonic()
            self._due = self._began + EVERY
        if self._file.isatty():
            self._draw(at, of, note)
            return
        seconds = time.monotonic() - self._began
        self._line = f"{what}: {at:,} of {of:,}" + (f", {note}" if note else "") + f", {seconds:.0f} s"
        self._shown = False
        if time.monotonic() >= self._due:
            self._write()
            self._due = time.monotonic() + EVERY

    def say(self, line: str) -> None:
        """Print a line of the command's own output on stdout, clear of the bar."""
        if self._bar is not None:
            self._bar.clear()
        print(line, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """End a stage: the bar stays as it is, and a log gets the line that it was not due for."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if not self._shown:
            self._write()
        self._what = ""

    def _draw(self, at: int, of: int, note: str) -> None:
        if self._bar is None:
            size: dict[str, Any] = {"dynamic_ncols": True} if _knows_width(self._file) else {"ncols": 80, "nrows": 24}
            self._bar = _Bar(total=of, desc=self._what, file=self._file, mininterval=0.2, **size)
        self._bar.total = of
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(at - self._bar.n)

    def _write(self) -> None:
        print(self._line, file=self._file, flush=True)
        self._shown = True


def _knows_width(file: TextIO) -> bool:
    """Whether a terminal says how wide it is; one of a container may say 0."""
    try:
        return os.get_terminal_size(file.fileno()).columns > 0
    except OSError:
        return False
