"""The tabs that set two models side by side: Compare, on one solution and over a set; Claims, by what the paper says.

The view of Compare has three panes and gets one message, told apart by `"kind"`, in any order and any number of times:
map    {"kind", "id", "start", "toks": [[text, cls, flags, kl, H_base, H_adapted, p, q], ...],
"done", "open"?, "result"?}
patch  {"kind", "id", "map", "start", "toks": [[text, flags, H_base, from_text, p, q], ...],
"done", "open"?, "result"?, "answers", "patches"}
set    {"kind", "id", "what", "at", "of", "done", "rows" | "arms", ...}, the whole state of a job over a problem set
and `"error": sentence` on any of them. Deltas of map and patch can be lost; the page asks `pair_tail` for the rest.
It sends `view.patch` {"map", "arm", "budget"}, `view.halt` {"id"}.
Other components reach it by `window.rmxPair`: step, arm, budget, pane, present.

The view of Claims gets one message, the whole state of a job, any of which may be lost:
claims {"kind", "id", "done", "stopped", "does", "at", "of", "rows": [{"id", "verdict", "why", "text", "n",
"minutes", "state", "bars": [{"name", "numbers", "said", "low", "value", "high", "zero", "band"}, ...]}],
"pair"?, "set"?, "n"?, "tau"?, "seed"?, "caveats"?, "licence"?, "source"?, "command"?, "recorded"?, "error"?}
and sends `view.measure` {"claim": id, "before": id of the job in sight | null} and `view.halt` {"id"}.
Until its visitor measures something it shows a bundled example, one of the prop `recorded`: [{"id", "label"}].
Other components reach it by `window.rmxClaims`: job() is the id of the job in sight, or null.
"""

from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from rmx.arguments import MOST_SAMPLES
from rmx.claims.claim import FEWEST
from rmx.claims.studies import ClaimOptions
from rmx.compare.shift_map import PairOptions
from rmx.data.problem_sets import examples, load_set
from rmx.engine.fair_queue import Kind
from rmx.errors import RmxError
from rmx.models.model_pair import Pair, make_pair
from rmx.models.names import pairs_first, shipped_adapters
from rmx.models.style_options import from_form
from rmx.service.requests import ClaimsRequest
from rmx.ui.jobs.claims_jobs import Claims, ClaimsJob, claims_texts, recorded_choices
from rmx.ui.jobs.comparer import Comparer, PairJob, SetRun
from rmx.ui.jobs.page_jobs import Message, whole
from rmx.ui.settings import Settings
from rmx.ui.tabs import form_parts as parts
from rmx.ui.tabs.form_parts import LIGHT, MEASURE, QUIET, STREAM, StreamTab
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
        known = ", ".join(shipped_adapters(space.model("mini").spec))
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
        self.fetching = parts.FetchNote(tab, space, self.note, "pair")
        # The inputs of a callback, in the order of `CompareTab._pair`, `_map` and `over_set`.
        self.models = [*self.pair.asked, self.strength, *self.style.asked]
        self.asked = [*self.models, *self.boxes.all, self.source, self.text, self.tau, self.max_new]
        self.asked_of_set = [*self.models, self.problem_set, self.limit, self.tau, self.max_new]


class CompareTab(StreamTab):
    """Callbacks of the tab; each makes one library call and renders what came of it."""

    controls: CompareForm

    def __init__(self, comparer: Comparer, settings: Settings) -> None:
        super().__init__(comparer.jobs)
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
            return parts.refused(error, kind=view, id=None, start=0, toks=[], done=True)

        return self.run(verb, request, start, self.comparer.stream, about, refusal, Kind.MEASURED)

    def _map(self, *asked: Any) -> Any:
        *chosen, pair, problem, answer, source, text, tau, max_new = asked
        most = whole(max_new, "most tokens", 1, self.settings.max_new_tokens)
        known = parts.known_answer(parts.chosen_pair(self.pairs, *chosen[:2]).base, pair, problem, answer)
        about = {"known": known.answer, "known_computed": known.computed, "source": source, "text": str(text or "")}
        models = self._pair(*chosen, set_name=parts.set_of(pair, problem))
        return self.comparer.map(models, str(problem or ""), tau, max_new=most, **about)

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

    def over_set(self, what: str) -> Callable[..., Iterator[Message]]:
        """Make a callback that streams "shifts" or interventions ("intervene") over a set."""
        policy = self.comparer.workspace.policy

        def start(request: gr.Request, *asked: Any) -> SetRun:
            *chosen, name, limit, tau, max_new = asked
            policy.admit_set(str(name))
            count = whole(limit, "number of problems", 1, PUBLIC_PROBLEMS if policy.public else MOST_PROBLEMS)
            problems, pair = load_set(str(name))[:count], self._pair(*chosen, set_name=str(name))
            most = whole(max_new, "most tokens", 1, self.settings.max_new_tokens)
            self.leave(request)  # what this page did before makes room
            return self.comparer.over_set(pair, what, str(name), problems, tau, most)

        def callback(request: gr.Request, *asked: Any) -> Iterator[Message]:
            yield from self._job(what, "set", request, lambda: start(request, *asked))

        return callback

    def models_of(self, *chosen: Any) -> list[str]:
        """The models of the pair that is chosen: one with its adapter, or two."""
        found = parts.chosen_pair(self.pairs, *chosen)
        return [name for name in (found.base, found.teacher) if name]

    def models_listed(self, preset: str) -> list[str]:
        """The models of a pair of the list; none where the boxes are chosen, which are filled in later."""
        return [] if preset == parts.OWN else self.models_of(preset, "")

    @parts.shows_errors
    def choose_pair(self, preset: str) -> tuple[Any, ...]:
        """Load the pair now, so that Compare is instant, and take over its threshold."""
        if preset == parts.OWN:
            return gr.Group(visible=True), gr.skip(), "Fill in a base and either an adapter or a full checkpoint."
        pair = self._pair(preset, "", "", "", 1.0)
        how = "one set of weights" if pair.one_set else "two sets of weights"
        note = f"{pair.base.dtype} on {pair.base.engine.device} · {how} · {self.pairs[preset].method}".rstrip(" ·")
        return gr.Group(visible=False), pair.base.tau, note


