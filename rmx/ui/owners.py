"""Who a visitor is: a signed cookie, so that runs have owners although nobody logs in.

The cookie holds a random id, whether it is the machine's owner, and a signature over both. What other visitors see of
an id is a short hash of it, from which neither the id nor the cookie can be made.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
from fastapi.responses import RedirectResponse, Response

from rmx.errors import RmxError
from rmx.paths import runs_dir

COOKIE = "rmx_visitor"
YEAR = 365 * 24 * 3600
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SECRET, TOKEN = "RMX_SECRET", "RMX_OWNER_TOKEN"  # names of variables


@dataclass(frozen=True, slots=True)
class Visitor:
    """One browser. `admin` may do everything with every run."""

    id: str
    admin: bool = False

    @property
    def public(self) -> str:
        """What everybody may see of it."""
        return hashlib.sha256(f"public/{self.id}".encode()).hexdigest()[:12]


def may(visitor: Visitor, owner: str | None, action: str) -> bool:
    """Whether a visitor may stop, resume, delete, annotate or push a run; everybody may look at all of them."""
    return action == "look" or visitor.admin or (owner is not None and hmac.compare_digest(owner, visitor.public))


class Owners:
    """Signs and reads the cookies of one app.

    Args:
        secret: what signatures are made with; None takes it from `RMX_SECRET` or from a file beside the runs.
        everybody: on a machine that only its owner can reach, every visitor is the owner.
        token: opens the owner's rights by `?owner=TOKEN`; None where `RMX_OWNER_TOKEN` is not set.
    """

    def __init__(self, secret: bytes | None = None, everybody: bool = False, token: str | None = None) -> None:
        self._secret = secret or _secret(runs_dir())
        self._everybody = everybody
        self._token = token if token is not None else os.environ.get(TOKEN) or None

    def read(self, cookie: str | None) -> Visitor | None:
        """The visitor of a cookie; None where it is missing or was not signed here."""
        name, _, signature = (cookie or "").rpartition(".")
        if not name or not hmac.compare_digest(signature.encode(), self._sign(name).encode()):
            return None
        id_, _, rights = name.partition("-")
        return Visitor(id_, admin=self._everybody or rights == "owner")

    def new(self, admin: bool = False) -> tuple[Visitor, str]:
        """A visitor that was never here, and the cookie."""
        visitor = Visitor(secrets.token_hex(16), admin=admin or self._everybody)
        return visitor, self.cookie(visitor.id, admin)

    def cookie(self, id_: str, admin: bool) -> str:
        name = f"{id_}-owner" if admin else id_
        return f"{name}.{self._sign(name)}"

    def is_token(self, given: str) -> bool:
        """Whether this is the owner's token; never where none is set."""
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())

    def _sign(self, name: str) -> str:
        return hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()

    # -- web ----------------------------------------------------------------------------------------------------------

    async def greet(
        self, request: fastapi.Request, go_on: Callable[[fastapi.Request], Awaitable[Response]]
    ) -> Response:
        """Middleware: every page gets a cookie, and the owner's token is taken out of the address."""
        found = self.read(request.cookies.get(COOKIE))
        given = request.query_params.get("owner")
        if given is not None and request.url.path == "/":
            response: Response = RedirectResponse(str(request.url.remove_query_params("owner")), 303)
            if self.is_token(given):
                self._set(response, request, self.cookie(found.id if found else secrets.token_hex(16), True))
            return response
        response = await go_on(request)
        if found is None and request.url.path == "/":
            self._set(response, request, self.new()[1])
        return response

    def _set(self, response: Response, request: fastapi.Request, cookie: str) -> None:
        """In a frame of another site, as on Spaces, only a cookie with SameSite=None is sent, and only by https."""
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        flags = "SameSite=None; Secure; Partitioned" if secure else "SameSite=Lax"
        response.headers.append("set-cookie", f"{COOKIE}={cookie}; Max-Age={YEAR}; Path=/; HttpOnly; {flags}")

    def visitor_of(self, request: Any) -> Visitor:
        """The visitor behind a callback's `gr.Request`; one without a cookie owns nothing."""
        cookies: Mapping[str, str] = getattr(request, "cookies", None) or {}
        return self.read(cookies.get(COOKIE)) or Visitor(secrets.token_hex(16), admin=self._everybody)


def owners_of(host: str) -> Owners:
    """The owners of an app that listens on `host`."""
    return Owners(everybody=host in LOOPBACK and not os.environ.get(TOKEN))


def _secret(folder: Path) -> bytes:
    """From the environment, else made once and kept where only this user reads it.

    Raises:
        RmxError: the folder of the runs cannot be written to.
    """
    if given := os.environ.get(SECRET):
        return given.encode()
    path = folder / ".secret"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".secret-{secrets.token_hex(4)}"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        with suppress(FileExistsError):  # another process was first: then its secret counts
            os.link(part, path)
        part.unlink()
        return path.read_bytes()
    except OSError as error:
        raise RmxError(
            f"{folder} cannot be written to ({error.strerror}). Set RMX_RUNS to a folder that can."
        ) from error
