"""The placebo: a random LoRA of the same shape, turned up until it reranks as often as the trained adapter does.

At such strengths noise alone gives a mean rank near 2 and a large entropy ratio, because undecided places are the
ones that any push turns round. What sets training apart from noise is accuracy and interventions.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from rmx.engine.engine import adapter_key, split_key
from rmx.errors import ModelError
from rmx.models.adapter_facts import adapted_layers, lora_factors, lora_norm, why_not_linear
from rmx.models.base_state import remember_base
from rmx.models.load import Model
from rmx.models.model_pair import Pair

NAME = "placebo"
RANK = 32
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
WEAKEST, STRONGEST, HALVINGS = 0.05, 64.0, 10

Text = tuple[Sequence[int], int]  # ids, and the index from which on positions count


def add_placebo(model: Model, like: str | None, seed: int = 0) -> str:
    """Put a random LoRA on the model: Gaussian A and B, each layer's change as large as that of the adapter `like`.

    Without `like` (a pair of two checkpoints) rank 32 on q, k, v, o, with the norm of a hundredth of each weight.
    The caller holds the engine's turn. Returns the adapter's name; ModelError where the model has no such layers.
    """
    from rmx.models.adapters import plain_lora, put_layers  # with PEFT, which takes long to import

    name = f"{NAME}-{seed}" + (f"-{like}" if like else "")
    engine = model.engine
    if name in engine.adapters:
        return name
    if like is not None:
        config = deepcopy(engine.model.peft_config[like])  # the same layers, ranks and scaling
        config.init_lora_weights = True  # PiSSA and its like would change the base's weights
    else:
        names = {path.rpartition(".")[2] for path, _ in engine.model.named_modules()}
        if not names.issuperset(TARGETS):
            raise ModelError(f"{model.spec} has no {', '.join(TARGETS)}, so no placebo can be put on it.")
        config = plain_lora(RANK, TARGETS)
    remember_base(model)
    if getattr(engine.model, "peft_type", config.peft_type) != config.peft_type:  # PEFT puts one kind on a network
        raise ModelError(f"{model.spec} has an adapter of another kind on it, so no placebo can be put beside it.")
    put_layers(engine, name, config)
    engine.model.eval().requires_grad_(False)
    engine.adapters[name] = f"noise, seed {seed}"
    generator = torch.Generator().manual_seed(seed)
    for layer in adapted_layers(model, name):
        for factor in lora_factors(layer, name):
            factor.data.copy_(torch.randn(factor.shape, generator=generator))
        wanted = lora_norm(layer, like) if like else 0.01 * float(layer.get_base_layer().weight.float().norm())
        lora_factors(layer, name)[1].data.mul_(wanted / lora_norm(layer, name))
    return name


def placebo_pair(
    pair: Pair,
    texts: Sequence[Text],
    seed: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
    strength: float | None = None,
) -> Pair:
    """The base against a placebo that reranks these texts as often as the adapted model does.

    The strength is found by bisection on a logarithmic scale; the share is a step function of it, so the nearest step
    is taken. The caller holds `pair.turn()`. A pair that disagrees nowhere gets strength 0.

    Args:
        texts: token ids with the index from which on they count; the last id is not a position.
        strength: as it was found for these texts before; None: it is looked for.
    """
    name = split_key(pair.adapter)[0] if pair.one_set and pair.adapter else None
    like = name if name and why_not_linear(pair.base.engine.model.peft_config[name]) is None else None
    noise = replace(pair, adapted=pair.base, adapter=add_placebo(pair.base, like, seed))
    if strength is not None:
        return replace(noise, adapter=adapter_key(str(noise.adapter), strength))
    ours = choices(pair.base, None, texts)
    wanted = _disagree(ours, choices(pair.adapted, pair.adapter, texts))
    best = (wanted, 0.0)
    low, high = WEAKEST, STRONGEST
    for _ in range(HALVINGS if wanted else 0):
        if cancelled() or best[0] == 0:
            break
        middle = (low * high) ** 0.5
        off = _disagree(ours, choices(pair.base, adapter_key(str(noise.adapter), middle), texts)) - wanted
        best = min(best, (abs(off), middle))
        low, high = (middle, high) if off < 0 else (low, middle)
    return replace(noise, adapter=adapter_key(str(noise.adapter), best[1]))


@torch.inference_mode()
def choices(model: Model, adapter: str | None, texts: Sequence[Text]) -> list[Tensor]:
    """The model's own choice at every position that counts, for each text; read anew, the prefix cache left alone."""
    found: list[Tensor] = []
    with model.engine.using(adapter):
        for ids, start in texts:
            model.engine.give_way()
            rows: list[Tensor] = []

            def note(_: int, logits: Tensor, rows: list[Tensor] = rows) -> None:
                rows.append(logits.argmax(-1))

            model.engine.open(ids[:-1], adapter=adapter, reuse=False, read_from=start, on_read=note)
            found.append(torch.cat(rows))
    return found


def _disagree(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> int:
    return sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))
