"""The Compare tab: two models on one solution, patches between them, and both over a problem set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch

from rmx.compare.intervene_set import InterveneReport
from rmx.compare.shift_set import ShiftReport
from rmx.data.examples import examples
from rmx.data.problems import load_set
from rmx.engine.fair_queue import Kind, as_owner, iterate_as_owner
from rmx.errors import RmxError
from rmx.models.adapters import bundled_adapters
from rmx.models.pair import Pair
from rmx.models.presets import PRESETS, pairs_first
from rmx.models.style_options import from_form
from rmx.ui.background import prefetch
from rmx.ui.jobs.compare_jobs import PairJob
from rmx.ui.jobs.compare_messages import Message
from rmx.ui.jobs.comparer import Comparer, export
from rmx.ui.jobs.page_jobs import Visitors
from rmx.ui.plotly_figures import arm_figure, shift_figure
from rmx.ui.request_log import observed
from rmx.ui.settings import Settings
from rmx.ui.tabs.known_answer import ProblemBoxes, build_problem_boxes, known_answer, show_computed
from rmx.ui.tabs.style_panel import StyleControls, build_style_panel
from rmx.ui.tabs.wiring import LIGHT, MEASURE, QUIET, STREAM, Who, answering, nobody, shows_errors
from rmx.ui.views.compare_view import compare_view

OWN = "own"  # the choice that opens the boxes for another pair
SOURCES = [("base's own", "base"), ("adapted model's own", "adapted"), ("pasted", "text")]
MOST_PROBLEMS, PUBLIC_PROBLEMS = 500, 100  # of a set; on a public site, where others wait


@dataclass(frozen=True, slots=True)
class CompareForm:
    """The settings column."""

    preset: gr.Dropdown
    own: gr.Group
    base: gr.Dropdown
    adapter: gr.Textbox
    teacher: gr.Textbox
    strength: gr.Slider
    boxes: ProblemBoxes
    source: gr.Radio
    text: gr.Textbox
    compare: gr.Button
    tau: gr.Slider
    max_new: gr.Number
    problem_set: gr.Dropdown
    limit: gr.Number
    shifts: gr.Button
    intervene: gr.Button
    note: gr.Markdown
    style: StyleControls

    @property
    def pair(self) -> list[Any]:
        return [self.preset, self.base, self.adapter, self.teacher, self.strength, *self.style.asked]

    @property
    def asked(self) -> list[Any]:
        """Inputs of Compare, in the order of `CompareTab._map`."""
        return [*self.pair, *self.boxes.all, self.source, self.text, self.tau, self.max_new]


class CompareTab:
    """Callbacks of the tab; each makes one library call and renders what came of it."""

    controls: CompareForm

    def __init__(self, comparer: Comparer, settings: Settings, who: Who = nobody) -> None:
        self.comparer, self.who = comparer, who
        self.settings = settings
        self.visitors = Visitors()
        space = comparer.workspace
        self.pairs = pairs_first(settings.model, settings.adapter, space.loaded, space.policy.offers)
        self.first = next(iter(self.pairs))

    # -- callbacks ------------------------------------------------------------------------------------------------

    def compare(self, request: gr.Request, *asked: Any) -> Iterator[Message]:
        """A new map, streamed."""
        try:
            with as_owner(self.who(request)):
                run = self._map(*asked)
        except RmxError as error:
            yield _refused("map", error)
            return
        self.visitors.begin(request.session_hash, run)
        yield from self._told("map", run, self.comparer.stream_map(run), request)

    def _told(self, verb: str, run: PairJob, steps: Iterator[Message], request: gr.Request) -> Iterator[Message]:
        """A job's messages as the work of who asks, with a line in the log at the end."""

        def about() -> dict[str, Any]:
            return {"model": run.pair.name, "tokens": run.tokens, "outcome": "error" if run.error else "done"}

        yield from observed(verb, prefetch(iterate_as_owner(self.who(request), steps, Kind.MEASURED), run.halt), about)

    def _map(self, *asked: Any) -> Any:
        *chosen, pair, problem, answer, source, text, tau, max_new = asked
        most = _count(max_new, "most tokens", self.settings.max_new_tokens)
        known = known_answer(self.base_of(*chosen[:2]), pair, problem, answer)
        return self.comparer.map(
            self._pair(*chosen),
            str(problem or ""),
            tau,
            known=known.answer,
            known_computed=known.computed,
            source=str(source),
            text=str(text or ""),
            max_new=most,
        )

    def base_of(self, preset: str, base: str) -> str:
        """The base of a pair, as the form has it."""
        found = self.pairs.get(str(preset))
        return found.base if found is not None else str(base or "").strip() or "mini"

    def _pair(
        self,
        preset: str,
        base: str,
        adapter: str,
        teacher: str,
        strength: float,
        *style: Any,
        of_set: str | None = None,
    ) -> Pair:
        found, asked = self.pairs.get(str(preset)), from_form(*style)
        if found is None:
            names = [str(x or "").strip() for x in (base, adapter, teacher)]
            return self.comparer.pair(names[0] or "mini", names[1], names[2], float(strength), asked, of_set)
        return self.comparer.pair(found.base, found.adapter, found.teacher, float(strength), asked, of_set)

    def show_computed(self, preset: str, base: str, problem: str) -> Any:
        return show_computed(self.base_of(preset, base), problem)

    def opening(self, opened: bool, request: gr.Request, *asked: Any) -> Iterator[tuple[Any, bool]]:
        """What the tab shows when it is opened for the first time: the pair on the first example."""
        if opened:
            yield gr.skip(), True
            return
        for message in self.compare(request, *asked):
            yield message, True

    def patch(self, event: gr.EventData, request: gr.Request) -> Iterator[Message]:
        try:
            with as_owner(self.who(request)):
                run = self.comparer.patch(event._data)
        except RmxError as error:
            yield _refused("patch", error)
            return
        self.visitors.begin(request.session_hash, run)
        yield from self._told("patch", run, self.comparer.stream_patch(run), request)

    def halt(self, event: gr.EventData) -> None:
        self.comparer.halt(event._data)

    def leave(self, request: gr.Request) -> None:
        self.visitors.leave(request.session_hash)

    def over_set(self, what: str, request: gr.Request, *asked: Any) -> Iterator[tuple[Any, Any]]:
        """Shifts or interventions over a set: the table, and the figure at most every few seconds."""
        *chosen, name, limit, tau, max_new = asked
        policy = self.comparer.workspace.policy
        try:
            policy.admit_set(str(name))
            count = _count(limit, "number of problems", PUBLIC_PROBLEMS if policy.public else MOST_PROBLEMS)
            problems, pair = load_set(str(name))[:count], self._pair(*chosen, of_set=str(name))
            most = _count(max_new, "most tokens", self.settings.max_new_tokens)
            self.visitors.leave(request.session_hash)  # what this page did before makes room
            with as_owner(self.who(request)):
                run, reports = self.comparer.over_set(pair, what, str(name), problems, tau, most)
        except RmxError as error:
            yield _refused("set", error), gr.skip()
            return
        try:
            self.visitors.begin(request.session_hash, run)
            yield {"kind": "set", "id": run.id, "what": what, "at": 0, "of": len(problems), "done": False}, None
            for message in self._told(what, run, self.comparer.stream_set(run, reports), request):
                yield message, _figure(run.report) if message["done"] else gr.skip()
        finally:
            if not run.done:
                run.halt()

    @shows_errors
    def choose_pair(self, preset: str) -> tuple[Any, ...]:
        """Load the pair now, so that Compare is instant, and take over its threshold."""
        if preset == OWN:
            return gr.Group(visible=True), gr.skip(), "Fill in a base and either an adapter or a full checkpoint."
        pair = self._pair(preset, "", "", "", 1.0)
        how = "one set of weights" if pair.one_set else "two sets of weights"
        note = f"{pair.base.dtype} on {pair.base.engine.device} · {how} · {self.pairs[preset].method}".rstrip(" ·")
        return gr.Group(visible=False), pair.base.tau, note


