"""The page and its description, made once for each address that the app is reached under.

Gradio makes the page anew for every visitor, a tenth of a second of the event loop; and it keeps the description of its
endpoints with the address of whoever asked first. Neither depends on anything else of a request.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/", "/config", "/gradio_api/info")
FROM = ("host", "x-forwarded-host", "x-forwarded-proto")  # what an address is made of
MOST = 24  # answers that are kept
PACKED = ("br", "gzip")


class CachedAnswer(NamedTuple):
    """An answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class PageCache:
    """ASGI middleware right around gradio; `forget` makes gradio forget the description that it keeps."""

    def __init__(self, app: ASGIApp, forget: Callable[[], None]) -> None:
        self.app, self.forget = app, forget
        self._kept: OrderedDict[tuple[str, ...], CachedAnswer] = OrderedDict()
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").rstrip("/") or "/"
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or path not in PATHS:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        accepted = headers.get("accept-encoding", "")
        packing = next((name for name in PACKED if name in accepted), "identity")
        key = (path, packing, scope["scheme"], *(headers.get(name, "")[:300] for name in FROM))
        kept = self._kept.get(key) or await self._make(key, path, packing, scope)
        await send({"type": "http.response.start", "status": kept.status, "headers": list(kept.headers)})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else kept.body})

    async def _make(self, key: tuple[str, ...], path: str, packing: str, scope: Scope) -> CachedAnswer:
        async with self._making:
            if key in self._kept:
                return self._kept[key]
            wanted = {name.encode(): value.encode() for name, value in zip(FROM, key[3:], strict=True) if value}
            asked: dict[str, Any] = {
                "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
                "headers": [*wanted.items(), (b"accept-encoding", packing.encode())],
            }  # fmt: skip
            self.forget()
            kept = await _answer(self.app, {**scope, **asked})
            self.forget()
            if kept.status == 200:
                self._kept[key] = kept
                while len(self._kept) > MOST:
                    self._kept.popitem(last=False)
            return kept


async def _answer(app: ASGIApp, scope: Scope) -> CachedAnswer:
    """The whole answer of an application to a request without a body."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    start = next(message for message in messages if message["type"] == "http.response.start")
    body = b"".join(message.get("body", b"") for message in messages)
    return CachedAnswer(start["status"], list(start["headers"]), body)