def build_compare_tab(comparer: Comparer, settings: Settings, page: gr.Tab) -> CompareTab:
    """Lay the tab out inside an open gr.Tab and wire it."""
    tab = CompareTab(comparer, settings)
    with gr.Row(elem_id="compare", equal_height=False):
        with gr.Column(scale=0, min_width=300, elem_id="compare-controls", elem_classes="controls"):
            c = tab.controls = CompareForm(tab)
        with gr.Column(scale=1, min_width=320):
            questions = {"pair_tail": comparer.tail, "pair_inspect": comparer.inspect}
            questions |= {"pair_check": comparer.check, "pair_export": comparer.export}
            panes = build_view("compare/compare_view", questions, elem_id="pair")
    opened = gr.State(False)
    page.select(tab.opening, [opened, *c.asked], [panes, opened], **STREAM)
    fetch_before = c.fetching.fetch_before
    fetch_before(c.compare.click, tab.models_of, c.pair.asked)(tab.compare, c.asked, panes, **STREAM)
    c.strength.input(None, None, None, js=SETTLED, **QUIET)
    load: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "load"}
    found = fetch_before(c.pair.preset.input, tab.models_listed, [c.pair.preset])
    chosen = found(tab.choose_pair, c.pair.preset, [c.pair.own, c.tau, c.note], **load)
    chosen.success(tab.compare, c.asked, panes, **STREAM)
    c.source.change(lambda source: gr.Textbox(visible=source == "text"), c.source, c.text, **LIGHT)
    for box in (c.boxes.problem, c.pair.preset, c.pair.base):
        boxes: list[Any] = [c.pair.preset, c.pair.base, c.boxes.problem]
        box.change(tab.show_computed, boxes, c.boxes.answer, trigger_mode="always_last", **LIGHT)
    panes.patch(tab.patch, None, panes, **STREAM)
    panes.halt(tab.halt, None, None, **LIGHT)
    for button, what in ((c.shifts, "shifts"), (c.intervene, "intervene")):
        button.click(None, None, None, js="() => { window.rmxPair?.pane('set') }", **QUIET)
        found = fetch_before(button.click, tab.models_of, c.pair.asked)
        found(tab.over_set(what), c.asked_of_set, panes, **MEASURE)
    return tab


# -- The Claims tab ---------------------------------------------------------------------------------------------------


MOST_BUDGET = 2_000_000
PUBLIC = (PUBLIC_PROBLEMS, 16, 120_000)  # problems, samples and tokens on a public site
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

    def __init__(self, claims: Claims, settings: Settings) -> None:
        super().__init__(claims.jobs)
        self.claims, self.settings = claims, settings
        space = claims.workspace
        self.pairs = pairs_first(settings.model, settings.adapter, space.loaded, space.policy.offers)

    def options(self, *asked: Any) -> ClaimOptions:
        """What the form asks for."""
        preset, base, adapter, teacher, name, limit, own_tau, tau, share, *rest = asked
        samples, budget, seed, max_new, *style = rest
        public = self.claims.workspace.policy.public
        most = PUBLIC if public else (MOST_PROBLEMS, MOST_SAMPLES, MOST_BUDGET)
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
        data = parts.payload(event)
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


def build_claims_tab(claims: Claims, settings: Settings) -> ClaimsTab:
    """Lay the tab out inside an open gr.Tab and wire it."""
    tab = ClaimsTab(claims, settings)
    with gr.Row(elem_id="claims", equal_height=False):
        with gr.Column(scale=0, min_width=300, elem_id="claims-controls", elem_classes="controls"):
            c = ClaimsForm(tab)
        with gr.Column(scale=1, min_width=320):
            asked = {"claims_tail": claims.tail, "claims_export": claims.export}
            cards = build_view(
                "claims/claims_view", asked, claims=claims_texts(), recorded=recorded_choices(), elem_id="claims-view"
            )
    before = gr.Textbox(visible=False)
    c.pair.preset.change(lambda preset: gr.Group(visible=preset == parts.OWN), c.pair.preset, c.pair.own, **LIGHT)
    c.own_tau.change(lambda own: gr.Slider(visible=own), c.own_tau, c.tau, **LIGHT)
    c.measure.click(tab.measure_all, [before, *c.asked], cards, js=NOW, **MEASURE)
    cards.measure(tab.measure, c.asked, cards, **MEASURE)
    cards.halt(tab.halt, None, None, **LIGHT)
    return tab
