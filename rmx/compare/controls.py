"""What a difference between base and adapted model is held against: the base itself, noise, and a random LoRA.

Base is base: three looks, none of which needs a second copy, prove that the model with its adapter off is the
checkpoint that was loaded. The logits on this very text with the adapter off are compared with those of the bare
network, from which every adapter layer has been taken out; each base tensor with the weights file; and each tensor's
checksum and probe logits with those recorded before the first adapter. The file is read once, and again when a tensor
has changed. A second copy of the checkpoint is loaded only when asked for.

The noise floor is what batch shape and dtype alone change in a model's logits. The placebo is a random LoRA of the same
shape, turned up until it reranks as often as the trained adapter does. At such strengths noise alone gives a mean rank
near 2 and a large entropy ratio, because undecided places are the ones that any push turns round. What sets training
apart from noise is accuracy and interventions.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from torch import Tensor
from transformers import DynamicCache

from rmx.engine.engine import Engine, adapter_key, split_key, why_not_linear
from rmx.engine.entropy import Difference, difference
from rmx.errors import ModelError
from rmx.models.adapters import AdapterFacts, adapted_layers, facts, lora_factors, lora_norm
from rmx.models.base_state import (
    Changes,
    base_changes,
    base_checksums,
    base_tensors,
    probe_ids,
    remember_base,
    without_adapters,
)
from rmx.models.load import Model, Placing, load, split_dtype
from rmx.models.model_pair import Pair
from rmx.models.zerogpu import decoding, on_gpu_worker
from rmx.records import as_json

APART = "two sets of weights; nothing is on the base"


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of the weights file, and how many of them the model in memory holds unchanged."""

    file: str
    tensors: int
    equal: int
    absent: int = 0  # those that the model holds under no such name: it was loaded in another layout


@dataclass(frozen=True, slots=True)
class BaseCheck:
    """The badge."""

    max_dlogit: float  # adapter off against the bare network, on this text
    positions: int
    how: str
    weights: Weights | None  # None where the file is not at hand, or holds what is quantised in memory
    memory: Changes | None  # since before the first adapter; None where nothing was recorded
    copy: float | None  # against a full second copy, where one was asked for
    adapter: AdapterFacts | None  # None for a pair of two checkpoints
    seconds: float

    @property
    def probe(self) -> float | None:
        """Largest change of the probe logits since before the first adapter; None where none were recorded."""
        return None if self.memory is None else self.memory.probe

    @property
    def changes(self) -> list[str]:
        """What the looks found that should not be, in words; empty where the base is the base."""
        found = []
        if self.max_dlogit:
            found.append(f"with the adapter off a logit is up to {self.max_dlogit:.2g} from the bare network's")
        if self.memory:
            found.append(str(self.memory))
        w = self.weights
        if w and w.equal + w.absent < w.tensors:
            found.append(f"{w.tensors - w.equal - w.absent} of {w.tensors} tensors are not those of {w.file}")
        if self.copy:
            found.append(f"a logit is up to {self.copy:.2g} from a second copy's")
        return found

    @property
    def holds(self) -> bool:
        """Whether every look that was taken found the base unchanged."""
        return not self.changes

    @property
    def sentence(self) -> str:
        """The result as a sentence."""
        if self.holds:
            return f"base is base: largest change of a logit {self.max_dlogit:.2g}"
        return f"THE BASE HAS CHANGED: {'; '.join(self.changes)}"

    def json(self) -> dict[str, Any]:
        checks = ("weights", "memory", "probe", "copy", "adapter", "seconds")
        return as_json(self, "max_dlogit", "positions", "how", "holds", "sentence", *checks)


@on_gpu_worker(seconds=lambda pair, ids, *_, **__: decoding(60, read=3 * len(ids)))  # mostly reading the weights file
def check_base(pair: Pair, ids: Sequence[int], copy: bool = False, patience: float | None = None) -> BaseCheck:
    """Take the looks on this text (prompt and completion, as ids).

    `copy` also loads the checkpoint a second time and compares, which needs its memory once more; ModelError where it
    cannot be loaded.
    """
    began = time.monotonic()
    model = pair.base
    ids = ids[: model.engine.context - 1]  # the last token of a full context decides nothing
    kind, quantize = split_dtype(model.dtype)
    second = load(model.spec, str(model.engine.device), kind, placing=Placing(quantize)) if copy else None
    with model.engine.queue.turn(patience):
        off = _logits(model, ids)
        with without_adapters(model.engine):
            untouched = _logits(model, ids)
        held = base_tensors(model.engine)
        now = base_checksums(held)
        memory = base_changes(model, now)
    if model.engine.compared is None or model.engine.compared[0] != now:  # the file is read again after a change alone
        model.engine.compared = now, against_file(model, held)
    weights: Weights | None = model.engine.compared[1]
    found = difference(off, untouched)
    name = split_key(pair.adapter)[0] if pair.adapter else None
    return BaseCheck(
        found.max_dlogit,
        found.positions,
        "adapter off against the bare network on this text" if pair.one_set else APART,
        weights,
        memory,
        difference(off, _logits(second, ids)).max_dlogit if second else None,
        facts(model, name) if name and pair.one_set else None,
        round(time.monotonic() - began, 3),
    )


def check_loaded(pair: Pair) -> BaseCheck:
    """The same looks on the fixed text: for whoever goes on to a set of problems."""
    return check_base(pair, probe_ids(pair.base))


def _logits(model: Model, ids: Sequence[int]) -> list[Tensor]:
    """Logits at every position, computed anew, adapters off."""
    return model.read(ids, 0, lambda logits: logits)


def against_file(model: Model, held: Mapping[str, Tensor] | None = None) -> Weights | None:
    """Compare every base tensor in memory (`held`) with the weights files, cast to the dtype that it was loaded in."""
    files = _weight_files(model)
    if not files:
        return None
    held = base_tensors(model.engine) if held is None else held
    tensors, equal, absent = 0, 0, 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensors += 1
                if (mine := held.get(name)) is None:
                    absent += 1
                else:
                    equal += torch.equal(file.get_tensor(name).to(mine.dtype), mine.detach().cpu())
    shown = files[0].name if len(files) == 1 else f"{len(files)} files"
    return Weights(shown, tensors, equal, absent)


def _weight_files(model: Model) -> list[Path]:
    if model.source is None or split_dtype(model.dtype)[1]:
        return []
    folder = Path(model.source)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(model.source, revision=model.revision, local_files_only=True))
        except (LocalEntryNotFoundError, ValueError):
            return []
    return sorted(folder.glob("*.safetensors"))


# -- The noise floor --------------------------------------------------------------------------------------------------


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


# -- The placebo ------------------------------------------------------------------------------------------------------


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
    for ids, start in texts:
        model.engine.give_way()
        found.append(torch.cat(model.read(ids[:-1], start, lambda logits: logits.argmax(-1), adapter)))
    return found


def _disagree(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> int:
    return sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))
