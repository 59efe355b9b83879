"""The Evaluate tab: a base and its adapters on a problem set, side by side, with intervals.

Its view shows figures, curves, and the problems won and lost. It gets one message, told apart by `"kind"`:
    plan       {"kind", "samples", "seconds", "command", "set", "own"}: what Evaluate would do now
    unplanned  {"kind"}: the form is not complete yet
    job        {"kind", "id"}: follow this evaluation
    refused    {"kind", "error"}: a sentence over everything
It follows a job by `eval_tail` and keeps its id for this browser tab, so a reload finds it again; until there is one it
shows the job with the id `RECORDED`, a bundled example. It sends
`view.halt` {"id"}, `view.attach` {"id"} and `view.open` {"id", "problem", "name", "where": "explore" | "compare"}.
Other components reach it by `window.rmxEval`: show(problem's id), follow(id).
"""

from typing import Any

import gradio as gr

from rmx.data.problem_sets import SETS
from rmx.errors import RmxError
from rmx.models.names import PRESETS
from rmx.models.site_rules import SiteRules
from rmx.models.style_options import to_form
from rmx.service.requests import EvalRequest
from rmx.ui.jobs.evaluator import COUNTS, FILE_BYTES, OWN, STYLE_FORM, EvaluateForm, Evaluator
from rmx.ui.jobs.page_jobs import RECORDED, Message
from rmx.ui.settings import Settings
from rmx.ui.tabs import form_parts as parts
from rmx.ui.tabs.compare_tab import CompareTab
from rmx.ui.tabs.explore_form import BASE
from rmx.ui.tabs.explore_tab import ExploreTab
from rmx.ui.tabs.form_parts import LIGHT, QUIET, StreamTab
from rmx.ui.views import build_view
from rmx.ui.visitor_cookie import Owners

FIRST_ADAPTER, FIRST_LIMIT = "rl", 100
KEY = "rmx-evaluation"  # of the browser tab's own storage
RESTORE = f"() => sessionStorage.getItem('{KEY}') ?? ''"  # what this browser tab was looking at before a reload


class EvaluateControls:
    """The settings column."""

    def __init__(self, tab: "EvaluateTab") -> None:
        settings, loaded, policy = tab.settings, tab.evaluator.workspace.loaded, tab.evaluator.workspace.policy
        spec = settings.model if settings.model and settings.model in loaded else "mini"
        models = [(p.title, p.name) for p in PRESETS.values() if policy.offers(p.name)]
        if spec not in PRESETS:
            models.insert(1, (spec, spec))
        known = tab.evaluator.contestants(spec)
        first = [FIRST_ADAPTER] if any(name == FIRST_ADAPTER for _, name in known) else []
        if settings.adapter and spec != "mini":
            known, first = [(settings.adapter, settings.adapter), *known], [settings.adapter]
        self.evaluate = gr.Button("Evaluate", variant="primary", elem_id="evaluate-start")
        self.fetching = parts.FetchNote(
            tab, tab.evaluator.workspace, gr.Markdown("", elem_id="evaluate-note"), "evaluate"
        )
        self.model = gr.Dropdown(models, value=spec, label="Base", allow_custom_value=True, elem_id="evaluate-model")
        self.adapters = gr.Dropdown(
            known, value=first, label="Compared with it", multiselect=True, allow_custom_value=True,
            info="Bundled adapters, your runs; or type a folder or a Hub id.", elem_id="evaluate-adapters",
        )  # fmt: skip
        self.problem_set = gr.Dropdown(
            _sets(policy), value="mini:test", label="Problem set", allow_custom_value=True, elem_id="evaluate-set"
        )
        # Reads a .jsonl or .csv file in the browser and sends its text to /files/problems; its value is the answer,
        # {"file", "name", "problems", "answers"}, or None.
        file: dict[str, Any] = {"value": None, "most_bytes": FILE_BYTES, "elem_id": "evaluate-file", "visible": False}
        self.file = build_view("evaluate/evaluate_file", **file)
        self.limit = parts.whole_number(FIRST_LIMIT, "Problems, at most", "evaluate-limit")
        self._add_decoding(min(512, settings.max_new_tokens))
        self.style = parts.StyleControls("evaluate")
        decoding = [self.temperature, self.top_p, self.seed, self.max_new]
        what = [self.model, self.adapters, self.problem_set, self.file, self.limit, self.n]
        self.asked = [*what, *decoding, *self.style.asked]  # the inputs of Evaluate, in the order of `FORM`

    def _add_decoding(self, most: int) -> None:
        first = parts.defaults_of(EvalRequest)
        self.n = gr.Radio(
            [(str(n), n) for n in COUNTS], value=first["n"], label="Samples per problem",
            info="0: one greedy answer only", elem_id="evaluate-n",
        )  # fmt: skip
        with gr.Accordion("Decoding", open=False, elem_id="evaluate-decoding"):
            about: dict[str, Any] = {"label": "Temperature of the samples", "elem_id": "evaluate-temperature"}
            self.temperature = gr.Slider(0, 2, first["temperature"], step=0.05, **about)
            self.top_p = gr.Slider(0.05, 1, first["top_p"], step=0.05, label="Top-p", elem_id="evaluate-top-p")
            self.seed, self.max_new = parts.seed_and_length("evaluate-", most)


