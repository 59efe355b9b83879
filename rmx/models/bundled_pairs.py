"""Pairs of a base and an RL-trained model that are one click away."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from rmx.models.presets import PRESETS


@dataclass(frozen=True, slots=True)
class PairPreset:
    """Two models with one tokenizer, or one with an adapter."""

    name: str
    title: str
    base: str  # a model spec
    adapter: str | None = None
    teacher: str | None = None  # a full checkpoint
    method: str = ""  # how the adapted model was trained

    def size(self, gpu: bool) -> str:
        """Weights in memory: a full checkpoint comes on top of its base."""
        found = PRESETS.get(self.base)
        if found is None:
            return ""
        return f"2 × {found.size(gpu)}" if self.teacher else found.size(gpu)


PAIRS = {
    pair.name: pair
    for pair in (
        PairPreset("mini+rl", "mini and its RL partner", "mini", "rl", method="REINFORCE, LoRA"),
        PairPreset(
            "qwen2.5-1.5b+simplerl",
            "Qwen2.5 1.5B and SimpleRL-Zoo",
            "qwen2.5-1.5b",
            teacher="hkust-nlp/Qwen-2.5-1.5B-SimpleRL-Zoo",
            method="GRPO",
        ),
        PairPreset(
            "qwen2.5-7b+simplerl",
            "Qwen2.5 7B and SimpleRL-Zoo",
            "qwen2.5-7b",
            teacher="hkust-nlp/Qwen-2.5-7B-SimpleRL-Zoo",
            method="GRPO",
        ),
        PairPreset(
            "qwen2.5-math-7b+simplerl",
            "Qwen2.5 Math 7B and SimpleRL-Zoo",
            "qwen2.5-math-7b",
            teacher="hkust-nlp/Qwen-2.5-Math-7B-SimpleRL-Zoo",
            method="GRPO",
        ),
        PairPreset(
            "mistral-7b+simplerl",
            "Mistral 7B and SimpleRL-Zoo",
            "mistral-7b",
            teacher="hkust-nlp/Mistral-7B-v0.1-SimpleRL-Zoo",
            method="GRPO",
        ),
        PairPreset(
            "qwen2.5-7b+orz",
            "Qwen2.5 7B and Open-Reasoner-Zero",
            "qwen2.5-7b",
            teacher="Open-Reasoner-Zero/Open-Reasoner-Zero-7B",
            method="PPO",
        ),
        PairPreset(
            "r1-distill-1.5b+deepscaler",
            "R1 Distill 1.5B and DeepScaleR",
            "r1-distill-1.5b",
            teacher="agentica-org/DeepScaleR-1.5B-Preview",
            method="GRPO",
        ),
    )
}


def pairs_first(
    model: str | None,
    adapter: str | None,
    loaded: Collection[str],
    offers: Callable[..., bool] = lambda *specs: True,
) -> dict[str, PairPreset]:
    """The known pairs by name; what a Space was set up with comes first as "given", where it could be had.

    Args:
        offers: whether models of these names belong on the list.
    """
    known = {name: pair for name, pair in PAIRS.items() if offers(pair.base, pair.teacher)}
    if model and adapter and model in loaded:
        return {"given": PairPreset("given", f"{model} + {adapter}", model, adapter)} | known
    return known
