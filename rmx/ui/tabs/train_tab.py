"""The Train tab, a run in one click, by the usual knobs, or by every field; and the Runs tab, which lists all runs.

The view of a run gets one message, or a list of them (a value that follows another at once would replace it unseen):
    watch   {"kind", "id"}: attach to this run; the page remembers it over reloads (address and browser storage)
    me      {"kind", "owner": public id, "admin"}: who looks; Stop and Resume show on own runs, or on all for an admin
    refused {"kind", "error"}: what was asked for is not done, and why
    plan    {"kind", "minutes": {"value", "low", "high"} | null, "memory_mb" | null, "usd" | null, "rate": sentence |
            null, "command", "departs": [[field, paper, here], ...]}
    dry     {"kind", "run": id | null, "tau", "k", "rollouts": [{"problem_id", "gen", "correct", "advantage",
            "toks": [[text, entropy], ...]}, ...], "levels": [tau, ...], "gated_right", "gated_wrong", "gated_zero":
            [count per level], "tokens", "of_rollouts", "selection", "estimate": {"seconds", "memory_mb", "usd"} | null}
It asks `run_tail` about once a second while it is in sight and the run is alive (a `next` below `start` makes it read
the run anew, `"more": true` ask on at once), and `dry_run` once, when the gate of a run comes into sight. It sends
`stop` {"id"}, `resume` {"id", "tau"?: the slider's, after a dry run}, `open` {"id", "where": "explore" | "compare"},
`download` {"id"} and `tau` {"tau"}: the threshold on which the slider came to rest. After stop and resume it waits for
the poll to tell the new state. Other components reach it by `window.rmxTrain`: watch(id), tau(), watched(); before it
is there, the address names the run that it is to watch.

The table of runs asks `runs_list` every three seconds while it is in sight, so a closed page costs nothing and a
restart of the app loses nothing. It gets `me`, `refused` and `watch` as above, and
    told    {"kind", "id", "text", "url"?}: a sentence in the run's detail; a url on huggingface.co is linked
    file    {"kind", "id", "name", "url"}: the page downloads it; a path on this server only
and sends `stop`, `resume`, `open`, `download` {"id"}, `remove` {"id"}, `note` {"id", "text"},
`push` {"id", "repo", "token", "private"}, `rate` {"name", "usd": text, empty to take it back}.
Other components reach it by `window.rmxRuns`: open(id), compare(ids), refresh().
"""

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from rmx.arguments import kind_of
from rmx.config import MOST_NAME
from rmx.data.problem_sets import SETS
from rmx.errors import RmxError
from rmx.models.names import PRESETS as MODELS
from rmx.models.site_rules import SiteRules
from rmx.models.style_options import from_form
from rmx.runs.job import Pin, TrainJob
from rmx.runs.recipe import HELP, PAPER, PRESETS, Recipe, field_types, taus_of
from rmx.service.checks import short_enough
from rmx.ui.jobs.page_jobs import Message
from rmx.ui.jobs.training import Training, shown_value
from rmx.ui.tabs.form_parts import LIGHT, PLAN, QUIET, StyleControls, payload, refused
from rmx.ui.views import build_view
from rmx.ui.visitor_cookie import Owners

PUSH: dict[str, Any] = {**QUIET, "concurrency_id": "push", "concurrency_limit": 4}
FIELDS = field_types()
USUAL = ("problems", "k", "tau", "lr", "epochs", "seed")
CAPPED = "Here visitors start one quick run at a time. Duplicate this Space for longer runs and larger models."
OFF = "Training is off on this site. Duplicate this Space, or run rmx on your own machine, to train."
PRESET_TITLES = [
    ("small · minutes on this machine", "small"),
    ("paper · its values, made for large models", "paper"),
    ("floor · our extension: wrong tokens have a floor", "floor"),
    ("quick · too short to trust", "quick"),
]
RUNS_PROPS = {"paper": PAPER.json(), "presets": {name: recipe.json() for name, recipe in PRESETS.items()}}
TITLES = {"small": "Small run", "paper": "The paper's run", "floor": "Run with a floor", "quick": "Quick run"}


