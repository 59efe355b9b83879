"""Put PEFT adapters on an engine: bundled names, folders, Hub ids; safetensors only."""

from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from safetensors import SafetensorError

from rmx.errors import ModelError
from rmx.models import Model, _first_line
from rmx.paths import ASSETS


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
    name = spec.replace(".", "_")  # PEFT uses the name as a module key, where a dot would nest
    if name in model.engine.adapters:
        return name
    place = _place(model, spec)
    try:
        config = PeftConfig.from_pretrained(place)
        _check_targets(model, config, spec)
        _attach(model, place, name)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(f"The adapter {spec} cannot be put on {model.spec}: {_first_line(str(error))}") from error
    model.engine.adapters[name] = place
    return name


def _place(model: Model, spec: str) -> str:
    if spec in bundled_adapters(model):
        return str(ASSETS / "mini" / spec)
    folder = Path(spec)
    if folder.is_dir():
        if not (folder / "adapter_config.json").is_file():
            raise ModelError(f"{spec} is not an adapter folder: it has no adapter_config.json.")
        if not (folder / "adapter_model.safetensors").is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            reason = "holds a pickle, which can run code when opened" if pickled else "holds no weights"
            raise ModelError(f"The adapter {spec} {reason}. Save adapter_model.safetensors.")
        return spec
    if "/" not in spec or spec.startswith((".", "/", "~")):
        known = ", ".join(bundled_adapters(model)) or "none is bundled with this model"
        raise ModelError(f"There is no adapter '{spec}'. Bundled: {known}. Or give a folder or a Hub id.")
    return spec


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
        engine.model.load_adapter(place, **options)
        return
    try:
        engine.model = PeftModel.from_pretrained(engine.model, place, **options).eval()
    except Exception:
        _strip(engine)
        raise


def _strip(engine: Any) -> None:
    """Take half-attached adapter layers off again, so that a failed load leaves the base as it was."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(engine.model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent = engine.model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
