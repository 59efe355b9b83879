"""The noise floor: what batch shape and dtype alone change in a model's logits, without any adapter."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor
from transformers import DynamicCache

from rmx.engine.divergence import Difference, difference
from rmx.engine.engine import Engine
from rmx.models.base_state import without_adapters
from rmx.models.load import Model
from rmx.models.placing import split_dtype

POSITIONS = 128  # at most; more give the same figure
STEPS = 16  # of them, read one token at a time
DTYPE_PARAMETERS = 200e6  # a model up to this size is copied into the other dtype without asking


@torch.inference_mode()
def shape_noise(engine: Engine, ids: Sequence[int]) -> Difference:
    """Read a text as one row, as one of three equal rows, and its end one token at a time; adapters off.

    The caller holds the engine's turn. At least two ids.
    """
    ids = list(ids[-POSITIONS:])
    with engine.using(None):
        one = _read(engine, [ids])
        three = _read(engine, [ids] * 3)[:1]
        cut = max(1, len(ids) - STEPS)
        cache = DynamicCache(config=engine.config)
        engine.forward([ids[:cut]], cache, keep=1)
        steps = [engine.forward([[i]], cache, keep=1)[0] for i in ids[cut:]]
    batch = difference([one[0]], [three[0]])
    single = difference([one[0, cut:]], [torch.cat(steps)]) if steps else batch
    return worst(batch, single) or batch


def worst(a: Difference | None, b: Difference | None) -> Difference | None:
    """The larger change of two readings, over the positions of both; of one alone where there is no other."""
    if a is None or b is None:
        return b if a is None else a
    changed, positions = a.argmax_changed + b.argmax_changed, a.positions + b.positions
    return Difference(max(a.max_dlogit, b.max_dlogit), changed, positions)


@torch.inference_mode()
def dtype_noise(model: Model, ids: Sequence[int]) -> Difference | None:
    """The same weights in the other dtype: fp32 rounded to bf16, or bf16 computed in fp32.

    None for a model too large to be copied, and for quantised weights, which have no other dtype. The caller holds the
    engine's turn.
    """
    engine = model.engine
    if split_dtype(model.dtype)[1] or sum(p.numel() for p in engine.model.parameters()) > DTYPE_PARAMETERS:
        return None
    ids = list(ids[-POSITIONS:])
    other = torch.bfloat16 if model.dtype == "float32" else torch.float32
    with without_adapters(engine):
        here = _read(engine, [ids])
        # A copy: weights that went through bf16 and back would no longer be those of the file.
        there = _read(Engine(deepcopy(engine.model).to(other)), [ids])
    return difference([here[0]], [there[0]])


def _read(engine: Engine, rows: Sequence[Sequence[int]]) -> Tensor:
    logits: Tensor = engine.forward(rows, DynamicCache(config=engine.config), keep=len(rows[0])).float()
    return logits
