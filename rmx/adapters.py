"""Put PEFT adapters on an engine: bundled names, training runs, folders, Hub ids; safetensors only."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import DynamicCache

from rmx.engine import Engine, split_key
from rmx.errors import ModelError, first_line
from rmx.models import Model
from rmx.paths import ASSETS, runs_dir

PROBE = "Ann has 3 apples and buys 4 more. 3 + 4 = 7. So the answer is 7."
PROBE_TOKENS = 16
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
    spec = spec or name
    if model.engine.probe is None and not model.engine.adapters:
        model.engine.probe = probe(model)
    try:
        config = PeftConfig.from_pretrained(place)
        _check_targets(model, config, spec)
        with _biases_apart(model.engine, name, getattr(config, "bias", "none") != "none"):
            _attach(model, place, name)
    except _DAMAGE as error:
        raise ModelError(
            f"The adapter {spec} cannot be put on {model.spec}: {first_line(str(error), 240) or 'no reason was given'}"
        ) from error
    model.engine.adapters[name] = place
    return name


def attached(model: Model) -> set[str]:
    """Names of the adapters whose weights are on the model in this process."""
    return set(getattr(model.engine.model, "peft_config", {}))


def drop_adapter(model: Model, name: str) -> None:
    """Take an adapter off a model again, with what was computed under it. The caller holds the engine's turn."""
    engine = model.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another one is active now: `Engine.using` says which, for every pass
        engine.model.delete_adapter(name)
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
    targets = config.target_modules
    if isinstance(targets, set | list):
        names = {name.rpartition(".")[2] for name, _ in model.engine.model.named_modules()}
        if missing := sorted(t for t in targets if t.rpartition(".")[2] not in names):
            raise ModelError(
                f"The adapter {spec} was made for another architecture: {model.spec} has no {', '.join(missing)}."
            )


def _attach(model: Model, place: str, name: str) -> None:
    engine = model.engine
    options: dict[str, Any] = {"adapter_name": name, "is_trainable": False, "use_safetensors": True}
    if isinstance(engine.model, PeftModel):
        try:
            engine.model.load_adapter(place, **options)
        except Exception:
            if name in engine.model.peft_config:  # PEFT puts the layers in first and fails over their weights
                engine.model.delete_adapter(name)
            raise
        return
    try:
        engine.model = PeftModel.from_pretrained(engine.model, place, **options).eval()
    except Exception:
        _strip(engine)
        raise


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


def _strip(engine: Any) -> None:
    """Take half-attached adapter layers off again, so that a failed load leaves the base as it was."""
    for parent, name, _, original in wrapped_modules(engine.model):
        setattr(parent, name, original)


def wrapped_modules(network: Any) -> list[tuple[Any, str, Any, Any]]:
    """Every module that PEFT has put itself around: (parent, attribute, wrapper, what it wraps)."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    found = []
    for name, module in network.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            inside = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            found.append((network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], module, inside))
    return found


def probe(model: Model) -> Tensor:
    """Logits (n, V), fp32 on the CPU, on a fixed text: whatever changes the network changes these.

    The caller has the adapters off and holds the engine's turn, or is the only one who knows the model.
    """
    ids = (model.encode(PROBE) or [0])[:PROBE_TOKENS]
    return model.engine.forward([ids], DynamicCache(config=model.engine.config), keep=len(ids))[0].float().cpu()
