"""Rollouts from any server that speaks the OpenAI protocol: vLLM, SGLang, llama.cpp, `transformers serve`.

Servers that tell token ids (vLLM) give exactly what they sampled. Texts from others are tokenised again, and counted
where that may have made other tokens. No server tells entropies over the full vocabulary: scoring adds them later.
"""

import asyncio
import ipaddress
import json
import logging
import os
import random
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
from anyio.from_thread import start_blocking_portal

from rmx.engine.token_draws import prompt_key, uniform
from rmx.errors import TrainError
from rmx.models.load import Model
from rmx.models.stopping import Ending
from rmx.records import Problem, Rollout, Stop, as_json
from rmx.runs.recipe import RolloutConfig
from rmx.train.rollouts import graded

log = logging.getLogger(__name__)
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
        self.client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(seconds, connect=10.0),
            limits=httpx.Limits(max_connections=parallel),
            follow_redirects=False,
            trust_env=not address.local,
        )

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
        async with self.client.stream(method, self.address.base + path, json=body) as response:
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


# -- all requests of a stage, in whichever way the server takes -------------------------------------------------------


PARALLEL = 32  # requests at once
SEVERAL = 3  # problems that tell whether a server samples at all
LOOK = 0.2  # seconds between two questions whether to stop


@dataclass
class Report:
    """How sure it is that the token ids are those that the server sampled."""

    told: int = 0  # rollouts whose ids the server told
    read_again: int = 0  # whose text was tokenised again, to what seems to be the same
    doubtful: int = 0  # to something else, or to a number of tokens that the server did not count
    _distinct: dict[str, tuple[int, set[tuple[int, ...]]]] = field(default_factory=dict)  # of each problem

    def count(self, rollout: Rollout, read: Read) -> None:
        self.told += read.told
        self.read_again += not read.told and not read.doubtful
        self.doubtful += read.doubtful
        made, distinct = self._distinct.get(rollout.problem_id, (0, set()))
        self._distinct[rollout.problem_id] = made + 1, distinct | {rollout.completion_ids}

    @property
    def share(self) -> float:
        """Of rollouts whose ids cannot be shown to be the server's."""
        return self.doubtful / max(1, self.told + self.read_again + self.doubtful)

    @property
    def sampled(self) -> bool:
        """False where every one of several problems was answered with one and the same completion again and again."""
        several = [distinct for made, distinct in self._distinct.values() if made > 1]
        return len(several) < SEVERAL or any(len(distinct) > 1 for distinct in several)

    def json(self) -> dict[str, Any]:
        """For the event `rollouts`; counts are of this start of the run."""
        return as_json(self, "told", "read_again", "doubtful", "share", "sampled")

    def warn(self) -> None:
        """What the user should know of it."""
        if self.doubtful:
            said = "were tokenised to something else than what the server sampled, or may have been."
            advice = "A server that returns token ids, such as vLLM, avoids this."
            log.warning("%.1f %% of the rollouts (%d) %s %s", 100 * self.share, self.doubtful, said, advice)
        if not self.sampled:
            log.warning("The server answers each problem with the same completion every time: it does not sample.")


