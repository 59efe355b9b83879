"""A model without weights that plays a script: for tests of the page and for `rmx bench ui`.

Every next-token distribution is a fixed function of the position and the last token, so that greedy runs repeat and
a swap changes what follows. Its vocabulary is ordinary words and everything that has ever broken a token display.
"""

import time
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast, Qwen2Config

from rmx.engine.decoding_memory import is_out_of_memory, out_of_memory
from rmx.engine.engine import Engine
from rmx.errors import ModelError
from rmx.models.load import DTYPES, Model, choose_device, choose_dtype
from rmx.prompt_styles import PromptStyle

WORDS = [" the", " a", " so", " but", " wait", " because", " then", " we", " add", " subtract", " get", " is"]
WORDS += [" half", " of", " all", " apples", " 42", " 7", ",", ".", ".\n", "\n\n"]
HOSTILE = [
    "<script>window.PWN=1</script>",
    "<img src=x onerror=window.PWN=1>",
    "</span></div>",
    "${window.PWN=1}",
    "{{value}}",
    "`",
    "\\x3cb\\x3e",
    "\\u",
    "\t",
    "\u202eabc",
    "\u2067",
    "👩\u200d💻",
    " سلام",
    " שלום",
    "&lt;b&gt;",
    "%s",
    '"onclick="window.PWN=1',
]
NEWLINES = "\n" * 10_000


class ScriptedNetwork(nn.Module):
    """Quacks like a transformers causal LM as far as `Engine` asks."""

    def __init__(
        self, vocabulary: int, spoken: list[int], seconds: float = 0.0, slow_from: int = 0, end: int | None = None
    ) -> None:
        super().__init__()
        shape: dict[str, Any] = {"num_hidden_layers": 1, "max_position_embeddings": 8192}
        self.config = PretrainedConfig(**shape | {"attn_implementation": "sdpa"})
        self.generation_config = SimpleNamespace(eos_token_id=None)
        self.seconds = seconds  # of one forward pass, from position `slow_from` on
        self.slow_from = slow_from
        self.end = end  # sequence position of the end token
        self.device = torch.device("cpu")
        self.head = nn.Linear(1, vocabulary, bias=False)
        rows = torch.full((997, vocabulary), -30.0)
        generator = torch.Generator().manual_seed(0)
        rows[:, spoken] = 6 * torch.rand(997, len(spoken), generator=generator) ** 2
        sharp = torch.rand(997, generator=generator) > 0.15
        rows[sharp] = torch.where(rows[sharp] > -30, 4 * rows[sharp], rows[sharp])
        self.rows = rows

    def get_output_embeddings(self) -> nn.Linear:
        """Return the output layer; its rows are the vocabulary."""
        return self.head

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: Any,
        logits_to_keep: int,
        use_cache: bool = True,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Any:
        """Return logits (B, `logits_to_keep`, V) that follow the script."""
        batch, length = input_ids.shape
        start = past_key_values.get_seq_length() if position_ids is None else int(position_ids.max()) + 1 - length
        if self.seconds and start >= self.slow_from:
            time.sleep(self.seconds)
        nothing = torch.zeros(batch, 1, length, 1)
        past_key_values.update(nothing, nothing.clone(), 0)
        pos = torch.arange(start, start + length)[None].expand(batch, -1) if position_ids is None else position_ids
        logits = self.rows[(pos * 7919 + input_ids * 31) % len(self.rows)].clone()
        if self.end is not None:
            logits[pos >= self.end - 1, 256] = 99.0
        return SimpleNamespace(logits=logits[:, -logits_to_keep:])


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte and an end token (id 256): any text can be written, nothing is merged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def scripted_model(
    seconds: float = 0.0, slow_from: int = 0, hostile: bool = True, newlines: bool = False, end: int | None = None
) -> Model:
    """A Model that speaks the script; id 256 is its end token."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([*WORDS, *(HOSTILE if hostile else []), *([NEWLINES] if newlines else [])])
    network = ScriptedNetwork(len(tokenizer), list(range(257, len(tokenizer))), seconds, slow_from, end).eval()
    return Model("scripted", "none", "float32", Engine(network), tokenizer, PromptStyle("plain", "{problem}"), tau=1.5)


SHAPES = {
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
                     "num_key_value_heads": 2},
    "qwen2.5-1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
                     "num_key_value_heads": 2},
    "qwen2.5-7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                   "num_key_value_heads": 4},
}  # fmt: skip


def random_model(shape: str, device: str = "auto", dtype: str = "auto") -> Model:
    """A Qwen2 of this shape, 151,936 tokens and 32,768 positions, with seeded random weights and a byte tokenizer."""
    if shape not in SHAPES:
        raise ModelError(f"There is no shape '{shape}'. Known: {', '.join(SHAPES)}.")
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    options: dict[str, Any] = SHAPES[shape] | {
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": shape != "qwen2.5-7b",
    }
    torch.manual_seed(0)
    try:
        with torch.device(where):
            network: Any = AutoModelForCausalLM.from_config(Qwen2Config(**options), dtype=DTYPES[kind])
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(out_of_memory("Take a smaller shape.", where, f"while making {shape}")) from error
    network.eval().requires_grad_(False)
    network.generation_config.eos_token_id = None
    style = PromptStyle("plain", "{problem}")
    return Model(f"random:{shape}", "seed-0", kind, Engine(network), byte_tokenizer(), style, tau=1.4)
