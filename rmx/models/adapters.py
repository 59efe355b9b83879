"""Put PEFT adapters on an engine; safetensors only.

Whatever is put on, the base stays the base: see `adapter_files` for what is refused or folded, and `base_state` for how
it is asked afterwards. An adapter that changes the base all the same is taken off again.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from safetensors import SafetensorError
from torch import Tensor

from rmx.engine.engine import Engine, base_network, split_key
from rmx.errors import ModelError, reason_of
from rmx.models.adapter_files import SavedAdapter, read_adapter
from rmx.models.adapter_names import adapter_name, adapter_place
from rmx.models.base_state import base_changes, base_tensors, remember_base, wrapped_modules
from rmx.models.load import Model

# What PEFT raises over files that are damaged: it trusts their content.
_DAMAGE: tuple[type[Exception], ...] = (
    SafetensorError, OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, ImportError,
    ArithmeticError, AssertionError, re.error,
)  # fmt: skip


def add_adapter(model: Model, spec: str) -> str:
    """Load an adapter onto the model's own weights and return the name that `Engine.using` has for it."""
    name = adapter_name(spec)
    return name if name in model.engine.adapters else attach(model, name, adapter_place(model, spec), spec)


def attach(model: Model, name: str, place: str, spec: str | None = None) -> str:
    """Put the adapter of a folder or of the Hub, `spec` in messages, on a model; ModelError where it does not fit."""
    spec, engine = spec or name, model.engine
    remember_base(model)
    held = [(w, w.data) for w in base_tensors(engine).values()]
    try:
        saved = read_adapter(model, place, spec)
        _check_targets(model, saved.config, spec)
        with _biases_apart(engine, name, getattr(saved.config, "bias", "none") != "none"):
            _attach(engine, name, saved)
    except _DAMAGE as error:
        _put_back(model, held, spec)
        raise ModelError(f"The adapter {spec} cannot be put on {model.spec}: {reason_of(error)}") from error
    engine.adapters[name] = place
    if changes := base_changes(model):
        drop_adapter(model, name)
        _put_back(model, held, spec)
        raise ModelError(
            f"The adapter {spec} was taken off {model.spec} again, because it changed the base: {changes}."
        )
    return name


def drop_adapter(model: Model, name: str) -> None:
    """Take an adapter off a model again, with what was computed under it. The caller holds the engine's turn."""
    engine = model.engine
    _take_off(engine, name)
    engine.adapters.pop(name)
    engine.biases.pop(name, None)
    engine.prefixes.forget(lambda key: key is not None and split_key(key)[0] == name)


def _check_targets(model: Model, config: Any, spec: str) -> None:
    """PEFT takes any adapter whose target names occur; a wrong shape then fails deep inside. Refuse it early."""
    targets = getattr(config, "target_modules", None)
    if isinstance(targets, set | list):
        names = {name.rpartition(".")[2] for name, _ in model.engine.model.named_modules()}
        if missing := sorted(t for t in targets if t.rpartition(".")[2] not in names):
            raise ModelError(
                f"The adapter {spec} was made for another architecture: {model.spec} has no {', '.join(missing)}."
            )


def _attach(engine: Engine, name: str, saved: SavedAdapter) -> None:
    """Put the layers in and fill them; on a failure they are taken out again."""
    try:
        put_layers(engine, name, saved.config)
        outcome: Any = set_peft_model_state_dict(engine.model, saved.tensors, adapter_name=name)
        _check_whole(outcome, saved.config, name)
    except Exception:
        _take_off(engine, name)
        raise
    engine.model.eval().requires_grad_(False)


def put_layers(engine: Engine, name: str, config: Any) -> None:
    """Put an adapter's layers into the network, filled as PEFT begins them. The caller holds the engine's turn."""
    if isinstance(engine.model, PeftModel):
        engine.model.add_adapter(name, config)
    else:
        engine.model = PeftModel(engine.model, config, adapter_name=name)


def plain_lora(rank: int, targets: Sequence[str]) -> LoraConfig:
    """A LoRA of this rank and scaling 1 on the modules of these names."""
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))


def _check_whole(outcome: Any, config: Any, name: str) -> None:
    """PEFT leaves out what does not fit, without a word."""
    prefix: str = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type) or ""
    missing = [key for key in outcome.missing_keys if prefix in key and name in key.split(".")]
    shared = ".vblora_vector_bank."  # of all layers, filled by its own name
    if missing := [key for key in missing if shared not in key]:
        raise ValueError(f"it is incomplete: it has no weights for {missing[0]}.")
    if unknown := [key for key in outcome.unexpected_keys if prefix in key]:
        raise ValueError(f"it was made for another model: it has weights for {unknown[0]}.")


def _take_off(engine: Engine, name: str) -> None:
    """Delete an adapter's layers, finished or not; with the last one PEFT itself goes off the network."""
    network = engine.model
    others = [other for other in getattr(network, "peft_config", {}) if other != name]
    if isinstance(network, PeftModel) and others:
        if name in network.peft_config:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that another one is active: `Engine.using` chooses one for every pass
                network.delete_adapter(name)
        return
    for parent, attribute, _, original in wrapped_modules(network):
        setattr(parent, attribute, original)
    engine.model = base_network(network)
    if hasattr(engine.model, "peft_config"):
        del engine.model.peft_config  # left there by PEFT


def _put_back(model: Model, held: Sequence[tuple[Tensor, Tensor]], spec: str) -> None:
    """Give the base's tensors the data that they held. What was written over is lost: such weights are used no more."""
    for tensor, data in held:
        tensor.data = data
    if changes := base_changes(model):
        model.engine.fault = (
            f"The adapter {spec} has damaged the weights of {model.spec} in memory: {changes}. Load the model again."
        )


@contextmanager
def _biases_apart(engine: Engine, name: str, trained: bool) -> Iterator[None]:
    """PEFT writes the biases that an adapter trained over the base's. Put those back; `Engine.using` swaps them in."""
    biases = [w for key, w in engine.model.named_parameters() if key.endswith("bias")] if trained else []
    before = [w.data.clone() for w in biases]
    try:
        yield
    finally:
        changed = [(w, w.data, old) for w, old in zip(biases, before, strict=True) if not torch.equal(w.data, old)]
        for w, _, old in changed:
            w.data = old
    if changed:
        engine.biases[name] = [(w, new) for w, new, _ in changed]