class TrainForm:
    """The form; where training is capped it begins with the recipe that stays below the caps."""

    def __init__(self, policy: SiteRules, pins: gr.State) -> None:
        capped, first = policy.training != "on", "small" if policy.training == "on" else "quick"
        self.start = gr.Button(f"{TITLES[first]} on mini", variant="primary", elem_id="train-start")
        gr.Button("Stop this run", variant="stop", elem_id="train-stop")  # in its place while one goes on
        self.dry = gr.Button("Dry run: rollouts and gate only", size="sm", elem_id="train-dry")
        if capped:
            gr.Markdown(CAPPED if policy.training == "mini" else OFF, elem_id="train-capped")
        models = [(p.title, p.name) for p in MODELS.values() if not capped or p.name == "mini"]
        any_model: dict[str, Any] = {"label": "Model", "allow_custom_value": not capped, "elem_id": "train-model"}
        self.model = gr.Dropdown(models, value="mini", **any_model)
        sets = ["mini"] if capped else [name for name in policy.problem_sets() if "train" in SETS[name].splits]
        self.problem_set = gr.Dropdown(sets, value="mini", label="Problems", elem_id="train-set")
        self.preset = gr.Dropdown(PRESET_TITLES, value=first, label="Recipe", elem_id="train-preset")
        values = PRESETS[first].flat()
        with gr.Accordion("The usual knobs", open=False, elem_id="train-usual"):
            made = {name: _component(name, values[name]) for name in FIELDS if name in USUAL}
        with gr.Accordion("Everything", open=False, elem_id="train-all"):
            info = "one adapter for each, in nats; validation chooses, as in the paper: 1.2, 1.4, 1.6, 1.8"
            label = "Sweep thresholds (comma separated)"
            self.sweep = gr.Textbox(max_lines=1, label=label, info=info, elem_id="train-sweep")
            made |= {name: _component(name, values[name]) for name in FIELDS if name not in USUAL}
        self.style = StyleControls("train")
        self.fields: dict[str, Any] = {name: made[name] for name in FIELDS}
        # The inputs of every callback that makes a job, in the order of `TrainTab.job`.
        what = [self.model, self.problem_set, self.preset, pins, self.sweep]
        self.asked = [*what, *self.fields.values(), *self.style.asked]


class RunsTab:
    """Callbacks of the Runs tab, and what the Train tab does with runs that are there."""

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


class TrainTab(RunsTab):
    """Callbacks of the tab; each makes one library call and renders what came of it."""

    view: gr.HTML

    def job(self, model: str, problem_set: str, preset: str, pins: Any, sweep: str, *values: Any) -> TrainJob:
        """The job that the form describes."""
        for what, text in (("model's name", model), ("set's name", problem_set), ("list of thresholds", sweep)):
            short_enough(f"The {what}", str(text or ""), MOST_NAME)
        style = values[len(FIELDS) :]
        recipe = Recipe().with_(**{name: _value(name, value) for name, value in zip(FIELDS, values, strict=False)})
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

    def start(self, dry: bool = False) -> Callable[..., Message]:
        """A callback that starts the run which the form describes, or its dry run."""

        def callback(request: gr.Request, *asked: Any) -> Message:
            try:
                job, visitor = self.job(*asked), self.owners.visitor_of(request)
                self.training.refuse_second(job, visitor)
                folder = self.training.start(job, visitor, dry)
            except RmxError as error:
                return refused(error)
            return {"kind": "watch", "id": folder.id}

        return callback

    def choose_preset(self, preset: str) -> list[Any]:
        """Fill the form with a preset's values."""
        recipe = PRESETS[preset].flat()
        return [shown_value(recipe[name]) for name in FIELDS]


