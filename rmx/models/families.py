"""Which family a model is of, by its configuration and tokenizer, and how its problems are asked.

The name of the weights has no part in it: a folder, the Hub id that it was fetched from and the preset are asked alike,
and so is a copy under any other name.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rmx.prompt_styles import STYLES, PromptStyle

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
