"""What a run's files may hold, whoever wrote them: only what has the shape that readers count on is let in.

What is wrong in one field costs that field; other runs, and pages that list them, must not notice.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rmx.config import is_number

Fits = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


def is_estimate(value: Any) -> bool:
    """{"value", "low", "high", "n"}: the value is known, the others may be null or missing."""
    if not isinstance(value, Mapping) or not is_number(value.get("value")):
        return False
    return all(value.get(name) is None or is_number(value[name]) for name in ("low", "high", "n"))


CONFIG: dict[str, Fits] = {
    "id": is_text, "created": is_number, "kind": is_text, "owner": is_text, "note": is_text, "set": is_text,
    "preset": is_text, "adapter": is_text, "teacher": is_text, "from_rollouts": is_text, "server": is_text,
    "command": is_texts, "taus": is_numbers,
}  # fmt: skip
STATUS: dict[str, Fits] = {
    "state": is_text, "message": is_text, "stage": is_text, "at": is_number, "of": is_number, "left": is_number,
    "ahead": is_number, "started": is_number, "came": is_number, "pid": is_number, "updated": is_number,
    "flags": is_texts,
}  # fmt: skip
# Of the events that a summary keeps: what lists and tables read.
DONE: dict[str, Fits] = {
    "seconds": is_number, "usd": is_number, "before": is_estimate, "after": is_estimate, "vs_base": is_estimate,
    "split": is_text, "adapter": is_text,
}  # fmt: skip
GATE: dict[str, Fits] = {"tau": is_number, "share": is_number}
CHECK: dict[str, Fits] = {"optimizer_step": is_number, "pass@1": is_estimate, "vs_base": is_estimate}


def fitting(found: Mapping[str, Any], shape: Mapping[str, Fits]) -> dict[str, Any]:
    """Without the fields that do not fit; null, and what the shape does not name, is let through."""
    return {k: v for k, v in found.items() if v is None or k not in shape or shape[k](v)}


def config_of(found: Any) -> dict[str, Any] | None:
    """A run's config; None where it does not say what was asked."""
    if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict) or not is_text(found.get("model")):
        return None
    return fitting(found, CONFIG)


def summary_of(found: Any) -> dict[str, Any]:
    """The last event of each kind that was kept, and the checks by their update."""
    if not isinstance(found, dict):
        return {}
    events = {kind: event for kind, event in found.items() if isinstance(event, dict)}
    upto, checks = found.get("upto"), events.get("checks", {})
    events |= {name: fitting(events[name], shape) for name, shape in (("done", DONE), ("gate", GATE)) if name in events}
    if "done" in events:
        events["done"]["sweep"] = sweep_of(events["done"].get("sweep"))
    if checks:
        events["checks"] = {step: fitting(c, CHECK) for step, c in checks.items() if is_check(c) and step.isdigit()}
    return events | ({"upto": upto} if type(upto) is int and upto >= 0 else {})


def is_check(event: Any) -> bool:
    """Whether an event of the kind "check" says of which update it is and what it found."""
    if not isinstance(event, Mapping) or type(event.get("optimizer_step")) is not int:
        return False
    return is_estimate(event.get("pass@1"))


def sweep_of(found: Any) -> dict[str, Any] | None:
    """The curve of a sweep; None where there is none."""
    if not isinstance(found, dict) or not isinstance(found.get("taus"), list):
        return None
    taus = [one for one in found["taus"] if isinstance(one, dict) and is_number(one.get("tau"))]
    chosen = found.get("chosen") if any(one["tau"] == found.get("chosen") for one in taus) else None
    return found | {"taus": taus, "chosen": chosen}
