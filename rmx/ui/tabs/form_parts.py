"""What tabs share: how events are wired (outside the public API, streams beside each other), and parts of forms.

An answer belongs to one text and judges no other. A hidden third component holds the text and the answer that were
given together. Both boxes and it are sent with one click, so comparing them shows what an answer belongs to, whichever
event of the page came first.
"""

import functools
import html
import logging
import unicodedata
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch

from rmx.data.problem_sets import Example
from rmx.engine.decoding_memory import is_out_of_memory, out_of_memory
from rmx.engine.fair_queue import Kind, current_owner, iterate_as_owner
from rmx.errors import RmxError
from rmx.grading.answers import RULES
from rmx.mini.task import computed_answer
from rmx.models.load import download_of
from rmx.models.names import PRESETS, PairPreset
from rmx.models.style_options import AUTO
from rmx.models.workspace import Workspace
from rmx.prompt_styles import STYLES
from rmx.service.checks import Request
from rmx.storage.hub import Download
from rmx.storage.job_store import JobStore
from rmx.ui.jobs.page_jobs import FAULT, TOO_LONG, Message, OpenPages, observed, prefetch

log = logging.getLogger(__name__)
Reply = dict[str, Any]
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


def toast(error: RmxError) -> gr.Error:
    """What gradio shows as a toast with the sentence of an error."""
    return gr.Error(html.escape(str(error), quote=False), print_exception=False, title="Not possible")


