"""The Train tab, a run in one click, by the usual knobs, or by every field; and the Runs tab, which lists all runs."""

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from rmx.config import MOST_NAME
from rmx.data.problem_sets import SETS
from rmx.errors import RmxError
from rmx.models.presets import PRESETS as MODELS
from rmx.models.site_rules import SiteRules
from rmx.models.style_options import from_form
from rmx.recipes.job import TrainJob
from rmx.recipes.pins import Pin
from rmx.recipes.recipe import HELP, PRESETS, Recipe, field_types
from rmx.recipes.thresholds import taus_of
from rmx.service.arguments import short_enough
from rmx.ui.jobs.page_jobs import Message
from rmx.ui.jobs.training import Training
from rmx.ui.tabs.form_parts import StyleControls
from rmx.ui.tabs.wiring import LIGHT, PLAN, QUIET, answering, payload, refused
from rmx.ui.views.runs_view import runs_view
from rmx.ui.views.train_view import train_view
from rmx.ui.visitor_cookie import Owners

PUSH: dict[str, Any] = {**QUIET, "concurrency_id": "push", "concurrency_limit": 4}
SWEEP: dict[str, Any] = {
    "label": "Sweep thresholds (comma separated)",
    "info": "one adapter for each, in nats; validation chooses, as in the paper: 1.2, 1.4, 1.6, 1.8",
    "elem_id": "train-sweep",
}
USUAL = ("problems", "k", "tau", "lr", "epochs", "seed")
CAPPED = "Here visitors start one quick run at a time. Duplicate this Space for longer runs and larger models."
OFF = "Training is off on this site. Duplicate this Space, or run rmx on your own machine, to train."
PRESET_TITLES = [
    ("small · minutes on this machine", "small"),
    ("paper · its values, made for large models", "paper"),
    ("floor · our extension: wrong tokens have a floor", "floor"),
    ("quick · too short to trust", "quick"),
]
TITLES = {"small": "Small run", "paper": "The paper's run", "floor": "Run with a floor", "quick": "Quick run"}


class TrainForm:
    """The form; where training is capped it begins with the recipe that stays below the caps."""

    def __init__(self, policy: SiteRules) -> None:
        capped, first = policy.training != "on", "small" if policy.training == "on" else "quick"
        self.start = gr.Button(f"{TITLES[first]} on mini", variant="primary", elem_id="train-start")
        self.dry = gr.Button("Dry run: rollouts and gate only", size="sm", elem_id="train-dry")
        if capped:
            gr.Markdown(CAPPED if policy.training == "mini" else OFF, elem_id="train-capped")
        models = [(p.title, p.name) for p in MODELS.values() if not capped or p.name == "mini"]
        self.model = gr.Dropdown(
            models, value="mini", label="Model", allow_custom_value=not capped, elem_id="train-model"
        )
        sets = ["mini"] if capped else [name for name in policy.problem_sets() if "train" in SETS[name].splits]
        self.problem_set = gr.Dropdown(sets, value="mini", label="Problems", elem_id="train-set")
        self.preset = gr.Dropdown(PRESET_TITLES, value=first, label="Recipe", elem_id="train-preset")
        values = PRESETS[first].flat()
        with gr.Accordion("The usual knobs", open=False, elem_id="train-usual"):
            made = {name: _component(name, kind, values[name]) for name, kind in _kinds() if name in USUAL}
        with gr.Accordion("Everything", open=False, elem_id="train-all"):
            self.sweep = gr.Textbox(max_lines=1, **SWEEP)
            made |= {name: _component(name, kind, values[name]) for name, kind in _kinds() if name not in USUAL}
        self.style = StyleControls("train")
        self.fields: dict[str, Any] = {name: made[name] for name, _ in _kinds()}  # by the names of the recipe
        self.pins = gr.State([])  # forks pinned in Explore, as JSON

    @property
    def asked(self) -> list[Any]:
        """Inputs of every callback that makes a job, in the order of `TrainTab.job`."""
        what = [self.model, self.problem_set, self.preset, self.pins, self.sweep]
        return [*what, *self.fields.values(), *self.style.asked]


