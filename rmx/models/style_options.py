"""How a model is asked: by the family that it is of, and by what a user asks of the prompt.

A family is known by configuration and tokenizer. The name of the weights has no part in it: a folder, the Hub id that
it was fetched from and the preset are asked alike, and so is a copy under any other name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from rmx.arguments import Checked, checked
from rmx.errors import PromptError
from rmx.prompt_styles import OWN, STYLES, AnswerRule, PromptStyle
from rmx.records import as_json

TAU = 1.4  # nats; the paper's for most models
_MINI = "{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] | trim }}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model before it is asked anything."""

    kind: str  # model_type of the configuration
    rope_theta: float | None  # base of the rotary positions
    end: str | None  # the tokenizer's end token
    added: frozenset[str]  # its added tokens
    chat: str  # its chat template; "" where it has none

    @classmethod
    def of(cls, config: Any, tokenizer: Any) -> "Facts":
        """The facts of a loaded configuration and tokenizer."""
        rope = getattr(config, "rope_parameters", None) or {}
        theta = getattr(config, "rope_theta", None) or (rope.get("rope_theta") if isinstance(rope, dict) else None)
        chat = getattr(tokenizer, "chat_template", None)
        if isinstance(chat, dict):  # some tokenizers have several
            chat = chat.get("default", next(iter(chat.values()), None))
        return cls(
            kind=str(getattr(config, "model_type", "")),
            rope_theta=theta,
            end=getattr(tokenizer, "eos_token", None),
            added=frozenset(tokenizer.get_added_vocab()),
            chat=chat if isinstance(chat, str) else "",
        )

    @property
    def qwen(self) -> bool:
        """Whether configuration and tokenizer are those of Qwen2 or Qwen3."""
        return self.kind.startswith(("qwen2", "qwen3")) and "<|im_start|>" in self.added


@dataclass(frozen=True, slots=True)
class Family:
    """Models that are asked alike."""

    style: str
    told_by: str  # what it is recognised by, in words
    fits: Callable[[Facts], bool]
    tau: float = TAU  # nats


# The first that fits counts. The official code goes by names; these are its choices by what is in a model.
FAMILIES = (
    Family("mini", "the miniature's chat template", lambda f: f.chat.startswith(_MINI) and f.end == "<|end|>", 1.0),
    Family("r1", "the tokens of DeepSeek's chats", lambda f: "<｜Assistant｜>" in f.added),
    Family(
        "chat",
        "a Llama with SmolLM's tokens and an end token of chats",
        lambda f: f.kind == "llama" and "<repo_name>" in f.added and f.end == "<|im_end|>",
    ),
    Family("qwen-math", "a Qwen2 with rotary base 10,000", lambda f: f.qwen and f.rope_theta == 10_000),
    Family(
        "qwen3",
        "a Qwen3 with an end token of chats",
        lambda f: f.qwen and f.kind.startswith("qwen3") and f.end == "<|im_end|>",
        1.2,
    ),
    Family("qwen", "a Qwen base model: its end token ends texts", lambda f: f.qwen and f.end == "<|endoftext|>"),
    Family(
        "abel", "a Llama or Mistral without a chat template", lambda f: f.kind in ("llama", "mistral") and not f.chat
    ),
    Family("chat-boxed", "a chat template", lambda f: bool(f.chat)),
    Family("boxed", "no chat template", lambda _: True),
)


def family_of(config: Any, tokenizer: Any) -> Family:
    """The family of a model; the last ones are of models that are not known."""
    facts = Facts.of(config, tokenizer)
    return next(family for family in FAMILIES if family.fits(facts))


def style_of(family: Family) -> PromptStyle:
    """How the problems of a family are asked, and why."""
    return replace(STYLES[family.style], why=f"by what the model has: {family.told_by}")


# -- What a user asks of the prompt, and how it becomes the style that a model is asked in ----------------------------


MOST_STOPS, MOST_STOP = 8, 200  # stop texts, and characters of one
AUTO = ""  # in a form: as the model's family and the set have it
MOST_TEXT = 20_000  # characters of a system line or a template
RECORDED = ("style", "system", "template", "template_file", "thinking", "stops", "answers")  # in the order of files


