"""What rmx does, as verbs that anybody may call: plain arguments in, JSON documents out.

Each verb is a pydantic model of its arguments. `steps` does the work: it yields deltas while it goes and, last, the
document that `rmx VERB --json` prints for the same arguments. Nothing is kept of a call: a swap solves the problem
again, and the prefix cache makes that cheap. `brief` leaves out what a language model would only scroll past.

A delta has one of these keys, which no document has: `start` (with `tokens`), `progress`, `waiting`.

    requests.py   every argument, declared once            arguments.py  how they are checked
    solution.py   trace, swap, outcomes, rescue, sofar     verb.py       the site, deltas of progress
    pair.py       shifts, intervene                        sets.py       eval, claims, locator
    runs.py       training runs
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rmx.service import requests
from rmx.service.arguments import Limits, Request, check_limits, read
from rmx.service.verb import Cancelled, Document, Site

VERBS: dict[str, type[Request]] = {
    "trace": requests.TraceRequest,
    "swap": requests.SwapRequest,
    "outcomes": requests.OutcomesRequest,
    "rescue": requests.RescueRequest,
    "shifts": requests.ShiftsRequest,
    "intervene": requests.InterveneRequest,
    "sofar": requests.SofarRequest,
    "locator": requests.LocatorRequest,
    "eval": requests.EvalRequest,
    "claims": requests.ClaimsRequest,
    "export": requests.ExportRequest,
    "rollouts": requests.RolloutsRequest,
    "train": requests.TrainRequest,
    "train_status": requests.TrainStatusRequest,
    "train_stop": requests.TrainStopRequest,
    "train_resume": requests.TrainResumeRequest,
}


def call(site: Site, name: str, given: Mapping[str, Any], cancelled: Cancelled = lambda: False) -> Iterator[Document]:
    """Do a verb with arguments from outside.

    Raises:
        RmxError: any mistake in them, in a sentence.
    """
    request = read(VERBS[name], given)
    if site.limits is not None:
        check_limits(request, site.limits)
    yield from steps(site, request, cancelled)


def steps(site: Site, request: Request, cancelled: Cancelled = lambda: False) -> Iterator[Document]:
    """Deltas and, last, the document; ends early without one where it is cancelled before there is any.

    Raises:
        RmxError: any mistake in the arguments, in a sentence.
    """
    from rmx.service import pair, runs, sets, solution  # they need torch, which declarations do not

    work: dict[type[Request], Any] = {
        requests.TraceRequest: solution.trace,
        requests.SwapRequest: solution.swap,
        requests.OutcomesRequest: solution.measure_outcomes,
        requests.RescueRequest: solution.measure_rescue,
        requests.SofarRequest: solution.measure_sofar,
        requests.ShiftsRequest: pair.shifts,
        requests.InterveneRequest: pair.intervene,
        requests.LocatorRequest: sets.locate,
        requests.ClaimsRequest: sets.measure_claims,
        requests.EvalRequest: sets.evaluate,
        requests.RegradeRequest: sets.evaluate,
        requests.ExportRequest: solution.export,
        requests.RolloutsRequest: runs.rollouts,
        requests.TrainRequest: runs.train,
        requests.TrainStatusRequest: runs.train_status,
        requests.TrainStopRequest: runs.train_stop,
        requests.TrainResumeRequest: runs.train_resume,
    }
    yield from work[type(request)](request, site, cancelled)


__all__ = ["VERBS", "Document", "Limits", "Request", "Site", "call", "steps"]
