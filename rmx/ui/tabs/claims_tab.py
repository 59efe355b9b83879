"""The Claims tab: what the paper says, row by row, measured on a pair that the visitor chooses."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch

from rmx.claims.ask import MOST_SAMPLES, ClaimOptions
from rmx.claims.verdicts import FEWEST
from rmx.compare.pair_options import PairOptions
from rmx.engine.fair_queue import Kind, as_owner, iterate_as_owner
from rmx.errors import RmxError
from rmx.models.presets import PRESETS, PairPreset, pairs_first
from rmx.models.style_options import from_form
from rmx.ui.background import prefetch
from rmx.ui.jobs.claims_jobs import Claims, Message
from rmx.ui.jobs.page_jobs import Visitors
from rmx.ui.request_log import observed
from rmx.ui.settings import Settings
from rmx.ui.tabs.style_panel import StyleControls, build_style_panel
from rmx.ui.tabs.wiring import LIGHT, MEASURE, Who, answering, nobody
from rmx.ui.views.claims_view import claims_view

OWN = "own"  # the choice that opens the boxes for another pair
MOST_PROBLEMS, MOST_BUDGET = 500, 2_000_000
PUBLIC_PROBLEMS, PUBLIC_SAMPLES, PUBLIC_BUDGET = 100, 16, 120_000  # on a public site, where others wait
FIRST_PROBLEMS, FIRST_SAMPLES, FIRST_BUDGET = 50, 8, 60_000
NOW = "(...asked) => [window.rmxClaims?.job() ?? '', ...asked.slice(1)]"  # which job the page shows


@dataclass(frozen=True, slots=True)
class ClaimsForm:
    """The settings column."""

    preset: gr.Dropdown
    own: gr.Group
    base: gr.Dropdown
    adapter: gr.Textbox
    teacher: gr.Textbox
    problem_set: gr.Dropdown
    limit: gr.Number
    measure: gr.Button
    tau: gr.Slider
    own_tau: gr.Checkbox
    share: gr.Slider
    samples: gr.Number
    budget: gr.Number
    seed: gr.Number
    max_new: gr.Number
    style: StyleControls

    @property
    def asked(self) -> list[Any]:
        """Inputs of a measurement, in the order of `ClaimsTab.options`."""
        pair = [self.preset, self.base, self.adapter, self.teacher]
        amounts = [self.samples, self.budget, self.seed, self.max_new]
        return [*pair, self.problem_set, self.limit, self.own_tau, self.tau, self.share, *amounts, *self.style.asked]


class ClaimsTab:
    """Callbacks of the tab; each makes one library call and renders what came of it."""

    controls: ClaimsForm
    view: gr.HTML

    def __init__(self, claims: Claims, settings: Settings, who: Who = nobody) -> None:
        self.claims, self.settings, self.who = claims, settings, who
        self.visitors = Visitors()
        space = claims.workspace
        self.pairs = pairs_first(settings.model, settings.adapter, space.loaded, space.policy.offers)

    def options(self, *asked: Any) -> ClaimOptions:
        """What the form asks for.

        Raises:
            RmxError: a value that cannot be used.
        """
        preset, base, adapter, teacher, name, limit, own_tau, tau, share, *rest = asked
        samples, budget, seed, max_new, *style = rest
        most = (PUBLIC_PROBLEMS, PUBLIC_SAMPLES, PUBLIC_BUDGET)
        if not self.claims.public:
            most = (MOST_PROBLEMS, MOST_SAMPLES, MOST_BUDGET)
        found = self.pairs.get(str(preset))
        if found is None:
            base, adapter, teacher = (str(x or "").strip() for x in (base, adapter, teacher))
            found = PairPreset("own", "own", base or "mini", adapter or None, teacher or None)
        pair = PairOptions(
            model=found.base,
            adapter=found.adapter,
            teacher=found.teacher,
            tau=float(tau) if own_tau and not share else None,
            tau_share=float(share) / 100 if share else None,
            seed=_whole(seed, "seed", 0, 2**31 - 1),
            max_new_tokens=_whole(max_new, "most tokens", 1, self.settings.max_new_tokens),
            set_name=str(name),
            limit=_whole(limit, "number of problems", 1, most[0]),
            style=from_form(*style),
        )
        amount = _whole(samples, "number of samples", 1, most[1])
        return ClaimOptions(pair, amount, _whole(budget, "budget of tokens", 1, most[2]))

    # -- callbacks ----------------------------------------------------------------------------------------------------

    def measure_all(self, before: str, request: gr.Request, *asked: Any) -> Iterator[Message]:
        yield from self._measured(None, before, request, *asked)

    def measure(self, event: gr.EventData, request: gr.Request, *asked: Any) -> Iterator[Message]:
        """One claim, the one of an event {"claim", "before"}."""
        data = event._data if isinstance(event._data, dict) else {}
        yield from self._measured(str(data.get("claim")), data.get("before"), request, *asked)

    def _measured(self, claim: str | None, before: Any, request: gr.Request, *asked: Any) -> Iterator[Message]:
        try:
            options = self.options(*asked)
            self.claims.workspace.policy.admit_set(options.pair.set_name)
            self.visitors.leave(request.session_hash)  # what this page did before makes room
            with as_owner(self.who(request)):
                job = self.claims.start(options, claim, before)
        except RmxError as error:
            yield {"kind": "refused", "error": str(error)}
            return
        self.visitors.begin(request.session_hash, job)
        steps = prefetch(iterate_as_owner(self.who(request), self.claims.stream(job), Kind.MEASURED), job.halt)
        yield from observed("claims", steps, lambda: {"outcome": "error" if job.error else "done"})

    def halt(self, event: gr.EventData) -> None:
        self.claims.halt(event._data)

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.visitors.leave(request.session_hash)


def build_claims_tab(claims: Claims, settings: Settings, page: gr.Tab, who: Who = nobody) -> ClaimsTab:
    """Lay the tab out inside an open gr.Tab and wire it; `who` names the visitor behind a request."""
    tab = ClaimsTab(claims, settings, who)
    with gr.Row(elem_id="claims", equal_height=False):
        with gr.Column(scale=0, min_width=300, elem_id="claims-controls", elem_classes="controls"):
            controls = tab.controls = _controls(tab)
        with gr.Column(scale=1, min_width=320):
            tab.view = claims_view(answering(claims.tail, who), answering(claims.export, who), elem_id="claims-view")
    _wire(tab, controls, page)
    return tab


def _controls(tab: ClaimsTab) -> ClaimsForm:
    gpu, policy = torch.cuda.is_available(), tab.claims.workspace.policy
    choices = [(f"{p.title} · {p.size(gpu)}".rstrip(" ·"), p.name) for p in tab.pairs.values()]
    first = next(iter(tab.pairs))
    preset = gr.Dropdown([*choices, ("another pair …", OWN)], value=first, label="Pair", elem_id="claims-preset")
    with gr.Group(visible=False, elem_id="claims-own") as own:
        models = [(p.title, p.name) for p in PRESETS.values() if policy.offers(p.name)]
        base = gr.Dropdown(models, value="mini", label="Base", allow_custom_value=True, elem_id="claims-base")
        adapter = gr.Textbox(label="Adapter (bundled, a run, a folder or a Hub id)", elem_id="claims-adapter")
        teacher = gr.Textbox(label="… or a full checkpoint", elem_id="claims-teacher")
    sets = policy.problem_sets()
    problem_set = gr.Dropdown(sets, value="mini", label="Set", elem_id="claims-set")
    few = f"Below {FEWEST} no verdict is given."
    limit = gr.Number(FIRST_PROBLEMS, label="Problems", info=few, precision=0, elem_id="claims-limit")
    measure = gr.Button("Measure all", variant="primary", elem_id="claims-measure")
    with gr.Accordion("How much, and how", open=False, elem_id="claims-more"):
        own_tau = gr.Checkbox(False, label="A threshold of my own", elem_id="claims-own-tau")
        tau = gr.Slider(0, 4, 1.2, step=0.05, label="Fork threshold (nats)", visible=False, elem_id="claims-tau")
        share = gr.Slider(
            0, 20, 0, step=0.5, label="… or the share of tokens that are forks (%; 0: by nats)", elem_id="claims-share"
        )
        samples = gr.Number(FIRST_SAMPLES, label="Samples per problem, pass@k", precision=0, elem_id="claims-samples")
        budget = gr.Number(FIRST_BUDGET, label="Tokens for what decides", precision=0, elem_id="claims-budget")
        with gr.Row():
            seed = gr.Number(0, label="Seed", precision=0, min_width=80, elem_id="claims-seed")
            most = min(512, tab.settings.max_new_tokens)
            max_new = gr.Number(most, label="Most tokens", precision=0, min_width=80, elem_id="claims-max-new")
    style = build_style_panel("claims")
    return ClaimsForm(
        preset, own, base, adapter, teacher, problem_set, limit, measure, tau, own_tau, share, samples, budget, seed,
        max_new, style,
    )  # fmt: skip


def _wire(tab: ClaimsTab, c: ClaimsForm, page: gr.Tab) -> None:
    before = gr.Textbox(visible=False)
    c.preset.change(lambda preset: gr.Group(visible=preset == OWN), c.preset, c.own, **LIGHT)
    c.own_tau.change(lambda own: gr.Slider(visible=own), c.own_tau, c.tau, **LIGHT)
    c.measure.click(tab.measure_all, [before, *c.asked], tab.view, js=NOW, **MEASURE)
    tab.view.measure(tab.measure, c.asked, tab.view, **MEASURE)
    tab.view.halt(tab.halt, None, None, **LIGHT)


def _whole(value: Any, what: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise RmxError(f"The {what} must be a whole number.")
    if not least <= int(value) <= most:
        raise RmxError(f"The {what} must lie between {least:,} and {most:,}.")
    return int(value)
