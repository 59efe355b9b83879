"""The box of a problem and, beside it, the box of its known answer: an answer belongs to one text and judges no other.

A hidden third component holds the text and the answer that were given together. Both boxes and it are sent with one
click, so what an answer belongs to is told by comparing them, not by which event of the page came first.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from rmx.data.prepared_swaps import Example
from rmx.mini.reading import computed_answer
from rmx.ui.tabs.wiring import QUIET

# A change of the text takes the answer away at once; white space alone is no change. (Not `.input`: gradio's text box
# tells it of some ways to write only.)
CLEAR = """(pair, text, answer) => {
  const words = (s) => String(s ?? "").trim().replace(/\\s+/g, " ");
  return words(text) === words(pair?.text) ? answer : "";
}"""
TYPED = "(pair, text, answer) => (answer === pair?.answer ? pair : {text, answer})"


@dataclass(frozen=True, slots=True)
class ProblemBoxes:
    """The boxes, and the pair that was given together: {"text", "answer"}."""

    pair: gr.JSON
    problem: gr.Textbox
    answer: gr.Textbox

    @property
    def all(self) -> list[Any]:
        """Inputs of `known_answer` after the model; outputs of whatever puts a problem with its answer here.

        The pair comes first, so that the change of a box never meets that of the problem before.
        """
        return [self.pair, self.problem, self.answer]


@dataclass(frozen=True, slots=True)
class Known:
    """The answer that a solution is judged by, None where none is known; `computed`: from the text, nobody gave it."""

    answer: str | None
    computed: bool = False


def together(problem: str, answer: str | None) -> tuple[dict[str, str], str, str]:
    """The values of all boxes for a problem with its answer."""
    return {"text": problem, "answer": answer or ""}, problem, answer or ""


def known_answer(spec: str, pair: object, problem: object, answer: object) -> Known:
    """Tell what is known of the problem on the page.

    Args:
        spec: the model that is asked; for `mini` alone an answer is computed from the text.
        pair: the text and the answer that were given together.
        problem, answer: what stands in the boxes; the answer counts unless it was given for another text.
    """
    text, given = str(problem or ""), str(answer or "").strip()
    if given and _belongs(text, given, pair if isinstance(pair, dict) else {}):
        return Known(given)
    computed = computed_answer(text) if spec == "mini" else None
    return Known(computed, computed is not None)


def _belongs(text: str, given: str, pair: dict[str, object]) -> bool:
    """An answer that differs from the pair's was typed since, for the text that stands there now."""
    return given != str(pair.get("answer") or "").strip() or text.split() == str(pair.get("text") or "").split()


def build_problem_boxes(first: Example, prefix: str = "") -> ProblemBoxes:
    """Lay the boxes out one below the other, filled with the first example."""
    pair, problem, answer = together(first.problem, first.answer)
    boxes = ProblemBoxes(
        gr.JSON(pair, visible="hidden"),
        gr.Textbox(problem, label="Problem", lines=4, max_lines=12, elem_id=f"{prefix}problem"),
        gr.Textbox(
            answer,
            label="Known answer",
            placeholder=placeholder(Known(None)),
            max_lines=1,
            elem_id=f"{prefix}answer",
            elem_classes="known-answer",
        ),
    )
    boxes.problem.change(None, boxes.all, boxes.answer, js=CLEAR, **QUIET)
    boxes.answer.change(None, boxes.all, boxes.pair, js=TYPED, **QUIET)
    return boxes


def placeholder(known: Known) -> str:
    """What an empty box says."""
    return f"computed from the text: {known.answer}" if known.computed else "none: nothing is judged"


def show_computed(spec: str, problem: str) -> Any:
    """The answer box, which says in place of a given answer which one is computed."""
    return gr.Textbox(placeholder=placeholder(known_answer(spec, None, problem, "")))
