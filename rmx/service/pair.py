"""Verbs about a base and an adapted model: where they part, and what patching the one with the other does."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from rmx.compare.pair_options import MapOptions, PairOptions, intervene_run, map_document, prepare_map, shift_run
from rmx.models.adapter_names import bundled_adapters
from rmx.service.arguments import adapter_name, between, model_name, set_name, short_enough
from rmx.service.verb import INTERVAL, Asking, Cancelled, Document, Site, last, new_tokens, without

ARMS = "base,teacher,oracle,random,matched,entropy"
Source = Literal["base", "adapted"]


@dataclass(frozen=True, kw_only=True)
class Comparing(Asking):
    """What both verbs about a pair of models have in common. `mini` is compared with its partner `rl` by default."""

    model: Annotated[str | None, "the base: a preset or a Hub id; by default the model of this app"] = None
    adapter: Annotated[
        str | None, "a LoRA adapter on the base: a bundled name (rl, reasonmaxxer), a training run's id or a Hub id"
    ] = None
    teacher: Annotated[
        str | None, "the adapted model as a full checkpoint, instead of an adapter: a preset or a Hub id"
    ] = None
    pair: Annotated[str | None, "a known pair such as mini+rl, instead of model, adapter and teacher"] = None
    strength: Annotated[
        float, "strength of the adapter, 0 to 1.5; 1 is the adapter as it was trained. Plain LoRA only"
    ] = 1.0
    set: Annotated[str, "a problem set by its name, such as mini, arith or gsm8k, with :train or :test"] = "mini"
    limit: Annotated[int | None, "how many problems of the set are taken, from its first on"] = None
    tau: Annotated[
        float | None, "entropy in nats above which a token is a fork; by default the base's own threshold"
    ] = None
    seed: Annotated[int, "seed of all random draws"] = 0
    max_new_tokens: Annotated[int | None, "upper bound of each completion, in tokens; 512 by default"] = None
    placebo: Annotated[bool, "over a set, also measure a random adapter of the same size for comparison"] = True

    def options(self, site: Site) -> PairOptions:
        """As the command line has them."""
        spec, name = model_name(self.model or site.model, site.model), set_name(self.set)
        site.workspace.policy.admit_set(name)
        adapter = self.adapter or None
        if adapter is not None:
            adapter = adapter_name(adapter, bundled_adapters(site.workspace.model(spec)))
        if self.limit is not None:
            between("limit", self.limit, 1, site.limits.problems)
        return PairOptions(
            model=spec,
            adapter=adapter,
            teacher=model_name(self.teacher, site.model) if self.teacher else None,
            preset=self.pair or None,
            strength=self.strength,
            tau=self.tau,
            seed=self.seed,
            max_new_tokens=new_tokens(self.max_new_tokens, site.limits),
            set_name=name,
            limit=self.limit,
            style=self.style_options(),
        )


@dataclass(frozen=True, kw_only=True)
class ShiftsRequest(Comparing):
    """Where a base and an adapted model part: on one solution, token by token, or over the first `limit` problems.

    On one solution every token has its class: unshifted, reranked (the adapted model's choice is among the base's top
    five) or shifted. Over a set there are shares with 95 % intervals, and a placebo beside them.
    """

    prompt: Annotated[str | None, "one problem in your own words, instead of problems of a set"] = None
    problem: Annotated[str | None, "one problem of the set, by its id or 0-based index; for several give a limit"] = (
        None
    )
    answer: Annotated[str | None, "the known answer of the prompt"] = None
    raw: Annotated[bool, "send the prompt to the model as it stands, without a prompt template"] = False
    source: Annotated[Source, "the model whose solution both read: the base or the adapted one"] = "base"
    read: Annotated[str | None, "a solution for both to read, instead of generating one"] = None
    temperature: Annotated[float, "sampling temperature of the solution; 0 decodes greedily"] = 0.0
    top_p: Annotated[
        float, "nucleus sampling: the likeliest tokens with this share of the probability are drawn from"
    ] = 1.0
    brief: Annotated[bool, "list only the tokens at which the two models part, beside the whole text"] = False

    def steps(self, site: Site, cancelled: Cancelled) -> Iterator[Document]:
        options, most = self.options(site), site.limits.characters
        prompt, read = short_enough("prompt", self.prompt, most), short_enough("read", self.read, most)
        if prompt is None and self.problem is None and self.limit is not None:
            run = shift_run(options, self.placebo, site.workspace, cancelled)
            report = yield from last(iter(run), lambda r: {"at": r.at, "of": r.of, "stage": r.stage})
            found: dict[str, Any] = report.json()
            yield without(found, "entropy_histogram") if self.brief else found
            return
        answer = short_enough("answer", self.answer, 1000)
        one = MapOptions(prompt, self.problem, answer, self.raw, self.source, read, self.temperature, self.top_p)
        yield from self._one(options, one, site, cancelled)

    def _one(self, options: PairOptions, one: MapOptions, site: Site, cancelled: Cancelled) -> Iterator[Document]:
        run = prepare_map(options.pair(site.workspace, one), options, one)
        run.cancelled = cancelled
        sent, due = 0, 0.0
        with run.pair.when_free(cancelled) as mine:
            for count, _ in enumerate(run.held() if mine else (), 1):
                if time.monotonic() >= due:
                    tokens = [shift.json(run.job.tau, 0.0) for shift in run.shifts[sent:count]]
                    yield {"start": sent, "tokens": tokens}
                    sent, due = count, time.monotonic() + INTERVAL
        if cancelled() or not run.shifts:
            return
        found = map_document(run)
        if self.brief:
            text = "".join(shift.text for shift in run.shifts)
            parted = [t for t in found["tokens"] if t["class"] != "unshifted"]
            found = {"text": text} | without(found, "prompt_ids", "entropy_histogram") | {"tokens": parted}
        yield found


@dataclass(frozen=True, kw_only=True)
class InterveneRequest(Comparing):
    """Patch single tokens of the base on the first `limit` problems of a set (20 by default) and count right answers.

    Arms: base and teacher are the two models; oracle takes the adapted model's token wherever they disagree, entropy
    wherever the base is at a fork; random and matched are controls. Differences are paired, with 95 % intervals.
    """

    arms: Annotated[str, "the arms to run, separated by commas"] = ARMS
    brief: Annotated[bool, "leave out the answers to each problem"] = False

    def steps(self, site: Site, cancelled: Cancelled) -> Iterator[Document]:
        given = self if self.limit is not None else type(self)(**{**vars(self), "limit": min(20, site.limits.problems)})
        arms = tuple(a.strip() for a in self.arms[:500].split(",") if a.strip())
        run = intervene_run(given.options(site), arms, self.placebo, site.workspace, cancelled)
        report = yield from last(iter(run), lambda r: {"at": len(r.problems), "of": r.of})
        found = report.json()
        yield without(found, "problems") if self.brief else found
