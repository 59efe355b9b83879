"""Where an adapter comes from, as its card and `training.json` say: read off config and events, without any path."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import metadata_load

from rmx.data.problem_sets import SETS
from rmx.models.load import Model
from rmx.models.presets import preset_of
from rmx.prompt_styles import PromptStyle
from rmx.recipes.recipe import Recipe
from rmx.stats.intervals import Estimate

Origin = Literal["bundled", "hub", "gguf", "local"]
Kind = Literal["train", "distill"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The model that an adapter belongs to."""

    name: str  # a Hub id, a bundled or preset name, or the name of a local folder or file
    origin: Origin
    revision: str  # commit of a Hub model, content hash of local files
    licence: str | None  # as the Hub writes it, None where it is not known
    dtype: str  # that the adapter was trained in
    style: PromptStyle | None = field(default=None, compare=False)  # how its problems were asked


@dataclass(frozen=True, slots=True)
class PassRates:
    """Greedy pass@1 on problems that nothing was learned from, before and after."""

    split: str
    before: Estimate
    after: Estimate
    change: Estimate | None  # paired


@dataclass(frozen=True, slots=True)
class Provenance:
    """The whole story of one adapter."""

    kind: Kind
    run: str  # id of the run
    base: BaseFacts
    recipe: Mapping[str, Any]  # every field by its name
    departures: Mapping[str, tuple[Any, Any]]  # name -> (the paper's value, this one)
    problem_set: str | None  # NAME or NAME:SPLIT, a file by its name
    teacher: str | None = None  # distill only
    teacher_figures: Mapping[str, Estimate] | None = None  # its pass@1 and gain, the adapter against it
    started_from: str | None = None  # an adapter that was trained further, by its name
    data: Mapping[str, Any] | None = None  # figures of the events `selection` (train) or `rollouts` (distill)
    gate: Mapping[str, Any] | None = None  # figures of the event `gate`
    head: Mapping[str, Any] | None = None  # where TF32 was asked for: whether, and what it changes
    histogram: tuple[int, ...] = ()  # sampled problems with 0 … k right rollouts
    checks: tuple[PassRates, ...] = ()
    agreement: Mapping[str, Any] | None = None  # with the teacher, on held-out rollouts of its own
    notes: tuple[str, ...] = ()  # why it ended early
    updates: int | None = None
    seconds: float | None = None
    versions: Mapping[str, str] | None = None

    def json(self) -> dict[str, Any]:
        """The content of `training.json`."""
        base = self.base
        pairs = ("teacher_figures", "started_from", "data", "gate", "head")
        checks = [{"split": c.split, "before": c.before, "after": c.after, "vs_base": c.change} for c in self.checks]
        return {
            "kind": self.kind, "run": self.run,
            "base": {"name": base.name, "revision": base.revision, "dtype": base.dtype, "licence": base.licence},
            "style": base.style.json() if base.style else None, "recipe": dict(self.recipe),
            "departures": dict(self.departures), "set": self.problem_set, "teacher": self.teacher,
            **{name: getattr(self, name) or None for name in pairs}, "histogram": self.histogram, "checks": checks,
            "agreement": self.agreement or None, "notes": self.notes, "updates": self.updates,
            "seconds": self.seconds, "versions": self.versions or {},
        }  # fmt: skip


def base_of(model: Model) -> BaseFacts:
    """The base as it is named outside of this machine, and how it was asked."""
    spec, preset = model.spec.partition("@")[0], preset_of(model.spec)
    licence = preset.licence.lower() if preset else None
    named: tuple[str, Origin] = (preset.source if preset else spec, "hub")
    if model.spec == "mini":
        named = "mini", "bundled"
    elif preset and preset.source.startswith("package:"):
        named = preset.name, "gguf"
    elif spec.endswith(".gguf"):
        named = Path(spec).name, "gguf"
    elif Path(model.spec).exists() or not (preset or _HUB_ID.fullmatch(spec)):
        place = Path(model.spec).expanduser().absolute()
        named, licence = (place.name, "local"), _own_licence(place)
    return BaseFacts(*named, model.revision, licence, model.dtype, model.style)


def _own_licence(folder: Path) -> str | None:
    """The licence that a model folder's own card names."""
    try:
        found = (metadata_load(folder / "README.md") or {}).get("license")
    except (OSError, ValueError):  # no card, or none that can be read
        return None
    return found if isinstance(found, str) else None


def spec_label(spec: str | None) -> str | None:
    """A model or adapter spec as it is called outside of this machine."""
    if not spec or (_HUB_ID.fullmatch(spec.partition("@")[0]) and not Path(spec).exists()):
        return spec or None
    return Path(spec).name or Path(spec).absolute().name


def set_label(name: str | None) -> str | None:
    """A problem set as it is called outside of this machine: the path of a file is left out."""
    if not name:
        return None
    base, colon, split = name.rpartition(":")
    if base in SETS or name in SETS:
        return name
    return f"{Path(base).name}:{split}" if colon and base else Path(name).name


def provenance(
    config: Mapping[str, Any], events: Iterable[Any], base: BaseFacts, done: Mapping[str, Any] | None = None
) -> Provenance:
    """The story of a ReasonMaxxer run so far; `done` where that event is not told yet. Of each kind the last counts."""
    last: dict[str, Mapping[str, Any]] = {}
    for event in events:
        last[event["kind"]] = event
        if event["kind"] == "check" and event.get("optimizer_step") == 0:
            last["check of the base"] = event
        if event["kind"] == "check" and event.get("best"):
            last["best check"] = event
    finished = done or last.get("done", {})
    recipe = Recipe.from_json(config["recipe"])
    return Provenance(
        kind="train", run=config["id"], base=base, recipe=recipe.flat(), departures=recipe.departures(),
        problem_set=set_label(config.get("set")), started_from=spec_label(config.get("adapter")),
        data=figures_of(last.get("selection")), gate=figures_of(last.get("gate")), head=figures_of(last.get("head")),
        histogram=tuple(last.get("rollouts", last.get("selection", {})).get("histogram", ())),
        checks=_checks(last, finished),
        notes=tuple(last[kind]["message"] for kind in ("guard", "early") if kind in last),
        updates=finished.get("updates"), seconds=finished.get("seconds"), versions=config.get("versions"),
    )  # fmt: skip


def _checks(last: Mapping[str, Mapping[str, Any]], done: Mapping[str, Any]) -> tuple[PassRates, ...]:
    """What the validation split said of the checkpoint that was kept, and what was measured once at the end."""
    found = []
    best, before = last.get("best check", {}), last.get("check of the base", {}).get("pass@1")
    if before is not None and best.get("optimizer_step") != 0 and best.get("pass@1") is not None:
        found.append(PassRates("validation", before, best["pass@1"], best.get("vs_base")))
    if done.get("before") is not None and done.get("after") is not None:
        found.append(PassRates(done.get("split", "test"), done["before"], done["after"], done.get("vs_base")))
    return tuple(found)


def figures_of(event: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An event without its time and kind, and without the estimate of what was still to come."""
    if event is None:
        return None
    return {key: value for key, value in event.items() if key not in ("t", "kind", "estimate")}
