"""The problem builder of the bundled model: a template, names, a thing and numbers make a problem with its answer."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from rmx.errors import ProblemError
from rmx.mini.task import NAMES, TEMPLATES, THINGS, compose
from rmx.ui.tabs.known_answer import ProblemBoxes, together
from rmx.ui.tabs.wiring import shows_errors

MAX_NUMBERS = max(len(t.slots) for t in TEMPLATES.values())


@dataclass(frozen=True, slots=True)
class Builder:
    """What the Explore tab wires."""

    panel: gr.Accordion


def build_builder(boxes: ProblemBoxes) -> Builder:
    """The folded panel; its button writes into the problem and the answer box."""
    first = next(iter(TEMPLATES.values()))
    with gr.Accordion("Build a problem", open=False, elem_id="builder") as panel:
        template = gr.Dropdown(
            [(t.describe(), t.name) for t in TEMPLATES.values()], value=first.name, label="Kind of problem"
        )
        wording = gr.Dropdown(_wordings(first.name), value=0, label="Wording")
        with gr.Row():
            one = gr.Dropdown(sorted(NAMES), value="Ann", label="First name", min_width=90)
            two = gr.Dropdown(sorted(NAMES), value="Ben", label="Second name", min_width=90)
            thing = gr.Dropdown(sorted(THINGS), value=THINGS[0], label="Things", min_width=90)
        with gr.Row():
            numbers = [gr.Number(**_slot(first.name, i)) for i in range(MAX_NUMBERS)]
        make = gr.Button("Use this problem", size="sm")
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    template.change(_choose, template, [wording, *numbers], **hidden)
    make.click(_make, [template, wording, one, two, thing, *numbers], boxes.all, **hidden)
    return Builder(panel)


def _wordings(template: str) -> list[tuple[str, int]]:
    return [(w.plain(), i) for i, w in enumerate(TEMPLATES[template].wordings)]


def _slot(template: str, i: int) -> dict[str, Any]:
    slots = list(TEMPLATES[template].slots.items())
    if i >= len(slots):
        return {"visible": False, "value": None, "label": "–", "min_width": 70, "precision": 0}
    name, (low, high) = slots[i]
    return {"visible": True, "value": low, "label": f"{name} ({low}–{high})", "min_width": 70, "precision": 0}


def _choose(template: str) -> list[Any]:
    boxes = [gr.Number(**_slot(template, i)) for i in range(MAX_NUMBERS)]
    return [gr.Dropdown(_wordings(template), value=0), *boxes]


@shows_errors
def _make(template: str, wording: int, one: str, two: str, thing: str, *numbers: float | None) -> tuple[Any, ...]:
    count = len(TEMPLATES[template].slots) if template in TEMPLATES else 0
    given = [int(n) if n is not None else 0 for n in numbers[:count]]
    try:
        made = compose(template, int(wording), (one, two), thing, given)
    except (ValueError, TypeError) as error:
        raise ProblemError(str(error)) from error
    return together(made.problem, made.answer)