def server_rollouts(
    url: str,
    model: Model,
    problems: Sequence[Problem],
    config: RolloutConfig,
    seed: int,
    done: Collection[tuple[str, int]],
    *,
    cancelled: Callable[[], bool] = lambda: False,
    report: Report | None = None,
) -> Iterator[Rollout]:
    """Sample what is missing of `config.k` completions of each problem, and yield each as it comes; no entropies.

    Args:
        url: the server's address, see `Address.of`. model: the same model here; its tokenizer makes the prompts.
        seed: each completion is asked for with one of its own, made of this, its prompt and its number: servers that
            set one seed for all requests under way would else repeat samples.
        done: rollouts that are there already. report: filled in as rollouts come.
        cancelled: asked several times a second; requests under way are dropped.
    """
    counts = report if report is not None else Report()
    missing = [(p, gen) for p in problems for gen in range(config.k) if (p.id, gen) not in done]
    if not missing:
        return
    coming = _Asking(url, model, config, seed, cancelled, counts).all(missing)
    with start_blocking_portal() as portal:  # a loop in a thread of its own: the caller may run in one, as notebooks do
        try:
            while (rollout := portal.call(anext, coming, None)) is not None:
                yield rollout
        finally:
            portal.call(coming.aclose)
            counts.warn()


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask for a completion. Servers differ in what they take, and refuse what they do not know."""

    path: str
    prompt: str  # "ids", "text" or "chat"
    extras: dict[str, Any] = field(default_factory=dict)  # fields beyond the protocol


def ways(model: Model, config: RolloutConfig) -> list[Way]:
    """From the best to the plainest. The first ones switch off what a checkpoint's own settings would add."""
    exact: dict[str, Any] = {
        "return_token_ids": True, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": False,
    }  # fmt: skip
    if model.style.stops:  # for servers that tell by what a completion ended; from others it is cut here
        exact |= {"stop": list(model.style.stops), "include_stop_str_in_output": True}
        exact["stop_token_ids"] = sorted(model.stop_ids)
    generation = {
        "do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0,
        "max_new_tokens": config.max_new_tokens, "eos_token_id": sorted(model.stop_ids),
        "pad_token_id": min(model.stop_ids, default=0),
    }  # fmt: skip
    found = [
        Way("/completions", "ids", exact),
        Way("/completions", "ids"),
        Way("/completions", "text", {"generation_config": json.dumps(generation)}),  # transformers serve
        Way("/completions", "text"),
    ]
    return [*found, Way("/chat/completions", "chat")] if model.style.chat else found