FORM = (
    "model", "adapters", "set", "file", "limit", "n", "temperature", "top_p", "seed", "max_new_tokens", *STYLE_FORM
)  # fmt: skip


class EvaluateTab(StreamTab):
    """Callbacks of the tab; each makes one library call and renders what came of it."""

    view: gr.HTML
    kept: gr.Textbox  # the evaluation that this browser tab was looking at

    def __init__(self, evaluator: Evaluator, settings: Settings, owners: Owners) -> None:
        super().__init__(evaluator.jobs)
        self.evaluator, self.settings, self.owners = evaluator, settings, owners

    def asked(self, request: gr.Request, values: tuple[Any, ...]) -> EvaluateForm:
        """Check what the form asks for. Only the machine's owner has its files read."""
        form = dict(zip(FORM, values, strict=True)) | {"most": self.settings.max_new_tokens}
        return self.evaluator.asked(form, paths=self.owners.visitor_of(request).admin)

    def evaluate(self, request: gr.Request, *values: Any) -> Message:
        """Begin an evaluation; the page follows it."""
        try:
            job = self.evaluator.start(self.asked(request, values))
        except RmxError as error:
            return parts.refused(error)
        self.visitors.begin(request.session_hash, job)
        return {"kind": "job", "id": job.id}

    def plan(self, request: gr.Request, *values: Any) -> Any:
        """What the form would take; a form that is not complete yet is no mistake, and has no plan."""
        try:
            return self.evaluator.plan(self.asked(request, values))
        except RmxError:
            return {"kind": "unplanned"}

    def opening(self, request: gr.Request, *values: Any) -> tuple[Any, Any]:
        """The contestants that are there by now, and what the form would take."""
        return self._contestants(values[0]), self.plan(request, *values)

    def choose_model(self, model: str) -> Any:
        """List what can be compared with another base."""
        return self._contestants(model, value=[])

    def _contestants(self, model: Any, **chosen: Any) -> gr.Dropdown:
        return gr.Dropdown(self.evaluator.contestants(str(model or "")), **chosen)

    def attach(self, event: gr.EventData, request: gr.Request) -> Message:
        """Have a page that was reloaded follow what it followed before; one that is gone, it learns by asking."""
        job_id = parts.payload(event).get("id")
        self.keep(job_id, request)
        return {"kind": "job", "id": job_id}

    def keep(self, job_id: Any, request: gr.Request) -> None:
        """Let a page that was reloaded keep its evaluation going, whether or not it opens the tab."""
        if (job := self.evaluator.jobs.find(job_id)) is not None:
            self.visitors.follow(request.session_hash, job)


