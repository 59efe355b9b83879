"""The verbs as named endpoints of the app: typed, documented, streaming. All other events of the page stay hidden."""

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.events import api

from rmx.engine.decoding_memory import is_out_of_memory, out_of_memory
from rmx.errors import Refused, RmxError
from rmx.models.workspace import Workspace
from rmx.recipes.job import TrainJob
from rmx.runs.folder import RunFolder
from rmx.runs.store import RunStore
from rmx.service import VERBS, Document, Limits, Request, Site, call
from rmx.service.arguments import arguments_of, hints_of
from rmx.ui.background import Work, in_thread
from rmx.ui.jobs.page_jobs import EVALUATIONS, MEASURED_CLAIMS, SET_RUNS, TOO_LONG, PageJob
from rmx.ui.jobs.training import Training
from rmx.ui.request_log import observed
from rmx.ui.settings import Settings
from rmx.ui.visitor_cookie import Owners

log = logging.getLogger(__name__)
AT_ONCE = 16  # calls that wait or work beside those of the pages; the engine has a fair queue of its own
FAULT = "Something went wrong inside rmx. It was written to the server's log; the same call may fail again."
NO_COOKIE = "A run belongs to the visitor who starts it. Open the page first, and send the cookie that it sets."
# Calls that count as the page's studies do.
STUDIES = {"eval": EVALUATIONS, "claims": MEASURED_CLAIMS} | dict.fromkeys(("shifts", "intervene", "locator"), SET_RUNS)


def site_of(workspace: Workspace, settings: Settings, store: RunStore) -> Site:
    """What the verbs of this app work on."""
    own = settings.model if settings.model in workspace.loaded else None
    return Site(workspace, store, limits_of(settings), own or "mini")


def limits_of(settings: Settings) -> Limits:
    """What one request may ask for; of a public site less."""
    most = settings.max_new_tokens
    return Limits(most, problems=50, samples=64, draws=16, budget=50_000) if settings.public else Limits(most)


def add_api(demo: gr.Blocks, site: Site, owners: Owners) -> None:
    """Add an endpoint /NAME for each verb; to be called while `demo` is being built."""
    for name, verb in VERBS.items():
        api(
            endpoint(name, verb, site, owners),
            api_name=name,
            api_description=about(verb),
            concurrency_id="api",
            concurrency_limit=AT_ONCE,
        )


def about(verb: type[Request]) -> str:
    """What a verb does, on one line."""
    return " ".join((inspect.getdoc(verb) or "").split())


def sentence_of(error: BaseException, verb: str) -> str:
    """What a visitor is told of an error; a bug is written to the log instead."""
    if isinstance(error, RmxError):
        return str(error)
    if is_out_of_memory(error):
        return out_of_memory(TOO_LONG)
    log.error("%s failed", verb, exc_info=error)
    return FAULT


def work(site: Site, name: str, given: Mapping[str, Any], road: str) -> Work[Document]:
    """A call as work for a thread, with a line in the log at its end; `road` says how it came."""

    def do(cancelled: Callable[[], bool]) -> Iterator[Document]:
        told: dict[str, Any] = {}
        refused: list[RmxError] = []

        def steps() -> Iterator[Document]:
            job = PageJob()
            try:
                if name in STUDIES and (name != "shifts" or given.get("limit")):  # else it maps one solution
                    STUDIES[name].begin(job, site.workspace)
                for document in call(site, name, given, cancelled):
                    told.update(facts(document))
                    yield document
            except RmxError as error:
                refused.append(error)
            finally:
                job.done = True

        about = lambda: told | ({"outcome": "refused"} if refused else {})  # noqa: E731
        yield from observed(f"{road}.{name}", steps(), about)
        if refused:
            raise refused[0]

    return do


@dataclass(frozen=True, slots=True)
class RunsOfVisitor:
    """Training runs for who has sent a request: what the page lets the same visitor do, and no more."""

    site: Site
    owners: Owners
    request: Any

    def start(self, job: TrainJob, dry: bool) -> RunFolder:
        """Start a run, or queue it."""
        visitor = self.owners.visitor_of(self.request)
        if not visitor.admin and self.owners.key_of(self.request) != visitor.public:
            raise Refused(NO_COOKIE)
        return self._training.start(job, visitor, dry)

    def stop(self, run: str) -> None:
        """Stop a run of the visitor's."""
        self._training.stop({"id": run}, self.owners.visitor_of(self.request))

    def resume(self, run: str, tau: float | None) -> None:
        """Go on with a run of the visitor's."""
        self._training.resume({"id": run, "tau": tau}, self.owners.visitor_of(self.request))

    @property
    def _training(self) -> Training:
        return Training(self.site.workspace, self.site.store)


def facts(document: Document) -> dict[str, Any]:
    """What the log may tell of a document: the model's name and how many tokens it took."""
    one = document[-1] if isinstance(document, list) else document
    found = next((one[name] for name in ("tokens_spent", "length", "tokens") if name in one), ())
    tokens = found if isinstance(found, int) else len(found)
    return {"tokens": tokens, "model": one.get("model", one.get("base"))} if {"model", "base"} & one.keys() else {}


def endpoint(name: str, verb: type[Request], site: Site, owners: Owners) -> Callable[..., AsyncIterator[Any]]:
    """A function of the verb's arguments, as gradio wants to see it."""
    hints, fields = hints_of(verb), arguments_of(verb)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    inputs = [inspect.Parameter(n, kind, default=fields[n].default, annotation=hint) for n, hint in hints.items()]
    result: Any = list if name == "swap" else dict

    async def run(*values: Any) -> AsyncIterator[Any]:
        *arguments, request = values
        owner = owners.key_of(request)
        given = dict(zip(hints, arguments, strict=False))
        mine = replace(site, runs=RunsOfVisitor(site, owners, request))
        try:
            async for document in in_thread(work(mine, name, given, "api"), owner, verb.kind):
                yield document
        except Exception as error:  # noqa: BLE001  bugs are logged in there
            raise gr.Error(sentence_of(error, name), print_exception=False, title="Not possible") from None

    run.__name__ = run.__qualname__ = name
    run.__doc__ = "\n".join(
        [about(verb), "", "Args:", *(f"    {name}: {field.description}" for name, field in fields.items())]
    )
    run.__annotations__ = {**hints, "request": gr.Request, "return": result}
    asked = inspect.Parameter("request", kind, annotation=gr.Request, default=None)
    vars(run)["__signature__"] = inspect.Signature([*inputs, asked], return_annotation=result)
    return run