class RunActions:
    """What the Train and Runs tabs do with runs that are there."""

    def __init__(self, training: Training, owners: Owners) -> None:
        self.training, self.owners = training, owners

    def opening(self, request: gr.Request) -> Message:
        """The visitor, for the page: it offers to stop this visitor's own runs."""
        visitor = self.owners.visitor_of(request)
        return {"kind": "me", "owner": visitor.public, "admin": visitor.admin}

    def act(self, action: str) -> Callable[..., Any]:
        """A callback that does `action` of `Training` to the run that an event names."""

        def callback(event: gr.EventData, request: gr.Request) -> Any:
            try:
                getattr(self.training, action)(event._data, self.owners.visitor_of(request))
            except RmxError as error:
                return refused(error)
            return gr.skip()

        return callback


class TrainTab(RunActions):
    """Callbacks of the tab; each makes one library call and renders what came of it."""

    view: gr.HTML
    pins: gr.State  # forks pinned in Explore, as JSON

    def job(self, model: str, problem_set: str, preset: str, pins: Any, sweep: str, *values: Any) -> TrainJob:
        """The job that the form describes.

        Raises:
            RmxError: a value that cannot be used.
        """
        for what, text in (("model's name", model), ("set's name", problem_set), ("list of thresholds", sweep)):
            short_enough(f"The {what}", str(text or ""), MOST_NAME)
        fields, style = values[: len(_kinds())], values[len(_kinds()) :]
        given = {name: _value(name, kind, value) for (name, kind), value in zip(_kinds(), fields, strict=True)}
        recipe = Recipe().with_(**given)
        mine = (pin for pin in pins or [] if isinstance(pin, dict) and pin.get("model") == model)
        forks = tuple(Pin.from_json(pin).json() for pin in mine)
        taus = taus_of(sweep) if (sweep or "").strip() else ()
        about: dict[str, Any] = {"pins": forks, "taus": taus, "style": from_form(*style)}
        return TrainJob(str(model or "mini").strip(), str(problem_set), recipe, str(preset), **about)

    def plan(self, *asked: Any) -> tuple[Any, Any]:
        """Minutes, memory, dollars and the command of what the form describes; the button says the first of them."""
        try:
            job = self.job(*asked)
            plan = self.training.plan(job)
        except RmxError as error:
            return refused(error), gr.skip()
        return plan, gr.Button(_title(job, plan["minutes"]))

    def start(self, request: gr.Request, *asked: Any) -> Any:
        """Start the run that the form describes."""
        return self._start(request, asked, dry=False)

    def dry(self, request: gr.Request, *asked: Any) -> Any:
        """Start its dry run."""
        return self._start(request, asked, dry=True)

    def _start(self, request: gr.Request, asked: tuple[Any, ...], dry: bool) -> Any:
        try:
            job = self.job(*asked)
            folder = self.training.start(job, self.owners.visitor_of(request), dry)
        except RmxError as error:
            return refused(error)
        return {"kind": "watch", "id": folder.id}

    def choose_preset(self, preset: str) -> list[Any]:
        """Fill the form with a preset's values."""
        recipe = PRESETS[preset].flat()
        return [_shown(recipe[name]) for name in field_types()]


def build_train_tab(training: Training, owners: Owners, page: gr.Tab) -> TrainTab:
    """Lay the tab out inside an open gr.Tab and wire it."""
    tab, who = TrainTab(training, owners), owners.key_of
    with gr.Row(elem_id="training", equal_height=False):
        with gr.Column(scale=0, min_width=300, elem_id="train-controls", elem_classes="controls"):
            controls = TrainForm(training.workspace.policy)
        with gr.Column(scale=1, min_width=320):
            tab.view = train_view(answering(training.run_tail, who), answering(training.dry_run, who), elem_id="train")
    tab.pins = controls.pins
    _wire(tab, controls, tab.view, page)
    return tab


def _wire(tab: TrainTab, c: TrainForm, view: gr.HTML, page: gr.Tab) -> None:
    busy: dict[str, Any] = {**QUIET, "concurrency_id": "train", "trigger_mode": "once"}
    page.select(tab.opening, None, view, **LIGHT).then(tab.plan, c.asked, [view, c.start], **PLAN)
    c.start.click(tab.start, c.asked, view, **busy)
    c.dry.click(tab.dry, c.asked, view, **busy)
    c.preset.input(tab.choose_preset, c.preset, list(c.fields.values()), **LIGHT).then(
        tab.plan, c.asked, [view, c.start], **PLAN
    )
    for component in (c.model, c.problem_set, c.sweep, *c.fields.values(), *c.style.asked):
        event = component.input if isinstance(component, gr.Dropdown | gr.Checkbox | gr.Radio) else component.blur
        event(tab.plan, c.asked, [view, c.start], **PLAN, trigger_mode="always_last")
    view.stop(tab.act("stop"), None, view, **LIGHT)
    view.resume(tab.act("resume"), None, view, **busy)


