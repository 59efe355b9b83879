"""Put PEFT adapters on an engine; safetensors only.

Whatever is put on, the base stays the base: see `base_state` for how it is asked afterwards. An adapter that changes
the base all the same is taken off again.

PEFT begins every adapter that it loads as if it were to be trained. One that was begun from the base's own weights
(PiSSA, OLoRA, CorDA, LoRA-GA) takes its first factors out of them: it was trained on W - s B0 A0. The same model is
W + s (B A - B0 A0), with W left alone: a plain LoRA of twice the rank. That is what is made of it here, where B0 A0 is
known: saved beside the adapter, or computed again from the base. All other adapters begin in PEFT's plainest way, since
every one of their weights comes from the file.
"""

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from peft import LoraConfig, PeftConfig, PeftModel, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rmx.engine.engine import Engine, base_network, lora_layers, split_key, why_not_linear
from rmx.errors import ModelError, reason_of
from rmx.models.base_state import base_changes, base_tensors, remember_base, wrapped_modules
from rmx.models.load import Model, fingerprint
from rmx.models.names import adapter_name, adapter_place
from rmx.storage.hub import download_sentence

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Kinds that are tested against PEFT's own model: whole texts, token by token, and with a second one beside.
KINDS = (
    "LORA", "ADALORA", "C3A", "DELORA", "FOURIERFT", "GRALORA", "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA",
    "LOKR", "MISS", "OFT", "RANDLORA", "ROAD", "SHIRA", "TRAINABLE_TOKENS", "VBLORA", "VERA", "WAVEFT",
)  # fmt: skip
PROMPTS = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT",
)  # fmt: skip
UNTESTED = ("arrow_config", "use_bdlora", "monteclora_config", "use_qalora")  # variants of LoRA
HARMLESS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")  # ways to begin that leave the base alone
ONLY_TO_BEGIN = ("loftq_config", "eva_config", "corda_config", "lora_ga_config")
MERGE = "Merge it where it was trained (merge_and_unload, then save_pretrained) and name the checkpoint with --teacher."
ROUNDING = 2.0**-9  # share of the weights that bf16 rounds away: factors that are computed again are known better


@dataclass(frozen=True, slots=True)
class SavedAdapter:
    """What PEFT is given."""

    config: Any
    tensors: dict[str, Tensor]  # by their names in the file


def read_adapter(model: Model, place: str, spec: str) -> SavedAdapter:
    """Read the adapter of a folder or of the Hub for this model. The caller holds the engine's turn.

    Raises ModelError where it is damaged, would change the base or would give wrong figures.
    """
    refused = f"The adapter {spec} cannot be put on {model.spec}"
    raw = read_config(place, spec, refused)
    if reason := why_refused(raw):
        raise ModelError(f"{refused}: {reason}")
    tensors = load_file(_file(place, WEIGHTS, spec))
    held = base_tensors(model.engine)
    tensors = _own(tensors, raw, held, spec)
    begun = _begun(raw)
    if raw["peft_type"] == "LORA":
        raw = {name: value for name, value in raw.items() if name not in ONLY_TO_BEGIN} | {"init_lora_weights": True}
        if begun not in HARMLESS:
            tensors = _fold(tensors, raw, begun, held, place, spec)
            raw = _doubled(raw)
    config: Any = PeftConfig.from_peft_type(**raw)
    config.inference_mode = True
    config.folded = begun if begun not in HARMLESS else None  # for `facts`; no field of the file
    return SavedAdapter(config, tensors)


