"""Models with the shape of a real one and random weights: speed and memory can be measured without a download."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from rmx.engine.engine import Engine
from rmx.errors import ModelError
from rmx.models.load import DTYPES, Model, choose_device, choose_dtype
from rmx.models.stand_ins import byte_tokenizer
from rmx.prompt_styles import PromptStyle

SHAPES = {
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
                     "num_key_value_heads": 2},
    "qwen2.5-1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
                     "num_key_value_heads": 2},
    "qwen2.5-7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                   "num_key_value_heads": 4},
}  # fmt: skip


def random_model(shape: str, device: str = "auto", dtype: str = "auto", seed: int = 0) -> Model:
    """A Qwen2 of this shape (151,936 tokens, 32,768 positions) with seeded random weights and a byte tokenizer.

    Raises:
        ModelError: the shape is unknown, or the device cannot hold it.
    """
    if shape not in SHAPES:
        raise ModelError(f"There is no shape '{shape}'. Known: {', '.join(SHAPES)}.")
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    options: dict[str, Any] = SHAPES[shape] | {
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": shape != "qwen2.5-7b",
    }
    torch.manual_seed(seed)
    try:
        with torch.device(where):
            network: Any = AutoModelForCausalLM.from_config(Qwen2Config(**options), dtype=DTYPES[kind])
    except torch.OutOfMemoryError as error:
        raise ModelError(f"A model shaped like {shape} does not fit into this device's memory.") from error
    network.eval().requires_grad_(False)
    network.generation_config.eos_token_id = None
    style = PromptStyle("plain", "{problem}")
    return Model(f"random:{shape}", f"seed-{seed}", kind, Engine(network), byte_tokenizer(), style, tau=1.4)
