"""A trained adapter on its way out: where it comes from, its card, its folder of plain PEFT files, and the Hub.

Only the four files named in `FILES` ever leave, whatever else lies in the folder. A visitor's token is used for the two
calls to the Hub and is nowhere else: not in a log, not in a file, not in an error or what an error refers to.
"""

import io
import json
import math
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import HfApi, metadata_load
from safetensors import SafetensorError, safe_open

from rmx.data.problem_sets import REPOSITORIES, SETS
from rmx.errors import TrainError, first_line
from rmx.models.load import Model, fingerprint
from rmx.models.names import preset_of
from rmx.prompt_styles import PromptStyle
from rmx.runs.recipe import Recipe
from rmx.stats.intervals import Estimate
from rmx.stats.text import MISSING, in_format
from rmx.storage.hub import FAILURES, TOKENS, Upload, upload_sentence
from rmx.storage.rendering import render

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
    vs_base: Estimate | None  # paired


@dataclass(frozen=True, slots=True)
class Provenance:
    """The whole story of one adapter."""

    kind: Kind
    run: str  # id of the run
    base: BaseFacts
    recipe: Mapping[str, Any]  # every field by its name
    departures: Mapping[str, tuple[Any, Any]]  # name -> (the paper's value, this one)
    set: str | None  # NAME or NAME:SPLIT, a file by its name
    teacher: str | None = None  # distill only
    teacher_figures: Mapping[str, Estimate] | None = None  # its pass@1 and gain, the adapter against it
    started_from: str | None = None  # an adapter that was trained further, by its name
    rollouts_from: str | None = None  # the file that the rollouts were read from, by its name; None: sampled here
    data: Mapping[str, Any] | None = None  # figures of the events `selection` (train) or `rollouts` (distill)
    gate: Mapping[str, Any] | None = None  # figures of the event `gate`
    head: Mapping[str, Any] | None = None  # where TF32 was asked for: whether, and what it changes
    histogram: tuple[int, ...] = ()  # sampled problems with 0 … k right rollouts
    checks: tuple[PassRates, ...] = ()
    agreement: Mapping[str, Any] | None = None  # with the teacher, on held-out rollouts of its own
    notes: tuple[str, ...] = ()  # why it ended early
    updates: int | None = None
    seconds: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """The content of `training.json`."""
        base, told = self.base, asdict(self)
        named = {name: told["base"][name] for name in ("name", "revision", "dtype", "licence")}
        begun = {"kind": self.kind, "run": self.run, "base": named, "style": base.style.json() if base.style else None}
        return begun | {name: value for name, value in told.items() if name not in begun}


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
        set=set_label(config.get("set")), started_from=spec_label(config.get("adapter")),
        rollouts_from=Path(config["from_rollouts"]).name if config.get("from_rollouts") else None,
        data=figures_of(last.get("selection")), gate=figures_of(last.get("gate")), head=figures_of(last.get("head")),
        histogram=tuple(last.get("rollouts", last.get("selection", {})).get("histogram", ())),
        checks=_checks(last, finished),
        notes=tuple(last[kind]["message"] for kind in ("guard", "early") if kind in last),
        updates=finished.get("updates"), seconds=finished.get("seconds"), versions=config.get("versions") or {},
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


# -- The model card, out of assets/templates/adapter_card.md: no figure without interval and n ------------------------


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
_SAMPLED = {"k", "problems", "temperature", "top_p"}  # not used where the rollouts come as a file


