"""The model that is trained: one set of weights with a LoRA on it. The base is the same weights with the LoRA off."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rmx.errors import ModelError, TrainError, first_line
from rmx.models.adapters import SavedAdapter, put_layers, read_adapter
from rmx.models.base_state import probe_ids, remember_base
from rmx.models.load import Model
from rmx.runs.recipe import AdapterConfig
from rmx.train.step.loss import Products, find_head, with_tf32

NAME = "policy"  # of the adapter that is trained, in PEFT and in `Engine.using`


class LoraPolicy(nn.Module):
    """A model and the adapter on it that learns, which the engine knows as `NAME`.

    Whoever decodes between two updates leaves the network as it likes: `learning` sets it right again.
    """

    def __init__(self, model: Model, recompute: bool) -> None:
        super().__init__()
        self.model = model
        self.network: Any = model.engine.model  # a PeftModel
        self.causal: Any = self.network.get_base_model()
        self.head = find_head(self.causal)  # None: logits have to be made whole
        self.products: Products | None = None  # of the head, where TF32 was asked for
        self.recompute = recompute
        self.base_passes = 0  # how often the network ran with its adapter off
        mark = f".{NAME}."
        self._trained = {name: p for name, p in self.network.named_parameters() if mark in f"{name}."}
        self._layers: list[Any] = [m for m in self.network.modules() if isinstance(m, BaseTunerLayer)]
        self._drops = [m.lora_dropout[NAME] for m in self._layers if NAME in getattr(m, "lora_dropout", ())]

    @property
    def device(self) -> torch.device:
        return self.model.engine.device

    def trained(self) -> dict[str, nn.Parameter]:
        """The adapter's own parameters, by name, in a fixed order."""
        return dict(self._trained)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Adapter, its gradients and its dropout on; around forward and backward alike, since values that are not
        kept are computed again in the backward pass."""
        if any(layer.disable_adapters or layer.active_adapters != [NAME] for layer in self._layers):
            self.network.set_adapter(NAME)
            self.network.base_model.enable_adapter_layers()
        for p in self._trained.values():
            p.requires_grad_(True)
        blocks = self.blocks() if self.recompute else []
        try:
            for drop in self._drops:
                drop.train()
            for block in blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
            yield
        finally:
            for drop in self._drops:
                drop.eval()
            for block in blocks:
                del block.forward  # the class's own is there again

    @contextmanager
    def base(self) -> Iterator[None]:
        """Adapter off, no gradients."""
        self.base_passes += 1
        with torch.no_grad(), self.model.engine.using(None):
            yield

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) tokens -> (B, T, D) hidden states that the head reads."""
        hidden: Tensor = self.causal.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    def logits(self, ids: Tensor) -> Tensor:
        """(B, T) tokens -> (B, T, V) logits in the model's dtype."""
        out: Tensor = self.causal(input_ids=ids, use_cache=False).logits
        return out

    def use_tf32(self) -> None:
        """Make the head's products in TF32 where that can be; `products` says whether, and what it changes."""
        if self.head is None:
            self.products = Products(False, "The logits of this model are made whole, in its own dtype.")
            return
        ids = torch.tensor([probe_ids(self.model)], device=self.device)
        with self.base():
            hidden = self(ids)[0].float()
        self.head, self.products = with_tf32(self.head, hidden, ids[0].roll(-1))

    def changed(self) -> None:
        """The weights have moved: what the engine remembers of this adapter is stale."""
        self.model.engine.prefixes.clear(NAME)

    def save_adapter(self, folder: Path) -> None:
        """The adapter in PEFT's format, loadable by PEFT alone."""
        folder.mkdir(parents=True, exist_ok=True)
        config = deepcopy(self.network.peft_config[NAME])
        config.inference_mode = True
        config.base_model_name_or_path = self.model.spec
        config.save_pretrained(str(folder))
        weights = get_peft_model_state_dict(self.network, adapter_name=NAME, save_embedding_layers=False)
        tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    def blocks(self) -> list[Any]:
        """The layers whose inner values are computed twice rather than kept."""
        return [m for m in self.causal.modules() if isinstance(m, GradientCheckpointingLayer)]


def make_policy(
    model: Model,
    adapter: AdapterConfig,
    init_adapter: Path | None,
    seed: int,
    recompute: bool = False,
    tf32: bool = False,
) -> LoraPolicy:
    """Put the adapter that will be trained on a model; a policy made before on the same model is replaced."""
    engine = model.engine
    if NAME in engine.adapters:
        engine.model.delete_adapter(NAME)
        del engine.adapters[NAME]
    remember_base(model)
    saved = None if init_adapter is None else _saved(model, init_adapter)
    config = _new_config(model, adapter) if saved is None else saved.config
    devices = [engine.device] if engine.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        put_layers(engine, NAME, config)
    if init_adapter is not None and saved is not None:
        load_weights(engine.model, init_adapter, saved.tensors)
    engine.model.eval().requires_grad_(False)
    engine.adapters[NAME] = "in training"
    engine.prefixes.clear(NAME)
    policy = LoraPolicy(model, recompute)
    if recompute and not policy.blocks():
        raise TrainError(f"The layers of {model.spec} cannot be computed twice. Leave out --recompute.")
    if tf32:
        policy.use_tf32()
    return policy


def load_weights(network: PeftModel, folder: Path, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Overwrite the trained adapter's weights by those of a folder."""
    file = folder / "adapter_model.safetensors"
    try:
        outcome: Any = set_peft_model_state_dict(network, dict(tensors or load_file(file)), adapter_name=NAME)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise TrainError(f"The adapter in {folder.name} cannot be put on this model: {first_line(error)}") from error
    if unknown := outcome.unexpected_keys:
        raise TrainError(f"The adapter in {folder.name} was made for another model: it has weights for {unknown[0]}.")
    if missing := [key for key in outcome.missing_keys if f".{NAME}." in key]:
        raise TrainError(f"The adapter in {folder.name} is incomplete: it has no weights for {missing[0]}.")


def _new_config(model: Model, adapter: AdapterConfig) -> LoraConfig:
    names = {name.rpartition(".")[2] for name, _ in model.engine.model.named_modules()}
    if missing := [t for t in adapter.targets if t.rpartition(".")[2] not in names]:
        raise TrainError(f"{model.spec} has no layers called {', '.join(missing)}. Name others with --targets.")
    return LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout, target_modules=list(adapter.targets),
        task_type="CAUSAL_LM",
    )  # fmt: skip


def _saved(model: Model, folder: Path) -> SavedAdapter:
    """An adapter to go on from. One that was begun from the base's weights goes on as a LoRA of twice its rank."""
    if not folder.is_dir():
        raise TrainError(f"There is no adapter to go on from in {folder.name}.")
    try:
        saved = read_adapter(model, str(folder), str(folder))
    except (ModelError, SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise TrainError(f"There is no adapter to go on from in {folder.name}: {first_line(error)}") from error
    config = saved.config
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        raise TrainError(f"The adapter in {folder.name} is of the kind {kind}; only a LoRA can be trained further.")
    if config.bias != "none":
        raise TrainError(f"The adapter in {folder.name} trains biases, so the base could not be told from it.")
    config.inference_mode = False
    return saved
