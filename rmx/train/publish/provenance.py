"""Where an adapter comes from: its base, the recipe, the data, the figures. What its card and `training.json` say.

Everything is read off a run's `config.json` and events. No path of this machine gets in: a local folder or file goes by
its name alone.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
        return {
            "kind": self.kind,
            "run": self.run,
            "base": {"name": base.name, "revision": base.revision, "dtype": base.dtype, "licence": base.licence},
            "style": base.style.json() if base.style else None,
            "recipe": {name: list(v) if isinstance(v, tuple) else v for name, v in self.recipe.items()},
            "departures": {name: [_plain(paper), _plain(ours)] for name, (paper, ours) in self.departures.items()},
            "set": self.problem_set,
            "teacher": self.teacher,
            "teacher_figures": dict(self.teacher_figures) if self.teacher_figures else None,
            "started_from": self.started_from,
            "data": dict(self.data) if self.data else None,
            "gate": dict(self.gate) if self.gate else None,
            "head": dict(self.head) if self.head else None,
            "histogram": list(self.histogram),
            "checks": [
                {"split": c.split, "before": c.before, "after": c.after, "vs_base": c.change} for c in self.checks
            ],
            "agreement": dict(self.agreement) if self.agreement else None,
            "notes": list(self.notes),
            "updates": self.updates,
            "seconds": self.seconds,
            "versions": dict(self.versions) if self.versions else {},
        }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def base_of(model: Model) -> BaseFacts:
    """The base as it is named outside of this machine, and how it was asked."""
    return replace(_named_base(model), style=model.style)


def _named_base(model: Model) -> BaseFacts:
    spec, preset = model.spec.partition("@")[0], preset_of(model.spec)
    licence = preset.licence.lower() if preset else None
    if model.spec == "mini":
        return BaseFacts("mini", "bundled", model.revision, licence, model.dtype)
    if preset and preset.source.startswith("package:"):
        return BaseFacts(preset.name, "gguf", model.revision, licence, model.dtype)
    if spec.endswith(".gguf"):
        return BaseFacts(Path(spec).name, "gguf", model.revision, licence, model.dtype)
    if Path(model.spec).exists() or not (preset or _HUB_ID.fullmatch(spec)):
        place = Path(model.spec).expanduser().absolute()
        return BaseFacts(place.name, "local", model.revision, _own_licence(place), model.dtype)
    return BaseFacts(preset.source if preset else spec, "hub", model.revision, licence, model.dtype)


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
    config: Mapping[str, Any],
    events: Iterable[Mapping[str, Any]],
    base: BaseFacts,
    done: Mapping[str, Any] | None = None,
) -> Provenance:
    """The story of a ReasonMaxxer run so far.

    Args:
        config: the run's `config.json`.
        events: those of `events.jsonl`; of each kind the last counts, as a resumed run tells it again.
        done: figures of the event `done`, where that is not among the events yet.
    """
    last = {event["kind"]: event for event in events_that_count(events)}
    finished = done or last.get("done", {})
    recipe = Recipe.from_json(config["recipe"])
    return Provenance(
        kind="train",
        run=config["id"],
        base=base,
        recipe=recipe.flat(),
        departures=recipe.departures(),
        problem_set=set_label(config.get("set")),
        started_from=spec_label(config.get("adapter")),
        data=figures_of(last.get("selection")),
        gate=figures_of(last.get("gate")),
        head=figures_of(last.get("head")),
        histogram=tuple(last.get("rollouts", last.get("selection", {})).get("histogram", ())),
        checks=(*chosen_on(last), *final_check(finished)),
        notes=tuple(last[kind]["message"] for kind in ("guard", "early") if kind in last),
        updates=finished.get("updates"),
        seconds=finished.get("seconds"),
        versions=config.get("versions"),
    )


def events_that_count(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The events, with the check of the base and that of the best checkpoint under names of their own."""
    found = list(events)
    checks = [e for e in found if e["kind"] == "check"]
    named = [dict(e, kind="check of the base") for e in checks if e.get("optimizer_step") == 0]
    return [*found, *named, *(dict(e, kind="best check") for e in checks if e.get("best"))]


def chosen_on(last: Mapping[str, Mapping[str, Any]]) -> tuple[PassRates, ...]:
    """What the validation split said of the checkpoint that was kept."""
    best = last.get("best check")
    before = last.get("check of the base", {}).get("pass@1")
    if best is None or before is None or best.get("optimizer_step") == 0 or best.get("pass@1") is None:
        return ()
    return (PassRates("validation", before, best["pass@1"], best.get("vs_base")),)


def final_check(done: Mapping[str, Any]) -> tuple[PassRates, ...]:
    """What was measured once, after the training."""
    before, after = done.get("before"), done.get("after")
    if before is None or after is None:
        return ()
    return (PassRates(done.get("split", "test"), before, after, done.get("vs_base")),)


def figures_of(event: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An event without its time and kind, and without the estimate of what was still to come."""
    if event is None:
        return None
    return {key: value for key, value in event.items() if key not in ("t", "kind", "estimate")}
