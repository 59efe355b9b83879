"""What rmx does, as verbs that anybody may call: plain arguments in, JSON documents out.

Each verb is a dataclass of its arguments. `steps` does the work: it yields deltas while it goes and, last, the document
that `rmx VERB --json` prints for the same arguments. Nothing is kept of a call: a swap solves the problem again, and
the prefix cache makes that cheap. `brief` leaves out what a language model would only scroll past.

A delta has one of these keys, which no document has: `start` (with `tokens`), `progress`, `waiting`.

    arguments.py  arguments from outside, checked          verb.py      the site, deltas of progress
    solution.py   trace, swap, outcomes, rescue            pair.py      shifts, intervene          runs.py
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rmx.service.arguments import Limits, checked
from rmx.service.pair import InterveneRequest, ShiftsRequest
from rmx.service.runs import TrainStatusRequest
from rmx.service.solution import OutcomesRequest, RescueRequest, SwapRequest, TraceRequest
from rmx.service.verb import Cancelled, Document, Site, Verb

VERBS: dict[str, type[Verb]] = {
    "trace": TraceRequest,
    "swap": SwapRequest,
    "outcomes": OutcomesRequest,
    "rescue": RescueRequest,
    "shifts": ShiftsRequest,
    "intervene": InterveneRequest,
    "train_status": TrainStatusRequest,
}


def call(site: Site, name: str, given: Mapping[str, Any], cancelled: Cancelled = lambda: False) -> Iterator[Document]:
    """Do a verb with arguments from outside.

    Raises:
        RmxError: any mistake in them, in a sentence.
    """
    verb = VERBS[name]
    yield from verb(**checked(verb, given)).steps(site, cancelled)


__all__ = ["VERBS", "Document", "Limits", "Site", "Verb", "call"]
