"""What rmx does, as verbs that anybody may call: plain arguments in, JSON documents out.

Each verb is a pydantic model of its arguments. `steps` does the work: it yields deltas while it goes and, last, the
document that `rmx VERB --json` prints for the same arguments. Nothing is kept of a call: a swap solves the problem
again, and the prefix cache makes that cheap. `brief` leaves out what a language model would only scroll past. Any
mistake in the arguments is an RmxError with a sentence.

A delta has one of these keys, which no document has: `start` (with `tokens`), `progress`, `waiting`.

    requests.py   every argument, declared once            arguments.py  how they are checked
    solution.py   trace, swap, outcomes, rescue, sofar     verb.py       the site, deltas of progress
    pair.py       shifts, intervene                        sets.py       eval, claims, locator
    runs.py       training runs

`rmx api` prints how programs call the verbs of a running app.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from rmx.service import requests
from rmx.service.arguments import Cancelled, Document, Limits, Request, Site, check_limits, read

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
    "rollouts": (requests.RolloutsRequest, "runs.rollouts"),
    "train": (requests.TrainRequest, "runs.train"),
    "train_status": (requests.TrainStatusRequest, "runs.train_status"),
    "train_stop": (requests.TrainStopRequest, "runs.train_stop"),
    "train_resume": (requests.TrainResumeRequest, "runs.train_resume"),
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


__all__ = ["VERBS", "Document", "Limits", "Request", "Site", "call", "steps"]