def shows_errors(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Have an RmxError in a callback become a toast with its sentence."""

    @functools.wraps(callback)
    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except RmxError as error:
            raise toast(error) from error

    return function


def payload(event: gr.EventData) -> dict[str, Any]:
    """What the page has sent with an event; nothing where it is no object."""
    return event._data if isinstance(event._data, dict) else {}


def refused(error: RmxError, **about: Any) -> Message:
    """A message that something is not done, and why; `about` may hold a `kind` in place of "refused"."""
    return {"kind": "refused", "error": str(error), **about}


class StreamTab:
    """Callbacks of a tab whose work, in the store `jobs`, is streamed; each open page has one piece of it at a time."""

    def __init__(self, jobs: JobStore[Any]) -> None:
        self.jobs, self.visitors = jobs, OpenPages()
        self._downloads: dict[str, Download] = {}  # of the page that asked

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
            start, stream: make the job, and its messages.
            kind: of the work, for the line of the model.
        """
        try:
            job = start()
        except RmxError as error:
            yield refusal(error)
            return
        self.visitors.begin(getattr(request, "session_hash", None), job)  # a page that is not there yet has none
        steps = iterate_as_owner(current_owner.get(), stream(job), kind)
        yield from observed(verb, prefetch(steps, job.halt), lambda: about(job))

    def fetch(self, name: str, request: gr.Request) -> Iterator[str]:
        """Fetch what is not here of a model; yields what is to be said meanwhile."""
        download, session = download_of(name), str(request.session_hash)
        if download is None:
            return
        self._downloads[session] = download
        try:
            for come, missing, idle in download.steps():
                size = f"{come / 1e6:,.0f} of {missing / 1e6:,.0f} MB" if missing else "asking the Hub …"
                yield f"Fetching {literal(name)}: {size}" + (f", nothing for {idle:.0f} s" if idle > 5 else "")
        finally:
            self._downloads.pop(session, None)

    def cancel_download(self, request: gr.Request) -> None:
        """Stop what this page fetches."""
        if download := self._downloads.get(str(request.session_hash)):
            download.stopped.set()

    def halt(self, event: gr.EventData) -> None:
        """Stop the work that an event names, within one step; unknown ids are ignored."""
        data = payload(event)
        self.jobs.halt(data.get("id", data.get("run")))

    def leave(self, request: gr.Request) -> None:
        """End what a page was doing that is closed."""
        self.visitors.leave(request.session_hash)


class FetchNote:
    """What a page says in `note` of the models that a tab fetches, and the button below it that stops it."""

    def __init__(self, tab: StreamTab, space: Workspace, note: gr.Markdown, prefix: str) -> None:
        self.tab, self.space, self.note = tab, space, note
        self.cancel = gr.Button("Cancel", size="sm", visible=False, elem_id=f"{prefix}-cancel-download")
        self.cancel.click(tab.cancel_download, None, None, **LIGHT)

    def fetch_before(
        self, press: Callable[..., Any], names: Callable[..., Any], asked: list[Any]
    ) -> Callable[..., Any]:
        """Have a press of a button fetch models first; returns what wires the work that follows where they are here.

        Args:
            names: the models by the values of `asked`. One that may not be loaded is left to that work, which says why.
        """

        def is_missing(name: str) -> bool:
            if name not in self.space.loaded:
                with suppress(RmxError):
                    self.space.policy.admit_model(name)
                    return True
            return False

        def fetch(request: gr.Request, *values: Any) -> Iterator[tuple[Any, Any]]:
            over = gr.Button(visible=False)
            try:
                for name in filter(is_missing, names(*values)):
                    for said in self.tab.fetch(name, request):
                        yield said, gr.Button(visible=True)
            except RmxError as error:
                yield f"⚠ {literal(error)}", over
                raise toast(error) from error
            yield gr.skip(), over

        succeeded: Callable[..., Any] = press(fetch, asked, [self.note, self.cancel], **STREAM).success
        return succeeded


def answering(question: Callable[[Any], Reply]) -> Callable[[Any], Reply]:
    """Make a function that the page may call: mistakes and faults become `{"error": sentence}`."""

    def server_function(data: Any) -> Reply:
        try:
            return question(data)
        except RmxError as error:
            return {"error": str(error)}
        except Exception as error:
            if is_out_of_memory(error):
                return {"error": out_of_memory(TOO_LONG)}
            log.exception("the question %s has failed", getattr(question, "__name__", "of a page"))
            return {"error": FAULT}

    return server_function


# -- Parts that several forms share -----------------------------------------------------------------------------------


# A change of the text takes the answer away at once; white space alone is no change. (Not `.input`: gradio's text box
# sends it for some ways to write only.)
CLEAR = """(pair, text, answer) => {
  const words = (s) => String(s ?? "").trim().replace(/\\s+/g, " ");
  return words(text) === words(pair?.text) ? answer : "";
}"""
TYPED = """(pair, text, answer) =>
  answer === pair?.answer ? pair : {text, answer, ...(text === pair?.text && pair.set ? {set: pair.set} : {})}"""


@dataclass(frozen=True, slots=True)
class ProblemBoxes:
    """The boxes, and the pair that was given together: {"text", "answer", "set"?}."""

    pair: gr.JSON
    problem: gr.Textbox
    answer: gr.Textbox

    @property
    def all(self) -> list[Any]:
        """Inputs of `known_answer` after the model; outputs of whatever puts a problem with its answer here.

        The pair comes first, so that the change of a box never meets that of the problem before.
        """
        return [self.pair, self.problem, self.answer]


@dataclass(frozen=True, slots=True)
class Known:
    """The answer that a solution is judged by, None where none is known; `computed`: from the text, not given."""

    answer: str | None
    computed: bool = False


def together(problem: str, answer: str | None, set_name: str | None = None) -> tuple[dict[str, str], str, str]:
    """The values of all boxes for a problem with its answer; `set_name` says whose problem it is, if any set's."""
    about = {"set": set_name} if set_name else {}
    return {"text": problem, "answer": answer or ""} | about, problem, answer or ""


def set_of(pair: object, problem: object) -> str | None:
    """Find whose problem stands on the page; None for one of the visitor's own."""
    known = pair if isinstance(pair, dict) else {}
    same = str(problem or "").split() == str(known.get("text") or "").split()
    return str(known["set"]) if same and known.get("set") else None


def known_answer(spec: str, pair: object, problem: object, answer: object) -> Known:
    """Find the answer by which the problem on the page is judged.

    Args:
        spec: the model that is asked; for `mini` alone an answer is computed from the text.
        pair: the text and the answer that were given together. answer: counts unless it was given for another text.
    """
    text, given = str(problem or ""), str(answer or "").strip()
    known = pair if isinstance(pair, dict) else {}
    # An answer that differs from the pair's was typed since, for the text that stands there now.
    typed = given != str(known.get("answer") or "").strip()
    if given and (typed or text.split() == str(known.get("text") or "").split()):
        return Known(given)
    computed = computed_answer(text) if spec == "mini" else None
    return Known(computed, computed is not None)


def build_problem_boxes(first: Example, prefix: str = "") -> ProblemBoxes:
    """Lay the boxes out one below the other, filled with the first example."""
    pair, problem, answer = together(first.problem, first.answer)
    about: dict[str, Any] = {"label": "Known answer", "placeholder": placeholder(Known(None)), "max_lines": 1}
    boxes = ProblemBoxes(
        gr.JSON(pair, visible="hidden"),
        gr.Textbox(problem, label="Problem", lines=4, max_lines=12, elem_id=f"{prefix}problem"),
        gr.Textbox(answer, **about, elem_id=f"{prefix}answer", elem_classes="known-answer"),
    )
    boxes.problem.change(None, boxes.all, boxes.answer, js=CLEAR, **QUIET)
    boxes.answer.change(None, boxes.all, boxes.pair, js=TYPED, **QUIET)
    return boxes


def placeholder(known: Known) -> str:
    """The hint in an empty box of the known answer."""
    return f"computed from the text: {known.answer}" if known.computed else "none: nothing is judged"


def show_computed(spec: str, problem: str) -> Any:
    """The answer box with a hint which answer is computed where none is given."""
    return gr.Textbox(placeholder=placeholder(known_answer(spec, None, problem, "")))


def defaults_of(verb: type[Request]) -> dict[str, Any]:
    """What a form begins with: the arguments of a request where nothing is said."""
    return {name: field.default for name, field in verb.model_fields.items()}


def whole_number(value: int, label: str, elem_id: str, **about: Any) -> gr.Number:
    """A box for a whole number."""
    return gr.Number(value, label=label, precision=0, elem_id=elem_id, **about)


def seed_and_length(prefix: str, most: int) -> tuple[gr.Number, gr.Number]:
    """A row of two boxes: the seed, and how many tokens are made at most."""
    with gr.Row():
        seed = whole_number(0, "Seed", f"{prefix}seed", min_width=80)
        return seed, whole_number(most, "Most tokens", f"{prefix}max-new", min_width=80)


OWN = "own"  # the choice that opens the boxes for another pair


class StyleControls:
    """The folded "Prompt style": how a model is asked, what ends its completions, what counts as an answer."""

    def __init__(self, prefix: str) -> None:
        with gr.Accordion("Prompt style", open=False, elem_id=f"{prefix}-prompt-style"):
            own: dict[str, Any] = {"placeholder": "the style's own"}
            names = [("by the model", AUTO), *((name, name) for name in STYLES)]
            self.style = gr.Dropdown(names, value=AUTO, label="Style", elem_id=f"{prefix}-style")
            self.system = gr.Textbox(label="System line of a chat", max_lines=4, elem_id=f"{prefix}-system", **own)
            thinks = [("by the style", AUTO), ("on", "on"), ("off", "off")]
            self.thinking = gr.Radio(thinks, value=AUTO, label="Thinking", elem_id=f"{prefix}-thinking")
            own |= {"label": "Texts that end a completion", "info": r"One a line; \n stands for a line break."}
            self.stops = gr.Textbox(lines=2, elem_id=f"{prefix}-stops", **own)
            rules = [("by set and style", AUTO), *((rule, rule) for rule in RULES)]
            self.answers = gr.Radio(rules, value=AUTO, label="What counts as an answer", elem_id=f"{prefix}-answers")
        # The components, in the order of `style_options.from_form`.
        self.asked: list[Any] = [self.style, self.system, self.thinking, self.stops, self.answers]


class PairBoxes:
    """A list of pairs of models, the first one chosen, and boxes for another pair.

    Args:
        offers: whether a model may be chosen here. adapter: the label of the adapter's box.
    """

    def __init__(
        self, prefix: str, pairs: Mapping[str, PairPreset], offers: Callable[[str], bool], adapter: str
    ) -> None:
        gpu = torch.cuda.is_available()
        choices = [(f"{p.title} · {p.size(gpu)}".rstrip(" ·"), p.name) for p in pairs.values()]
        self.preset = gr.Dropdown(
            [*choices, ("another pair …", OWN)], value=next(iter(pairs)), label="Pair", elem_id=f"{prefix}-preset"
        )
        with gr.Group(visible=False, elem_id=f"{prefix}-own") as self.own:
            models = [(p.title, p.name) for p in PRESETS.values() if offers(p.name)]
            self.base = gr.Dropdown(
                models, value="mini", label="Base", allow_custom_value=True, elem_id=f"{prefix}-base"
            )
            self.adapter = gr.Textbox(label=adapter, elem_id=f"{prefix}-adapter")
            self.teacher = gr.Textbox(label="… or a full checkpoint", elem_id=f"{prefix}-teacher")

        # The components, in the order of `chosen_pair`.
        self.asked: list[Any] = [self.preset, self.base, self.adapter, self.teacher]


def chosen_pair(
    pairs: Mapping[str, PairPreset], preset: object, base: object, adapter: object = None, teacher: object = None
) -> PairPreset:
    """The pair that is chosen in `PairBoxes`: one of the list, or what stands in the boxes."""
    if (found := pairs.get(str(preset))) is not None:
        return found
    names = [str(name or "").strip() for name in (base, adapter, teacher)]
    return PairPreset(OWN, OWN, names[0] or "mini", names[1] or None, names[2] or None)
