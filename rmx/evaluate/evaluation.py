"""Run an evaluation, or grade its kept completions again by the present rules, without a pass of any network.

All models that can share the passes of a network write at once, problem by problem, so that they can be compared from
the first problems on. What was known before is not made again, so an evaluation that broke off makes what is missing.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rmx.arguments import Sampling
from rmx.compare.controls import BaseCheck, check_loaded
from rmx.data.problem_files import overlap
from rmx.engine.batch import Sample, SampleRequest, longest_of, sample_continuously
from rmx.engine.decoding_memory import fitting_rows
from rmx.engine.fair_queue import never
from rmx.engine.token_draws import prompt_key
from rmx.errors import RmxError
from rmx.evaluate.eval_report import Contestant, DecodingTally, EvalConfig, EvalReport, ProblemRow
from rmx.evaluate.sample_store import Answered, SampleStore, Shelf
from rmx.grading.answers import RULES
from rmx.models.model_pair import Pair
from rmx.models.stopping import Endings
from rmx.records import Problem
from rmx.runs.job import TrainJob, problems_of
from rmx.runs.store import RunStore


def trained_on(spec: str | None, problems: Sequence[Problem]) -> int | None:
    """How many of `problems` were among those that the run `spec` (`ID` or `ID/step_N`) trained on.

    None where nothing is known: the adapter is no run's, it was trained on stored rollouts, or its set is gone.
    """
    if not spec:
        return None
    try:
        config = RunStore().get(spec.partition("/")[0]).config
        if config.get("kind") == "distill" or config.get("from_rollouts"):
            return None
        return overlap(problems_of(TrainJob.from_json(config)).train, problems)
    except (RmxError, KeyError, TypeError, ValueError):
        return None


PORTION = 64  # problems between two reports; models that cannot write at once take turns of so many

Shelves = Sequence[tuple[Contestant, Sampling, Shelf]]  # of each model one for greedy, one for the draws


class Evaluation:
    """One evaluation; PromptError for a problem that one of the models cannot take.

    Args:
        contestants: who is evaluated; the first one is what the others are compared with. All are asked the same ids.
        problems: with known answers. set_name: as the user named the set.
        store: completions that are known already, and where new ones are kept; None keeps nothing.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        problems: Sequence[Problem],
        config: EvalConfig,
        set_name: str,
        *,
        store: SampleStore | None = None,
    ) -> None:
        self.contestants, self.problems, self.config, self.set_name = contestants, problems, config, set_name
        self._store = store or SampleStore(keep=False)
        self._prompts = [contestants[0].model.prompt_ids(p.problem) for p in problems]
        for contestant in contestants[1:]:
            contestant.model.check_fit(max(self._prompts, key=len, default=()))
        self._tallies = {c.name: DecodingTally() for c in contestants}
        self._seen = {c.name: trained_on(c.spec, problems) for c in contestants}
        self._solved: list[ProblemRow] = []
        self._check: BaseCheck | None = None
        self._at = self._cached = 0
        self._began = time.monotonic()

    @property
    def of(self) -> int:
        """Completions in all."""
        return len(self.problems) * len(self.contestants) * (self.config.n + self.config.greedy)

    def run(self, cancelled: Callable[[], bool] = never) -> Iterator[EvalReport]:
        """Make and grade completions; yield a report several times a second. After a cancel the last is not `done`."""
        base = self.contestants[0].model
        adapters = [c.adapter for c in self.contestants if c.model is base and c.adapter]
        self._check = check_loaded(Pair(base, base, adapters[0] if adapters else None))
        with self._opened() as shelves:
            groups = self._groups(shelves)
            all_places = range(len(self.problems))
            most = len(all_places) if len(groups) == 1 else PORTION
            yield self._report(False)
            for start in all_places[:: max(most, 1)]:
                for group in groups:
                    for _ in self._make(group, all_places[start : start + most], cancelled):
                        self._grade(shelves)
                        yield self._report(False)
                while self._grade(shelves) and not cancelled():
                    yield self._report(False)
            yield self._report(len(self._solved) == len(self.problems))

    @contextmanager
    def _opened(self) -> Iterator[Shelves]:
        """The shelves of all models, for the settings that are asked for."""
        c, wanted = self.config, {hashed(prompt) for prompt in self._prompts}
        settings = [Sampling(0.0, 1.0, 0, c.max_new_tokens)] if c.greedy else []
        settings += [Sampling(c.temperature, c.top_p, c.seed, c.max_new_tokens)] if c.n else []
        shelves = [(one, s, self._shelf(one, s, wanted)) for one in self.contestants for s in settings]
        try:
            yield shelves
        finally:
            for *_, shelf in shelves:
                shelf.close()

    def _shelf(self, contestant: Contestant, sampling: Sampling, wanted: set[str]) -> Shelf:
        return self._store.shelf(contestant.key, sampling, contestant.model.style, wanted)

    def _numbers(self, sampling: Sampling) -> range:
        return range(1 if sampling.greedy else self.config.n)

    def _groups(self, shelves: Shelves) -> list[Shelves]:
        """The shelves of those models together that can share passes: base and plain LoRAs of one network."""
        groups: dict[Hashable, list[tuple[Contestant, Sampling, Shelf]]] = {}
        for contestant, sampling, shelf in shelves:
            engine, adapter = contestant.model.engine, contestant.adapter
            kind = None if engine.scales(adapter) else adapter
            groups.setdefault((id(engine), kind), []).append((contestant, sampling, shelf))
        return list(groups.values())

    def _make(self, group: Shelves, places: Sequence[int], cancelled: Callable[[], bool]) -> Iterator[None]:
        """Make the completions of some problems that are missing; returns to the caller several times a second."""
        asked: list[tuple[SampleRequest, Contestant, Shelf]] = []
        for place in places:
            prompt = self._prompts[place]
            for contestant, sampling, shelf in group:
                numbers = self._numbers(sampling)
                missing = [number for number in numbers if (hashed(prompt), number) not in shelf.found]
                self._at += len(numbers) - len(missing)
                self._cached += len(numbers) - len(missing)
                if missing:
                    asked.append((SampleRequest(prompt, missing, sampling, contestant.adapter), contestant, shelf))
        if not asked:
            return
        requests, model = [request for request, *_ in asked], group[0][0].model
        tallies = [self._tallies[name] for name in {contestant.name for _, contestant, _ in asked}]
        before, began = sum(tally.seconds for tally in tallies), time.monotonic()
        for samples in sample_continuously(
            model.engine,
            requests,
            stop_ids=model.stop_ids,
            rows=fitting_rows(model.engine, longest_of(requests)),
            over=Endings(model, [request.prompt_ids for request in requests]),
            cancelled=cancelled,
        ):
            for sample in samples:
                request, contestant, shelf = asked[sample.prompt]
                tally, one = self._tallies[contestant.name], read(contestant, request.prompt_ids, sample)
                shelf.add(one)
                tally.tokens += one.length
                tally.fault = shelf.fault
            self._at += len(samples)
            made, spent = sum(tally.tokens for tally in tallies), before + time.monotonic() - began
            for tally in tallies:  # a token takes as long whoever writes it
                tally.seconds = spent * tally.tokens / made if made else 0.0
            yield

    def _grade(self, shelves: Shelves) -> bool:
        """Grade the next problems, a portion at most, as far as their completions are there; whether there were any."""
        first = len(self._solved)
        for place in range(first, min(first + PORTION, len(self.problems))):
            if not self._whole(place, shelves):
                break
            self._solved.append(self._graded(place, shelves))
        return len(self._solved) > first

    def _whole(self, place: int, shelves: Shelves) -> bool:
        """Whether all completions of a problem are there."""
        prompt = hashed(self._prompts[place])
        return all((prompt, number) in shelf.found for _, s, shelf in shelves for number in self._numbers(s))

    def _graded(self, place: int, shelves: Shelves) -> ProblemRow:
        """One problem, as all models answered it; what its answers were judged to be is kept."""
        greedy, drawn = dict[str, Answered](), dict[str, list[Answered]]()
        prompt, problem = hashed(self._prompts[place]), self.problems[place]
        for contestant, sampling, shelf in shelves:
            if sampling.greedy:
                greedy[contestant.name] = shelf.found[prompt, 0]
            else:
                drawn[contestant.name] = [shelf.found[prompt, number] for number in range(self.config.n)]
        solved = ProblemRow.graded(problem, greedy, drawn)
        for _, sampling, shelf in shelves:
            answers = {shelf.found[prompt, number].answer for number in self._numbers(sampling)}
            verdicts = {text: solved.verdicts[text] for text in answers if text is not None}
            shelf.judge(prompt, problem.answer or "", verdicts)
        return solved

    def _report(self, done: bool) -> EvalReport:
        return EvalReport(
            set_name=self.set_name,
            config=self.config,
            contestants=tuple(self.contestants),
            of_problems=len(self.problems),
            solved=tuple(self._solved),
            tallies={name: replace(tally) for name, tally in self._tallies.items()},
            at=self._at,
            of=self.of,
            done=done,
            seconds=time.monotonic() - self._began,
            cached=self._cached,
            seen=self._seen,
            check=self._check,
        )