class _Asking:
    """All requests of one stage, and the reading of their answers."""

    def __init__(
        self, url: str, model: Model, config: RolloutConfig, seed: int, cancelled: Callable[[], bool], report: Report
    ) -> None:
        self._model, self._config, self._seed = model, config, seed
        self._cancelled, self._report = cancelled, report
        self._address = Address.of(url)
        self._base = self._address.base  # how messages name the server

    async def all(self, missing: Sequence[tuple[Problem, int]]) -> AsyncGenerator[Rollout]:
        """Rollouts as they come, in any order."""
        self._line = Line(self._address, 60 + 0.25 * self._config.max_new_tokens, PARALLEL)
        async with self._line.client:
            async with aclosing(self._as_they_end([partial(self._find_way, missing[0][0])])) as looking:
                found = [way async for way in looking]
            if not found:  # cancelled
                return
            way, name = found[0]
            jobs = [partial(self._rollout, way, name, problem, gen) for problem, gen in missing]
            async with aclosing(self._as_they_end(jobs)) as ended:
                async for rollout in ended:
                    yield rollout

    async def _as_they_end(self, jobs: Sequence[Callable[[], Coroutine[Any, Any, Any]]]) -> AsyncGenerator[Any]:
        """Results of coroutines of which a bounded number run at once; ends early when cancelled."""
        waiting, running = iter(jobs), set[asyncio.Task[Any]]()
        try:
            while not self._cancelled():
                while len(running) < PARALLEL and (job := next(waiting, None)):
                    running.add(asyncio.ensure_future(job()))
                if not running:
                    return
                ended, running = await asyncio.wait(running, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _find_way(self, problem: Problem) -> tuple[Way, str | None]:
        """The first way that the server takes, tried with one token of one problem, and its name for the model."""
        listed, refusals, misread = await self._listed(), list[Refusal](), None
        for name in self._names(listed):
            for way in ways(self._model, self._config):
                try:
                    body = self._body(way, name, problem, 0, most=1)
                    answer = await self._line.ask("POST", way.path, body, first=True)
                    read = self._read(answer, self._model.prompt_ids(problem.problem))
                except Refusal as refusal:
                    refusals.append(refusal)
                except Misread as error:
                    misread = error
                else:
                    log.info("Rollouts from %s%s, asked with %s", self._base, way.path, way.prompt)
                    if not read.told:
                        log.warning("The server %s tells no token ids. Its texts are tokenised again.", self._base)
                    if not way.extras:
                        log.warning("The server %s may add sampling settings of its own, such as top-k.", self._base)
                    return way, name
        raise misread or TrainError(_refused(self._address, self._names(listed)[0], refusals, listed))

    async def _listed(self) -> list[str]:
        try:
            found = await self._line.ask("GET", "/models", first=True)
        except Refusal:
            return []
        rows = found.get("data") if isinstance(found, dict) else None
        return [str(row["id"]) for row in rows or () if isinstance(row, dict) and "id" in row]

    def _names(self, listed: Sequence[str]) -> list[str | None]:
        """Names to try for the model. Some servers have one model that needs none."""
        if self._address.model:
            return [self._address.model]
        spec = self._model.spec
        return [spec if spec in listed or len(listed) != 1 else listed[0], None]

    async def _rollout(self, way: Way, name: str | None, problem: Problem, gen: int) -> Rollout:
        prompt = self._model.prompt_ids(problem.problem)
        try:
            answer = await self._line.ask("POST", way.path, self._body(way, name, problem, gen))
        except Refusal as refusal:
            said = f"The server {self._base} refused a request that it took before ({refusal})."
            raise TrainError(f"{said} Check its log, then resume.") from refusal
        read = self._read(answer, prompt)
        rollout = graded(self._model, problem, gen, prompt, read.ids, read.stop, None)
        self._report.count(rollout, read)
        return rollout

    def _body(self, way: Way, name: str | None, problem: Problem, gen: int, most: int | None = None) -> dict[str, Any]:
        ids = self._model.prompt_ids(problem.problem)
        asked: dict[str, Any] = {"prompt": list(ids)}
        if way.prompt == "text":
            asked = {"prompt": self._model.prompt(problem.problem)}
        elif way.prompt == "chat":
            asked = {"messages": self._model.messages(problem.problem)}
            if self._model.style.thinking is not None:
                asked["chat_template_kwargs"] = {"enable_thinking": self._model.style.thinking}
        if name is not None:
            asked["model"] = name
        return {
            **asked, "max_tokens": most or self._room(ids),
            "temperature": self._config.temperature, "top_p": self._config.top_p,
            "seed": int(uniform(self._seed, prompt_key(ids), gen, 0) * 2**31), **way.extras,
        }  # fmt: skip

    def _read(self, answer: Any, prompt_ids: Sequence[int]) -> Read:
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
        whole = self._room(prompt_ids) == self._config.max_new_tokens
        stop: Stop = "stop_sequence" if by_text else "eos" if stopped else "length" if whole else "context"
        ending = Ending(self._model, prompt_ids, (), 1, answers=False)
        for length, token in enumerate(ids, 1):
            if ended := ending.ended_by(0, token):  # a server may go on behind it
                return Read(tuple(ids[:length]), ended, isinstance(told, list), doubtful)
        return Read(tuple(ids), stop, isinstance(told, list), doubtful)

    def _room(self, prompt_ids: Sequence[int]) -> int:
        """How many tokens a completion of this prompt may have."""
        return min(self._config.max_new_tokens, self._model.engine.context - len(prompt_ids))

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


def _refused(address: Address, name: str | None, refusals: Sequence[Refusal], listed: Sequence[str]) -> str:
    """The sentence for a server that takes no way of asking; `name` is what the model was called first."""

    def is_about_model(refusal: Refusal) -> bool:
        named = name is not None and f"'{name}'" in refusal.said
        return (refusal.status == 404 and "model" in refusal.said.lower()) or (refusal.status in (400, 404) and named)

    if (told := next(filter(is_about_model, refusals), None)) is not None:
        has = f" It has {', '.join(listed[:8])}." if listed else ""
        said = f"The server {address.base} does not have the model ({told.said}).{has}"
        return f"{said} Name one behind the address: {address.base}#NAME."
    if all(r.status in (404, 405) for r in refusals):
        said = f"There is no OpenAI-compatible server at {address.base} ({refusals[0].status})."
        return f"{said} Check the address; it usually ends with /v1."
    return f"The server {address.base} takes no request for a completion ({refusals[-1]}). Check its log."
