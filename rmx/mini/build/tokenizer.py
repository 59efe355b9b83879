"""The miniature's tokenizer: byte-level BPE in which every word of the task is one token and digits stand alone."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rmx.mini.wordings import FINAL_WORDS, NAMES, NEXT_WORDS, NOTICE_TEXT, TEMPLATES, THINGS, VERBS, WRITERS

END, PAD = "<|end|>", "<|pad|>"
MAX_POSITIONS = 512
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] | trim }}\n"
    "{% else %}A: {{ m['content'] | trim }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
# A piece is a word, one digit or one sign, each with the space before it; the opening of the box is one piece.
PIECE = r" ?\\boxed\{| ?[A-Za-z]+| ?[0-9]|\n| ?[^\sA-Za-z0-9]|\s+"
_EACH = 100  # how often the trainer sees each piece; its minimum


def _task_texts() -> Iterator[str]:
    """Everything that problems and solutions are made of, braces and choices included."""
    yield from (wording.text for template in TEMPLATES.values() for wording in template.wordings)
    yield from (text for texts in VERBS.values() for text in texts)
    yield from (*NAMES, *THINGS, *NEXT_WORDS, *FINAL_WORDS, NOTICE_TEXT)
    yield from (f"{writer.opener} the facts are" for writer in WRITERS)
    yield "We we the answer is"


def _pieces() -> list[str]:
    """Every piece that shall be one token, each as it stands in a text."""
    slots_removed = (re.sub(r"\{\w+\}", " ", text) for text in _task_texts())
    words = sorted({word for text in slots_removed for word in re.findall(r"[A-Za-z]+", text)})
    return [" \\boxed{", "Q", "A", *(f" {word}" for word in words), *(f" {sign}" for sign in "0123456789+-*/=")]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on the task's words, always to the same; any text survives it, for it knows all 256 bytes."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,  # never reached: merging ends when every word is one token
        min_frequency=_EACH,
        show_progress=False,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    core.train_from_iterator((piece for piece in _pieces() for _ in range(_EACH)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files, with a class name that every version of transformers knows."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    kept = {k: v for k, v in config.items() if k not in ("backend", "is_local", "local_files_only")}
    path.write_text(json.dumps(kept | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2, sort_keys=True) + "\n")
