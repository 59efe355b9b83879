"""JSON from outside and on disk: strict values, files that survive a crash, and kept lines.

A value from outside that is not as expected raises an error with one sentence, and so does a disk that refuses. JSON is
replaced in one move, lines are appended whole.

What was computed once is kept as lines of JSON in a folder for each key, bounded in bytes, the oldest out first. A
folder has one file for each process that wrote into it, so that none waits for another, and a torn last line, of a
process that was killed, harms nothing. A file of `PART_BYTES` bytes is followed by another, so that what is old can go.
"""

import errno
import hashlib
import json
import logging
import math
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rmx.config import cache_dir
from rmx.errors import RmxError, TrainError

MOST_CHARACTERS = 4_000_000  # of a document
MOST_ID = 2**31 - 1
# An escaped surrogate behind an even number of backslashes: two that make one character, or (group 2) half of one.
_SURROGATE = re.compile(
    r"(?<!\\)((?:\\\\)*)(?:\\u[dD][89abAB]HH\\u[dD][c-fC-F]HH|(\\u[dD][89a-fA-F]HH))".replace("HH", "[0-9a-fA-F]{2}")
)


class DocumentError(RmxError):
    """A document that is not what it should be, or not a whole one."""


def parse(text: str, most: int = MOST_CHARACTERS) -> Any:
    """JSON from outside, strictly: no NaN, no depth or number that breaks the reader, or DocumentError."""
    if len(text) > most:
        raise DocumentError(f"The file has {len(text) / 1e6:.1f} million characters; at most {most / 1e6:g} are read.")
    try:
        return json.loads(without_half_characters(text), parse_constant=_no_constant)
    except RecursionError as error:
        raise DocumentError("The file is nested too deeply to be a trace.") from error
    except ValueError as error:
        raise DocumentError(f"The file is not JSON: {str(error)[:120]}.") from error


def without_half_characters(document: str) -> str:
    """JSON text in which a question mark stands for each lone surrogate, written out or escaped."""
    return _SURROGATE.sub(lambda found: f"{found[1]}?" if found[2] else found[0], whole(document))


def whole(text: str) -> str:
    """Text with a question mark for each lone surrogate: half a character, which UTF-8 cannot say."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text  # itself: one text that thousands of tokens share stays one


def sendable(value: Any) -> Any:
    """A value that a page can be sent: no half characters; null for numbers that are none or have over 64 bits."""
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return None
    if isinstance(value, Mapping):
        return {sendable(key): sendable(item) for key, item in value.items()}
    return [sendable(item) for item in value] if isinstance(value, list | tuple) else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def to_dict(value: Any, what: str) -> dict[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise DocumentError(f"{what} must be a JSON object; got {said(value)}.")
    return value


def to_list(value: Any, what: str, most: int) -> list[Any]:
    """Return a list of at most `most` entries."""
    if not isinstance(value, list):
        raise DocumentError(f"A list was expected for {what}; got {said(value)}.")
    if len(value) > most:
        raise DocumentError(f"There are {len(value):,} entries for {what}; at most {most:,} are read.")
    return value


def to_int(value: Any, what: str, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise DocumentError(f"A whole number from {low} to {high} was expected for {what}; got {said(value)}.")
    return value


def to_number(value: Any, what: str, low: float, high: float) -> float:
    """Return a finite number from `low` to `high`."""
    if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
        raise DocumentError(f"A number from {low:g} to {high:g} was expected for {what}; got {said(value)}.")
    return float(value)


def to_text(value: Any, what: str, most: int) -> str:
    """Return a text of at most `most` characters."""
    if not isinstance(value, str):
        raise DocumentError(f"A text was expected for {what}; got {said(value)}.")
    if len(value) > most:
        raise DocumentError(f"The text for {what} has {len(value):,} characters; at most {most:,} are read.")
    return whole(value)


def to_maybe(value: Any, what: str, most: int) -> str | None:
    """Return a text of at most `most` characters, or None."""
    return None if value is None else to_text(value, what, most)


def to_ids(value: Any, what: str, most: int) -> tuple[int, ...]:
    """Return token ids: at least one, at most `most`."""
    ids = to_list(value, what, most)
    if not ids:
        raise DocumentError(f"There are no ids for {what}.")
    return tuple(to_int(i, what, 0, MOST_ID) for i in ids)


def said(value: Any) -> str:
    """A value in a sentence: short, whatever it is."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return json.dumps(value, ensure_ascii=False)[:60]


# -- Files that survive a crash ---------------------------------------------------------------------------------------