def adapter_card(story: Provenance, parameters: int | None = None) -> str:
    """The text of the adapter's README.md."""
    recipe, data = story.recipe, story.data or {}
    ours = _OURS[story.kind] | (_SAMPLED if story.rollouts_from else set())
    left_out = {reason.replace("_", " "): n for reason, n in (data.get("out") or {}).items() if n}
    return render(
        "adapter_card.md", story=story, base=story.base, recipe=recipe, parameters=parameters, front=_front(story),
        right_only=recipe.get("positive_only") or recipe.get("objective") == "correct_sft",
        teacher=story.teacher_figures,
        chosen_on_validation=story.kind == "train" and any(held.split == "validation" for held in story.checks),
        open=any((c := held.vs_base) and c["low"] is not None and c["low"] <= 0 <= c["high"] for held in story.checks),
        set=SETS.get((story.set or "").partition(":")[0]),
        left_out=", ".join(f"{n} {reason}" for reason, n in left_out.items()),
        histogram=[(right, problems) for right, problems in enumerate(story.histogram) if problems],
        differing=len(story.departures.keys() - ours), stated=len(recipe.keys() - ours),
        rows=[_recipe_row(story, name) for name in recipe], snippet=snippet(story.base),
        versions=sorted(story.versions.items()), percent=_with_n("{:.1f} %", " ({:.1f} to {:.1f})", 100),
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
    if dataset := REPOSITORIES.get((story.set or "").partition(":")[0]):
        front["datasets"] = [dataset]
    lineage = [f"base_model:adapter:{base.name}"] if base.origin == "hub" else []
    front["tags"] = [*lineage, "lora", "reasoning", *_TAGS[story.kind], "rmx"]
    if base.origin == "bundled":
        front["tags"] += ["synthetic", "miniature"]
    return str(yaml.safe_dump(front, sort_keys=False, allow_unicode=True))


def _recipe_row(story: Provenance, name: str) -> tuple[str, str, str, bool]:
    """A field of the recipe: name, value here, value in the paper, whether the two differ."""
    paper, value = story.departures.get(name), _value(story.recipe[name])
    if story.rollouts_from and name in _SAMPLED:
        return name, "not used", "", False
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


# -- Folder, zip and Hub ----------------------------------------------------------------------------------------------


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
CARD, TRAINING = "README.md", "training.json"
FILES = (CARD, CONFIG, WEIGHTS, TRAINING)

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can hold
_TOKEN = re.compile(r"[\x21-\x7e]+")


def finish_adapter(folder: Path, story: Provenance, checkpoint: Path | None = None) -> None:
    """Put into `folder` what plain `PeftModel.from_pretrained` loads, with the card and `training.json` beside it."""
    source = checkpoint or folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parameters = _count(source / WEIGHTS)
        config = _config(source / CONFIG, story)
        if source != folder:
            part = folder / f"{WEIGHTS}.part"
            shutil.copyfile(source / WEIGHTS, part)
            part.replace(folder / WEIGHTS)
        _write(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        about = story.json() | {"adapter": fingerprint(folder), "parameters": parameters}
        _write(folder / TRAINING, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        _write(folder / CARD, adapter_card(story, parameters))
    except (OSError, ValueError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise TrainError(f"The adapter in {source.name} cannot be finished ({reason}). Resume the run.") from error


def _count(weights: Path) -> int:
    with safe_open(weights, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - not a dict


def _config(path: Path, story: Provenance) -> dict[str, Any]:
    """PEFT's config with a base that means something elsewhere, and with its sets in a fixed order."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    base = story.base
    config["base_model_name_or_path"] = base.name
    config["revision"] = base.revision if base.origin == "hub" and base.revision != "unknown" else None
    config["inference_mode"] = True
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    return config


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def zipped(folder: Path, name: str = "adapter") -> bytes:
    """A zip with a finished adapter in a folder `name`; the same files always make the same bytes."""
    whole_adapter(folder)
    out, place = io.BytesIO(), re.sub(r"[^\w.-]+", "-", name).strip(".-") or "adapter"
    with zipfile.ZipFile(out, "w") as archive:
        for file in FILES:
            entry = zipfile.ZipInfo(f"{place}/{file}", _LONG_AGO)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as made on Unix, wherever it is made
            # Weights do not shrink; storing them also keeps the bytes apart from the version of zlib.
            entry.compress_type = zipfile.ZIP_STORED
            with (folder / file).open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return out.getvalue()


def whole_adapter(folder: Path) -> None:
    """Make sure that all four files are there, are files, and are whole."""
    for file in FILES:
        path = folder / file
        if path.is_symlink() or not path.is_file():
            raise TrainError(f"There is no finished adapter here yet: {file} is missing. Let the run end first.")
    try:
        _count(folder / WEIGHTS)
        if not isinstance(json.loads((folder / CONFIG).read_text(encoding="utf-8")), dict):
            raise ValueError(f"{CONFIG} is no JSON object")
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise TrainError(f"The adapter's files are damaged ({first_line(error)}). Train it again.") from error


def push_adapter(
    folder: Path, repo: str, token: str, private: bool = True, update: bool = False, api: HfApi | None = None
) -> str:
    """Upload a finished adapter as a model of its own; returns its address."""
    whole_adapter(folder)
    token, repo = token.strip(), repo.strip()
    if not token:  # the client would then use the machine's own
        raise TrainError(f"Pushing needs a token of your own with the right to write: {TOKENS}.")
    if not _TOKEN.fullmatch(token):
        raise TrainError("That is not a token: it has spaces or other characters in it. Copy it again.")
    api = api or HfApi(token=token)
    failure: Exception
    made = None
    try:
        made = api.create_repo(repo, private=private, repo_type="model", exist_ok=update, token=token)
        about: dict[str, Any] = {"commit_message": "Adapter trained with rmx", "allow_patterns": list(FILES)}
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, repo_type="model", token=token, **about)
        return str(made)
    except FAILURES as error:
        failure = error
    # Raised out here, so that nothing refers to the request that failed: its headers hold the token.
    offline = "Check the network, or download the zip and push it from elsewhere."
    said = upload_sentence(failure, Upload("the adapter", repo, offline=offline)) + (
        "" if made is None else f" {repo} is there now and lacks files: push to it again."
    )
    raise TrainError(said.replace(token, "(token)"))
