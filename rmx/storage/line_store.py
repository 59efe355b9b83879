"""What was computed once, kept on disk as lines of JSON: a folder for each key, bounded in bytes, the oldest out first.

A folder has one file for each process that wrote into it, so that none waits for another, and a torn last line, of a
process that was killed, harms nothing. A file of `PART` bytes is followed by another, so that what is old can go.
"""

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rmx.errors import RmxError
from rmx.paths import cache_dir
from rmx.storage.safe_files import Lines, is_full, read_lines

log = logging.getLogger(__name__)
PIECE = 1 << 20  # bytes that are read at once
PART = 32 << 20  # bytes of a file
MOST_GB = 4.0  # of all files together; `RMX_KEPT_GB` overrides


def most_bytes() -> int:
    """Bytes that all kept lines may take together; raises RmxError where `RMX_KEPT_GB` is no number above 0."""
    given = os.environ.get("RMX_KEPT_GB", "")
    try:
        gigabytes = float(given) if given else MOST_GB
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < 1e9:
        raise RmxError(f"RMX_KEPT_GB is a number of gigabytes above 0, such as 4; got '{given[:40]}'.")
    return int(gigabytes * 1e9)


class LineStore:
    """The folders of lines on this machine's disk, by default in the cache folder; `keep` False keeps nothing."""

    def __init__(self, folder: Path | None = None, *, keep: bool = True) -> None:
        self.folder = (folder or cache_dir() / "samples") if keep else None
        self._most = most_bytes()

    def lines(self, **key: Any) -> "KeptLines":
        """The lines of one key: whatever decides what stands in them."""
        if self.folder is None:
            return KeptLines(None)
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
        return KeptLines(self.folder / name, self.trim)

    def trim(self, most: int | None = None) -> None:
        """Forget the lines that were written longest ago where all take more than `most` bytes, or `RMX_KEPT_GB`.

        Files that somebody is writing to are among the newest; one that vanishes meanwhile is not missed.
        """
        most = self._most if most is None else most
        found = []
        for path in self.folder.glob("*/*.jsonl") if self.folder else ():
            with suppress(OSError):
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found)[:-1]:
            if left <= most:
                return
            with suppress(OSError):
                path.unlink()
                left -= size


class KeptLines:
    """The lines of one folder, or of none; `on_part` is called when a file is full or its writer is done."""

    def __init__(self, folder: Path | None, on_part: Callable[[], None] = lambda: None) -> None:
        self._folder, self._on_part = folder, on_part
        self._lines: Lines | None = None
        self.fault: str | None = None  # why nothing more is kept

    def read(self) -> Iterator[Any]:
        """The lines of all files, a piece of a file at a time."""
        if self._folder is None:
            return
        for path in sorted(self._folder.glob("*.jsonl")):
            start = 0
            while (read := read_lines(path, start, PIECE))[1] > start:
                rows, start = read
                yield from rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Keep a line. A disk that refuses costs what is kept, not the work."""
        if self._folder is None or self.fault is not None:
            return
        try:
            if self._lines is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._lines = Lines(self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.jsonl")
            if self._lines.append(row) >= PART:
                self.close()
        except OSError as error:
            why = "is full" if is_full(error) else f"cannot be written to ({error.strerror})"
            self.fault = f"The disk of the samples {why}: what is computed now is not kept."
            log.warning("%s: %s", self._folder, self.fault)  # strangers may read the fault, but no path

    def close(self) -> None:
        """Close the file, if one was opened."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None
            self._on_part()
