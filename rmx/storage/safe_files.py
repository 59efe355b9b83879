"""Files that survive a crash: JSON replaced in one move, lines appended whole, and errors of the disk as sentences."""

import errno
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rmx.errors import RmxError, TrainError
from rmx.storage.strict_json import sendable

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
    """Write a file that a user named.

    Raises:
        RmxError: it cannot be written.
    """
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
        """Close the file."""
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
                if len(data) > LONGEST and not data.endswith(b"\n"):
                    return [], file.tell() if _passed_over(file) else start
    except OSError:
        return [], start
    whole = data[: data.rfind(b"\n") + 1]
    found = (_parsed(line) for line in whole.split(b"\n"))
    return [event for event in found if event is not None], start + len(whole)


def _passed_over(file: IO[bytes]) -> bool:
    """Go to the next line without keeping this one; False where it has no end yet."""
    while piece := file.readline(BLOCK):
        if piece.endswith(b"\n"):
            return True
    return False


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
