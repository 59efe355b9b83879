"""The content policy of the page: where its data may go, and which pages may show it in a frame.

On a Space the page stands in a frame of huggingface.co; a policy that forbade that would leave it blank. Elsewhere
nobody may frame it, because a page around it could lead a visitor's clicks; `RMX_FRAME_ANCESTORS` names who may.
"""

import html
import os
import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmx.errors import RmxError

VARIABLE = "RMX_FRAME_ANCESTORS"
HUB = ("https://huggingface.co", "https://*.huggingface.co", "https://*.hf.space")
# gr.HTML compiles its handlers with new Function, hence 'unsafe-eval': the policy limits where data can go.
FIXED = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'"
)
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_ORIGIN = re.compile(rf"https?://(?:\*\.)?{_LABEL}(?:\.{_LABEL})*(?::\d{{1,5}})?")


def content_policy(settings: Any = None, environment: Mapping[str, str] = os.environ) -> str:
    """The value of `Content-Security-Policy`.

    Raises:
        RmxError: `RMX_FRAME_ANCESTORS` holds something that is no origin.
    """
    return "; frame-ancestors ".join((FIXED, " ".join(("'self'", *ancestors(settings, environment)))))


class Headers:
    """ASGI middleware: the policy on every answer, and doors that are closed.

    Args:
        closed: beginnings of paths that nobody may ask for.
    """

    def __init__(self, app: ASGIApp, policy: str, closed: tuple[str, ...]) -> None:
        self.app, self.closed = app, closed
        self.headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        shut = HTTPConnection(scope).url.path.startswith(self.closed)
        inside: ASGIApp = PlainTextResponse("not here", 404) if shut else self.app
        await inside(scope, receive, with_headers)


def ancestors(settings: Any = None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Origins beside the app's own that may show it in a frame: the Hub's on a Space, and those that are named.

    Raises:
        RmxError: one that is none. What it says goes into a header, so nothing else may get in.
    """
    given = getattr(settings, "frame_ancestors", None) or environment.get(VARIABLE) or ""
    named = [word.rstrip("/").lower() for word in re.split(r"[\s,]+", given) if word]
    for word in named:
        if not _ORIGIN.fullmatch(word):
            raise RmxError(f"{VARIABLE} holds '{word[:80]}', which is no origin. Write https://example.org.")
    on_space = bool(environment.get("SPACE_ID"))
    return tuple(dict.fromkeys((*(HUB if on_space else ()), *named)))


def parents_tag(settings: Any = None, environment: Mapping[str, str] = os.environ) -> str:
    """A tag for the page's head: the named origins that are told of its address when they show it in a frame.

    The Hub is told always and stands in the script. One with a star is none that a message can be sent to.
    """
    told = [origin for origin in ancestors(settings, environment) if "*" not in origin and origin not in HUB]
    return f'<meta name="rmx-parents" content="{html.escape(" ".join(told))}">' if told else ""
