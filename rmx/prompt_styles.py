"""Prompt styles: how a problem becomes the text that a model is asked with, and what ends and answers it.

Which style a model gets by itself is decided by its configuration and tokenizer, see models/style_options.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

AnswerRule = Literal["boxed", "flexible"]  # a box alone is an answer, or else what comes nearest to one
MATH_SETS = ("math", "math500")  # sets whose answers the official code takes from boxes alone
NUMBER_SETS = ("gsm8k",)  # sets that the official code asks without a box
SHOT_SETS = ("words",)  # sets that are asked behind solved examples, unless another style is asked for
FIRST_STYLES = ("mini", "boxed", "chat", "chat-boxed")
RECORDED = ("name", "template", "chat", "system", "thinking", "stops", "answers", "why")  # what files keep of a style
OWN = "own"  # the name of a style whose template is the user's


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a problem becomes a prompt, what ends a completion beside the end token, and what counts as its answer.

    With `chat` the filled template is one user message of the tokenizer's chat template, behind a system message where
    `system` is given. `thinking` is told to a chat template that can be asked for it; None leaves its own default.
    `concluding` is what makes the model name its answer wherever a solution stands; it opens a box.
    """

    name: str
    template: str
    chat: bool = False
    system: str | None = None
    thinking: bool | None = None
    stops: tuple[str, ...] = ()  # texts that end a completion
    answers: AnswerRule = "flexible"
    boxes: bool = False  # it asks for a box: on sets of MATH nothing else is an answer
    numbers: str | None = None  # the style in which sets of plain numbers are asked instead
    shots: str | None = None  # the style in which sets that come with solved examples are asked instead
    concluding: str = "\n\nThe final answer is \\boxed{"
    why: str = ""  # how it came to be chosen

    def fill(self, problem: str) -> str:
        """The template with the problem in its place."""
        return self.template.replace("{problem}", problem)

    def for_set(self, set_name: str | None) -> "PromptStyle":
        """The style in which the official code asks and grades the problems of a set; None: of the user's own."""
        base = (set_name or "").partition(":")[0].strip()
        found = self
        if base in NUMBER_SETS and self.numbers is not None:
            other = STYLES[self.numbers]
            found = replace(self, name=other.name, template=other.template, boxes=other.boxes, numbers=None)
        if base in SHOT_SETS and self.shots is not None:
            found = replace(STYLES[self.shots], why="as the set is asked")
        return replace(found, answers="boxed" if found.boxes and base in MATH_SETS else "flexible")

    def json(self) -> dict[str, Any]:
        """What documents and run folders keep of it; `from_json` reads it back."""
        return {name: getattr(self, name) for name in RECORDED} | {"stops": list(self.stops)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "PromptStyle":
        """A style that `json` wrote; KeyError where a field is missing."""
        found = cls(**{name: stored[name] for name in RECORDED} | {"stops": tuple(stored["stops"])})
        known = STYLES.get(found.name)
        return found if known is None else replace(found, boxes=known.boxes, concluding=known.concluding)

    @property
    def recorded(self) -> "PromptStyle":
        """What is left of it in a file."""
        return PromptStyle.from_json(self.json())

    @property
    def unrecorded(self) -> "PromptStyle":
        """As completions were made and graded before files said in which style: nothing but the answer ended them."""
        return replace(self, stops=(), answers="flexible", why="")

    def settings(self) -> dict[str, Any]:
        """What completions depend on, for files; nothing for the styles of before files said which one."""
        kept = {name: value for name, value in self.json().items() if name != "why"}
        plain = self.name in FIRST_STYLES and kept | {"why": ""} == STYLES[self.name].json()
        return {} if plain else {"style": kept}

    def sentence(self) -> str:
        """What is said of it beside the exact prompt."""
        parts = [f"Prompt style {self.name}" + (f", {self.why}" if self.why else "")]
        parts += [f"system line: {self.system}"] if self.system else []
        parts += [f"thinking {'on' if self.thinking else 'off'}"] if self.thinking is not None else []
        parts += ["stops at " + ", ".join(map(repr, self.stops))] if self.stops else []
        parts += ["only a box is an answer"] if self.answers == "boxed" else []
        return "; ".join(parts) + "."


BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
STEPS = "Solve the following math problem step by step."
TURNS = ("Human:", "Assistant:")  # base models that have solved a problem go on with another conversation
CHAT_ENDS = ("<|im_end|>", "<|endoftext|>")  # a base model asked as a chat has the first of them not among its ends
CONCISE = STEPS + " Give a concise solution and put your final answer in \\boxed{}.\n\nProblem: {problem}"
CONCISE_NUMBER = STEPS + "\n\n{problem}\n\nGive a concise solution and final numeric answer."
QWEN = STEPS + " Put your final answer in \\boxed{}.\n\nProblem: {problem}\n\nSolution:"
QWEN_NUMBER = STEPS + "\n\n{problem}\n\nSolution:"
THREE_SHOT = """Question: Eva has 14 pears and eats 5 of them. How many pears are left?
Answer: 14 - 5 = 9. The answer is 9.

Question: There are 3 boats with 4 seats each. How many seats is that in all?
Answer: 3 * 4 = 12. The answer is 12.

Question: Max has 6 nuts. He finds 7 more and then loses 3. How many nuts does he have now?
Answer: 6 + 7 = 13. 13 - 3 = 10. The answer is 10.

Question: {problem}
Answer:"""
# Those named qwen, qwen-math, qwen3, r1 and abel are word for word the prompts and stops of the paper's code
# (reasonmaxxer/eval_lib.py of farukakgul/ReasonMaxxer, MIT); end tokens that a model has anyway are left out.
STYLES = {
    style.name: style
    for style in (
        PromptStyle("mini", "Q: {problem}\nA:", concluding=" So the answer is \\boxed{"),
        PromptStyle("qwen", QWEN, stops=TURNS, boxes=True, numbers="qwen-number"),
        PromptStyle("qwen-number", QWEN_NUMBER, stops=TURNS),
        PromptStyle("qwen-math", "{problem}", chat=True, system=BOXED, stops=CHAT_ENDS, boxes=True),
        PromptStyle("qwen3", CONCISE, chat=True, thinking=False, stops=CHAT_ENDS, boxes=True, numbers="qwen3-number"),
        PromptStyle("qwen3-number", CONCISE_NUMBER, chat=True, thinking=False, stops=CHAT_ENDS),
        PromptStyle("r1", CONCISE, chat=True, numbers="r1-number"),
        PromptStyle("r1-number", CONCISE_NUMBER, chat=True),
        PromptStyle("abel", "Question:\n{problem}\nAnswer:\nLet's think step by step.\n"),
        PromptStyle("boxed", "{problem}\n" + BOXED + "\n", boxes=True),
        PromptStyle("three-shot", THREE_SHOT, stops=("\n",), concluding=" The answer is \\boxed{"),
        PromptStyle("chat", "{problem}", chat=True, shots="three-shot"),
        PromptStyle("chat-boxed", "{problem}\n" + BOXED, chat=True, boxes=True),
    )
}
