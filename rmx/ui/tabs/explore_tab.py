"""The Explore tab: a problem, its solution with the forks marked, a swap, another answer.

Its view streams tokens. It gets one message of a run, in any order and any number of times, `{"run", "start",
"toks": [[text, entropy, p, rank, flags, others], ...], "open"?, "done", "result"?, "tree"?, "error"?}`; deltas can be
lost on the way (view not mounted, sleeping browser tab), then the page asks `tail` for the rest. Or one message of a
measuring job, `{"kind", "run", "job", "done", ...}`: the whole state of "outcomes" (of one place, "pos"), "importance",
"rescue", "sofar" or "ends" (of a solution).
It sends `view.pick`, `view.halt`, `view.next`, and for measuring `view.outcomes`, `view.importance`, `view.rescue`,
`view.sofar`, `view.ends`, `view.haltjob`. `view.verify` {"run"} asks to decode a recorded tree here, `view.opened`
{"problem", "answer", "tau"} has the form show what is on screen, and `view.pins` {"pins": [{"run", "pos"}, ...]} tells
all tokens pinned for training, at most eight, on each change.
Other components reach it by `window.rmx`: setTau, goto, presenter, tour, open.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import gradio as gr

from rmx.arguments import Sampling
from rmx.data.problem_sets import Example, examples, find_problem, load_set, of_kind
from rmx.engine.fair_queue import current_owner
from rmx.errors import ProblemError, RmxError
from rmx.explore.calibration import calibration_of
from rmx.explore.generate import Branch
from rmx.mini.task import coverage
from rmx.models.names import shipped_adapters
from rmx.models.style_options import from_form
from rmx.records import Problem
from rmx.storage.hub import DownloadStopped
from rmx.ui.jobs.explorer import Explorer, Measurements, Sharing
from rmx.ui.jobs.page_jobs import Message, observed, prefetch
from rmx.ui.settings import Settings
from rmx.ui.tabs import form_parts as parts
from rmx.ui.tabs.explore_form import BASE, GPU_PRESET, MOST_TAU, REAL, ExploreForm, listed_problems
from rmx.ui.tabs.form_parts import LIGHT, MEASURE, QUIET, STREAM, StreamTab, payload, refused, shows_errors, together
from rmx.ui.views import build_view

LOOKED_AT = 4000  # characters of a problem; a longer one is refused for its length


class ExploreTab(StreamTab):
    """Callbacks of the tab; each makes one library call and renders what came of it."""

    controls: ExploreForm
    view: gr.HTML

    def __init__(self, explorer: Explorer, settings: Settings) -> None:
        super().__init__(explorer.runs)
        self.explorer, self.settings = explorer, settings
        self._first: Branch | None = None  # what the first screen shows, solved once for all visitors
        self.measurements = Measurements(explorer)
        self.sharing = Sharing(explorer, settings.max_new_tokens)
        # A Space names its model in the settings; where that one could not be had, the bundled one opens. Nor does a
        # page that opens spend a visitor's GPU time where that is lent.
        loaded = explorer.workspace.loaded
        own = settings.model if settings.model and settings.model in loaded else "mini"
        self.spec = "mini" if explorer.workspace.remote_of(own) else own
        here = explorer.workspace.model(self.spec).adapters
        self.adapter = settings.adapter if settings.adapter in here else None

    def start(self, request: gr.Request, asked: Sequence[Any], **how: Any) -> Iterator[Message]:
        """Stream a new solution, or score a pasted one; `how` as `begin` takes it."""
        verb = "trace" if how.get("read") is None else "read"
        return self._branch(verb, request, lambda: self.begin(asked, **how))

    def _branch(self, verb: str, request: gr.Request, start: Callable[[], Branch]) -> Iterator[Message]:
        return self.run(verb, request, start, self.explorer.stream, outcome_of, _not_started)

    def begin(
        self, asked: Sequence[Any], read: str | None = None, show: int | None = None, anyway: bool = False
    ) -> Branch:
        """The solution that was asked for, not generated yet.

        Args:
            read: a pasted solution. show: the place to open when it is done.
            anyway: also where `mini` would only make noise of the problem.
        """
        model, adapter, pair, problem, answer, tau, temperature, top_p, seed, max_new, raw, *style = asked
        if None in (temperature, top_p, seed, max_new):
            what = "temperature, top-p, seed and the number of tokens"
            raise ProblemError(f"A decoding setting is empty. Fill in {what}.")
        sampling = Sampling(float(temperature), float(top_p), int(seed), int(max_new))
        if sampling.max_new_tokens > self.settings.max_new_tokens:
            raise RmxError(f"At most {self.settings.max_new_tokens} tokens here; got {sampling.max_new_tokens}.")
        spec = str(model or "mini").strip()
        if not (anyway or raw or read) and outside(spec, problem):
            raise ProblemError("Not solved: mini was not trained on such a text. What to do stands below Solve.")
        known = parts.known_answer(spec, pair, problem, answer)
        on = None if adapter in (None, "", BASE) else str(adapter).strip()
        about: dict[str, Any] = {"known": known.answer, "known_computed": known.computed, "raw": bool(raw)}
        about |= {"read": read, "show": show, "owner": current_owner.get().owner, "style": from_form(*style)}
        about["set_name"] = parts.set_of(pair, problem)
        return self.explorer.start(spec, on, str(problem or ""), sampling, tau, **about)

    def solve(self, request: gr.Request, *asked: Any) -> Iterator[Message]:
        """Stream the solution of the problem in the form."""
        yield from self.start(request, asked)

    def solve_anyway(self, request: gr.Request, *asked: Any) -> Iterator[Message]:
        """Stream the solution of the problem in the form, whatever the text is."""
        yield from self.start(request, asked, anyway=True)

    def read(self, request: gr.Request, text: str, *asked: Any) -> Iterator[Message]:
        """Score a pasted solution."""
        yield from self.start(request, asked, read=str(text or ""))

    def pick(self, event: gr.EventData, request: gr.Request) -> Iterator[Message]:
        """Stream the branch of a token that the visitor has picked."""
        yield from self._branch("swap", request, lambda: self.explorer.pick(event._data))

    def verify(self, event: gr.EventData, request: gr.Request) -> Iterator[Message]:
        """Decode a recorded tree here."""
        yield from self.again("verify", request, lambda begin: self.sharing.verify(event._data, begin))

    def again(
        self, verb: str, request: gr.Request, messages: Callable[[Callable[[Branch], Branch]], Iterator[Message]]
    ) -> Iterator[Message]:
        """Stream a tree that is decoded again, or the sentence why it cannot be."""
        made: list[Branch] = []

        def begin(run: Branch) -> Branch:
            made.append(self.visitors.begin(request.session_hash, run))
            return run

        def sums() -> dict[str, Any]:
            tokens = sum(len(run.tokens) - (run.at or 0) for run in made)
            return {"model": made[0].model.spec if made else None, "tokens": tokens}

        def halt() -> None:
            for run in made:
                run.halt()

        try:
            yield from observed(verb, prefetch(messages(begin), halt), sums)
        except RmxError as error:
            yield _not_started(error)

    def measure(self, kind: str) -> Callable[..., Iterator[Message]]:
        """Make a callback that starts a measuring job of the page and streams it."""

        def callback(event: gr.EventData, request: gr.Request) -> Iterator[Message]:
            data = payload(event)
            if kind == "ends" and self.visitors.busy(request.session_hash):
                yield {"kind": kind, "run": data.get("run"), "done": True}  # it never ends what a person began
                return

            def refusal(error: RmxError) -> Message:
                return refused(error, kind=kind, job=None, done=True, run=data.get("run"), pos=data.get("pos"))

            start, stream = partial(self.measurements.start, kind, data), self.measurements.stream
            yield from self.run(kind, request, start, stream, lambda job: {"model": job.run.model.spec}, refusal)

        return callback

    def opened(self, event: gr.EventData) -> tuple[Any, ...]:
        """The boxes and the threshold for a tree that was opened from elsewhere: {"problem", "answer", "tau"}."""
        data = payload(event)
        tau = data.get("tau")
        shown = at_tau(tau) if isinstance(tau, int | float) else gr.skip()
        return *together(str(data.get("problem") or ""), str(data.get("answer") or "")), shown

    def halt_job(self, event: gr.EventData) -> None:
        """Stop the measuring job that an event names."""
        self.measurements.jobs.halt(payload(event).get("job"))

    @shows_errors
    def pinned(self, event: gr.EventData) -> list[dict[str, Any]]:
        """The forks that the page has pinned, as a training run takes them; gradio keeps them for every open page."""
        return [pin.small() for pin in self.explorer.pins(event._data)]

    def opening(self, begun: str, request: gr.Request) -> Iterator[Any]:
        """The first screen: the visitor's own run that the address names, else the first example; nothing where the
        page has `begun` with that already."""
        if begun:
            yield gr.skip()
            return
        run = self.explorer.runs.find(request.query_params.get("run"))
        if run is not None and (run.owner == current_owner.get().owner or not self.settings.public):
            yield self.explorer.message(run, 0, whole=True)
            return
        if link := request.query_params.get("s"):
            yield from self.again("link", request, lambda begin: self.sharing.open_link(link, begin))
            return
        yield from self.example(request)

    def example(self, request: Any) -> Iterator[Message]:
        """Solve the first example for the first visitor; who comes later gets a copy of it, a tree of their own."""
        if self._first is not None:
            copy = self.explorer.copy(self._first, current_owner.get().owner)
            yield self.explorer.message(copy, 0, whole=True)
            return
        for message in self.start(request, self.prepared(examples()[0], self.spec, self.adapter)):
            yield message
        solved = self.explorer.runs.find(message["run"])
        if solved is not None and solved.trace is not None and solved.trace.stop in ("eos", "answer", "length"):
            self._first = replace(solved, owner=None)

    def prepared(self, example: Example, spec: str = "mini", adapter: str | None = None) -> tuple[Any, ...]:
        """What Solve would be given for an example."""
        tau = self.explorer.workspace.model(spec).tau
        return (spec, adapter or BASE, *together(example.problem, example.answer), tau, 0.0, 1.0, 0, 512, False)

    def next_problem(self, event: gr.EventData, place: int, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Solve the next prepared example, round and round: the playlist of presenter mode."""
        place = (place + (-1 if payload(event).get("step") == -1 else 1)) % len(examples())
        example = examples()[place]
        for message in self.start(request, self.prepared(example)):
            yield message, place, *together(example.problem, example.answer)

    def choose_model(self, spec: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Load a model now, so that Solve is instant; on failure the old one stays, and a note has the reason."""
        space, name = self.explorer.workspace, str(spec or "").strip()
        skip, over = [gr.skip()] * 3, gr.Button(visible=False)
        try:
            if name not in space.loaded:
                space.policy.admit_model(name)
                for said in self.fetch(name, request):
                    yield gr.skip(), *skip, said, gr.Button(visible=True)
            model = space.model(name)
        except RmxError as error:
            stopped = isinstance(error, DownloadStopped)  # then Solve must not fetch it after all
            yield "mini" if stopped else gr.skip(), *skip, f"⚠ {parts.literal(error)} *mini* stays available.", over
            return
        where = "a lent GPU" if model.engine.remote else model.engine.device
        revision = model.revision[:20]
        note = f"{model.dtype} on {where} · context {model.engine.context:,} tokens · revision `{revision}`"
        problem_set = "mini" if model.spec == "mini" else "arith" if "135m" in model.spec else gr.skip()
        yield (
            gr.skip(),
            gr.Dropdown([BASE, *shipped_adapters(model.spec)], value=BASE),
            model.tau,
            problem_set,
            note,
            over,
        )

    @shows_errors
    def set_share(self, share: float, spec: str, name: str, *style: Any) -> tuple[Any, str]:
        """Find the threshold above which so many per cent of the model's tokens lie, by solutions if none are kept."""
        space = self.explorer.workspace
        space.policy.admit_set(str(name))
        model = space.model(str(spec or "mini").strip()).ask_in(from_form(*style))
        found = calibration_of(model, float(share) / 100, str(name))
        return at_tau(round(found.tau, 2)), parts.literal(found.sentence)

    @shows_errors
    def choose_set(self, name: str) -> Any:
        """List the problems of a set."""
        self.explorer.workspace.policy.admit_set(str(name))
        return gr.Dropdown(listed_problems(name), value=None)

    @shows_errors
    def choose_problem(self, name: str, problem_id: str | None) -> tuple[Any, ...]:
        """Put a problem of a set into the boxes."""
        if not problem_id:
            return (gr.skip(),) * 3
        self.explorer.workspace.policy.admit_set(str(name))
        problem = find_problem(name, problem_id)
        return together(problem.problem, problem.answer, name)


def at_tau(tau: float) -> gr.Slider:
    """The slider of the threshold at a value, longer where that is needed."""
    return gr.Slider(value=tau, maximum=max(MOST_TAU, math.ceil(tau)))


def outcome_of(run: Branch) -> dict[str, Any]:
    """What the request log has of a solution."""
    stop = run.trace.stop if run.trace is not None else "left"
    made = len(run.tokens) - (run.at or 0)
    return {"model": run.model.spec, "tokens": made, "outcome": "error" if run.error else stop}


def build_explore_tab(explorer: Explorer, settings: Settings, notice: str | None = None) -> ExploreTab:
    """Lay the tab out inside an open gr.Blocks and wire it."""
    tab = ExploreTab(explorer, settings)
    with gr.Row(elem_id="explore", equal_height=False):
        with gr.Column(scale=0, min_width=300, elem_id="controls", elem_classes="controls"):
            space, sharing = explorer.workspace, tab.sharing
            c = tab.controls = ExploreForm(space, settings, sharing, tab.spec, tab.adapter, notice)
        with gr.Column(scale=1, min_width=320):
            asked = {name: getattr(explorer, name) for name in ("tail", "inspect", "look", "search")}
            asked |= {"share_link": sharing.link, "share_file": sharing.file, "share_save": sharing.save}
            known: dict[str, Any] = {"examples": [asdict(example) for example in examples()]}
            tokens = tab.view = build_view("explore/token_view", asked, elem_id="view", **known)
    _wire_settings(tab, c)
    place = gr.State(0)
    c.solve.click(tab.solve, c.asked, tokens, **STREAM)
    c.anyway.click(tab.solve_anyway, c.asked, tokens, **STREAM)
    c.read.click(tab.read, [c.text, *c.asked], tokens, **STREAM)
    c.nearest.click(_nearest, c.boxes.problem, c.boxes.all, **LIGHT).success(tab.solve, c.asked, tokens, **STREAM)
    tokens.pick(tab.pick, None, tokens, **STREAM)
    tokens.halt(tab.halt, None, None, **LIGHT)
    tokens.verify(tab.verify, None, tokens, **STREAM)
    tokens.opened(tab.opened, None, [*c.boxes.all, c.tau], **LIGHT)
    for kind in ("outcomes", "importance", "rescue", "sofar", "ends"):
        getattr(tokens, kind)(tab.measure(kind), None, tokens, **MEASURE)
    tokens.haltjob(tab.halt_job, None, None, **LIGHT)
    tokens.next(tab.next_problem, place, [tokens, place, *c.boxes.all], **STREAM)
    for event in (c.tau.input, c.tau.change):
        event(None, c.tau, None, js="(x) => { window.rmx?.setTau(x) }", **QUIET)
    for kind, button in c.kinds.items():
        _wire_example(tab, c, tokens, button, of_kind(kind))
    return tab


def _wire_settings(tab: ExploreTab, c: ExploreForm) -> None:
    loaded = [c.model, c.adapter, c.tau, c.problem_set, c.model_note, c.cancel]
    load: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "load", "show_progress_on": c.model_note}
    c.cancel.click(tab.cancel_download, None, None, **LIGHT)
    c.model.input(tab.choose_model, c.model, loaded, **load)
    c.gpu.click(lambda: GPU_PRESET.name, None, c.model, **LIGHT).then(tab.choose_model, c.model, loaded, **load)
    chosen = c.real.click(lambda: REAL.name, None, c.model, **LIGHT).then(tab.choose_model, c.model, loaded, **load)
    chosen.success(tab.solve, c.asked, tab.view, **STREAM)
    asked = [c.share, c.model, c.problem_set, *c.style.asked]
    c.set_share.click(tab.set_share, asked, [c.tau, c.share_note], **MEASURE | {"show_progress": "full"})
    c.problem_set.change(tab.choose_set, c.problem_set, c.picked, api_visibility="private")
    c.picked.change(tab.choose_problem, [c.problem_set, c.picked], c.boxes.all, **LIGHT)
    for box in (c.boxes.problem, c.model):
        shown = [c.banner, c.instead, c.boxes.answer]
        box.change(_banner, [c.model, c.boxes.problem], shown, trigger_mode="always_last", **LIGHT)


