"""Put PEFT adapters on an engine: bundled names, training runs, folders, Hub ids; safetensors only.

Whatever is put on, the base stays the base: see `adapter_files` for what is refused or folded, and `base_state` for how
it is asked afterwards. An adapter that changes the base all the same is taken off again.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from safetensors import SafetensorError
from torch import Tensor

from rmx.engine.engine import Engine, split_key
from rmx.errors import ModelError, first_line
from rmx.models.adapter_files import SavedAdapter, read_adapter
from rmx.models.base_state import base_changes, base_tensors, remember_base, wrapped_modules
from rmx.models.load import Model
from rmx.paths import ASSETS, runs_dir

# What PEFT raises over files that are damaged: it trusts their content.
_DAMAGE: tuple[type[Exception], ...] = (
    SafetensorError, OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, ImportError,
    ArithmeticError, AssertionError, re.error,
)  # fmt: skip


def bundled_adapters(model: Model) -> list[str]:
    """Names of the adapters that ship with this model."""
    if model.spec != "mini":
        return []
    return [p.parent.name for p in sorted((ASSETS / "mini").glob("*/adapter_config.json"))]


def add_adapter(model: Model, spec: str) -> str:
    """Load an adapter onto the model's own weights and return the name that `Engine.using` knows it by.

    Raises:
        ModelError: no adapter there, a pickle, damaged, or made for another architecture.
    """
    name = adapter_name(spec)
    if name in model.engine.adapters:
        return name
    return attach(model, name, adapter_place(model, spec), spec)


def attach(model: Model, name: str, place: str, spec: str | None = None) -> str:
    """Put the adapter of a folder or of the Hub on a model; `spec` is what messages call it.

    Raises:
        ModelError: it is damaged or made for another architecture.
    """
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
        raise ModelError(
            f"The adapter {spec} cannot be put on {model.spec}: {first_line(str(error), 240) or 'no reason was given'}"
        ) from error
    engine.adapters[name] = place
    if changes := base_changes(model):
        drop_adapter(model, name)
        _put_back(model, held, spec)
        raise ModelError(
            f"The adapter {spec} was taken off {model.spec} again, because it changed the base: {changes}."
        )
    return name


def attached(model: Model) -> set[str]:
    """Names of the adapters whose weights are on the model in this process."""
    return set(getattr(model.engine.model, "peft_config", {}))


def drop_adapter(model: Model, name: str) -> None:
    """Take an adapter off a model again, with what was computed under it. The caller holds the engine's turn."""
    engine = model.engine
    _take_off(engine, name)
    engine.adapters.pop(name)
    engine.biases.pop(name, None)
    engine.prefixes.forget(lambda key: key is not None and split_key(key)[0] == name)


def adapter_name(spec: str) -> str:
    """A name of its own for each spec, which `shown_adapter` reads back.

    PEFT uses the name as a module key, where a dot would nest, and a star marks the strength in an adapter's key: they
    are written as %2E and %2A, and % itself as %25.
    """
    return spec.replace("%", "%25").replace(".", "%2E").replace("*", "%2A")


def adapter_place(model: Model, spec: str) -> str:
    """Folder or Hub id of an adapter.

    Raises:
        ModelError: there is none, or it holds no safetensors.
    """
    if spec in bundled_adapters(model):
        return str(ASSETS / "mini" / spec)
    folder = run_adapter(spec) or Path(spec)
    if folder.is_dir():
        if not (folder / "adapter_config.json").is_file():
            raise ModelError(f"{spec} is not an adapter folder: it has no adapter_config.json.")
        if not (folder / "adapter_model.safetensors").is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            reason = "holds a pickle, which can run code when opened" if pickled else "holds no weights"
            raise ModelError(f"The adapter {spec} {reason}. Save adapter_model.safetensors.")
        return str(folder)
    if is_run(spec.partition("/")[0]):  # never somebody's repository that is called like a run of ours
        raise ModelError(f"The run {spec.partition('/')[0]} has no adapter {spec}; it may have been removed.")
    if "/" not in spec or spec.startswith((".", "/", "~")):
        known = ", ".join(bundled_adapters(model)) or "none is bundled with this model"
        raise ModelError(f"There is no adapter '{spec}'. Bundled: {known}. Or give a run, a folder or a Hub id.")
    return spec


def names_adapter(model: Model, spec: str) -> bool:
    """Whether a spec that may mean a checkpoint as well is an adapter that is at hand: bundled, a run's, a folder."""
    bundled = spec in bundled_adapters(model)
    return bundled or run_adapter(spec) is not None or (Path(spec) / "adapter_config.json").is_file()


def run_adapter(spec: str) -> Path | None:
    """The folder of a training run's adapter, by the run's id, by `ID/step_N` for one of its checkpoints or by
    `ID/tau_X` for one threshold of a sweep."""
    run, _, part = spec.partition("/")
    if not is_run(run) or not re.fullmatch(r"(step_\d+|tau_[\d.e-]+)?", part):
        return None
    home = runs_dir() / run
    folder = home / "checkpoints" / part if part.startswith("step_") else home / part / "adapter"
    return folder if folder.is_dir() else None


def is_run(name: str) -> bool:
    """Whether a run of this id is here."""
    plain = re.fullmatch(r"[\w.-]+", name) and not name.startswith(".")
    return bool(plain) and (runs_dir() / name / "config.json").is_file()


def _check_targets(model: Model, config: Any, spec: str) -> None:
    """PEFT takes any adapter whose target names occur; a wrong shape then fails deep inside. Say it early."""
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
        if isinstance(engine.model, PeftModel):
            engine.model.add_adapter(name, saved.config)
        else:
            engine.model = PeftModel(engine.model, saved.config, adapter_name=name)
        outcome: Any = set_peft_model_state_dict(engine.model, saved.tensors, adapter_name=name)
        _check_whole(outcome, saved.config, name)
    except Exception:
        _take_off(engine, name)
        raise
    engine.model.eval().requires_grad_(False)


def _check_whole(outcome: Any, config: Any, name: str) -> None:
    """PEFT leaves out what does not fit, without a word."""
    prefix: str = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type) or ""
    missing = [key for key in outcome.missing_keys if prefix in key and name in key.split(".")]
    if missing := [
        key for key in missing if ".vblora_vector_bank." not in key
    ]:  # layers share one, filled by its own name
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
                warnings.simplefilter("ignore")  # that another one is active: `Engine.using` says which, for every pass
                network.delete_adapter(name)
        return
    for parent, attribute, _, original in wrapped_modules(network):
        setattr(parent, attribute, original)
    engine.model = network.get_base_model() if isinstance(network, PeftModel) else network
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
