"""A model whose every probability is known: the next word depends on the last one only, as a table says."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from rmx.arguments import Sampling
from rmx.engine.engine import Engine
from rmx.explore.generate import Generation, Job
from rmx.models.load import Model
from rmx.models.stand_ins import byte_tokenizer
from rmx.prompt_styles import PromptStyle
from rmx.records import Trace

END = "<|end|>"
Table = dict[str, dict[str, float]]  # word -> probabilities of the next; a word without an entry is followed by END


class ChainNetwork(nn.Module):
    """As much of a causal LM as `Engine` asks for; what is masked has no part in what it says."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_hidden_layers=1, max_position_embeddings=256, attn_implementation="sdpa")
        self.generation_config = SimpleNamespace(eos_token_id=None)
        self.head = nn.Linear(1, len(logits), bias=False)
        self.device = torch.device("cpu")
        self.logits = logits
        self.rows: list[int] = []  # of each pass

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
        self.rows.append(batch)
        nothing = torch.zeros(batch, 1, length, 1)
        past_key_values.update(nothing, nothing.clone(), 0)
        return SimpleNamespace(logits=self.logits[input_ids[:, -logits_to_keep:]])


def chain(table: Table, tau: float = 0.5) -> Model:
    """The model of a table; its prompt is "Q"."""
    tokenizer = byte_tokenizer()
    words = [w for w in dict.fromkeys([*table, *(w for row in table.values() for w in row)]) if w not in ("Q", END)]
    tokenizer.add_tokens(words)
    ids = {w: tokenizer.convert_tokens_to_ids(w) for w in [*words, "Q", END]}
    p = torch.zeros(len(tokenizer), len(tokenizer))
    p[:, ids[END]] = 1.0
    for word, following in table.items():
        p[ids[word]] = 0.0
        for after, probability in following.items():
            p[ids[word], ids[after]] = probability
    style = PromptStyle("plain", "{problem}", concluding=" so \\boxed{")
    return Model("chain", "none", "float32", Engine(ChainNetwork(p.log()).eval()), tokenizer, style, tau)


def solved(model: Model, known: str | None = None, max_new: int = 60) -> Trace:
    """The greedy solution of "Q"."""
    job = Job(model.prompt_ids("Q"), Sampling(max_new_tokens=max_new), model.tau, known=known)
    return Generation(model, job).run()
