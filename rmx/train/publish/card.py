"""The model card of a trained adapter: the README.md that goes with it to the Hub.

The same provenance always makes the same text. A figure never stands without its interval and its n.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from rmx.data.hub_sets import REPOSITORIES
from rmx.data.problem_sets import SETS
from rmx.stats.intervals import Estimate
from rmx.train.publish.provenance import BaseFacts, PassRates, Provenance

PAPER = "arXiv 2605.06241"

_TITLES = {"train": "A ReasonMaxxer adapter for {base}", "distill": "A KL-LoRA adapter for {base}"}
_METHODS = {
    "train": "Trained by ReasonMaxxer ({paper}, section 5): solutions sampled from the frozen base, of problems that "
    "it sometimes solves; a loss {gate} that {moves}; and a KL anchor to the base at all other positions.",
    "distill": "Distilled from {teacher} ({paper}, section 4): the LoRA was trained to minimise KL(teacher || base + "
    "LoRA) over the tokens of the teacher's own solutions, with the teacher's {top_k} likeliest tokens kept for each.",
}
_GATES = {
    "entropy": "at the few tokens where the base is uncertain",
    "random": "at tokens drawn at random, as many as the base is uncertain at (an ablation)",
    "full": "at every token of the solutions (an ablation)",
}
_TAGS = {"train": ["reasonmaxxer"], "distill": ["kl-distillation"]}
_BY_CONSTRUCTION = """
**By construction, there was something to find.** The forks of the miniature were put into its training data: at nearly
every problem some of its simulated writers are right, and training has only to move those odds. These figures show
that the software works. They are no evidence for what the paper says about large models.
"""
_TAILS = {
    "renormalise": "renormalised over the tokens that were kept, so the student learns to put nothing elsewhere",
    "bucket": "the rest of the vocabulary is one more outcome, so that the loss is a lower bound of the full KL",
}
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
    """The text of the adapter's README.md.

    Args:
        parameters: of the adapter, where they have been counted.
    """
    title = _TITLES[story.kind].format(base=_text(story.base.name))
    parts = [
        _front(story),
        f"# {title}\n\n{_method(story)}\n",
        _BY_CONSTRUCTION if story.base.origin == "bundled" else "",
        _figures(story),
        _data(story),
        _recipe(story, parameters),
        _loading(story.base),
        _origin(story),
    ]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _method(story: Provenance) -> str:
    recipe = story.recipe
    right_only = recipe.get("positive_only") or recipe.get("objective") == "correct_sft"
    return _METHODS[story.kind].format(
        paper=PAPER,
        teacher=_text(story.teacher or "its teacher"),
        top_k=recipe.get("top_k"),
        gate=_GATES.get(recipe.get("gate", ""), ""),
        moves="raises what right solutions chose" + ("" if right_only else " and lowers what wrong ones chose"),
    )


# -- front matter -----------------------------------------------------------------------------------------------------


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
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n"


# -- sections ---------------------------------------------------------------------------------------------------------


def _figures(story: Provenance) -> str:
    head = "## Measured\n\nGreedy pass@1, 95 % intervals in brackets.\n\n"
    if not story.checks:
        return "## Measured\n\nNo held-out check was made: whether this adapter helps is not known.\n" + _agreement(
            story
        )
    rows = ["| problems | base | with the adapter | change, problem by problem |", "|---|---|---|---|"]
    rows += [_held_row(held) for held in story.checks]
    notes = []
    if story.teacher_figures:
        notes.append(_nearness(story.teacher_figures))
    if story.kind == "train" and any(held.split == "validation" for held in story.checks):
        notes.append("The checkpoint was chosen on the validation problems, so that row is optimistic.")
    if any(held.change and _open(held.change) for held in story.checks):
        notes.append("Where the interval of a change holds 0, no change at all is compatible with it.")
    return head + "\n".join(rows) + "\n" + "".join(f"\n{note}\n" for note in notes) + _notes(story) + _agreement(story)


def _notes(story: Provenance) -> str:
    return "".join(f"\n{_text(note)}\n" for note in story.notes)


def _nearness(figures: Mapping[str, Estimate]) -> str:
    """What the teacher makes of the same problems, and how much of its gain over the base the adapter has."""
    text = (
        f"The teacher itself: {_percent(figures['teacher'])}. "
        f"The adapter against the teacher: {_points(figures['vs_teacher'])}."
    )
    gain, closed = figures.get("teacher_vs_base"), figures.get("gap_closed")
    if gain is None or closed is None:  # of a run before 0.1.1
        return text
    text += f" The teacher against the base: {_points(gain)}"
    if closed["value"] is None:
        return f"{text}; that is no measurable gain, so what share of the gap the adapter closes cannot be said."
    return f"{text}; the adapter closes {_percent(closed)}, of that gap (0 % is the base, 100 % the teacher)."


def _held_row(held: PassRates) -> str:
    change = _points(held.change) if held.change else "not measured"
    return f"| {held.split} | {_percent(held.before)} | {_percent(held.after)} | {change} |"


def _agreement(story: Provenance) -> str:
    found = story.agreement
    if not found:
        return ""
    lines = [
        f"\nOn {found['rollouts']} rollouts of the teacher that were held out ({found['tokens']} tokens; intervals "
        "bootstrapped over rollouts):\n",
        "| | base | with the adapter |",
        "|---|---|---|",
        f"| same likeliest token as the teacher | {_percent(found['base']['agreement'])} "
        f"| {_percent(found['adapted']['agreement'])} |",
        f"| KL(teacher, student), nats a token | {_nats(found['base']['kl'])} | {_nats(found['adapted']['kl'])} |",
        f"\nThat KL is over the teacher's likeliest {story.recipe.get('top_k')} tokens and one bucket for the rest: a "
        "lower bound of the full one.\n",
    ]
    return "\n".join(lines)


def _data(story: Provenance) -> str:
    lines = ["## Data\n", f"- problems: {_set_line(story.problem_set)}"]
    data, gate = story.data, story.gate
    if data and story.kind == "train":
        lines += _selection_lines(data)
    elif data:
        lines.append(f"- {data['rollouts']} solutions by the teacher, {data['tokens']} tokens, {data['right']} right")
    if story.histogram:
        lines.append(f"- sampled problems by right rollouts: {_histogram(story.histogram)}")
    if gate:
        tau = "" if gate.get("tau") is None else f", tau {gate['tau']:.4g} nats"
        lines.append(
            f"- decision tokens: {gate['gated']} of {gate['tokens']} ({gate['share']:.2%}; gate {gate['gate']}{tau})"
        )
    return "\n".join(lines) + "\n"


def _selection_lines(data: Mapping[str, Any]) -> list[str]:
    out = data.get("out") or {}
    dropped = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in out.items() if n)
    return [
        f"- sampled: {data['problems']} problems, {data['sampled']} rollouts from the frozen base",
        f"- kept: {data['kept']} problems, {data['rollouts']} rollouts ({data['right']} right, {data['wrong']} wrong); "
        f"{data['trimmed']} longest rollouts trimmed",
        *([f"- problems left out: {dropped}"] if dropped else []),
    ]


def _histogram(counts: Sequence[int]) -> str:
    return ", ".join(f"{right} of {len(counts) - 1}: {n}" for right, n in enumerate(counts) if n)


def _set_line(name: str | None) -> str:
    if name is None:
        return "not named; the rollouts came from a file"
    known = SETS.get(name.partition(":")[0])
    return f"`{_code(name)}`" + (f" ({known.title}; licence: {known.licence}; {known.source})" if known else "")


def _recipe(story: Provenance, parameters: int | None) -> str:
    rows, ours = ["| | here | in the paper |", "|---|---|---|"], _OURS[story.kind]
    for name, value in story.recipe.items():
        paper = story.departures.get(name)
        theirs = "not stated" if name in ours else "the same" if paper is None else f"**{_value(paper[0])}**"
        rows.append(f"| {name} | {_value(value)} | {theirs} |")
    n = len(story.departures.keys() - ours)
    of = len(story.recipe.keys() - ours)
    says = (
        f"{n} of the {of} values that the paper states differ (bold)." if n else f"All {of} that the paper states hold."
    )
    size = f" The adapter has {parameters:,} parameters." if parameters is not None else ""
    tail = f"\nThe teacher's distribution: {_TAILS[story.recipe['tail']]}.\n" if "tail" in story.recipe else ""
    return f"## Recipe\n\n{says}{size}\n\n" + "\n".join(rows) + "\n" + tail


def _loading(base: BaseFacts) -> str:
    """How to load it without rmx. The snippet runs as it stands inside the adapter's folder."""
    return f"## Loading\n\n```python\n{snippet(base)}```\n"


