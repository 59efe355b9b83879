"""What rmx does, as verbs that anybody may call: plain arguments in, JSON documents out.

Each verb is a pydantic model of its arguments. `steps` does the work: it yields deltas while it goes and, last, the
document that `rmx VERB --json` prints for the same arguments. Nothing is kept of a call: a swap solves the problem
again, and the prefix cache makes that cheap. `brief` leaves out what a language model would only scroll past. Any
mistake in the arguments is an RmxError with a sentence.

A delta has one of these keys, which no document has: `start` (with `tokens`), `progress`, `waiting`.

    requests.py   every argument, declared once            checks.py  how they are checked, the site
    solution.py   trace, swap, outcomes, rescue, sofar, export
    studies.py    shifts, intervene, eval, claims, locator, rollouts, training runs

`rmx api` prints how programs call the verbs of a running app.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from rmx.arguments import API_ONLY, arguments_of, hints_of, kind_of
from rmx.models.style_options import StyleOptions, write_options
from rmx.service import requests
from rmx.service.checks import Cancelled, Document, Limits, Request, Site, check_limits, flag_of, read

# What programs call a verb, what they ask, and what does it: a function in a module of this package, which needs torch.
_VERBS: dict[str, tuple[type[Request], str]] = {
    "trace": (requests.TraceRequest, "solution.trace"),
    "swap": (requests.SwapRequest, "solution.swap"),
    "outcomes": (requests.OutcomesRequest, "solution.measure_outcomes"),
    "rescue": (requests.RescueRequest, "solution.measure_rescue"),
    "shifts": (requests.ShiftsRequest, "studies.shifts"),
    "intervene": (requests.InterveneRequest, "studies.intervene"),
    "sofar": (requests.SofarRequest, "solution.measure_sofar"),
    "locator": (requests.LocatorRequest, "studies.locate"),
    "eval": (requests.EvalRequest, "studies.evaluate"),
    "claims": (requests.ClaimsRequest, "studies.measure_claims"),
    "export": (requests.ExportRequest, "solution.export"),
    "rollouts": (requests.RolloutsRequest, "studies.rollouts"),
    "train": (requests.TrainRequest, "studies.train"),
    "train_status": (requests.TrainStatusRequest, "studies.train_status"),
    "train_stop": (requests.TrainStopRequest, "studies.train_stop"),
    "train_resume": (requests.TrainResumeRequest, "studies.train_resume"),
}
VERBS = {name: request for name, (request, _) in _VERBS.items()}
_WORK = dict(_VERBS.values()) | {requests.RegradeRequest: "studies.evaluate"}


def call(site: Site, name: str, given: Mapping[str, Any], cancelled: Cancelled = lambda: False) -> Iterator[Document]:
    """Do a verb with arguments from outside."""
    request = read(VERBS[name], given)
    if site.limits is not None:
        check_limits(request, site.limits)
    yield from steps(site, request, cancelled)


def steps(site: Site, request: Request, cancelled: Cancelled = lambda: False) -> Iterator[Document]:
    """Deltas and, last, the document; ends early without one where it is cancelled before there is any."""
    module, _, function = _WORK[type(request)].partition(".")
    yield from getattr(importlib.import_module(f"rmx.service.{module}"), function)(request, site, cancelled)


def write_command(request: Request, style: StyleOptions) -> list[str]:
    """Write the words of the command line that ask the same, without what is left at its default.

    Args:
        request: one that holds nothing which the command line reads from a file.
        style: what is asked of the prompt, with the file of its template.
    """
    kind, placed, values, left = type(request), list[str](), dict[str, Any](), dict[str, Any]()
    for name, info in arguments_of(kind).items():
        if name in requests.AskingRequest.model_fields or API_ONLY in info.metadata:
            continue
        option, value = flag_of(kind, name).name or f"--{name}", getattr(request, name)
        if not option.startswith("-"):
            placed += [] if value is None else [value]
            continue
        several = kind_of(hints_of(kind)[name]) == list[int] and value is not None
        left[option[2:]], values[option[2:]] = info.default, tuple(map(str, value)) if several else value
    verb = next(name for name, one in VERBS.items() if one is kind)
    return ["rmx", verb, *placed, *write_options(values, left), *style.words()]


__all__ = ["VERBS", "Document", "Limits", "Request", "Site", "call", "steps", "write_command"]
