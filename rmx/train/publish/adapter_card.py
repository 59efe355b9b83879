"""The model card of a trained adapter, out of assets/templates/adapter_card.md: no figure without interval and n."""

import json
from collections.abc import Callable
from typing import Any

import yaml

from rmx.data.hub_sets import REPOSITORIES
from rmx.data.problem_sets import SETS
from rmx.stats.intervals import Estimate
from rmx.stats.text import MISSING, in_format
from rmx.storage.rendering import render
from rmx.train.publish.provenance import BaseFacts, Provenance

_TAGS = {"train": ["reasonmaxxer"], "distill": ["kl-distillation"]}
# Choices that the paper leaves open, or that it does not have.
_OURS = {
    "train": {
        "neg_floor_nats", "recompute", "tf32", "base_figures", "base_disk_gb", "validation_k", "test", "patience",
        "guards", "kl_limit", "seed",
    },
    "distill": {
        "k", "max_new_tokens", "tail", "alpha", "dropout", "max_grad_norm", "max_seq_len", "recompute", "tf32",
        "heldout", "validation", "seed",
    },
}  # fmt: skip


def adapter_card(story: Provenance, parameters: int | None = None) -> str:
    """The text of the adapter's README.md."""
    recipe, data, ours = story.recipe, story.data or {}, _OURS[story.kind]
    left_out = {reason.replace("_", " "): n for reason, n in (data.get("out") or {}).items() if n}
    return render(
        "adapter_card.md", story=story, base=story.base, recipe=recipe, parameters=parameters, front=_front(story),
        right_only=recipe.get("positive_only") or recipe.get("objective") == "correct_sft",
        teacher=story.teacher_figures,
        chosen_on_validation=story.kind == "train" and any(held.split == "validation" for held in story.checks),
        open=any((c := held.change) and c["low"] is not None and c["low"] <= 0 <= c["high"] for held in story.checks),
        set=SETS.get((story.problem_set or "").partition(":")[0]),
        left_out=", ".join(f"{n} {reason}" for reason, n in left_out.items()),
        histogram=[(right, problems) for right, problems in enumerate(story.histogram) if problems],
        differing=len(story.departures.keys() - ours), stated=len(recipe.keys() - ours),
        rows=[_recipe_row(story, name) for name in recipe], snippet=snippet(story.base),
        versions=sorted((story.versions or {}).items()), percent=_with_n("{:.1f} %", " ({:.1f} to {:.1f})", 100),
        points=_with_n("{:+.1f} points", " ({:+.1f} to {:+.1f})", 100),
        nats=_with_n("{:.4f}", " ({:.4f} to {:.4f})", 1),
    )  # fmt: skip


def _with_n(value: str, bounds: str, scale: float) -> Callable[[Estimate], str]:

    def write(found: Estimate) -> str:
        if found["value"] is None:
            return f"{MISSING} (n = {found['n']})"
        return f"{in_format(found, value, bounds, ' (no interval)', scale)}, n = {found['n']}"

    return write


def _front(story: Provenance) -> str:
    """The Hub's metadata. A local folder is no Hub id, so such a base is named in the text only."""
    base = story.base
    front: dict[str, Any] = {}
    if base.origin in ("hub", "bundled"):
        front["base_model"] = base.name
    front |= {"library_name": "peft", "pipeline_tag": "text-generation"}
    if base.licence:
        front["license"] = base.licence
    if dataset := REPOSITORIES.get((story.problem_set or "").partition(":")[0]):
        front["datasets"] = [dataset]
    lineage = [f"base_model:adapter:{base.name}"] if base.origin == "hub" else []
    front["tags"] = [*lineage, "lora", "reasoning", *_TAGS[story.kind], "rmx"]
    if base.origin == "bundled":
        front["tags"] += ["synthetic", "miniature"]
    return str(yaml.safe_dump(front, sort_keys=False, allow_unicode=True))


def _recipe_row(story: Provenance, name: str) -> tuple[str, str, str, bool]:
    """A field of the recipe: name, value here, value in the paper, whether the two differ."""
    paper, value = story.departures.get(name), _value(story.recipe[name])
    if name in _OURS[story.kind]:
        return name, value, "not stated", False
    return (name, value, "the same", False) if paper is None else (name, value, _value(paper[0]), True)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def snippet(base: BaseFacts) -> str:
    """Python that loads base and adapter with transformers and PEFT."""
    name, dtype, revision = (json.dumps(word, ensure_ascii=False) for word in (base.name, base.dtype, base.revision))
    pinned = f", revision={revision}" if base.origin == "hub" and base.revision != "unknown" else ""
    return render("adapter_snippet.py.jinja", base=base, name=name, dtype=dtype, pinned=pinned)