def read_config(place: str, spec: str, refused: str) -> dict[str, Any]:
    """Read adapter_config.json; raises ModelError, `refused` and the reason, where it is missing or names no kind."""
    try:
        raw = json.loads(Path(_file(place, CONFIG, spec)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{refused}: its {CONFIG} cannot be read.") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("peft_type"), str):
        raise ModelError(f"{refused}: its {CONFIG} names no kind of adapter (peft_type).")
    return {name: value for name, value in raw.items() if name != "runtime_config"}


def _file(place: str, name: str, spec: str) -> str:
    """A file of a local folder or of a repository of the Hub."""
    if Path(place).is_dir():
        return str(Path(place) / name)
    try:
        return hf_hub_download(place, name)
    except (OSError, ValueError) as error:  # also what the Hub's own errors are
        why = download_sentence(error, f"The {name} of the adapter {spec}", "take another adapter")
        why = why or f"The adapter {spec} has no {name} on the Hub. Check the spelling."
        raise ModelError(f"{why} Weights must be safetensors.") from error


def why_refused(raw: Mapping[str, Any]) -> str | None:
    """Why an adapter of this configuration is not put on at all, and what to do; None where it may be."""
    kind, begun = raw["peft_type"], _begun(raw)
    if kind in PROMPTS:
        return (
            f"it puts learned positions before the text ({kind}), and rmx has both models read the same tokens at the "
            "same places. Use a LoRA."
        )
    if kind not in KINDS:
        return f"rmx has not been checked with adapters of the kind {kind}. It takes {', '.join(KINDS)}."
    if raw.get("layer_replication"):
        return f"it repeats layers (layer_replication), so that the base would have other layers too. {MERGE}"
    if raw.get("alora_invocation_tokens"):
        return (
            "it begins at certain tokens of the text (alora_invocation_tokens), which decoding token by token does "
            "not show it. Use a LoRA that is always on."
        )
    if raw.get("kasa_config"):
        return f"its training removed the smallest components of the base's weights (KaSA). {MERGE}"
    if variant := next((name for name in UNTESTED if raw.get(name)), None):
        return f"rmx has not been checked with this variant of LoRA ({variant}). {MERGE}"
    if kind != "LORA" or begun in HARMLESS or begun.startswith("pissa") or begun in ("olora", "corda", "lora_ga"):
        return None
    if begun == "loftq":
        return f"it was trained on quantised weights (LoftQ), which are not the base's. {MERGE}"
    return f"it was begun in a way that rmx does not know (init_lora_weights: {begun[:40]}). {MERGE}"


def _begun(raw: Mapping[str, Any]) -> str:
    return str(raw.get("init_lora_weights")).lower()


def _own(
    tensors: Mapping[str, Tensor], raw: Mapping[str, Any], held: Mapping[str, Tensor], spec: str
) -> dict[str, Tensor]:
    """The file without copies of the base's tensors, such as embeddings, which PEFT would write over the base's own."""
    biased = (raw.get("bias") or "none") != "none"
    found = {}
    for name, tensor in tensors.items():
        plain = plain_name(name)
        mine = held.get(plain)
        parts = plain.split(".")
        modules = [".".join(parts[:n]) for n in range(1, len(parts))]
        # PEFT keeps these modules apart for the adapter; it finds them by how their names end.
        apart = any(module.endswith(end) for module in modules for end in raw.get("modules_to_save") or ())
        if mine is None or apart or (biased and plain.endswith(".bias")):
            found[name] = tensor
        elif mine.shape != tensor.shape or not torch.equal(tensor.to(mine.dtype), mine.detach().cpu()):
            raise ModelError(
                f"The adapter {spec} brings a {plain} of its own, which would take the place of the base's for all who "
                "share it. Save it with save_embedding_layers=False, or train that module as one of modules_to_save."
            )
    return found


def plain_name(name: str) -> str:
    """A parameter's name in the checkpoint, without what PEFT put around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")


def _fold(
    tensors: Mapping[str, Tensor], raw: Mapping[str, Any], begun: str, held: Mapping[str, Tensor], place: str, spec: str
) -> dict[str, Tensor]:
    """[A; A0] and [B, -B0] for every layer of an adapter that was begun from the base's weights."""
    initial = _initial(raw, begun, place, spec)
    if initial is None and begun not in COMPUTED:
        folder = f"{_stem(begun)}_init"
        raise ModelError(
            f"The adapter {spec} was begun by taking factors out of the base's weights ({begun}) that cannot be "
            "computed again. Save it with save_pretrained(..., path_initial_model_for_weight_conversion=...), or put "
            f"the initial adapter, as it was before training, into its folder as {folder}."
        )
    found = dict(tensors)
    for name in [name for name in tensors if ".lora_A." in name or ".lora_embedding_" in name]:
        other = name.replace(".lora_A.", ".lora_B.")
        a, b = tensors[name], tensors.get(other)
        if initial is not None:
            a0, b0 = initial.get(name), initial.get(other)
        else:
            a0, b0 = _computed(plain_name(name).partition(".lora_A.")[0], a, raw, begun, held, spec)
        if b is None or a0 is None or b0 is None or a.ndim != 2 or a0.shape != a.shape or b0.shape != b.shape:
            raise ModelError(
                f"The adapter {spec} cannot be made a plain LoRA: {plain_name(name)} and its beginning ({begun}) do "
                "not have the same shapes, so it belongs to another model or layer."
            )
        found[name], found[other] = torch.cat([a.float(), a0.float()]), torch.cat([b.float(), -b0.float()], 1)
    return found


def _stem(begun: str) -> str:
    return "pissa" if begun.startswith("pissa") else begun


def _initial(raw: Mapping[str, Any], begun: str, place: str, spec: str) -> dict[str, Tensor] | None:
    """The tensors of the adapter before its training, where its folder holds them."""
    folder = Path(place) / f"{_stem(begun)}_init"
    if not (folder / WEIGHTS).is_file():
        return None
    refused = f"The adapter {spec} cannot be folded by its {folder.name}"
    other = read_config(str(folder), f"{spec}/{folder.name}", refused)
    scale = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
    if differs := next((name for name in scale if (other.get(name) or None) != (raw.get(name) or None)), None):
        raise ModelError(f"The adapter {spec} and its {folder.name} differ in {differs}: they are not of one training.")
    return load_file(folder / WEIGHTS)


def _computed(
    module: str, a: Tensor, raw: Mapping[str, Any], begun: str, held: Mapping[str, Tensor], spec: str
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """The factors that PEFT took out of one layer's weight; ModelError where rounding alone could turn them."""
    weight, transposed = held.get(f"{module}.weight"), bool(raw.get("fan_in_fan_out"))
    if weight is None or not weight.is_floating_point() or weight.ndim != 2 or (transposed and begun == "olora"):
        return None, None
    alphas: dict[str, float] = raw.get("alpha_pattern") or {}
    rank, alpha = len(a), alphas.get(get_pattern_key(list(alphas), module), raw.get("lora_alpha", 8))
    scale = alpha / (rank**0.5 if raw.get("use_rslora") else rank)
    matrix = (weight.T if transposed else weight).detach().float()
    first, second, error = COMPUTED[begun](matrix, rank, scale)
    if not error <= ROUNDING * float(matrix.norm()):
        raise ModelError(
            f"The adapter {spec} was begun by taking factors out of the base's weights ({begun}), and the weights of "
            f"{module} do not determine them to within rounding. Save it with save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...)."
        )
    return first.cpu(), second.cpu()


def _principal(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor, float]:
    """PiSSA: the largest singular directions, and by how much rounding may change their product.

    An error e of the weights turns the last direction that is taken towards the first that is not by about e / gap.

    Source: arXiv 2404.02948.
    """
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    error = 0.0
    if rank < len(s) and s[rank - 1] > 0:
        error = 2**0.5 * float(torch.finfo(s.dtype).eps * s[0] * s[rank - 1] / (s[rank - 1] - s[rank]))
    return vh[:rank], u[:, :rank] * (s[:rank] / scale), error


def _orthogonal(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor, float]:
    """OLoRA: the first rows of R and columns of Q, and by how much rounding may change their product.

    Source: arXiv 2406.01775.
    """
    q, r = torch.linalg.qr(weight)
    s = torch.linalg.svdvals(r[:rank, :rank])
    error = 2**0.5 * float(torch.finfo(s.dtype).eps * s[0] / s[-1] * weight.norm())
    return r[:rank], q[:, :rank], error


COMPUTED: dict[str, Callable[[Tensor, int, float], tuple[Tensor, Tensor, float]]] = {
    "pissa": _principal,
    "olora": _orthogonal,
}


def _doubled(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with twice the rank everywhere and the scaling as it was."""
    more = 2**0.5 if raw.get("use_rslora") else 2
    ranks = {key: 2 * value for key, value in (raw.get("rank_pattern") or {}).items()}
    alphas = {key: more * value for key, value in (raw.get("alpha_pattern") or {}).items()}
    r, alpha = 2 * raw.get("r", 8), more * raw.get("lora_alpha", 8)
    return {**raw, "r": r, "lora_alpha": alpha, "rank_pattern": ranks, "alpha_pattern": alphas}


# -- Put PEFT adapters on an engine -----------------------------------------------------------------------------------


# What PEFT raises over files that are damaged: it trusts their content.
_DAMAGE: tuple[type[Exception], ...] = (
    SafetensorError, OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, ImportError,
    ArithmeticError, AssertionError, re.error,
)  # fmt: skip


def add_adapter(model: Model, spec: str) -> str:
    """Load an adapter onto the model's own weights and return the name that `Engine.using` has for it."""
    name = adapter_name(spec)
    return name if name in model.engine.adapters else attach(model, name, adapter_place(model.spec, spec), spec)


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


# -- what an adapter is: its size, where it sits, whether it does anything --------------------------------------------


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """Figures of an adapter, in the order of documents."""

    name: str
    type: str  # PEFT's word: LORA, IA3, …
    rank: int | None
    alpha: float | None
    targets: tuple[str, ...]
    parameters: int
    norm: float | None  # Frobenius norm of all weight changes together, at strength 1; None for other kinds than LoRA
    zero: bool  # it changes nothing at all
    revision: str  # content hash of a local adapter, its source otherwise
    folded: str | None = None  # how it was begun, where it was made a plain LoRA of twice its rank


def facts(model: Model, name: str) -> AdapterFacts:
    """Measure an adapter that is on the model.

    The norm is that of a LoRA, exactly: ||s B A||_F = s sqrt(tr((B^T B)(A A^T))), computed in fp64 without forming B A.
    """
    config = model.engine.model.peft_config[name]
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    norm = None
    if kind == "LORA" and not config.target_parameters:
        norm = math.sqrt(sum(lora_norm(layer, name) ** 2 for layer in adapted_layers(model, name)))
    weights = [w for key, w in model.engine.model.named_parameters() if name in key.split(".")]
    targets = config.target_modules
    source = Path(model.engine.adapters[name])
    return AdapterFacts(
        name=name,
        type=kind,
        rank=getattr(config, "r", None),
        alpha=getattr(config, "lora_alpha", None),
        targets=tuple(sorted(targets)) if isinstance(targets, set | list | tuple) else (str(targets),),
        parameters=sum(w.numel() for w in weights),
        norm=norm,
        # Anything but a plain LoRA is zero only where all of its tensors are.
        zero=norm == 0 if why_not_linear(config) is None else not any(bool(w.any()) for w in weights),
        revision=fingerprint(source) if source.is_dir() else str(source),
        folded=getattr(config, "folded", None),
    )


def adapted_layers(model: Model, name: str) -> list[Any]:
    """The layers that carry this LoRA."""
    return [m for m in lora_layers(model.engine.model) if name in m.lora_A or name in m.lora_embedding_A]


def lora_norm(layer: Any, name: str) -> float:
    """Frobenius norm of one layer's weight change at strength 1."""
    a, b = lora_factors(layer, name)
    with torch.inference_mode():
        gram = (b.double().T @ b.double()) * (a.double() @ a.double().T)
        return float(layer.scaling[name] * gram.sum().clamp_min(0).sqrt())


def lora_factors(layer: Any, name: str) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r), convolutions flattened."""
    if name in layer.lora_embedding_A:
        return layer.lora_embedding_A[name], layer.lora_embedding_B[name]
    return layer.lora_A[name].weight.flatten(1), layer.lora_B[name].weight.flatten(1)