def build_compare_tab(comparer: Comparer, settings: Settings, tab: gr.Tab, who: Who = nobody) -> CompareTab:
    """Lay the tab out inside an open gr.Tab and wire it; `who` names the visitor behind a request."""
    made = CompareTab(comparer, settings, who)
    with gr.Row(elem_id="compare", equal_height=False):
        with gr.Column(scale=0, min_width=300, elem_id="compare-controls", elem_classes="controls"):
            controls = made.controls = _controls(made)
        with gr.Column(scale=1, min_width=320):
            view = compare_view(
                answering(comparer.tail, who),
                answering(comparer.inspect, who),
                answering(comparer.check, who),
                answering(lambda data: export(comparer, data), who),
                elem_id="pair",
            )
            figure = gr.Plot(show_label=False, elem_id="pair-figure", container=False)
    _wire(made, controls, view, figure, tab)
    return made


def _controls(tab: CompareTab) -> CompareForm:
    gpu = torch.cuda.is_available()
    first, policy = examples()[0], tab.comparer.workspace.policy
    mini, opened = (tab.comparer.workspace.model(spec) for spec in ("mini", tab.pairs[tab.first].base))
    choices = [(f"{p.title} · {p.size(gpu)}".rstrip(" ·"), p.name) for p in tab.pairs.values()]
    preset = gr.Dropdown([*choices, ("another pair …", OWN)], value=tab.first, label="Pair", elem_id="pair-preset")
    with gr.Group(visible=False, elem_id="pair-own") as own:
        models = [(p.title, p.name) for p in PRESETS.values() if policy.offers(p.name)]
        spec = gr.Dropdown(models, value="mini", label="Base", allow_custom_value=True, elem_id="pair-base")
        known = ", ".join(bundled_adapters(mini))
        adapter = gr.Textbox(label=f"Adapter (bundled: {known}; a folder or a Hub id)", elem_id="pair-adapter")
        teacher = gr.Textbox(label="… or a full checkpoint", elem_id="pair-teacher")
    boxes = build_problem_boxes(first, "pair-")
    compare = gr.Button("Compare", variant="primary", elem_id="pair-compare")
    source = gr.Radio(SOURCES, value="base", label="Read which solution?", elem_id="pair-source")
    text = gr.Textbox(label="Solution", lines=4, max_lines=12, visible=False, elem_id="pair-text")
    with gr.Accordion("On a problem set", open=False, elem_id="pair-set-panel"):
        with gr.Row():
            sets = policy.problem_sets()
            problem_set = gr.Dropdown(sets, value="mini", label="Set", min_width=120, elem_id="pair-set")
            limit = gr.Number(50, label="Problems", precision=0, minimum=1, min_width=90, elem_id="pair-limit")
        shifts = gr.Button("Measure where they part", size="sm", elem_id="pair-shifts")
        intervene = gr.Button("Run all interventions", size="sm", elem_id="pair-intervene")
    tau = gr.Slider(0, 4, opened.tau, step=0.05, label="Fork threshold (nats)", elem_id="pair-tau")
    strength = gr.Slider(0, 1.5, 1, step=0.05, label="Adapter strength", elem_id="pair-strength")
    most = min(512, tab.settings.max_new_tokens)
    max_new = gr.Number(most, label="Most tokens", precision=0, minimum=1, elem_id="pair-max-new")
    style = build_style_panel("pair")
    note = gr.Markdown("", elem_id="pair-note")
    return CompareForm(
        preset, own, spec, adapter, teacher, strength, boxes, source, text, compare, tau, max_new,
        problem_set, limit, shifts, intervene, note, style,
    )  # fmt: skip


