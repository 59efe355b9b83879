"""Asking an OpenAI-compatible server: one request with its retries, and sentences for what can go wrong."""

import asyncio
import ipaddress
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from rmx.errors import TrainError
from rmx.models.load import Model
from rmx.models.stopping import Ending
from rmx.recipes.recipe import RolloutConfig
from rmx.records import Stop

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
        """`http://host:8000`, with or without `/v1`, and `#name` behind it where the server has several models."""
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


def fault(base: str, said: str) -> TrainError:
    """What is wrong with the server at an address."""
    return TrainError(f"The server {base} {said}")


class Refusal(Exception):
    """The server understood a request and would not have it."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status, self.said = status, said


class Line:
    """A connection to one server. Redirects are not followed: a key would go where nobody sent it."""

    def __init__(self, address: Address, seconds: float, parallel: int) -> None:
        """`seconds`: the longest that one answer may take."""
        self.address = address
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

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, first: bool = False) -> Any:
        """The JSON that the server answers with, or a Refusal.

        `first`: the way to ask is not known to work yet: a server's fault is then a refusal, not worth a pause.
        """
        pause, why = FIRST_PAUSE, ""
        for attempt in range(ATTEMPTS):
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
        raise fault(self.address.base, f"{why}. Check that it is running and not overloaded, then resume.")

    async def _once(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, httpx.Headers, bytes]:
        content = bytearray()
        async with self._client.stream(method, self.address.base + path, json=body) as response:
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MAX_BYTES:
                    said = f"An answer of the server {self.address.base} is longer than {MAX_BYTES >> 20} MB."
                    raise TrainError(f"{said} Check that it is a language model's server.")
        return response.status_code, response.headers, bytes(content)

    def _read(self, status: int, headers: httpx.Headers, content: bytes) -> Any:
        base = self.address.base
        if status in (401, 403):
            raise fault(base, f"asks for a key ({status}). Put it into the variable {KEY}.")
        if 300 <= status < 400:
            where = headers.get("location", "another address")[:200]
            raise fault(base, f"sends us on to {where}, which is not followed. Give the address where the model is.")
        if status >= 400:
            raise Refusal(status, _said(content))
        if "json" not in (kind := headers.get("content-type", "")).lower():
            given = f"answered with {kind.partition(';')[0] or 'no content type'} instead of JSON. Give the address of"
            raise fault(base, f"{given} an OpenAI-compatible server, which usually ends with /v1.")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise fault(base, f"sent broken JSON ({error}). Check the server's log.") from error


def _asked_pause(headers: httpx.Headers) -> float | None:
    try:
        return min(max(float(headers.get("retry-after", "")), 0.0), LONGEST_PAUSE)
    except ValueError:
        return None


def _said(content: bytes) -> str:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return content[:200].decode(errors="replace").strip().partition("\n")[0] or "no reason given"
    for key in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return " ".join((found if isinstance(found, str) else json.dumps(found)).split())[:300]


@dataclass(frozen=True, slots=True)
class Read:
    """One completion as it came."""

    ids: tuple[int, ...]
    stop: Stop
    told: bool  # the server told the ids
    doubtful: bool  # they cannot be shown to be the server's


class Misread(TrainError):
    """The server saw another prompt than it was meant to."""


def room(model: Model, config: RolloutConfig, prompt_ids: Sequence[int]) -> int:
    """How many tokens a completion of this prompt may have."""
    return min(config.max_new_tokens, model.engine.context - len(prompt_ids))


class Reader:
    """Reads answers. `base` is how messages name the server."""

    def __init__(self, base: str, model: Model, config: RolloutConfig) -> None:
        self._base, self._model, self._config = base, model, config

    def read(self, answer: Any, prompt_ids: Sequence[int]) -> Read:
        """The completion in an answer; Misread where the server saw another prompt."""
        try:
            choice, many = answer["choices"][0], len(answer["choices"])
            usage = answer.get("usage") or {}
            text = choice["text"] if "text" in choice else choice["message"].get("content") or ""
            reasoning = (choice.get("message") or {}).get("reasoning_content")
            seen = choice.get("prompt_token_ids") or answer.get("prompt_token_ids") or usage.get("prompt_tokens")
            told, end, counted = choice.get("token_ids"), choice.get("finish_reason"), usage.get("completion_tokens")
            reason = choice.get("stop_reason")  # vLLM: the stop text, or the id of the token that ended it
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise self._malformed(f"no completion in it: {json.dumps(answer)[:120]}") from error
        if many > 1:  # it took a list of ids for a list of prompts
            raise Misread(f"The server {self._base} answered one prompt with {many} completions. Check its log.")
        if not isinstance(text, str) or end not in ("stop", "length"):
            raise self._malformed(f"a completion that ended by {json.dumps(end)}")
        if reasoning:
            said = "splits the reasoning off, so the tokens are lost. Start it without a reasoning parser."
            raise fault(self._base, said)
        same = list(prompt_ids) == seen if isinstance(seen, list) else seen in (None, len(prompt_ids))
        if not same:  # what the server says of the prompt: its ids, or how many they are
            found = len(seen) if isinstance(seen, list) else seen
            said = f"The server {self._base} reads the prompt as {found} tokens that are not the {len(prompt_ids)} of"
            raise Misread(f"{said} {self._model.spec}. It serves another model, or adds tokens of its own.")
        stopped = end == "stop"
        last, doubtful = self._model.engine.vocab_size - 1, False
        if not isinstance(told, list):
            ids = self._model.encode(text)
            doubtful = not self._same(ids, text, counted, stopped)
        elif all(isinstance(i, int) and 0 <= i <= last for i in told):
            ids = list(told)
        else:
            raise self._malformed(f"token ids outside 0 to {last}, which {self._model.spec} does not have")
        by_text = stopped and isinstance(reason, str)
        if stopped and not by_text and not (ids and ids[-1] in self._model.stop_ids):
            ids = [*ids, reason if reason in self._model.stop_ids else self._end]
        if not ids:
            raise self._malformed("an empty completion")
        whole = room(self._model, self._config, prompt_ids) == self._config.max_new_tokens
        stop: Stop = "stop_sequence" if by_text else "eos" if stopped else "length" if whole else "context"
        ending = Ending(self._model, prompt_ids, (), 1, answers=False)
        for length, token in enumerate(ids, 1):
            if ended := ending.ended_by(0, token):  # a server may go on behind it
                return Read(tuple(ids[:length]), ended, isinstance(told, list), doubtful)
        return Read(tuple(ids), stop, isinstance(told, list), doubtful)

    def _malformed(self, what: str) -> TrainError:
        check = "Check that it is an OpenAI-compatible server of a language model, then resume."
        return fault(self._base, f"sent {what}. {check}")

    def _same(self, ids: Sequence[int], text: str, counted: Any, stopped: bool) -> bool:
        """Whether these ids seem to be the server's: the text comes back, and the server counted as many."""
        if self._model.detokenizer.text(list(ids)) != text:
            return False
        ended = bool(ids) and ids[-1] in self._model.stop_ids
        lengths = {len(ids), len(ids) + 1} if stopped and not ended else {len(ids)}  # some count the end token
        return counted in lengths

    @property
    def _end(self) -> int:
        """The end token that a text does not show."""
        own = self._model.tokenizer.eos_token_id
        if own is None and not self._model.stop_ids:
            raise self._malformed(f"a completion that ended by itself, though {self._model.spec} has no end token")
        return int(own) if own is not None else min(self._model.stop_ids)