def build_evaluate_tab(evaluator: Evaluator, settings: Settings, page: gr.Tab, owners: Owners) -> EvaluateTab:
    """Lay the tab out inside an open gr.Tab and wire it."""
    tab = EvaluateTab(evaluator, settings, owners)
    with gr.Row(elem_id="evaluation", equal_height=False):
        with gr.Column(scale=0, min_width=300, elem_id="evaluate-controls", elem_classes="controls"):
            c = EvaluateControls(tab)
        with gr.Column(scale=1, min_width=320):
            asked = {"eval_tail": evaluator.tail, "eval_export": evaluator.export}
            known = {"storage_key": KEY, "recorded": RECORDED}
            shown = tab.view = build_view("evaluate/evaluate_view", asked, elem_id="evaluate", **known)
            tab.kept = gr.Textbox(visible=False)
    page.select(tab.opening, c.asked, [c.adapters, shown], **LIGHT)
    found = c.fetching.fetch_before(c.evaluate.click, lambda model: [str(model or "mini").strip()], [c.model])
    found(tab.evaluate, c.asked, shown, **LIGHT)
    c.model.input(tab.choose_model, c.model, c.adapters, **QUIET)
    c.problem_set.change(lambda name: gr.HTML(visible=name == OWN), c.problem_set, c.file, **LIGHT)
    choices = (c.model, c.adapters, c.problem_set, c.file, c.n, c.style.style, c.style.thinking, c.style.answers)
    boxes = (c.limit, c.seed, c.max_new, c.style.system, c.style.stops)
    sliders = (c.temperature, c.top_p)
    edited = [one.change for one in (*choices, *sliders)] + [one.blur for one in boxes]
    gr.on(edited, tab.plan, c.asked, shown, trigger_mode="always_last", **LIGHT)
    shown.halt(tab.halt, None, None, **LIGHT)
    shown.attach(tab.attach, None, shown, **LIGHT)
    return tab


def _sets(policy: SiteRules) -> list[tuple[str, str]]:
    """Every named set that may be read, by its splits, test first, and the choice that opens the reader of a file."""
    names = policy.problem_sets()
    found = [(f"{name} · {split}", f"{name}:{split}") for name in names for split in reversed(SETS[name].splits)]
    return [*found, ("a file of your own …", OWN)]


def wire_evaluate(
    demo: gr.Blocks, tab: EvaluateTab, tabs: gr.Tabs, explore: ExploreTab, compare: CompareTab, pressed: str
) -> None:
    """A page that opens or closes, and a problem's way to the other tabs; `pressed` presses their main button."""

    def open_problem(event: gr.EventData) -> tuple[Any, ...]:
        data = parts.payload(event)
        try:
            found = tab.evaluator.opened(data)
        except RmxError as error:
            return parts.refused(error), *[gr.skip()] * (len(targets) - 1)
        problem = parts.together(found.problem, found.answer, found.set_name)
        if data.get("where") == "compare":
            pair = (parts.OWN, gr.Group(visible=True), found.model, found.adapter or "", "")
            asked = (*problem, "base", found.max_new_tokens, *to_form(found.style))
            return gr.skip(), gr.Tabs(selected="compare"), *[gr.skip()] * len(solved), *pair, *asked
        shown = gr.Dropdown(list(dict.fromkeys([BASE, found.adapter or BASE])), value=found.adapter or BASE)
        greedy = (*problem, 0.0, 1.0, found.max_new_tokens, False, *to_form(found.style))
        return gr.skip(), gr.Tabs(selected="explore"), found.model, shown, *greedy, *[gr.skip()] * len(compared)

    e, c = explore.controls, compare.controls
    decoding = [e.temperature, e.top_p, e.max_new, e.raw, *e.style.asked]
    solved = [e.model, e.adapter, *e.boxes.all, *decoding]
    pair = [c.pair.preset, c.pair.own, c.pair.base, c.pair.adapter, c.pair.teacher]
    compared = [*pair, *c.boxes.all, c.source, c.max_new, *c.style.asked]
    targets = [tab.view, tabs, *solved, *compared]
    tab.view.open(open_problem, None, targets, **{**QUIET, "concurrency_id": "load"}).success(
        None, None, None, js=pressed, **QUIET
    )
    # Nothing goes to the view here: an update before its tab is opened would take the place of all that it is given.
    demo.load(tab.keep, tab.kept, None, js=RESTORE, **LIGHT)
    demo.unload(tab.leave)