def _wire(tab: CompareTab, c: CompareForm, view: gr.HTML, figure: gr.Plot, page: gr.Tab) -> None:
    opened = gr.State(False)
    page.select(tab.opening, [opened, *c.asked], [view, opened], **STREAM)
    c.compare.click(tab.compare, c.asked, view, **STREAM)
    c.strength.release(tab.compare, c.asked, view, **STREAM)
    c.preset.input(
        tab.choose_pair, c.preset, [c.own, c.tau, c.note], api_visibility="private", concurrency_id="load"
    ).success(tab.compare, c.asked, view, **STREAM)
    c.source.change(lambda source: gr.Textbox(visible=source == "text"), c.source, c.text, **LIGHT)
    for box in (c.boxes.problem, c.preset, c.base):
        asked: list[Any] = [c.preset, c.base, c.boxes.problem]
        box.change(tab.show_computed, asked, c.boxes.answer, trigger_mode="always_last", **LIGHT)
    view.patch(tab.patch, None, view, **STREAM)
    view.halt(tab.halt, None, None, **LIGHT)
    set_inputs = [*c.pair, c.problem_set, c.limit, c.tau, c.max_new]
    for button, what in ((c.shifts, "shifts"), (c.intervene, "intervene")):
        _wire_set(tab, button, what, set_inputs, view, figure)


def _wire_set(tab: CompareTab, button: gr.Button, what: str, inputs: list[Any], view: gr.HTML, figure: gr.Plot) -> None:
    def run(request: gr.Request, *asked: Any) -> Iterator[tuple[Any, Any]]:
        yield from tab.over_set(what, request, *asked)

    button.click(None, None, None, js="() => { window.rmxPair?.pane('set') }", **QUIET)
    button.click(run, inputs, [view, figure], **MEASURE)


def _figure(report: ShiftReport | InterveneReport | None) -> Any:
    if isinstance(report, ShiftReport) and report.at:
        return shift_figure(report)
    if isinstance(report, InterveneReport) and report.problems:
        return arm_figure(report)
    return None


def _count(value: Any, what: str, most: int) -> int:
    if value is None or not 1 <= int(value) <= most:
        raise RmxError(f"The {what} must lie between 1 and {most:,}.")
    return int(value)


def _refused(kind: str, error: RmxError) -> Message:
    return {"kind": kind, "id": None, "start": 0, "toks": [], "done": True, "error": str(error)}
