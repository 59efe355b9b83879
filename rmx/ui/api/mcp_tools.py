"""The verbs as MCP tools, at /gradio_api/mcp. Gradio has the transport; what a tool is and does is said here.

Gradio's own handlers call the app over HTTP at the address that a request's Host header names, once and for everybody,
and do not stop what was given up. So tools are called directly, and there are no resources or prompts. Documents are
`brief` unless a call says otherwise: a language model reads them. (Nothing here works without the package `mcp`.)
"""

import importlib.util
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from rmx.errors import RmxError
from rmx.service import VERBS, Document, Site
from rmx.service.arguments import schema_of, shown
from rmx.ui.api.endpoints import RunsOfVisitor, about, sentence_of, work
from rmx.ui.background import in_thread
from rmx.ui.settings import Settings
from rmx.ui.visitor_cookie import Owners, is_loopback

log = logging.getLogger(__name__)
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
        demo.mcp_server_obj.manager.security_settings = TransportSecuritySettings(
            allowed_hosts=hosts, allowed_origins=origins
        )
    for asked in (
        types.ListResourcesRequest,
        types.ListResourceTemplatesRequest,
        types.ReadResourceRequest,
        types.ListPromptsRequest,
        types.GetPromptRequest,
    ):
        server.request_handlers.pop(asked, None)

    @server.list_tools()  # type: ignore[untyped-decorator]
    async def tools() -> list[types.Tool]:
        return [
            types.Tool(name=name, description=about(verb), inputSchema=schema_of(verb, BRIEF))
            for name, verb in VERBS.items()
        ]

    @server.call_tool(validate_input=False)  # type: ignore[untyped-decorator]
    async def run(name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        context = server.request_context
        who, kind = owners.name(context.request), VERBS[name].kind if name in VERBS else None
        token = getattr(context.meta, "progressToken", None)
        document, error = None, None
        try:
            given = with_defaults(name, arguments)
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


def with_defaults(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call, brief where nothing else is said."""
    if name not in VERBS:
        raise RmxError(f"There is no tool {shown(name)}. Known: {', '.join(VERBS)}.")
    known = VERBS[name].model_fields
    return {key: value for key, value in BRIEF.items() if key in known} | dict(arguments)


def told(delta: Document) -> str | None:
    """A delta in words, for progress; None where it is the document."""
    if not isinstance(delta, dict):
        return None
    if "waiting" in delta:
        return f"waiting, {delta['waiting']} before"
    if "start" in delta:
        return f"{delta['start'] + len(delta['tokens'])} tokens"
    return ", ".join(f"{k} {v}" for k, v in delta["progress"].items()) if "progress" in delta else None
