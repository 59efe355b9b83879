"""What rmx does, as verbs that anybody may call: plain arguments in, JSON documents out.

Each verb is a pydantic model of its arguments. `steps` does the work: it yields deltas while it goes and, last, the
document that `rmx VERB --json` prints for the same arguments. Nothing is kept of a call: a swap solves the problem
again, and the prefix cache makes that cheap. `brief` leaves out what a language model would only scroll past.

A delta has one of these keys, which no document has: `start` (with `tokens`), `progress`, `waiting`.

    requests.py   every argument, declared once            arguments.py  how they are checked
    solution.py   trace, swap, outcomes, rescue, sofar     verb.py       the site, deltas of progress
    pair.py       shifts, intervene                        sets.py       eval, claims, locator
    runs.py       training runs

`rmx api` prints how programs call the verbs of a running app: `API` below, whose examples are run by a test.
"""

import importlib
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


# What works on each kind of request: a function in a module of this package, which needs torch as declarations do not.
WORK = {
    requests.TraceRequest: "solution.trace",
    requests.SwapRequest: "solution.swap",
    requests.OutcomesRequest: "solution.measure_outcomes",
    requests.RescueRequest: "solution.measure_rescue",
    requests.SofarRequest: "solution.measure_sofar",
    requests.ShiftsRequest: "pair.shifts",
    requests.InterveneRequest: "pair.intervene",
    requests.LocatorRequest: "sets.locate",
    requests.ClaimsRequest: "sets.measure_claims",
    requests.EvalRequest: "sets.evaluate",
    requests.RegradeRequest: "sets.evaluate",
    requests.ExportRequest: "solution.export",
    requests.RolloutsRequest: "runs.rollouts",
    requests.TrainRequest: "runs.train",
    requests.TrainStatusRequest: "runs.train_status",
    requests.TrainStopRequest: "runs.train_stop",
    requests.TrainResumeRequest: "runs.train_resume",
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
    module, _, function = WORK[type(request)].partition(".")
    yield from getattr(importlib.import_module(f"rmx.service.{module}"), function)(request, site, cancelled)


__all__ = ["API", "VERBS", "Document", "Limits", "Request", "Site", "call", "steps"]

API = """\
The app serves its verbs to programs too: trace, swap, outcomes, rescue, sofar, shifts, intervene, locator, eval,
claims, export, rollouts, train, train_status, train_stop and train_resume. They take the options of the command line as
named arguments and answer with the same JSON documents. Models, adapters and sets go by name (presets, Hub ids, bundled
names, run ids); paths are refused. Nothing is kept of a call: a swap gives the problem again, and what was computed for
it comes out of the cache. `brief` keeps only what matters, `top` says how many alternatives are listed.

With Python (pip install gradio_client; the app runs already):

    from gradio_client import Client

    rmx = Client("http://127.0.0.1:7860", verbose=False)

    # A trace streams: new tokens as {"start": n, "tokens": [...]}, and the whole document last.
    for part in rmx.submit(problem="241", api_name="/trace"):
        if "start" not in part:
            print(part["answer"])
    # -> {'text': '33', 'correct': False}

    # Where was the model undecided, and between what?
    trace = rmx.predict(problem="241", brief=True, top=2, api_name="/trace")
    for fork in trace["tokens"]:
        print(fork["pos"], round(fork["entropy"], 2), [(c["id"], c["text"]) for c in fork["top"]])
    # -> 0 1.53 [(1131, ' First'), (812, ' Okay')]
    # -> 12 1.37 [(1012, ' add'), (1128, ' combine')]
    # -> 28 1.69 [(872, ' So'), (879, ' Then')]

    # Another token at position 28, and the answer changes.
    before, after = rmx.predict(problem="241", swaps="28=879", api_name="/swap")
    print(before["answer"]["text"], after["answer"]["text"], after["answer"]["correct"])
    # -> 33 52 True

    # What is each alternative worth? Sampled on from; shares come with intervals.
    found = rmx.predict(problem="241", pos=28, samples=16, api_name="/outcomes")
    print(found["verdict"], [(a["text"], a["samples"]) for a in found["alternatives"][:2]])
    # -> decides [(' So', 16), (' Then', 16)]

job = rmx.submit(...) and job.cancel() stop a call at its next step; so does a connection that is closed. What is wrong
with a call is a sentence (AppError in the client). rmx.view_api() lists the arguments of all verbs. Without a client,
arguments go by name as well, and the events carry deltas and, at `complete`, the document:

$ curl -s http://127.0.0.1:7860/gradio_api/call/v2/swap -H 'Content-Type: application/json' \\
    -d '{"problem": "241", "swaps": "28=879", "brief": true}'
{"event_id":"5f1c..."}
$ curl -sN http://127.0.0.1:7860/gradio_api/call/swap/5f1c...

MCP. With the package `mcp` (pip install 'rmx-explorer[mcp]'; make run and the image have it) the same verbs are tools
for language models, over streamable HTTP at /gradio_api/mcp/. Documents are brief there unless a call says otherwise. A
client is configured with

{"mcpServers": {"rmx": {"url": "http://127.0.0.1:7860/gradio_api/mcp/"}}}

An app that listens on this machine only (RMX_HOST=127.0.0.1, the default) answers MCP calls under the names 127.0.0.1
and localhost alone, so that no web page can reach it by a name of its own; behind a proxy of your own on the same
machine, set RMX_PUBLIC=1 or RMX_HOST=0.0.0.0."""
