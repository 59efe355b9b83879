"""How events of the page are wired: quietly, outside the public API, streams beside each other; what all tabs do."""

import functools
import html
import logging
import unicodedata
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from rmx.engine.decoding_memory import is_out_of_memory, out_of_memory
from rmx.engine.fair_queue import Kind, as_owner, iterate_as_owner
from rmx.errors import RmxError
from rmx.storage.job_store import JobStore
from rmx.ui.background import prefetch
from rmx.ui.jobs.page_jobs import TOO_LONG, Message, OpenPages
from rmx.ui.request_log import observed

log = logging.getLogger(__name__)
Reply = dict[str, Any]
Who = Callable[[Any], str | None]  # names the visitor behind a request
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LIGHT: dict[str, Any] = {**QUIET, "queue": False}
# The engine has a fair queue of its own; these only bound how many threads wait in it. All events of one id must name
# the same limit: gradio takes the lowest.
STREAM: dict[str, Any] = {**QUIET, "concurrency_id": "engine", "concurrency_limit": 24, "trigger_mode": "multiple"}
MEASURE: dict[str, Any] = {**STREAM, "concurrency_id": "measured", "concurrency_limit": 16}
PLAN: dict[str, Any] = {**QUIET, "concurrency_id": "plan", "concurrency_limit": 2}


def literal(words: object) -> str:
    """Make words safe inside Markdown: shown as they are, no markup, link, picture or formula."""
    return "".join(_shown(c) for c in " ".join(str(words).split()))


def _shown(c: str) -> str:
    """Letters, digits and spaces as they are; a character that is hidden or changes the direction by its number."""
    if c.isalnum() or c == " ":
        return c
    hidden = unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\u200c\u200d"
    return f"⟪{ord(c):04x}⟫" if hidden else f"&#{ord(c)};"


def shows_errors(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Have an RmxError in a callback become a toast with its sentence."""

    @functools.wraps(callback)
    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except RmxError as error:
            shown = html.escape(str(error), quote=False)  # gradio shows its message as HTML
            raise gr.Error(shown, print_exception=False, title="Not possible") from error

    return function


def nobody(request: Any) -> None:
    """Name no visitor, where they are not told apart."""


def payload(event: gr.EventData) -> dict[str, Any]:
    """What the page has sent with an event; nothing where it is no object."""
    return event._data if isinstance(event._data, dict) else {}


def refused(error: RmxError, **about: Any) -> Message:
    """A message that something is not done, and why; `about` may hold a `kind` in place of "refused"."""
    return {"kind": "refused", "error": str(error), **about}


class StreamTab:
    """Callbacks of a tab whose work, in the store `jobs`, is streamed; each open page has one piece of it at a time."""

    def __init__(self, jobs: JobStore[Any], who: Who = nobody) -> None:
        self.jobs, self.who, self.visitors = jobs, who, OpenPages()

    def run(
        self,
        verb: str,
        request: gr.Request,
        start: Callable[[], Any],
        stream: Callable[[Any], Iterator[Message]],
        about: Callable[[Any], dict[str, Any]],
        refusal: Callable[[RmxError], Message] = refused,
        kind: Kind | None = None,
    ) -> Generator[Message, None, None]:
        """Start a job and yield its messages, or one that says why it cannot be started.

        Args:
            verb: what the request log calls it. about: what the log says of the job at the end.
            start, stream: make the job, and its messages, as the work of who asks.
            kind: of the work, for the line of the model.
        """
        try:
            with as_owner(self.who(request)):
                job = start()
        except RmxError as error:
            yield refusal(error)
            return
        self.visitors.begin(request.session_hash, job)
        steps = iterate_as_owner(self.who(request), stream(job), kind)
        yield from observed(verb, prefetch(steps, job.halt), lambda: about(job))

    def halt(self, event: gr.EventData) -> None:
        """Stop the work that an event names, within one step; unknown ids are ignored."""
        data = payload(event)
        self.jobs.halt(data.get("id", data.get("run")))

    def leave(self, request: gr.Request) -> None:
        """End what a page was doing that is closed."""
        self.visitors.leave(request.session_hash)


def answering(question: Callable[[object], Reply], who: Who = nobody) -> Callable[..., Reply]:
    """Make a function that the page may call: mistakes and faults become `{"error": sentence}`."""

    def server_function(data: Any, request: gr.Request | None = None) -> Reply:
        try:
            with as_owner(who(request) if request is not None else None):
                return question(data)
        except RmxError as error:
            return {"error": str(error)}
        except Exception as error:
            if is_out_of_memory(error):
                return {"error": out_of_memory(TOO_LONG)}
            log.exception("the question %s has failed", getattr(question, "__name__", "of a page"))
            return {"error": "This did not work, and it is a fault of rmx. Its log says more."}

    return server_function


def answers(who: Who, **questions: Callable[[object], Reply]) -> dict[str, Callable[..., Reply]]:
    """What the page may ask of a view, by name, as the work of who asks."""
    return {name: answering(question, who) for name, question in questions.items()}