def _wire_example(tab: ExploreTab, c: ExploreForm, tokens: gr.HTML, button: gr.Button, prepared: list[Example]) -> None:
    """Each click takes the next example of its kind, solves it and then opens the place worth looking at."""
    turn = gr.State(0)

    def show(request: gr.Request, turn: int) -> Iterator[tuple[Any, ...]]:
        example = prepared[turn % len(prepared)]
        settings = (*together(example.problem, example.answer), "mini", BASE, 0.0, 1.0, False)
        for message in tab.start(request, tab.prepared(example), show=example.pos):
            yield message, turn + 1, *settings

    button.click(show, turn, [tokens, turn, *c.boxes.all, c.model, c.adapter, c.temperature, c.top_p, c.raw], **STREAM)


def _banner(spec: str, problem: str) -> tuple[Any, Any, Any]:
    """Say when a text lies outside what the bundled model was trained on, what else could be asked, and what is known
    of its answer."""
    reason = outside(spec, problem)
    said = f"⚠ Outside what *mini* was trained on: {parts.literal(reason)} Its answer would be noise."
    shown = bool(reason)
    return gr.Markdown(said, visible=shown), gr.Column(visible=shown), parts.show_computed(spec, problem)


def outside(spec: str, problem: object) -> str:
    """Say in a sentence why a text lies outside what `mini` was trained on; "" where it does not, or is not asked."""
    text = str(problem or "")
    return coverage(text) if spec == "mini" and text.strip() and len(text) <= LOOKED_AT else ""


def _nearest(problem: str) -> tuple[Any, ...]:
    """The problem of mini's set that has most words and numbers in common with a text."""
    asked = set(str(problem or "")[:LOOKED_AT].lower().split())

    def in_common(other: Problem) -> float:
        words = set(other.problem.lower().split())
        return len(words & asked) / len(words | asked)

    found = max(load_set("mini"), key=in_common)
    return together(found.problem, found.answer)


def _not_started(error: RmxError) -> Message:
    return {"run": None, "start": 0, "toks": [], "done": True, "error": str(error)}
