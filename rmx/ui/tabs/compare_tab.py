"""The Compare tab: two models on one solution, patches between them, and both over a problem set.

Its view has three panes and gets one message, told apart by `"kind"`, in any order and any number of times:
    map    {"kind", "id", "start", "toks": [[text, cls, flags, kl, H_base, H_adapted, p, q], ...],
            "done", "open"?, "result"?}
    patch  {"kind", "id", "map", "start", "toks": [[text, flags, H_base, from_text, p, q], ...],
            "done", "open"?, "result"?, "answers", "patches"}
    set    {"kind", "id", "what", "at", "of", "done", "rows" | "arms", ...}, the whole state of a job over a problem set
and `"error": sentence` on any of them. Deltas of map and patch can be lost; the page asks `pair_tail` for the rest.
It sends `view.patch` {"map", "arm", "budget"}, `view.halt` {"id"}.
Other components reach it by `window.rmxPair`: step, arm, budget, pane, present.
"""

from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from rmx.data.problem_sets import examples, load_set
from rmx.engine.fair_queue import Kind
from rmx.errors import RmxError
from rmx.models.adapter_names import bundled_adapters
from rmx.models.model_pair import Pair, make_pair
from rmx.models.presets import pairs_first
from rmx.models.style_options import from_form
from rmx.ui.jobs.compare_jobs import PairJob, SetRun
from rmx.ui.jobs.comparer import Comparer
from rmx.ui.jobs.page_jobs import Message, whole
from rmx.ui.settings import Settings
from rmx.ui.tabs import form_parts as parts
from rmx.ui.tabs.form_parts import LIGHT, MEASURE, QUIET, STREAM, StreamTab, Who, answers, nobody, refused, shows_errors
from rmx.ui.views import build_view

# The slider moves by mouse, keys and its number box; once it rests, Compare is pressed.
SETTLED = """() => {
  clearTimeout(window.rmxSettled);
  window.rmxSettled = setTimeout(() => document.querySelector("#pair-compare")?.click(), 300);
}"""
SOURCES = [("base's own", "base"), ("adapted model's own", "adapted"), ("pasted", "text")]
MOST_PROBLEMS, PUBLIC_PROBLEMS = 500, 100  # of a set; on a public site, where others wait


class CompareForm:
    """The settings column."""

    def __init__(self, tab: "CompareTab") -> None:
        space = tab.comparer.workspace
        known = ", ".join(bundled_adapters(space.model("mini")))
        label = f"Adapter (bundled: {known}; a folder or a Hub id)"
        self.pair = parts.PairBoxes("pair", tab.pairs, space.policy.offers, label)
        self.boxes = parts.build_problem_boxes(examples()[0], "pair-")
        self.compare = gr.Button("Compare", variant="primary", elem_id="pair-compare")
        self.source = gr.Radio(SOURCES, value="base", label="Read which solution?", elem_id="pair-source")
        self.text = gr.Textbox(label="Solution", lines=4, max_lines=12, visible=False, elem_id="pair-text")
        with gr.Accordion("On a problem set", open=False, elem_id="pair-set-panel"):
            with gr.Row():
                sets = space.policy.problem_sets()
                self.problem_set = gr.Dropdown(sets, value="mini", label="Set", min_width=120, elem_id="pair-set")
                self.limit = parts.whole_number(50, "Problems", "pair-limit", minimum=1, min_width=90)
            self.shifts = gr.Button("Measure where they part", size="sm", elem_id="pair-shifts")
            self.intervene = gr.Button("Run all interventions", size="sm", elem_id="pair-intervene")
        tau = space.model(next(iter(tab.pairs.values())).base).tau
        self.tau = gr.Slider(0, 4, tau, step=0.05, label="Fork threshold (nats)", elem_id="pair-tau")
        self.strength = gr.Slider(0, 1.5, 1, step=0.05, label="Adapter strength", elem_id="pair-strength")
        most = min(512, tab.settings.max_new_tokens)
        self.max_new = parts.whole_number(most, "Most tokens", "pair-max-new", minimum=1)
        self.style = parts.StyleControls("pair")
        self.note = gr.Markdown("", elem_id="pair-note")
        # The inputs of a callback, in the order of `CompareTab._pair`, `_map` and `over_set`.
        self.models = [*self.pair.asked, self.strength, *self.style.asked]
        self.asked = [*self.models, *self.boxes.all, self.source, self.text, self.tau, self.max_new]
        self.asked_of_set = [*self.models, self.problem_set, self.limit, self.tau, self.max_new]


