"""The Claims tab: what the paper says, row by row, measured on a pair that the visitor chooses.

Its view gets one message, the whole state of a job, any of which may be lost:
    claims {"kind", "id", "done", "stopped", "does", "at", "of", "rows": [{"id", "verdict", "why", "text", "n",
            "minutes", "state", "bars": [{"name", "numbers", "said", "low", "value", "high", "zero", "band"}, ...]}],
            "pair"?, "set"?, "n"?, "tau"?, "seed"?, "caveats"?, "licence"?, "source"?, "command"?, "error"?}
and sends `view.measure` {"claim": id, "before": id of the job in sight | null} and `view.halt` {"id"}.
Other components reach it by `window.rmxClaims`: job() is the id of the job in sight, or null.
"""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from rmx.claims.claim import FEWEST
from rmx.claims.studies import MOST_SAMPLES, ClaimOptions
from rmx.compare.shift_map import PairOptions
from rmx.engine.fair_queue import Kind
from rmx.models.presets import pairs_first
from rmx.models.style_options import from_form
from rmx.service.requests import ClaimsRequest
from rmx.ui.jobs.claims_jobs import Claims, ClaimsJob, claims_texts
from rmx.ui.jobs.page_jobs import Message, whole
from rmx.ui.settings import Settings
from rmx.ui.tabs import form_parts as parts
from rmx.ui.tabs.form_parts import LIGHT, MEASURE, StreamTab, Who, answers, nobody, payload
from rmx.ui.views import build_view

MOST_PROBLEMS, MOST_BUDGET = 500, 2_000_000
PUBLIC_PROBLEMS, PUBLIC_SAMPLES, PUBLIC_BUDGET = 100, 16, 120_000  # on a public site, where others wait
FIRST_PROBLEMS, FIRST_BUDGET = 50, 60_000
NOW = "(...asked) => [window.rmxClaims?.job() ?? '', ...asked.slice(1)]"  # which job the page shows


class ClaimsForm:
    """The settings column."""

    def __init__(self, tab: "ClaimsTab") -> None:
        policy = tab.claims.workspace.policy
        label = "Adapter (bundled, a run, a folder or a Hub id)"
        self.pair = parts.PairBoxes("claims", tab.pairs, policy.offers, label)
        self.problem_set = gr.Dropdown(policy.problem_sets(), value="mini", label="Set", elem_id="claims-set")
        few = f"Below {FEWEST} no verdict is given."
        self.limit = parts.whole_number(FIRST_PROBLEMS, "Problems", "claims-limit", info=few)
        self.measure = gr.Button("Measure all", variant="primary", elem_id="claims-measure")
        with gr.Accordion("How much, and how", open=False, elem_id="claims-more"):
            self.own_tau = gr.Checkbox(False, label="A threshold of my own", elem_id="claims-own-tau")
            label = "Fork threshold (nats)"
            self.tau = gr.Slider(0, 4, 1.2, step=0.05, label=label, visible=False, elem_id="claims-tau")
            label = "… or the share of tokens that are forks (%; 0: by nats)"
            self.share = gr.Slider(0, 20, 0, step=0.5, label=label, elem_id="claims-share")
            first = parts.defaults_of(ClaimsRequest)
            self.samples = parts.whole_number(first["n"], "Samples per problem, pass@k", "claims-samples")
            self.budget = parts.whole_number(FIRST_BUDGET, "Tokens for what decides", "claims-budget")
            self.seed, self.max_new = parts.seed_and_length("claims-", min(512, tab.settings.max_new_tokens))
        self.style = parts.StyleControls("claims")
        what = [*self.pair.asked, self.problem_set, self.limit, self.own_tau, self.tau, self.share]
        # The inputs of a measurement, in the order of `ClaimsTab.options`.
        self.asked = [*what, self.samples, self.budget, self.seed, self.max_new, *self.style.asked]


