"""The miniature's tokenizer: byte-level BPE in which every word of the task is one token and digits stand alone."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rmx.mini.task import FINAL_WORDS, NEXT_WORDS, NOTICE_TEXT, PROMPT, VERBS, WRITERS
from rmx.mini.templates import TEMPLATES
from rmx.mini.words import NAMES, THINGS

END, PAD = "<|end|>", "<|pad|>"
MAX_POSITIONS = 512
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] | trim }}\n"
    "{% else %}A: {{ m['content'] | trim }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
# A piece is a word, one digit or one sign, each with the space before it; the opening of the box is one piece.
PIECE = r" ?\\boxed\{| ?[A-Za-z]+| ?[0-9]|\n| ?[^\sA-Za-z0-9]|\s+"
_EACH = 100  # how often each text of the corpus is shown; any count above the trainer's minimum will do


def _task_texts() -> Iterator[str]:
    """Texts that between them hold every piece of problems and solutions."""
    wordings = [text for t in TEMPLATES.values() for w in t.wordings for text in w.variants()]
    for text in wordings:
        yield PROMPT.format(problem=re.sub(r"\{\w+\}", " ", text))
    yield from (f" {word}" for word in (*NAMES, *THINGS))
    yield from (f" {digit} {digit}{digit}" for digit in range(10))
    verbs = [re.sub(r"\{\w+\}", " ", verb) for verbs in VERBS.values() for verb in verbs]
    yield " We we " + " ".join([*verbs, *NEXT_WORDS, *FINAL_WORDS, NOTICE_TEXT])
    yield from (f" {writer.opener} the facts are 1, 2." for writer in WRITERS)
    yield " : 1 + 2 = 3. 1 - 2 = 3. 1 * 2 = 3. 1 / 2 = 3. the answer is \\boxed{3}."


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on the task's words; the result is always the same.

    Any text survives encoding and decoding, because all 256 bytes are in the alphabet.
    """
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
    core.train_from_iterator((text for text in _task_texts() for _ in range(_EACH)), trainer)
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