def snippet(base: BaseFacts) -> str:
    """Python that loads base and adapter with transformers and PEFT."""
    revision = f", revision={_quoted(base.revision)}" if base.origin == "hub" and base.revision != "unknown" else ""
    if base.origin == "gguf":  # whose weights rmx unpacks once, in a place of its own
        lines = [
            "from rmx.models.load import load",
            "",
            f"base = load({_quoted(base.name)}, dtype={_quoted(base.dtype)})",
        ]
        load = ["model, tokenizer = base.engine.model, base.tokenizer"]
        imports = ["from peft import PeftModel"]
    else:
        imports = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer"]
        where = {
            "bundled": 'ASSETS / "mini"  # bundled with rmx',
            "local": f"{_quoted(base.name)}  # the base's folder",
        }
        lines = ["from rmx.paths import ASSETS"] if base.origin == "bundled" else []
        lines += ["", f"base = {where.get(base.origin, _quoted(base.name))}"]
        load = [
            f"model = AutoModelForCausalLM.from_pretrained(base{revision}, dtype={_quoted(base.dtype)})",
            f"tokenizer = AutoTokenizer.from_pretrained(base{revision})",
        ]
    adapter = 'model = PeftModel.from_pretrained(model, ".")  # this folder, or its id on the Hub'
    return "\n".join([*imports, *lines, *load, adapter]) + "\n"