class ClaimsTab(StreamTab):
    """Callbacks of the tab; each makes one library call and renders what came of it."""

    def __init__(self, claims: Claims, settings: Settings, who: Who = nobody) -> None:
        super().__init__(claims.jobs, who)
        self.claims, self.settings = claims, settings
        space = claims.workspace
        self.pairs = pairs_first(settings.model, settings.adapter, space.loaded, space.policy.offers)

    def options(self, *asked: Any) -> ClaimOptions:
        """What the form asks for."""
        preset, base, adapter, teacher, name, limit, own_tau, tau, share, *rest = asked
        samples, budget, seed, max_new, *style = rest
        most = (PUBLIC_PROBLEMS, PUBLIC_SAMPLES, PUBLIC_BUDGET)
        if not self.claims.workspace.policy.public:
            most = (MOST_PROBLEMS, MOST_SAMPLES, MOST_BUDGET)
        found = parts.chosen_pair(self.pairs, preset, base, adapter, teacher)
        pair = PairOptions(
            model=found.base,
            adapter=found.adapter,
            teacher=found.teacher,
            tau=float(tau) if own_tau and not share else None,
            tau_share=float(share) / 100 if share else None,
            seed=whole(seed, "seed", 0, 2**31 - 1),
            max_new_tokens=whole(max_new, "most tokens", 1, self.settings.max_new_tokens),
            set_name=str(name),
            limit=whole(limit, "number of problems", 1, most[0]),
            style=from_form(*style),
        )
        amount = whole(samples, "number of samples", 1, most[1])
        return ClaimOptions(pair, amount, whole(budget, "budget of tokens", 1, most[2]))

    def measure_all(self, before: str, request: gr.Request, *asked: Any) -> Iterator[Message]:
        """Measure all claims; `before` is the id of the job that the page shows."""
        yield from self._measure(None, before, request, *asked)

    def measure(self, event: gr.EventData, request: gr.Request, *asked: Any) -> Iterator[Message]:
        """Measure the claim of an event {"claim", "before"}."""
        data = payload(event)
        yield from self._measure(str(data.get("claim")), data.get("before"), request, *asked)

    def _measure(self, claim: str | None, before: Any, request: gr.Request, *asked: Any) -> Iterator[Message]:
        def start() -> ClaimsJob:
            options = self.options(*asked)
            self.claims.workspace.policy.admit_set(options.pair.set_name)
            self.leave(request)  # what this page did before makes room
            return self.claims.start(options, claim, before)

        def about(job: ClaimsJob) -> dict[str, Any]:
            return {"outcome": "error" if job.error else "done"}

        yield from self.run("claims", request, start, self.claims.stream, about, kind=Kind.MEASURED)


def build_claims_tab(claims: Claims, settings: Settings, who: Who = nobody) -> ClaimsTab:
    """Lay the tab out inside an open gr.Tab and wire it; `who` names the visitor behind a request."""
    tab = ClaimsTab(claims, settings, who)
    with gr.Row(elem_id="claims", equal_height=False):
        with gr.Column(scale=0, min_width=300, elem_id="claims-controls", elem_classes="controls"):
            c = ClaimsForm(tab)
        with gr.Column(scale=1, min_width=320):
            asked = answers(who, claims_tail=claims.tail, claims_export=claims.export)
            cards = build_view("claims/claims_view", asked, claims=claims_texts(), elem_id="claims-view")
    before = gr.Textbox(visible=False)
    c.pair.preset.change(lambda preset: gr.Group(visible=preset == parts.OWN), c.pair.preset, c.pair.own, **LIGHT)
    c.own_tau.change(lambda own: gr.Slider(visible=own), c.own_tau, c.tau, **LIGHT)
    c.measure.click(tab.measure_all, [before, *c.asked], cards, js=NOW, **MEASURE)
    cards.measure(tab.measure, c.asked, cards, **MEASURE)
    cards.halt(tab.halt, None, None, **LIGHT)
    return tab
