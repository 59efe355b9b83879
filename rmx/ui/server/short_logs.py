"""Logs that stay short whatever strangers send: a wrong value of 60 kB is not written down, and no traceback twice."""

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import gradio as gr
import gradio.queueing
import gradio.routes

log = logging.getLogger(__name__)
LONGEST = 2000  # characters of a message, and of a traceback
MOST = 200  # characters of a value in a message, and of what an exception says
CHAIN = 3  # exceptions of a chain, each the cause of the next, that are written down: the newest
FRAMES = 20  # of a traceback that are looked at, the innermost


def keep_logs_short() -> None:
    """Bound every record that this process logs from now on, and have gradio log what it would print."""
    if not isinstance(logging.getLogRecordFactory(), _ShortRecords):
        logging.setLogRecordFactory(_ShortRecords(logging.getLogRecordFactory()))
    # Gradio prints what goes wrong in an event, and takes a wrong value for something that has gone wrong.
    printer = SimpleNamespace(print_exc=lambda *_, **__: log_fault(sys.exc_info()[1]))
    for module in (gradio.queueing, gradio.routes):
        setattr(module, "traceback", printer)  # noqa: B010 - the name is theirs


def log_fault(error: BaseException | None) -> None:
    """Log what gradio has caught: a visitor's mistake by what it says, anything else with where it came from."""
    if isinstance(error, gr.Error):
        log.warning("a request was refused: %s", error)
    else:
        log.error("an event has failed", exc_info=error)


class _ShortRecords:
    """Makes records as `make` does, and cuts them. Handlers and formatters, whosever they are, see them cut."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.make(*args, **kwargs)
        if isinstance(record.args, Mapping):
            record.args = {name: _cut(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(_cut, record.args))
        if isinstance(record.msg, str):
            record.msg = record.msg[:LONGEST]
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = in_short(record.exc_info[1])  # which formatters take for what they have made themselves
        return record


def _cut(value: Any) -> Any:
    """What stands in a message: as it is, or the beginning of how it would be written."""
    if value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 4 * MOST):
        return value
    text = _text(value)
    return value if len(text) <= MOST else f"{text[: MOST - 1]}…"


def _text(value: Any) -> str:
    try:
        return str(value)
    except (ValueError, RecursionError):  # a number too long to be written out, a list too deep
        return f"a {type(value).__name__}"


def in_short(error: BaseException) -> str:
    """A traceback of at most about `LONGEST` characters: the innermost frames, and the beginning of its message."""
    chain = [error]
    while len(chain) < CHAIN:
        last = chain[-1]
        before = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if before is None or before in chain:
            break
        chain.append(before)
    return "\n".join(_frames_of(one, LONGEST // len(chain)) for one in reversed(chain))


def _frames_of(error: BaseException, room: int) -> str:
    message = f"{type(error).__name__}: " + _text(error)[:MOST].encode("unicode_escape").decode()[:MOST]
    frames: list[str] = []
    for frame in reversed(traceback.format_tb(error.__traceback__, limit=-FRAMES)):
        room -= len(frame)
        if room < len(message):
            break
        frames.insert(0, frame)
    return "".join(("Traceback (most recent call last):\n", *frames, message))


class SeldomRepeated(logging.Filter):
    """Let a message of the same template through once in a while: a server in distress says it at every connection."""

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.seconds, self._last = seconds, dict[str, float]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be written."""
        key, now = str(record.msg)[:200], time.monotonic()
        if now - self._last.get(key, -self.seconds) < self.seconds:
            return False
        if len(self._last) > 100:
            self._last.clear()
        self._last[key] = now
        return True


def calm_logs() -> None:
    """Have the event loop and the server say each thing at most once a minute."""
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(SeldomRepeated())
