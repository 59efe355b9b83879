"""The folded "Prompt style" of the forms: how a model is asked, what ends its completions, what counts as an answer."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from rmx.grading.answers import RULES
from rmx.models.style_options import AUTO
from rmx.prompt_styles import STYLES


@dataclass(frozen=True, slots=True)
class StyleControls:
    """The components, in the order of `style_options.from_form`."""

    style: gr.Dropdown
    system: gr.Textbox
    thinking: gr.Radio
    stops: gr.Textbox
    answers: gr.Radio

    @property
    def asked(self) -> list[Any]:
        return [self.style, self.system, self.thinking, self.stops, self.answers]


def build_style_panel(prefix: str) -> StyleControls:
    """Lay the panel out inside an open form; `prefix` begins the ids of its components."""
    with gr.Accordion("Prompt style", open=False, elem_id=f"{prefix}-prompt-style"):
        names = [("by the model", AUTO), *((name, name) for name in STYLES)]
        style = gr.Dropdown(names, value=AUTO, label="Style", elem_id=f"{prefix}-style")
        system = gr.Textbox(
            label="System line of a chat", placeholder="the style's own", max_lines=4, elem_id=f"{prefix}-system"
        )
        thinking = gr.Radio(
            [("by the style", AUTO), ("on", "on"), ("off", "off")],
            value=AUTO,
            label="Thinking",
            elem_id=f"{prefix}-thinking",
        )
        stops = gr.Textbox(
            label="Texts that end a completion",
            info=r"One a line; \n stands for a line break.",
            placeholder="the style's own",
            lines=2,
            elem_id=f"{prefix}-stops",
        )
        answers = gr.Radio(
            [("by set and style", AUTO), *((rule, rule) for rule in RULES)],
            value=AUTO,
            label="What counts as an answer",
            elem_id=f"{prefix}-answers",
        )
    return StyleControls(style, system, thinking, stops, answers)