def build_train_tab(training: Training, owners: Owners, page: gr.Tab, pins: gr.State) -> TrainTab:
    """Lay the tab out inside an open gr.Tab and wire it; `pins` holds the forks pinned in Explore, as JSON."""
    tab = TrainTab(training, owners)
    with gr.Row(elem_id="training", equal_height=False):
        with gr.Column(scale=0, min_width=300, elem_id="train-controls", elem_classes="controls"):
            c = TrainForm(training.workspace.policy, pins)
        with gr.Column(scale=1, min_width=320):
            asked = {"run_tail": training.run_tail, "dry_run": training.dry_run}
            shown = tab.view = build_view("train/train_view", asked, elem_id="train")
    planned = [shown, c.start]
    busy: dict[str, Any] = {**QUIET, "concurrency_id": "train", "trigger_mode": "once"}
    page.select(tab.opening, None, shown, **LIGHT).then(tab.plan, c.asked, planned, **PLAN)
    c.start.click(tab.start(), c.asked, shown, **busy)
    c.dry.click(tab.start(dry=True), c.asked, shown, **busy)
    filled = c.preset.input(tab.choose_preset, c.preset, list(c.fields.values()), **LIGHT)
    filled.then(tab.plan, c.asked, planned, **PLAN)
    fields = (c.model, c.problem_set, c.sweep, *c.fields.values(), *c.style.asked)
    picked = [one.input if isinstance(one, gr.Dropdown | gr.Checkbox | gr.Radio) else one.blur for one in fields]
    gr.on(picked, tab.plan, c.asked, planned, **PLAN, trigger_mode="always_last")
    shown.stop(tab.act("stop"), None, shown, **LIGHT)
    shown.resume(tab.act("resume"), None, shown, **busy)
    return tab


def _title(job: TrainJob, minutes: dict[str, float] | None) -> str:
    """The title of the button: which recipe, on what, and for about how long."""
    size = TITLES[job.preset]
    size += f", {len(job.taus)} threshold{'s' * (len(job.taus) > 1)}," if job.taus else ""
    if minutes is None:
        return f"{size} on {job.model}"
    about = max(1, round(minutes["value"]))
    return f"{size} on {job.model}, about {about} minute{'s' * (about > 1)}"


def _component(name: str, value: Any) -> Any:
    """One field of the recipe: a box, a list or a tick."""
    kind, label = FIELDS[name], name.replace("_", " ")
    about: dict[str, Any] = {"label": label, "info": HELP[name], "elem_id": f"train-{name.replace('_', '-')}"}
    if kind is bool:
        return gr.Checkbox(value, **about)
    if get_origin(kind) is Literal:
        return gr.Dropdown(list(get_args(kind)), value=value, **about)
    return gr.Textbox(shown_value(value), max_lines=1, **about)


def _value(name: str, value: Any) -> Any:
    """What the form holds, as a recipe takes it."""
    kind = FIELDS[name]
    text = str(value if value is not None else "").strip()
    short_enough(f"The field '{name.replace('_', ' ')}'", text, MOST_NAME)
    if kind is bool or get_origin(kind) is Literal:
        return value
    if get_origin(kind) is tuple:
        return tuple(word.strip() for word in text.split(",") if word.strip())
    if not text and type(None) in get_args(kind):
        return None
    number = kind_of(kind)
    try:
        return number(text)
    except ValueError as error:
        what = "a whole number" if number is int else "a number"
        raise RmxError(f"{name.replace('_', ' ')} must be {what}; got '{text[:40]}'.") from error


def build_runs_tab(training: Training, owners: Owners, page: gr.Tab) -> gr.HTML:
    """Lay the tab out inside an open gr.Tab and wire it; returns its view."""
    tab = RunsTab(training, owners)
    asked = {name: getattr(training, name) for name in ("runs_list", "costs", "run_curves", "run_files", "run_sweep")}
    table = build_view("runs/runs_view", asked, **RUNS_PROPS, elem_id="runs")
    page.select(tab.opening, None, table, **LIGHT)
    for action in ("stop", "remove", "note", "rate"):
        getattr(table, action)(tab.act(action), None, table, **LIGHT)
    table.resume(tab.act("resume"), None, table, **{**QUIET, "concurrency_id": "train"})
    table.download(tab.download, None, table, **LIGHT)
    table.push(tab.push, None, table, **PUSH)
    return table