@checked
class StyleOptions(Checked):
    """What is asked of the prompt, or PromptError; what is None stays as the model's family has it."""

    fault = PromptError

    style: str | None = None  # a name of STYLES
    system: str | None = None  # "": no system line
    template: str | None = None  # text with {problem}
    thinking: bool | None = None
    stops: Annotated[tuple[str, ...] | None, Field(strict=False)] = None  # (): none, not even the style's own
    answers: AnswerRule | None = None
    template_file: str | None = None  # where the template was read, for the command that is shown

    def __post_init__(self) -> None:
        if self.style is not None and self.style not in STYLES:
            raise PromptError(f"There is no prompt style '{self.style[:60]}'. Known: {', '.join(STYLES)}.")
        if self.template is not None and "{problem}" not in self.template:
            raise PromptError("A template must hold {problem}, where the problem goes.")
        if max(len(self.system or ""), len(self.template or "")) > MOST_TEXT:
            raise PromptError(f"A system line or a template may have {MOST_TEXT:,} characters.")
        stops = self.stops or ()
        if len(stops) > MOST_STOPS or not all(0 < len(stop) <= MOST_STOP for stop in stops):
            raise PromptError(f"Up to {MOST_STOPS} stop texts of 1 to {MOST_STOP} characters end a completion.")

    @property
    def given(self) -> bool:
        """Whether anything is asked."""
        return self != StyleOptions()

    def words(self) -> list[str]:
        """The options of the command line that ask the same."""
        template = self.template and (self.template_file or "TEMPLATE.txt")
        thinking = None if self.thinking is None else "on" if self.thinking else "off"
        stops = [""] if self.stops == () else list(self.stops or ())
        asked = {"style": self.style, "system": self.system, "answers": self.answers, "template": template}
        return write_options(asked | {"thinking": thinking, "stop": stops or None}, {})

    def json(self) -> dict[str, Any]:
        """What a run's `config.json` keeps of it; `from_json` reads it back."""
        return as_json(self, *RECORDED)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> "StyleOptions":
        """The options that `json` wrote, or none; PromptError or TypeError where it cannot have written them."""
        if stored is not None and not isinstance(stored, Mapping):
            raise TypeError(f"style: {str(stored)[:60]} is no object")
        return cls(**{name: stored.get(name) for name in RECORDED} if stored else {})


def write_options(values: Mapping[str, Any], left: Mapping[str, Any]) -> list[str]:
    """Write the options of a command line that change anything: `--lr 0.001 --no-guards --tau none --stop A --stop B`.

    Args:
        values: by the names of the options; a list is an option given several times, a tuple one value with commas.
        left: what each of them is where its option is left out; None for those that are not in it.
    """
    words = list[str]()
    for name, value in values.items():
        if value == left.get(name):
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list):
            words += [word for one in value for word in (flag, one)]
        else:
            words += [flag, "none" if value is None else ",".join(value) if isinstance(value, tuple) else f"{value}"]
    return words


def resolve_style(
    family: PromptStyle, options: StyleOptions, set_name: str | None, raw: bool, spec: str, chat_template: str
) -> PromptStyle:
    """The style that options come to, for a model that its `family` asks and a set; see `Model.ask_in`.

    Args:
        spec: how messages call the model. chat_template: its tokenizer's; "" where it has none.
    """
    style = family
    if options.style is not None:
        style = replace(STYLES[options.style], numbers=None, shots=None, why="as asked for")
    if options.template is not None:
        boxes = "\\boxed" in options.template
        style = replace(style, name=OWN, template=options.template, boxes=boxes, numbers=None, shots=None)
        style = replace(style, why="as asked for")
    style = style.for_set(set_name)
    if raw:
        if any(x is not None for x in (options.style, options.system, options.template, options.thinking)):
            raise PromptError("A raw prompt has no style, system line, template or thinking. Leave either out.")
        style = replace(style, name="raw", template="{problem}", chat=False, system=None, thinking=None, why="")
    if options.system is not None:
        if not style.chat:
            raise PromptError(f"The prompt style {style.name} is no chat, so it has no system line. Take --style chat.")
        style = replace(style, system=options.system or None)
    own: dict[str, Any] = {"thinking": options.thinking, "stops": options.stops, "answers": options.answers}
    style = replace(style, **{name: value for name, value in own.items() if value is not None})
    if style.chat and not family.chat and not chat_template:
        raise PromptError(f"{spec} has no chat template, which the prompt style {style.name} needs.")
    if options.thinking is not None and not (style.chat and "enable_thinking" in chat_template):
        raise PromptError(f"{spec} cannot be told by its chat template to think or not. Leave --thinking out.")
    return style


def from_form(
    style: Any = None, system: Any = None, thinking: Any = None, stops: Any = None, answers: Any = None
) -> StyleOptions:
    """What the values of a form ask for; empty ones leave what the model's family has. Raises as `StyleOptions` does.

    Args:
        thinking: "on", "off" or empty. stops: one a line, with \\n for a line break.
    """
    lines = [line.replace("\\n", "\n") for line in str(stops or "").splitlines() if line]
    return StyleOptions(
        style=str(style) if style else None,
        system=str(system) if str(system or "").strip() else None,
        thinking={"on": True, "off": False}.get(str(thinking)),
        stops=tuple(lines) or None,
        answers=answers or None,
    )


def to_form(options: StyleOptions) -> tuple[str, str, str, str, str]:
    """The values of a form that ask for these options, in the order of `from_form`."""
    thinking = AUTO if options.thinking is None else "on" if options.thinking else "off"
    stops = "\n".join(stop.replace("\n", "\\n") for stop in options.stops or ())
    return options.style or AUTO, options.system or "", thinking, stops, options.answers or AUTO