log = logging.getLogger(__name__)
FULL = "The disk is full. Make room, then resume the run."
PART = ".part"  # ends the names of files that are not whole yet
LONGEST = 4 << 20  # bytes of an event that is still read where reading is bounded
BLOCK = 1 << 16  # bytes that are looked at together for the end of the last whole line


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Raise errors of the disk in a `with` block as TrainError: full, gone, not to be written to, without locks.

    Visitors may read the sentence, so only the log names the place of `path`.
    """
    try:
        yield
    except OSError as error:
        if (refusal := _refusal(error, path.name)) is None:
            raise
        log.warning("%s: %s", path, error)
        raise TrainError(refusal) from error


def _refusal(error: OSError, name: str) -> str | None:
    """Describe a disk's error on the file or folder `name`; None for errors that disks do not make."""
    if is_full(error):
        return FULL
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"The folder of the runs cannot be written to ({error.strerror}). Set RMX_RUNS."
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{name} is a file, not a folder. Name another."
    if error.errno == errno.ENOENT:
        return f"{name} is gone; somebody has removed it."
    if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        return "The disk of the runs knows no locks. Set RMX_RUNS to a local one."
    return None


def is_full(error: BaseException) -> bool:
    """Whether an error means that a disk is full; libraries that write tensors have words of their own for it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return os.strerror(errno.ENOSPC) in str(error)


def write_text(path: str | Path, text: str) -> None:
    """Write a file that a user named, or raise RmxError."""
    try:
        Path(path).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise RmxError(f"Cannot write {path}: {error.strerror}.") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where it is missing or is none. A link is not followed out of a run's folder."""
    try:
        return None if path.is_symlink() else _parsed(path.read_bytes())
    except OSError:
        return None


# What JSON may hold and no page can be sent: halves of surrogate pairs, numbers that are none, endless integers.
_SUSPECT = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\d{19}|NaN|Infinity|[eE]\+?\d{3}")


def _parsed(data: bytes) -> Any:
    """The value of some JSON, fit to be sent on; None where it is none, as when reading began inside a line."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return sendable(value) if _SUSPECT.search(data) else value


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one move, forced to disk; whatever goes wrong, the old one stays whole."""
    data = dumped(content)
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{PART}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def clear_parts(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left."""
    for part in folder.glob(f"*.json.*{PART}"):
        part.unlink(missing_ok=True)


def dumped(content: Any) -> bytes:
    """JSON in UTF-8, fit to be sent on."""
    return json.dumps(sendable(content), ensure_ascii=False).encode()


class Lines:
    """A file that grows by whole lines, of one writer; opening it cuts off the line that a crash may have torn."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        os.ftruncate(self._fd, _whole(self._fd))

    def append(self, content: Any) -> int:
        """One more line, whole or not at all; returns where it ends."""
        line = memoryview(dumped(content) + b"\n")
        start = end = os.fstat(self._fd).st_size
        try:
            while line:
                written = os.write(self._fd, line)
                line, end = line[written:], end + written
        except OSError:
            os.ftruncate(self._fd, start)
            raise
        return end

    def close(self) -> None:
        os.close(self._fd)


def read_lines(path: Path, start: int = 0, most: int = -1) -> tuple[list[Any], int]:
    """Whole lines from byte `start` on, and the byte where the next one begins. A torn last line is left for later.

    A line longer than `most` bytes, all that is read, is not split; of more than `LONGEST` bytes it is passed over.
    """
    try:
        with path.open("rb") as file:
            if start > os.fstat(file.fileno()).st_size:
                return [], start
            file.seek(start)
            data = file.read(most)
            if most > 0 and b"\n" not in data:
                data += file.readline(LONGEST)
                if len(data) > LONGEST and not data.endswith(b"\n"):  # pass it over, where it has an end yet
                    ended = any(piece.endswith(b"\n") for piece in iter(lambda: file.readline(BLOCK), b""))
                    return [], file.tell() if ended else start
    except OSError:
        return [], start
    whole = data[: data.rfind(b"\n") + 1]
    found = (_parsed(line) for line in whole.split(b"\n"))
    return [event for event in found if event is not None], start + len(whole)


def _whole(fd: int) -> int:
    """Bytes up to the end of the last whole line."""
    at = os.fstat(fd).st_size
    while at > 0:
        start = max(0, at - BLOCK)
        cut = os.pread(fd, at - start, start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        at = start
    return 0


# -- What was computed once, kept on disk as lines of JSON ------------------------------------------------------------


PIECE = 1 << 20  # bytes that are read at once
PART_BYTES = 32 << 20  # bytes of a file
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
            if self._lines.append(row) >= PART_BYTES:
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
