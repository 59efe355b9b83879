"""The verbs as named endpoints of the app and as MCP tools, at /gradio_api/mcp. All other events stay hidden.

Gradio has the transport of MCP. Its own handlers call the app over HTTP at the address that a request's Host header
names, once and for everybody, and do not stop what was given up: so tools are called directly, and there are no
resources or prompts. Documents are `brief` unless a call says otherwise: a language model reads them.
"""

import importlib.util
import inspect
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.events import api

from rmx.arguments import arguments_of, hints_of
from rmx.engine.decoding_memory import is_out_of_memory, out_of_memory
from rmx.errors import Refused, RmxError
from rmx.models.workspace import Workspace
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.store import RunStore
from rmx.service import VERBS, Document, Limits, Request, Site, call
from rmx.service.checks import schema_of, shown
from rmx.ui.jobs.page_jobs import EVALUATIONS, MEASURED_CLAIMS, SET_RUNS, TOO_LONG, PageJob, Work, in_thread, observed
from rmx.ui.jobs.training import Training
from rmx.ui.settings import Settings
from rmx.ui.visitor_cookie import Owners, is_loopback

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
        told = {"api_name": name, "api_description": about(verb)}
        api(endpoint(name, verb, site, owners), **told, concurrency_id="api", concurrency_limit=AT_ONCE)


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

        def steps() -> Iterator[Document]:
            job = PageJob()
            try:
                if name in STUDIES and (name != "shifts" or given.get("limit")):  # else it maps one solution
                    STUDIES[name].begin(job, site.workspace)
                for document in call(site, name, given, cancelled):
                    told.update(facts(document))
                    yield document
            finally:
                job.done = True

        yield from observed(f"{road}.{name}", steps(), lambda: told)

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
    told = (f"    {name}: {field.description}" for name, field in fields.items())
    run.__doc__ = "\n".join([about(verb), "", "Args:", *told])
    run.__annotations__ = {**hints, "request": gr.Request, "return": result}
    asked = inspect.Parameter("request", kind, annotation=gr.Request, default=None)
    vars(run)["__signature__"] = inspect.Signature([*inputs, asked], return_annotation=result)
    return run


# -- The verbs as MCP tools, at /gradio_api/mcp -----------------------------------------------------------------------


PATH = "/gradio_api/mcp"
BRIEF = {"top": 5, "brief": True}  # defaults of tools, where a verb has these arguments
NEAR = ("127.0.0.1", "localhost", "[::1]")


def has_mcp() -> bool:
    """Whether the package is there; one line in the log where it is not."""
    found = importlib.util.find_spec("mcp") is not None
    if not found:
        log.warning("MCP is off, because its package is missing: pip install 'rmx-explorer[mcp]'")
    return found


def serve_tools(demo: gr.Blocks, site: Site, owners: Owners, settings: Settings) -> None:
    """Give the MCP server of a mounted page its tools; does nothing where it has none.

    Where a private app listens on this machine only, it answers no other Host or Origin: a page of another site that
    has its own name resolve to this machine (DNS rebinding) cannot call it.
    """
    if demo.mcp_server_obj is None:
        return
    from mcp import types
    from mcp.server.transport_security import TransportSecuritySettings

    logging.getLogger("mcp").setLevel(logging.ERROR)  # it repeats what strangers send
    server: Any = demo.mcp_server_obj.mcp_server
    if is_loopback(settings.host) and not settings.public:
        hosts = [h for name in NEAR for h in (name, f"{name}:*")]
        origins = [f"{scheme}://{h}" for scheme in ("http", "https") for h in hosts]
        allowed = TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)
        demo.mcp_server_obj.manager.security_settings = allowed
    for asked in ("ListResources", "ListResourceTemplates", "ReadResource", "ListPrompts", "GetPrompt"):
        server.request_handlers.pop(getattr(types, f"{asked}Request"), None)

    @server.list_tools()  # type: ignore[untyped-decorator]
    async def tools() -> list[types.Tool]:
        schemas = {name: schema_of(verb, BRIEF) for name, verb in VERBS.items()}
        return [types.Tool(name=n, description=about(VERBS[n]), inputSchema=schemas[n]) for n in VERBS]

    @server.call_tool(validate_input=False)  # type: ignore[untyped-decorator]
    async def run(name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        context = server.request_context
        who, kind = owners.name(context.request), VERBS[name].kind if name in VERBS else None
        token = getattr(context.meta, "progressToken", None)
        document, error = None, None
        try:
            if name not in VERBS:
                raise RmxError(f"There is no tool {shown(name)}. Known: {', '.join(VERBS)}.")
            given = {key: value for key, value in BRIEF.items() if key in VERBS[name].model_fields} | arguments
            count = 0
            mine = replace(site, runs=RunsOfVisitor(site, owners, context.request))
            async for document in in_thread(work(mine, name, given, "mcp"), who, kind):
                count += 1
                if token is not None and (where := told(document)):
                    await context.session.send_progress_notification(
                        token, count, message=where, related_request_id=str(context.request_id)
                    )
        except Exception as raised:  # noqa: BLE001  bugs are logged in there
            error = sentence_of(raised, name)
        text = error or json.dumps(document, ensure_ascii=False)
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], isError=error is not None)


def told(delta: Document) -> str | None:
    """A delta in words, for progress; None where it is the document."""
    if not isinstance(delta, dict):
        return None
    if "waiting" in delta:
        return f"waiting, {delta['waiting']} before"
    if "start" in delta:
        return f"{delta['start'] + len(delta['tokens'])} tokens"
    return ", ".join(f"{k} {v}" for k, v in delta["progress"].items()) if "progress" in delta else None