def _title(job: TrainJob, minutes: dict[str, float] | None) -> str:
    """The title of the button: which recipe, on what, and for about how long."""
    size = TITLES[job.preset]
    size += f", {len(job.taus)} threshold{'s' * (len(job.taus) > 1)}," if job.taus else ""
    if minutes is None:
        return f"{size} on {job.model}"
    about = max(1, round(minutes["value"]))
    return f"{size} on {job.model}, about {about} minute{'s' * (about > 1)}"


# -- the recipe as form fields ----------------------------------------------------------------------------------------


def _kinds() -> list[tuple[str, Any]]:
    return list(field_types().items())


def _component(name: str, kind: Any, value: Any) -> Any:
    """One field of the recipe: a box, a list or a tick."""
    about: dict[str, Any] = {
        "label": name.replace("_", " "),
        "info": HELP[name],
        "elem_id": f"train-{name.replace('_', '-')}",
    }
    if kind is bool:
        return gr.Checkbox(value, **about)
    if get_origin(kind) is Literal:
        return gr.Dropdown(list(get_args(kind)), value=value, **about)
    return gr.Textbox(_shown(value), max_lines=1, **about)


def _shown(value: Any) -> Any:
    """A value as the form shows it."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, tuple):
        return ", ".join(value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _value(name: str, kind: Any, value: Any) -> Any:
    """What the form holds, as a recipe takes it.

    Raises:
        RmxError: it is no such value.
    """
    text = str(value if value is not None else "").strip()
    short_enough(f"The field '{name.replace('_', ' ')}'", text, MOST_NAME)
    if kind is bool or get_origin(kind) is Literal:
        return value
    if get_origin(kind) is tuple:
        return tuple(word.strip() for word in text.split(",") if word.strip())
    kinds = [k for k in get_args(kind) if k is not type(None)] or [kind]
    if not text and type(None) in get_args(kind):
        return None
    try:
        return int(text) if kinds[0] is int else float(text)
    except ValueError as error:
        what = "a whole number" if kinds[0] is int else "a number"
        raise RmxError(f"{name.replace('_', ' ')} must be {what}; got '{text[:40]}'.") from error


# -- the Runs tab: every run of this machine, and what can be done with one -------------------------------------------


class RunsTab(RunActions):
    """Callbacks of the tab; each makes one library call and shows what came of it."""

    def push(self, event: gr.EventData, request: gr.Request) -> Message:
        """Push an adapter to the Hub with the visitor's own token."""
        run = payload(event).get("id")
        try:
            url = self.training.push(event._data, self.owners.visitor_of(request))
        except RmxError as error:
            return {"kind": "told", "id": run, "text": str(error)}
        return {"kind": "told", "id": run, "text": "Pushed to the Hub.", "url": url}

    def download(self, event: gr.EventData) -> Message:
        """Where the adapter's zip is."""
        run = str(payload(event).get("id") or "")
        return {"kind": "file", "id": run, "name": f"{run}.zip", "url": f"runs/{run}/adapter.zip"}


def build_runs_tab(training: Training, owners: Owners, page: gr.Tab) -> gr.HTML:
    """Lay the tab out inside an open gr.Tab and wire it; returns its view."""
    tab = RunsTab(training, owners)
    view = runs_view(
        answering(training.runs_list, owners.key_of),
        answering(training.run_curves),
        answering(training.run_files),
        answering(training.run_sweep),
        answering(training.costs, owners.key_of),
        elem_id="runs",
    )
    page.select(tab.opening, None, view, **LIGHT)
    for action in ("stop", "remove", "note", "rate"):
        getattr(view, action)(tab.act(action), None, view, **LIGHT)
    view.resume(tab.act("resume"), None, view, **{**QUIET, "concurrency_id": "train"})
    view.download(tab.download, None, view, **LIGHT)
    view.push(tab.push, None, view, **PUSH)
    return view
