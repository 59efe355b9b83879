"""Who asks, known while anything is done for a request: the line of the model and gradio's queue share by it."""

from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from rmx.engine.fair_queue import RequestOwner, current_owner
from rmx.ui.visitor_cookie import Owners


class Namer:
    """Names who is behind a request.

    Args:
        by_address: whether addresses are told apart as well, as on a public site.
    """

    def __init__(self, owners: Owners, by_address: bool) -> None:
        self._owners, self._by_address = owners, by_address

    def __call__(self, request: Any) -> RequestOwner:
        """Visitor and address of a page's request or of a callback's `gr.Request`."""
        return RequestOwner(
            self._owners.key_of(request), self._owners.address_of(request) if self._by_address else None
        )


class OwnerOfRequest:
    """ASGI middleware: what is done for a request is done in the name of who sent it.

    Events that wait in gradio's queue are done by other tasks; see `SharedQueue`.
    """

    def __init__(self, app: ASGIApp, name: Namer) -> None:
        self.app, self.name = app, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            current_owner.set(self.name(HTTPConnection(scope)))  # of this task: every request has one of its own
        await self.app(scope, receive, send)
