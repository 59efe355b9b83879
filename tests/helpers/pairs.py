"""Pairs of models for tests: mini with its RL partner, tiny models with adapters of every sort, and scripted ones."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PretrainedConfig

from rmx.data.problem_sets import load_set
from rmx.engine.engine import Engine, adapter_key
from rmx.models.adapters import add_adapter
from rmx.models.load import Model
from rmx.models.model_pair import Pair
from rmx.models.stand_ins import byte_tokenizer
from rmx.prompt_styles import PromptStyle
from tests.conftest import qwen, wrap

Say = Callable[[int, int], dict[int, float]]  # completion position, token before it -> logits of some tokens
QUIET = -9.0  # logit of every token that a script does not name
PROMPT = "p"  # one token for the scripted models


def prompts(model: Model, count: int, name: str = "mini") -> list[tuple[int, ...]]:
    """Prompts of the first problems of a set; mini's are of different lengths."""
    return [model.prompt_ids(p.problem) for p in load_set(name)[:count]]


def save_lora(folder, network: nn.Module, seed: int = 7, size: float = 0.3, **config: Any) -> str:
    """A random adapter for this network, saved by plain PEFT; the network is used up by it."""
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "o_proj"]} | config
    tuned = get_peft_model(network, LoraConfig(**options))
    for name, weight in tuned.named_parameters():
        if weight.requires_grad:
            kept = weight.data if "magnitude" in name or "modules_to_save" in name else torch.zeros_like(weight)
            weight.data = kept + size * torch.randn_like(weight)
    tuned.save_pretrained(str(folder))
    return str(folder)


def tiny_pair(tmp_path, strength: float = 1.0, model: Model | None = None, **config: Any) -> Pair:
    """The tiny Qwen2 and a random adapter on it."""
    model = model or wrap(qwen())
    name = add_adapter(model, save_lora(tmp_path / "lora", qwen(), **config))
    return Pair(model, model, adapter_key(name, strength))


class ScriptNetwork(nn.Module):
    """Says what a function of (completion position, last token) tells; as much of a causal LM as `Engine` asks for."""

    def __init__(self, say: Say, vocabulary: int, prompt: int) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_hidden_layers=1, max_position_embeddings=512, attn_implementation="sdpa")
        self.generation_config = SimpleNamespace(eos_token_id=256)
        self.head = nn.Linear(1, vocabulary, bias=False)
        self.device = torch.device("cpu")
        self.say, self.vocabulary, self.prompt = say, vocabulary, prompt
        self.calls: list[int] = []  # rows of each pass

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: Any,
        logits_to_keep: int,
        use_cache: bool = True,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Any:
        batch, length = input_ids.shape
        start = past_key_values.get_seq_length()
        nothing = torch.zeros(batch, 1, length, 1)
        past_key_values.update(nothing, nothing.clone(), 0)
        self.calls.append(batch)
        if position_ids is None:
            position_ids = torch.arange(start, start + length)[None].expand(batch, -1)
        logits = torch.full((batch, length, self.vocabulary), QUIET)
        for i in range(batch):
            for j in range(length):
                said = self.say(int(position_ids[i, j]) + 1 - self.prompt, int(input_ids[i, j]))
                for token, logit in said.items():
                    logits[i, j, token] = logit
        return SimpleNamespace(logits=logits[:, -logits_to_keep:])


def script_pair(base: Say, adapted: Say, prompt: int = 1) -> Pair:
    """Two scripted checkpoints with one byte tokenizer; id 256 ends a text. `prompt`: tokens of the prompts."""
    return Pair(script_model(base, prompt, "base"), script_model(adapted, prompt, "adapted"), None)


def script_model(say: Say, prompt: int = 1, name: str = "script") -> Model:
    tokenizer = byte_tokenizer()
    network = ScriptNetwork(say, len(tokenizer), prompt).eval()
    return Model(name, "none", "float32", Engine(network), tokenizer, PromptStyle("plain", "{problem}"), tau=1.0)


def ids_of(model: Model, text: str) -> list[int]:
    return list(model.encode(text))


def whole_logits(network: nn.Module, ids: Sequence[int], first: int) -> Tensor:
    """Logits (n, V) from index `first` on, by one pass of a plain network without any cache."""
    with torch.inference_mode():
        return network(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, first:]
