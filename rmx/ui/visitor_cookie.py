"""Who a visitor is: a signed cookie, so that runs have owners without a login.

The cookie holds a random id, whether it is the machine's owner, and a signature over both. What other visitors see of
an id is a short hash of it, from which neither the id nor the cookie can be made. Who has none is known by an address.
"""

import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmx.config import runs_dir
from rmx.engine.fair_queue import RequestOwner, current_owner
from rmx.errors import RmxError

log = logging.getLogger(__name__)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
YEAR = 365 * 24 * 3600
SECRET, TOKEN = "RMX_SECRET", "RMX_OWNER_TOKEN"  # names of variables
SHORTEST = 12  # characters of a token, against guessing; guesses are counted
BYTES = 32  # of a secret, at least: whoever has a cookie may try secrets on a machine of their own
WITHIN = ("same-origin", "none", None)  # values of Sec-Fetch-Site; programs that are no browsers send none


@dataclass(frozen=True, slots=True)
class Visitor:
    """One browser. `admin` may do everything with every run."""

    id: str
    admin: bool = False

    @property
    def public(self) -> str:
        """What everybody may see of it."""
        return hashlib.sha256(f"public/{self.id}".encode()).hexdigest()[:12]

    def may_change(self, owner: object) -> bool:
        """Whether it may stop, resume, delete, annotate or push a run of this owner; everybody may look at all."""
        own = isinstance(owner, str) and hmac.compare_digest(owner.encode("utf-8", "replace"), self.public.encode())
        return self.admin or own