def read(contestant: Contestant, prompt: Sequence[int], sample: Sample) -> Answered:
    """A finished completion, with its answer as it is written there."""
    answer = contestant.model.find_answer(prompt, sample.ids)
    return Answered(hashed(prompt), sample.number, len(sample.ids), answer, sample.stop, tuple(sample.ids))


def hashed(prompt: Sequence[int]) -> str:
    """Return the hash, 16 hexadecimal digits, under which a prompt's completions are stored."""
    return prompt_key(prompt).hex()


# -- Kept completions looked at again, by the present rules and without a pass of any network -------------------------


class Regrading(Evaluation):
    """An evaluation of what is kept: each answer is read from its token ids again and compared with the known one.

    Completions that were kept by the other rule of what counts as an answer are taken too: what a model writes does not
    depend on it. Problems of which a completion is missing are left out and counted. What is found is kept, so that
    later evaluations show it as well.
    """

    def run(self, cancelled: Callable[[], bool] = never) -> Iterator[EvalReport]:
        """Read and judge; the last report holds in `regraded` what has changed. RmxError where none is kept whole."""
        counts = ("completions", "changed", "answers_changed", "without_ids", "not_judged_before")
        changes = list[dict[str, Any]]()
        with self._opened() as shelves:
            left_out = self._leave_out(shelves)
            counted: dict[str, Any] = {**dict.fromkeys(counts, 0), "left_out": left_out, "changes": changes}
            for place in range(len(self.problems)):
                if cancelled():
                    break
                before = self._read_again(place, shelves, counted)
                solved = self._graded(place, shelves)
                self._solved.append(solved)
                for change in _changes(solved.problem.id, before, solved.verdicts):
                    counted["not_judged_before"] += change["before"]["correct"] is None
                    if change["before"]["correct"] not in (None, change["after"]["correct"]):
                        changes.append(change)
                counted["changed"] = len(changes)
                yield replace(self._report(len(self._solved) == len(self.problems)), regraded=counted)

    def _shelf(self, contestant: Contestant, sampling: Sampling, wanted: set[str]) -> Shelf:
        """The kept completions by the present rule, and those by the others which that one lacks."""
        style, key = contestant.model.style, contestant.key
        shelf = self._store.shelf(key, sampling, style, wanted, with_ids=True)
        for rule in RULES:
            if rule != style.answers:
                other = self._store.shelf(key, sampling, replace(style, answers=rule), wanted, with_ids=True)
                shelf.borrow(other)
        return shelf

    def _leave_out(self, shelves: Shelves) -> int:
        """Keep the problems alone of which everything is there; returns how many were left out."""
        there = [self._whole(place, shelves) for place in range(len(self.problems))]
        if not any(there):
            raise RmxError(
                "Of none of these problems all completions are kept. Evaluate once without --regrade, with the same "
                "models, samples, temperature and limit; what is kept may also have made room (RMX_KEPT_GB)."
            )
        self.problems = [p for p, whole in zip(self.problems, there, strict=True) if whole]
        self._prompts = [p for p, whole in zip(self._prompts, there, strict=True) if whole]
        return there.count(False)

    def _read_again(
        self, place: int, shelves: Shelves, counted: dict[str, Any]
    ) -> list[tuple[str, int | None, Answered, Answered, bool | None]]:
        """Read the answers of one problem; returns each as it was, as it is, and what it was judged to be."""
        found, prompt, known = [], self._prompts[place], self.problems[place].answer or ""
        for contestant, sampling, shelf in shelves:
            for number in self._numbers(sampling):
                was = shelf.found[hashed(prompt), number]
                right = False if was.truncated else shelf.judged(was.prompt, known, was.answer)
                now = replace(was, answer=contestant.model.find_answer(prompt, was.ids)) if was.ids else was
                shelf.read_again(now)
                counted["completions"] += 1
                counted["without_ids"] += not was.ids
                counted["answers_changed"] += now != was
                found.append((contestant.name, None if sampling.greedy else number, was, now, right))
        self._at += len(found)
        self._cached += len(found)
        return found


def _changes(
    problem: str, found: Sequence[tuple[str, int | None, Answered, Answered, bool | None]], verdicts: dict[str, bool]
) -> Iterator[dict[str, Any]]:
    """Each completion with its answer and verdict as they were and as they are; `sample` is null for the greedy one."""
    for model, sample, was, now, right in found:
        is_right = now.answer is not None and not now.truncated and verdicts[now.answer]
        before, after = {"answer": was.answer, "correct": right}, {"answer": now.answer, "correct": is_right}
        yield {"id": problem, "model": model, "sample": sample, "before": before, "after": after}
