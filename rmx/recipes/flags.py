"""The recipe as flags of the command line, made from its fields, so that none can be forgotten."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rmx.errors import RmxError
from rmx.recipes.recipe import PRESETS, Recipe

HELP = {
    "k": "solutions sampled of each problem",
    "problems": "problems of the set whose solutions are sampled",
    "temperature": "sampling temperature of the rollouts",
    "top_p": "nucleus sampling of the rollouts: share of probability drawn from",
    "max_new_tokens": "upper bound of a rollout, in tokens",
    "select": "problems to train on: those with a pass rate nearest to one half",
    "trim": "share of the rollouts to train on, the shortest first",
    "gate": "which tokens are trained: those of high entropy, as many random ones, or all",
    "tau": "entropy in nats above which a token is trained (default: the model's own threshold)",
    "tau_share": "share of tokens that are trained, instead of tau",
    "objective": "loss of the trained tokens",
    "positive_only": "learn from right rollouts only",
    "beta_neg": "weight of wrong rollouts in the loss",
    "pos_margin": "delta_hinge: nats by which tokens of right rollouts shall rise",
    "neg_margin": "delta_hinge: nats by which tokens of wrong rollouts shall fall",
    "adv_clip": "advantages are clipped to plus and minus this; 0: no clip",
    "neg_floor_nats": "not in the paper: wrong tokens are pushed no further than this below the base",
    "kl_weight": "weight of the KL divergence to the base in the loss",
    "kl_on": "positions at which the KL divergence to the base counts",
    "normalisation": "what the loss is a mean over: each micro-batch (reference) or the tokens of an update",
    "weigh_problems": "give each problem the same weight",
    "rank": "rank of the LoRA adapter",
    "alpha": "scale of the LoRA adapter, alpha / rank",
    "dropout": "dropout of the LoRA adapter, 0 to 1",
    "targets": "layers that the adapter is on, separated by commas",
    "lr": "learning rate",
    "warmup_steps": "updates over which the learning rate rises",
    "weight_decay": "weight decay of AdamW",
    "max_grad_norm": "norm to which gradients are clipped",
    "epochs": "passes over the rollouts",
    "micro_batch": "rollouts that go through the network together",
    "grad_accum": "micro-batches per update, over all processes",
    "order": "order in which rollouts are trained on",
    "max_steps": "stop after so many updates",
    "max_seq_len": "longer rollouts are cut on the right",
    "recompute": "gradient checkpointing: less memory, more time",
    "base_figures": "the base's figures for the anchor: kept in fp32 or bf16 (half the room), or read anew every time",
    "base_disk_gb": "GB that they may take on disk; what finds no room is read anew, which takes longer",
    "tf32": "products of the head in TF32: faster on CUDA, slightly rounded; without effect on a CPU",
    "checkpoint_every": "epochs between two checkpoints, each with its check",
    "validation": "problems of the validation split; 0: no checks",
    "validation_k": "rollouts of each validation problem",
    "test": "problems of the test split, solved before and after; 0: none",
    "patience": "stop after so many checks without a better pass@1; 0: never",
    "guards": "stop a run that goes wrong",
    "kl_limit": "KL divergence from the base, in nats, at which a run counts as running away",
    "seed": "seed of all random draws",
}


def add_recipe(parser: argparse.ArgumentParser, only: tuple[str, ...] | None = None) -> None:
    """One flag per field; a flag that is not given leaves the preset's value."""
    types = {name: kind for name, kind in field_types().items() if only is None or name in only}
    add_flags(parser.add_argument_group("recipe (defaults: the paper's)"), types, HELP)


def add_flags(group: Any, types: Mapping[str, Any], help_: Mapping[str, str]) -> None:
    """A flag for each field; its value is read back by `given`."""
    for name, kind in types.items():
        options: dict[str, Any] = {"dest": f"recipe_{name}", "default": None, "help": help_[name]}
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif get_origin(kind) is Literal:
            group.add_argument(flag, choices=get_args(kind), **options)
        else:
            group.add_argument(flag, metavar="X", type=_reader(kind), **options)


def given(args: argparse.Namespace, types: Iterable[str]) -> dict[str, Any]:
    """The fields whose flags were used, by name."""
    values = {name: getattr(args, f"recipe_{name}", None) for name in types}
    return {name: None if value == NONE else value for name, value in values.items() if value is not None}


def recipe_of(args: argparse.Namespace, preset: str = "paper") -> Recipe:
    """The preset with the flags that were given.

    Raises:
        RmxError: a value that cannot be used, or an unknown preset.
    """
    if preset not in PRESETS:
        raise RmxError(f"There is no preset '{preset}'. Known: {', '.join(PRESETS)}.")
    return changed_recipe(PRESETS[preset], given(args, field_types()))


def changed_recipe(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of some fields; a threshold takes the place of a share of tokens, or that of it.

    Raises:
        RmxError: a value that cannot be used.
    """
    changed = dict(given)
    if "tau" in changed and "tau_share" not in changed:
        changed["tau_share"] = None
    if changed.get("tau_share") is not None and "tau" not in changed:
        changed["tau"] = None
    return recipe.with_(**changed)


NONE = "none"


def field_types() -> dict[str, Any]:
    """Name -> type of every field of a recipe, in its order."""
    recipe, found = Recipe(), {}
    for f in fields(recipe):
        if f.name == "seed":
            found["seed"] = int
            continue
        hints = get_type_hints(type(getattr(recipe, f.name)))
        found |= {g.name: hints[g.name] for g in fields(getattr(recipe, f.name))}
    return found


def _reader(kind: Any) -> Callable[[str], Any]:
    """What turns a word of the command line into a field's value."""
    kinds = get_args(kind)
    if kinds and type(None) in kinds:
        inner = _reader(next(k for k in kinds if k is not type(None)))
        return _named("number or none", lambda word: NONE if word == NONE else inner(word))
    if get_origin(kind) is tuple:
        return _named("list", lambda word: tuple(w.strip() for w in word.split(",") if w.strip()))
    return _named("whole number" if kind is int else "number", kind)


def _named(name: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    def reader(word: str) -> Any:
        return read(word)

    reader.__name__ = name  # argparse says "invalid <name> value"
    return reader