class Owners:
    """Signs and reads the cookies of one app.

    Args:
        secret: what signatures are made with.
        everybody: the app listens where only this machine reaches it, so whoever comes from it is its owner.
        token: opens the owner's rights by `?owner=TOKEN`; None: nothing does.
        proxied: a proxy stands before the app and writes who asks into x-forwarded-for.
        proxies: networks of such proxies, beside those of machines nearby.
    """

    def __init__(
        self,
        secret: bytes,
        everybody: bool = False,
        token: str | None = None,
        proxied: bool = False,
        proxies: Sequence[Network] = (),
    ) -> None:
        self._secret, self._everybody, self._token = secret, everybody, token
        self._proxied, self._proxies = proxied, tuple(proxies)
        self._guesses = Allowance(10, 0.1)  # wrong tokens from one address
        # Browsers share cookies among the ports of a host: apps with other secrets must not overwrite each other's.
        self.cookie = f"rmx_visitor_{hashlib.sha256(b'name/' + secret).hexdigest()[:8]}"

    def read(self, value: str | None) -> Visitor | None:
        """The visitor of a cookie's value; None where it is missing or was not signed here."""
        name, _, signature = (value or "").rpartition(".")
        if not name or not hmac.compare_digest(signature.encode(), self._sign(name).encode()):
            return None
        id_, _, rights = name.partition("-")
        return Visitor(id_, admin=rights == "owner")

    def value(self, visitor: Visitor) -> str:
        """The cookie's value for a visitor."""
        name = f"{visitor.id}-owner" if visitor.admin else visitor.id
        return f"{name}.{self._sign(name)}"

    def visitor_of(self, request: Any) -> Visitor:
        """The visitor behind a callback's `gr.Request` or a page's request; one without a cookie owns nothing."""
        found = self._known(request) or stranger()
        return Visitor(found.id, admin=found.admin or (self._everybody and is_near(request)))

    def key_of(self, request: Any) -> str:
        """The visitor behind a request, for shares and limits: by the cookie, else by a hash of the address."""
        found = self._known(request)
        return found.public if found else self.address_of(request)

    def name(self, request: Any) -> RequestOwner:
        """The visitor behind a request, and its address where strangers may come, as the owner of work."""
        return RequestOwner(self.key_of(request), self.address_of(request) if self._proxied else None)

    def address_of(self, request: Any) -> str:
        """A hash of the network address that a request came from."""
        headers = getattr(request, "headers", None) or {}
        client = getattr(request, "client", None)
        peer = str(getattr(client, "host", "") or "")
        lines = Headers(headers).getlist("x-forwarded-for") if self._proxied else []
        address = visitor_address(peer, lines, self._proxies)
        return "ip-" + hmac.new(self._secret, f"address/{address}".encode(), hashlib.sha256).hexdigest()[:12]

    def _known(self, request: Any) -> Visitor | None:
        cookies: Mapping[str, str] = getattr(request, "cookies", None) or {}
        return self.read(cookies.get(self.cookie))

    def _sign(self, name: str) -> str:
        """Rights of the owner are signed together with the token, so another token ends them."""
        signed = f"{name}/{self._token}" if name.endswith("-owner") else name
        return hmac.new(self._secret, signed.encode(), hashlib.sha256).hexdigest()

    # -- web ----------------------------------------------------------------------------------------------------------

    def answer(self, request: HTTPConnection, method: str) -> Response | None:
        """What a request gets before the page sees it: a refusal where a page of another site would act with a
        visitor's cookie, the owner's cookie for `?owner=TOKEN`; None: the page answers."""
        if method not in ("GET", "HEAD", "OPTIONS") and request.headers.get("sec-fetch-site") not in WITHIN:
            return PlainTextResponse("not from another site", 403)
        if "owner" in request.query_params:
            return self._let_in(request, self._known(request) or stranger())
        return None

    def new_cookie(self, request: HTTPConnection) -> str | None:
        """The cookie that the page brings to somebody who has none."""
        if request.scope["path"] != "/" or self._known(request) is not None:
            return None
        return self._set_cookie(request, stranger())

    def _let_in(self, request: HTTPConnection, visitor: Visitor) -> Response:
        """Answer `?owner=TOKEN` with the owner's cookie, where it is the token, and the same address without it."""
        given = request.query_params["owner"]
        rest = urlencode([(k, v) for k, v in parse_qsl(request.url.query, keep_blank_values=True) if k != "owner"])
        request.scope["query_string"] = rest.encode()  # a server that logs its requests logs this
        if self._token is None or not hmac.compare_digest(given.encode(), self._token.encode()):
            if wait := self._guesses.take(self.address_of(request)):
                return PlainTextResponse("Too many wrong tokens. Wait a moment.", 429, {"Retry-After": f"{wait:.0f}"})
            return PlainTextResponse("This is not the token of the machine's owner.", 403)
        response = RedirectResponse(f"?{rest}" if rest else ".", 303, {"Cache-Control": "no-store"})
        response.headers.append("set-cookie", self._set_cookie(request, Visitor(visitor.id, admin=True)))
        return response

    def _set_cookie(self, request: HTTPConnection, visitor: Visitor) -> str:
        """In a frame of another site, as on Spaces, browsers send a cookie only with SameSite=None, over https, and
        many only where it is kept apart for each site around the frame (Partitioned)."""
        proxied = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
        secure = "https" in (request.url.scheme, proxied)
        flags = "SameSite=None; Secure; Partitioned" if secure else "SameSite=Lax"
        return f"{self.cookie}={self.value(visitor)}; Max-Age={YEAR}; Path=/; HttpOnly; {flags}"


class Greeter:
    """ASGI middleware: whoever opens the page gets a cookie, and whoever asks owns the work that it causes.

    See `Owners.answer` for who gets an answer at the door. Events that wait in gradio's queue are done by other tasks;
    see `SharedQueue`. Not a middleware function: around those every message of a stream goes through two queues.
    """

    def __init__(self, app: ASGIApp, owners: Owners) -> None:
        self.app, self.owners = app, owners

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        current_owner.set(self.owners.name(request))  # of this task: every request has one of its own
        answer = self.owners.answer(request, scope["method"])
        if answer is not None:
            await answer(scope, receive, send)
            return
        cookie = self.owners.new_cookie(request)

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("set-cookie", str(cookie))
            await send(message)

        await self.app(scope, receive, send if cookie is None else with_cookie)


def stranger() -> Visitor:
    """Make a new visitor."""
    return Visitor(secrets.token_hex(16))