class CompareTab(StreamTab):
    """Callbacks of the tab; each makes one library call and renders what came of it."""

    controls: CompareForm

    def __init__(self, comparer: Comparer, settings: Settings, who: Who = nobody) -> None:
        super().__init__(comparer.jobs, who)
        self.comparer, self.settings = comparer, settings
        space = comparer.workspace
        self.pairs = pairs_first(settings.model, settings.adapter, space.loaded, space.policy.offers)

    def compare(self, request: gr.Request, *asked: Any) -> Iterator[Message]:
        """Stream a new map."""
        yield from self._job("map", "map", request, lambda: self._map(*asked))

    def _job(
        self, verb: str, view: str, request: gr.Request, start: Callable[[], Any]
    ) -> Generator[Message, None, None]:
        """Stream a job for one of the views of the page: map, patch or set."""

        def about(run: PairJob) -> dict[str, Any]:
            return {"model": run.pair.name, "tokens": run.made, "outcome": "error" if run.error else "done"}

        def refusal(error: RmxError) -> Message:
            return refused(error, kind=view, id=None, start=0, toks=[], done=True)

        return self.run(verb, request, start, self.comparer.stream, about, refusal, Kind.MEASURED)

    def _map(self, *asked: Any) -> Any:
        *chosen, pair, problem, answer, source, text, tau, max_new = asked
        most = whole(max_new, "most tokens", 1, self.settings.max_new_tokens)
        known = parts.known_answer(parts.chosen_pair(self.pairs, *chosen[:2]).base, pair, problem, answer)
        return self.comparer.map(
            self._pair(*chosen),
            str(problem or ""),
            tau,
            known=known.answer,
            known_computed=known.computed,
            source=source,
            text=str(text or ""),
            max_new=most,
        )

    def _pair(self, *asked: Any, set_name: str | None = None) -> Pair:
        """The two models of the form, loaded."""
        *chosen, strength = asked[:5]
        found, style = parts.chosen_pair(self.pairs, *chosen), from_form(*asked[5:])
        space = self.comparer.workspace
        return make_pair(space, found.base, found.adapter, found.teacher, float(strength), style, set_name)

    def show_computed(self, preset: str, base: str, problem: str) -> Any:
        """The answer box, with what is computed of the problem."""
        return parts.show_computed(parts.chosen_pair(self.pairs, preset, base).base, problem)

    def opening(self, opened: bool, request: gr.Request, *asked: Any) -> Iterator[tuple[Any, bool]]:
        """What the tab shows when it is opened for the first time: the pair on the first example."""
        if opened:
            yield gr.skip(), True
            return
        for message in self.compare(request, *asked):
            yield message, True

    def patch(self, event: gr.EventData, request: gr.Request) -> Iterator[Message]:
        """Stream a decode under an arm."""
        yield from self._job("patch", "patch", request, lambda: self.comparer.patch(event._data))

    def over_set(self, what: str, request: gr.Request, *asked: Any) -> Iterator[Message]:
        """Stream shifts or interventions over a set."""
        *chosen, name, limit, tau, max_new = asked
        policy = self.comparer.workspace.policy

        def start() -> SetRun:
            policy.admit_set(str(name))
            count = whole(limit, "number of problems", 1, PUBLIC_PROBLEMS if policy.public else MOST_PROBLEMS)
            problems, pair = load_set(str(name))[:count], self._pair(*chosen, set_name=str(name))
            most = whole(max_new, "most tokens", 1, self.settings.max_new_tokens)
            self.leave(request)  # what this page did before makes room
            return self.comparer.over_set(pair, what, str(name), problems, tau, most)

        yield from self._job(what, "set", request, start)

    @shows_errors
    def choose_pair(self, preset: str) -> tuple[Any, ...]:
        """Load the pair now, so that Compare is instant, and take over its threshold."""
        if preset == parts.OWN:
            return gr.Group(visible=True), gr.skip(), "Fill in a base and either an adapter or a full checkpoint."
        pair = self._pair(preset, "", "", "", 1.0)
        how = "one set of weights" if pair.one_set else "two sets of weights"
        note = f"{pair.base.dtype} on {pair.base.engine.device} · {how} · {self.pairs[preset].method}".rstrip(" ·")
        return gr.Group(visible=False), pair.base.tau, note


def build_compare_tab(comparer: Comparer, settings: Settings, page: gr.Tab, who: Who = nobody) -> CompareTab:
    """Lay the tab out inside an open gr.Tab and wire it; `who` names the visitor behind a request."""
    tab = CompareTab(comparer, settings, who)
    with gr.Row(elem_id="compare", equal_height=False):
        with gr.Column(scale=0, min_width=300, elem_id="compare-controls", elem_classes="controls"):
            c = tab.controls = CompareForm(tab)
        with gr.Column(scale=1, min_width=320):
            questions = {"pair_tail": comparer.tail, "pair_inspect": comparer.inspect}
            asked = answers(who, **questions, pair_check=comparer.check, pair_export=comparer.export)
            panes = build_view("compare/compare_view", asked, elem_id="pair")
    opened = gr.State(False)
    page.select(tab.opening, [opened, *c.asked], [panes, opened], **STREAM)
    c.compare.click(tab.compare, c.asked, panes, **STREAM)
    c.strength.input(None, None, None, js=SETTLED, **QUIET)
    c.pair.preset.input(
        tab.choose_pair, c.pair.preset, [c.pair.own, c.tau, c.note], api_visibility="private", concurrency_id="load"
    ).success(tab.compare, c.asked, panes, **STREAM)
    c.source.change(lambda source: gr.Textbox(visible=source == "text"), c.source, c.text, **LIGHT)
    for box in (c.boxes.problem, c.pair.preset, c.pair.base):
        boxes: list[Any] = [c.pair.preset, c.pair.base, c.boxes.problem]
        box.change(tab.show_computed, boxes, c.boxes.answer, trigger_mode="always_last", **LIGHT)
    panes.patch(tab.patch, None, panes, **STREAM)
    panes.halt(tab.halt, None, None, **LIGHT)
    for button, what in ((c.shifts, "shifts"), (c.intervene, "intervene")):
        _wire_set(tab, button, what, panes)
    return tab


def _wire_set(tab: CompareTab, button: gr.Button, what: str, panes: gr.HTML) -> None:
    def run(request: gr.Request, *asked: Any) -> Iterator[Message]:
        yield from tab.over_set(what, request, *asked)

    button.click(None, None, None, js="() => { window.rmxPair?.pane('set') }", **QUIET)
    button.click(run, tab.controls.asked_of_set, panes, **MEASURE)