def _quoted(word: str) -> str:
    """A literal of Python: what JSON writes is one."""
    return json.dumps(word, ensure_ascii=False)


def _origin(story: Provenance) -> str:
    base, versions = story.base, story.versions or {}
    lines = [
        "## Where it comes from\n",
        f"- base: {_text(base.name)}, revision `{_code(base.revision)}`, {base.dtype}",
        f"- run: `{_code(story.run)}`, seed {story.recipe['seed']}",
    ]
    if story.started_from:
        lines.append(f"- training began from the adapter {_text(story.started_from)}")
    if story.updates is not None:
        took = f", {story.seconds / 60:.1f} minutes" if story.seconds is not None else ""
        lines.append(f"- {story.updates} updates{took}")
    if versions:
        lines.append("- made with " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())))
    if base.origin == "local":
        lines.append("- the base was a local folder; load the adapter on the very same weights")
    lines.append("- the licence of the base is not known here" if base.licence is None else "")
    lines.append("\n`training.json` has the same for programs.")
    return "\n".join(line for line in lines if line) + "\n"


# -- words ------------------------------------------------------------------------------------------------------------


def _percent(figure: Estimate) -> str:
    """A share with its interval and n."""
    if figure["value"] is None:
        return f"– (n = {figure['n']})"
    return f"{100 * figure['value']:.1f} %{_bounds(figure, 100, '.1f')}, n = {figure['n']}"


def _points(figure: Estimate) -> str:
    if figure["value"] is None:
        return f"– (n = {figure['n']})"
    return f"{100 * figure['value']:+.1f} points{_bounds(figure, 100, '+.1f')}, n = {figure['n']}"


def _nats(figure: Estimate) -> str:
    if figure["value"] is None:
        return f"– (n = {figure['n']})"
    return f"{figure['value']:.4f}{_bounds(figure, 1, '.4f')}, n = {figure['n']}"


def _bounds(figure: Estimate, scale: float, shape: str) -> str:
    if figure["low"] is None:
        return " (no interval)"
    return f" ({format(scale * figure['low'], shape)} to {format(scale * figure['high'], shape)})"


def _open(change: Estimate) -> bool:
    return change["low"] is not None and change["low"] <= 0 <= change["high"]


def _value(value: Any) -> str:
    """A recipe's value in a table cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return _text(", ".join(map(str, value)))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else _text(str(value))


def _text(words: str) -> str:
    """Words that come from outside, harmless in Markdown and in a table."""
    flat = " ".join(words.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in flat)


def _code(words: str) -> str:
    """The same between backticks."""
    return " ".join(words.split()).replace("`", "'").replace("|", "/")
