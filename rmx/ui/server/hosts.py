"""Which names an app answers to.

A page of another site can have its own name resolve to this machine (DNS rebinding); a browser then takes this app for
a part of that site and lets its scripts read what the app answers. The name that such a request carries gives it away.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE)


class HostCheck:
    """ASGI middleware: refuse a request whose Host header is not a name of this app.

    An IP address is always accepted: a page cannot be served under somebody else's address.

    Args:
        names: host names beside this machine's own, `*.example.org` stands for all below example.org; None: any name.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] | None) -> None:
        self.app = app
        self.names = None if names is None else {*own_names(), *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.names is None or self.answers_to(Headers(scope=scope).get("host", "")):
            await self.app(scope, receive, send)
            return
        sentence = "This app does not answer to this host name. If the name is yours, add it to RMX_HOSTS."
        await PlainTextResponse(sentence, 421)(scope, receive, send)

    def answers_to(self, host: str) -> bool:
        """Whether a Host header names this app."""
        if not _HOST.fullmatch(host) or self.names is None:
            return False
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        parent = name.partition(".")[2]
        return is_address(name) or name in self.names or f"*.{parent}" in self.names


def own_names() -> set[str]:
    """The names by which this machine knows itself, and the one that a Space is served under."""
    own = socket.gethostname().lower()
    return {"localhost", own, f"{own}.local", *filter(None, [os.environ.get("SPACE_HOST", "").lower()])}


def is_address(name: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
