"""Rollouts from any server that speaks the OpenAI protocol: vLLM, SGLang, llama.cpp, `transformers serve`.

Servers that tell token ids (vLLM) give exactly what they sampled. Texts from others are tokenised again, and counted
where that may have made other tokens. No server tells entropies over the full vocabulary: scoring adds them later.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from anyio.from_thread import start_blocking_portal

from rmx.engine.token_draws import prompt_key, uniform
from rmx.errors import TrainError
from rmx.models.load import Model
from rmx.recipes.recipe import RolloutConfig
from rmx.records import Problem, Rollout
from rmx.train.rollouts.sample import graded
from rmx.train.rollouts.server_http import Address, Line, Misread, Read, Reader, Refusal, room

log = logging.getLogger(__name__)
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
        return {name: getattr(self, name) for name in ("told", "read_again", "doubtful", "share", "sampled")}

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
    """All requests of one stage."""

    def __init__(
        self, url: str, model: Model, config: RolloutConfig, seed: int, cancelled: Callable[[], bool], report: Report
    ) -> None:
        self._model, self._config, self._seed = model, config, seed
        self._cancelled, self._report = cancelled, report
        self._address = Address.of(url)
        self._reader = Reader(self._address.base, model, config)

    async def all(self, missing: Sequence[tuple[Problem, int]]) -> AsyncGenerator[Rollout]:
        """Rollouts as they come, in any order."""
        self._line = Line(self._address, 60 + 0.25 * self._config.max_new_tokens, PARALLEL)
        try:
            async with aclosing(self._as_they_end([partial(self._find_way, missing[0][0])])) as looking:
                found = [way async for way in looking]
            if not found:  # cancelled
                return
            way, name = found[0]
            jobs = [partial(self._rollout, way, name, problem, gen) for problem, gen in missing]
            async with aclosing(self._as_they_end(jobs)) as ended:
                async for rollout in ended:
                    yield rollout
        finally:
            await self._line.close()

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
                    read = self._reader.read(answer, self._model.prompt_ids(problem.problem))
                except Refusal as refusal:
                    refusals.append(refusal)
                except Misread as error:
                    misread = error
                else:
                    base = self._address.base
                    log.info("Rollouts from %s%s, asked with %s", base, way.path, way.prompt)
                    if not read.told:
                        log.warning("The server %s tells no token ids. Its texts are tokenised again.", base)
                    if not way.extras:
                        log.warning("The server %s may add sampling settings of its own, such as top-k.", base)
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
            said = f"The server {self._address.base} refused a request that it took before ({refusal})."
            raise TrainError(f"{said} Check its log, then resume.") from refusal
        read = self._reader.read(answer, prompt)
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
            **asked, "max_tokens": most or room(self._model, self._config, ids),
            "temperature": self._config.temperature, "top_p": self._config.top_p,
            "seed": int(uniform(self._seed, prompt_key(ids), gen, 0) * 2**31), **way.extras,
        }  # fmt: skip


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