def is_near(request: Any) -> bool:
    """Whether a request names this machine itself and no proxy or tunnel has handed it on from elsewhere."""
    headers = getattr(request, "headers", None) or {}
    if headers.get("x-forwarded-for") or headers.get("forwarded"):
        return False
    try:
        return is_loopback(urlsplit(f"//{headers.get('host') or ''}").hostname or "")
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine itself reaches a host of this name."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def owners_of(host: str, public: bool = False, proxies: Sequence[str] = ()) -> Owners:
    """The owners of an app that listens on `host`: whoever has the token; without one, whoever uses this machine.

    A public site has no owner without a token, wherever it listens: a proxy on the same machine may be in between.

    Raises:
        RmxError: a token or a secret that could be guessed.
    """
    token = _long_enough(TOKEN, SHORTEST)
    networks = [ipaddress.ip_network(name, strict=False) for name in proxies]
    near = token is None and is_loopback(host) and not public
    return Owners(_secret(runs_dir()), everybody=near, token=token, proxied=public, proxies=networks)


def _long_enough(variable: str, least: int) -> str | None:
    given = os.environ.get(variable)
    if given and len(given.encode()) < least:
        raise RmxError(f"{variable} must have at least {least} characters, so that nobody guesses it.")
    return given or None


def _secret(folder: Path) -> bytes:
    """From the environment, else made once and kept beside the runs, where only this user reads it."""
    if given := _long_enough(SECRET, BYTES):
        return given.encode()
    path = folder / ".secret"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() or _cut_short(path):
            _make_secret(path)
        return path.read_bytes()
    except OSError as error:
        log.warning("%s: %s. Visitors are known until the app ends.", path, error.strerror)
        return secrets.token_bytes(BYTES)


def _cut_short(path: Path) -> bool:
    """Whether a disk that was full left only a part of it."""
    return path.exists() and path.stat().st_size < BYTES


def _make_secret(path: Path) -> None:
    """A new secret; of several processes that make one at the same time, the first one's counts."""
    part = path.with_name(f".secret-{secrets.token_hex(4)}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(BYTES))
    if _cut_short(path):
        part.replace(path)
        return
    try:
        with suppress(FileExistsError):
            os.link(part, path)
    except OSError:  # a disk without hard links
        part.replace(path)
    part.unlink(missing_ok=True)


# -- addresses, and how often one may try ------------------------------------------------------------------------------


# Where a proxy in front of a container or on the same machine has its address. One on the internet has to be named.
NEAR = tuple(
    ipaddress.ip_network(n)
    for n in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7")
)


def visitor_address(peer: str, forwarded: Sequence[str], proxies: Sequence[Network] = ()) -> str:
    """Name the address that a request came from, or the /64 network of IPv6, all of which is one visitor's.

    A proxy appends the address that it sees to x-forwarded-for, so only the last entry can be believed, and only where
    the peer is a proxy: one in `NEAR`, or a named one. Entries that are named proxies themselves are passed over.

    Args:
        peer: the other end of the connection; returned as it is where it is no address.
        forwarded: the header's lines, in order.
    """
    near = parse_address(peer)
    if near is not None and not _within(near, (*NEAR, *proxies)):
        return _name(near)
    hops = [hop for line in forwarded for hop in line.split(",")]
    while hops:
        found = parse_address(hops.pop())
        if found is None:
            break
        if not hops or not _within(found, proxies):
            return _name(found)
    return peer if near is None else _name(near)


def parse_address(text: str) -> Address | None:
    """An IP address out of `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1` or `[2001:db8::1]:80`; None where it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_nearby(peer: str) -> bool:
    """Whether the other end of a connection may be a proxy: an address in `NEAR`, or none at all."""
    found = parse_address(peer)
    return found is None or _within(found, NEAR)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _name(address: Address) -> str:
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))


MOST_KNOWN = 20_000  # visitors whose allowance is remembered


class Allowance:
    """A token bucket for each key: `burst` at once, `rate` per second after that."""

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst, self.rate, self._clock = burst, rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (what is left, when)
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Take one; returns 0, or after how many seconds to come again."""
        now = self._clock()
        with self._lock:
            left, then = self._left.pop(key, (self.burst, now))
            left = min(self.burst, left + max(0.0, now - then) * self.rate)
            allowed = left >= 1
            self._left[key] = (left - allowed, now)
            while len(self._left) > MOST_KNOWN:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate
