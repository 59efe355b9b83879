"""What adapters are called and where they lie: bundled names, training runs, folders, Hub ids."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rmx.config import ASSETS, runs_dir
from rmx.errors import ModelError
from rmx.models.presets import shipped_adapters

if TYPE_CHECKING:  # what a site allows is asked where no model is at hand
    from rmx.models.load import Model


def bundled_adapters(model: "Model") -> list[str]:
    """Names of the adapters that ship with this model."""
    return shipped_adapters(model.spec)


def attached(model: "Model") -> set[str]:
    """Names of the adapters whose weights are on the model in this process."""
    return set(getattr(model.engine.model, "peft_config", {}))


def adapter_name(spec: str) -> str:
    """A name of its own for each spec, which `shown_adapter` reads back.

    PEFT uses the name as a module key, where a dot would nest, and a star marks the strength in an adapter's key.
    """
    return spec.replace("%", "%25").replace(".", "%2E").replace("*", "%2A")


def adapter_place(model: "Model", spec: str) -> str:
    """Folder or Hub id of an adapter; ModelError where there is none, or it holds no safetensors."""
    if spec in bundled_adapters(model):
        return str(ASSETS / model.spec / spec)
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


def names_adapter(model: "Model", spec: str) -> bool:
    """Whether a spec that may mean a checkpoint as well is an adapter that is at hand: bundled, a run's, a folder."""
    bundled = spec in bundled_adapters(model)
    return bundled or run_adapter(spec) is not None or (Path(spec) / "adapter_config.json").is_file()


def run_adapter(spec: str) -> Path | None:
    """The folder of a run's adapter: `ID`, `ID/step_N` for a checkpoint, `ID/tau_X` for one of a sweep."""
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
