"""Asking an OpenAI-compatible server: one request with its retries, and sentences for what can go wrong."""

import asyncio
import ipaddress
import json
import os
import random
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from rmx.errors import TrainError

KEY = "RMX_SERVER_KEY"  # environment variable with the server's key, where it wants one
EXAMPLE = "http://localhost:8000/v1"
ATTEMPTS = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds
MAX_BYTES = 64 << 20  # of one answer
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})  # worth another attempt


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and which of its models is meant."""

    base: str  # ends with /v1
    model: str | None  # None: as the server says

    @classmethod
    def of(cls, url: str) -> "Address":
        """`http://host:8000`, with or without `/v1`, and `#name` behind it where the server has several models.

        Raises:
            TrainError: no http or https address, or one with a password in it.
        """
        try:
            parts = urlsplit(url.strip())
            parts.port  # noqa: B018  looked at for what it raises
        except ValueError as error:
            raise TrainError(f"{url[:120]!r} is no server's address ({error}). Give one such as {EXAMPLE}.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TrainError(f"{url[:120]!r} is no server's address. Give one such as {EXAMPLE}.")
        if parts.username or parts.password:
            raise TrainError(f"Leave the password out of the server's address; put the key into {KEY} instead.")
        path = parts.path.rstrip("/")
        base = f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"
        return cls(base, unquote(parts.fragment) or None)

    @property
    def local(self) -> bool:
        """Whether it is this machine, which no proxy leads to."""
        host = urlsplit(self.base).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


class Refusal(Exception):
    """The server understood a request and would not have it."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status, self.said = status, said


class Line:
    """A connection to one server. Redirects are not followed: a key would go where nobody sent it."""

    def __init__(self, address: Address, seconds: float, parallel: int, attempts: int = ATTEMPTS) -> None:
        """`seconds`: the longest that one answer may take."""
        self.address, self._attempts = address, attempts
        key = os.environ.get(KEY)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(seconds, connect=10.0),
            limits=httpx.Limits(max_connections=parallel),
            follow_redirects=False,
            trust_env=not address.local,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, path: str) -> Any:
        return await self._ask("GET", path, None, first=True)

    async def post(self, path: str, body: dict[str, Any], *, first: bool = False) -> Any:
        """The JSON that the server answers with.

        Args:
            first: the way to ask is not known to work yet: a server's fault is then a refusal, not worth a pause.

        Raises:
            Refusal: the server would not have the request. TrainError: nothing can be had from this server.
        """
        return await self._ask("POST", path, body, first=first)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, *, first: bool = False) -> Any:
        pause, why = FIRST_PAUSE, ""
        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
            try:
                status, headers, content = await self._once(method, path, body)
            except httpx.ConnectError as error:
                why = "cannot be reached: " + (str(error) or "the connection was refused")
                if first:  # it was never there
                    break
                continue
            except httpx.TimeoutException:
                why = "did not answer in time"
                continue
            except httpx.TransportError as error:
                why = f"broke off ({error or type(error).__name__})"
                continue
            if status in BUSY and not (first and status == 500):
                why = f"answered {status} ({_said(content)})"
                pause = _asked_pause(headers) or pause
                continue
            return self._read(status, headers, content)
        raise TrainError(
            f"The server {self.address.base} {why}. Check that it is running and not overloaded, then resume."
        )

    async def _once(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, httpx.Headers, bytes]:
        content = bytearray()
        async with self._client.stream(method, self.address.base + path, json=body) as response:
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MAX_BYTES:
                    raise TrainError(
                        f"An answer of the server {self.address.base} is longer than {MAX_BYTES >> 20} MB. Check that "
                        "it is a language model's server."
                    )
        return response.status_code, response.headers, bytes(content)

    def _read(self, status: int, headers: httpx.Headers, content: bytes) -> Any:
        base = self.address.base
        if status in (401, 403):
            raise TrainError(f"The server {base} asks for a key ({status}). Put it into the variable {KEY}.")
        if 300 <= status < 400:
            raise TrainError(
                f"The server {base} sends us on to {headers.get('location', 'another address')[:200]}, which is not "
                "followed. Give the address where the model is."
            )
        if status >= 400:
            raise Refusal(status, _said(content))
        kind = headers.get("content-type", "")
        if "json" not in kind.lower():
            raise TrainError(
                f"The server {base} answered with {kind.partition(';')[0] or 'no content type'} instead of JSON. Give "
                "the address of an OpenAI-compatible server, which usually ends with /v1."
            )
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise TrainError(f"The server {base} sent broken JSON ({error}). Check the server's log.") from error


def _asked_pause(headers: httpx.Headers) -> float | None:
    """Seconds that the server asks us to wait, within reason."""
    try:
        return min(max(float(headers.get("retry-after", "")), 0.0), LONGEST_PAUSE)
    except ValueError:
        return None


def _said(content: bytes) -> str:
    """What a refusal says, in one line."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return content[:200].decode(errors="replace").strip().partition("\n")[0] or "no reason given"
    for key in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return " ".join((found if isinstance(found, str) else json.dumps(found)).split())[:300]
