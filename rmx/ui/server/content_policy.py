"""The content policy of the page: where its data may go, and which pages may show it in a frame.

On a Space the page stands in a frame of huggingface.co; a policy that forbade that would leave it blank. Elsewhere
nobody may frame it, because a page around it could lead a visitor's clicks; `RMX_FRAME_ANCESTORS` names who may.
"""

import html
import os
import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmx.errors import RmxError

VARIABLE = "RMX_FRAME_ANCESTORS"
HSTS = "max-age=31536000"  # for a year browsers ask for this host by https only
HUB = ("https://huggingface.co", "https://*.huggingface.co", "https://*.hf.space")
# gr.HTML compiles its handlers with new Function, hence 'unsafe-eval': the policy limits where data can go.
FIXED = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'"
)
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_ORIGIN = re.compile(rf"https?://(?:\*\.)?{_LABEL}(?:\.{_LABEL})*(?::\d{{1,5}})?")


def content_policy(environment: Mapping[str, str] = os.environ) -> str:
    """The value of `Content-Security-Policy`.

    Raises:
        RmxError: `RMX_FRAME_ANCESTORS` holds something that is no origin.
    """
    return " ".join((f"{FIXED}; frame-ancestors 'self'", *ancestors(environment)))


class ContentPolicy:
    """ASGI middleware: the policy on every answer, and nothing that opens an answer to pages of other sites.

    Args:
        proxied: whether a proxy stands before the app, whose word for https is believed.
    """

    def __init__(self, app: ASGIApp, policy: str, proxied: bool = False) -> None:
        self.app, self.proxied = app, proxied
        self.headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        own = self.headers | ({"Strict-Transport-Security": HSTS} if self._is_https(scope) else {})

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # Gradio lets every origin read what it answers, with the reader's cookie. Nobody here needs that.
                for name in [name for name in headers if name.startswith("access-control-")]:
                    del headers[name]
                headers.update(own)
            await send(message)

        await self.app(scope, receive, with_headers)

    def _is_https(self, scope: Scope) -> bool:
        """Whether the visitor's connection is certainly an encrypted one."""
        told = Headers(scope=scope).get("x-forwarded-proto", "") if self.proxied else ""
        return "https" in (scope.get("scheme"), told.partition(",")[0].strip())


def ancestors(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Origins beside the app's own that may show it in a frame: the Hub's on a Space, and those that are named.

    Raises:
        RmxError: one that is none. What it says goes into a header, so nothing else may get in.
    """
    named = [word.rstrip("/").lower() for word in re.split(r"[\s,]+", environment.get(VARIABLE, "")) if word]
    for word in named:
        if not _ORIGIN.fullmatch(word):
            raise RmxError(f"{VARIABLE} holds '{word[:80]}', which is no origin. Write https://example.org.")
    return tuple(dict.fromkeys((*(HUB if environment.get("SPACE_ID") else ()), *named)))


def parents_tag(environment: Mapping[str, str] = os.environ) -> str:
    """A tag for the page's head: the named origins that are told of its address when they show it in a frame.

    The Hub is told always and stands in the script. One with a star is none that a message can be sent to.
    """
    told = [origin for origin in ancestors(environment) if "*" not in origin and origin not in HUB]
    return f'<meta name="rmx-parents" content="{html.escape(" ".join(told))}">' if told else ""
