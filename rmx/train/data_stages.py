"""The first stages of a run, rollouts, selection and gate, and what all stages share: folder, progress, stopping."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from rmx.errors import Stopped, TrainError, first_line
from rmx.grading.answers import CUT
from rmx.models.load import Model, load
from rmx.records import Problem, Rollout, as_json
from rmx.runs.folder import RunFolder
from rmx.runs.job import Problems, TrainJob, problems_of
from rmx.runs.recipe import RolloutConfig
from rmx.storage.safe_files import disk, write_json
from rmx.train.rollout_server import Report, server_rollouts
from rmx.train.rollouts import RolloutLog, read_rollouts, sample_rollouts, write_official
from rmx.train.step.items import Item, make_items, pass_histogram, select, tau_of_share
from rmx.train.step.processes import Team, dealt
from rmx.train.step.scoring import score

Event = tuple[str, dict[str, Any]]  # kind and figures
INTERVAL = 0.5  # seconds between two progress events of a stage


@dataclass
class Context:
    """One run under way."""

    job: TrainJob
    folder: Path
    model: Model
    problems: Problems
    stop: Callable[[], bool]
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage, over all starts of this run
    team: Team | None = None  # of several processes
    teacher: str | None = None  # of a distillation: whose solutions are sampled; None: the base's
    adapter: str | None = None  # the teacher, where it is an adapter of `model`
    _told: bool = False  # whether the status tells of a check
    _due: float = 0.0  # when it may tell more

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.team is None or self.team.is_main_process

    @property
    def took(self) -> float:
        """Seconds of all stages so far."""
        return round(sum(self.seconds.values()), 1)

    def meet(self) -> None:
        """Wait until all processes of the run are here."""
        if self.team is not None:
            self.team.meet()

    def check_stop(self) -> None:
        """Raise Stopped if the run was asked to stop."""
        if self.stop():
            raise Stopped

    def checking(self, at: int, of: int) -> None:
        """Have the run's status tell, twice a second at most, that a check has solved `at` of `of` problems."""
        over = at >= of
        if self.main and (self._told if over else time.monotonic() >= self._due):
            self._told, self._due = not over, time.monotonic() + INTERVAL
            RunFolder(self.folder).set_status(checking=None if over else {"at": at, "of": of})

    def read(self, name: str) -> dict[str, Any] | None:
        """A stage's file, None where the stage is not complete."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = f"{name} of this run cannot be read ({first_line(error)})"
            raise TrainError(f"{why}. Remove it to make it anew.") from error
        return found

    def write(self, name: str, content: dict[str, Any]) -> None:
        """A stage's file, in one move: it is there whole or not at all."""
        with disk(self.folder / name):
            write_json(self.folder / name, content)


@dataclass
class StageProgress:
    """How far a stage is, how long it may take still, and when to say so."""

    stage: str
    of: int
    at: int = 0

    def __post_init__(self) -> None:
        self._began, self.first, self._due = time.monotonic(), self.at, 0.0

    @property
    def left(self) -> float | None:
        """Seconds, at the pace so far."""
        done = self.at - self.first
        return round((time.monotonic() - self._began) * (self.of - self.at) / done, 1) if done > 0 else None

    def advance(self) -> Iterator[Event]:
        """One more is done; tell so where it is time."""
        self.at += 1
        if self.due():
            yield self.event()

    def due(self) -> bool:
        """Whether it is time to tell."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + INTERVAL
        return True

    def event(self) -> Event:
        return "stage", {"stage": self.stage, "at": self.at, "of": self.of, "left": self.left}


# -- The stages; after a restart each is read back from its file ------------------------------------------------------


ROLLOUTS, VALIDATION = "rollouts.jsonl", "validation_rollouts.jsonl"
SELECTION, GATE = "selection.json", "gate.json"
VALIDATION_SEED = 1  # added to the run's own, for rollouts that nothing is learned from


@dataclass(frozen=True, slots=True)
class Draw:
    """Some problems, how they are sampled, and the file that the rollouts go to."""

    name: str
    problems: Sequence[Problem]
    config: RolloutConfig
    seed: int
    told: bool = True  # whether events tell of them, or only checks read them


def rollouts_stage(run: Context) -> Iterator[Event]:
    """Sample what is missing of K rollouts per problem, for training and for validation."""
    recipe, draws = run.job.recipe, [] if run.job.from_rollouts else [train_draw(run)]
    if recipe.check.validation_k and run.problems.validation:
        few = replace(recipe.rollouts, k=max(2, recipe.check.validation_k))
        draws.append(Draw(VALIDATION, run.problems.validation, few, recipe.seed + VALIDATION_SEED, told=False))
    yield from sample(run, draws)


def train_draw(run: Context, name: str = ROLLOUTS) -> Draw:
    """The rollouts that are learned from."""
    return Draw(name, run.problems.train, run.job.recipe.rollouts, run.job.recipe.seed)


def sample(run: Context, draws: Sequence[Draw]) -> Iterator[Event]:
    """Bring each file to `k` rollouts per problem, telling how far all of them are together."""
    there = [_there(run, draw) for draw in draws]
    wanted = sum(len(draw.problems) * draw.config.k for draw in draws)
    progress = StageProgress("rollouts", wanted, sum(map(len, there)))
    for draw, found in zip(draws, there, strict=True):
        # The first process writes the file itself, each other one a file beside it.
        name = draw.name if run.main or not run.team else _beside(draw.name, f"{run.team.process_index}")
        report, log = Report(), rollout_log(run, draw, name)
        for rollout in _source(run, draw, found, report):
            log.append(rollout)
            found.append(rollout)
            _count(run, progress, 1)
            if progress.due():
                yield progress.event()
                yield from _figures(run, draw, found, report)
        run.check_stop()
        if run.team is not None:
            for _ in run.team.waiting():
                _count(run, progress, 0)
                if progress.due():
                    yield progress.event()
            found = _there(run, draw)
        yield progress.event()
        yield from _figures(run, draw, found, report)


def _source(run: Context, draw: Draw, found: Sequence[Rollout], report: Report) -> Iterator[Rollout]:
    """What is missing, of several processes this one's share; a server's completions are counted in `report`."""
    done = {(r.problem_id, r.gen_index): r.completion_length for r in found}
    if run.job.server:
        problems = draw.problems if run.main else []
    else:
        problems = [draw.problems[i] for i in dealt(len(draw.problems), run.team)]
    asked = run.model, problems, draw.config, draw.seed, done
    if not problems:
        return iter(())
    if run.job.server:
        return server_rollouts(run.job.server, *asked, cancelled=run.stop, report=report)
    return sample_rollouts(*asked, adapter=run.adapter, cancelled=run.stop)


def _count(run: Context, progress: StageProgress, more: int) -> None:
    progress.at = progress.first + run.team.count("rollouts", more) if run.team else progress.at + more


def _beside(name: str, process: str) -> str:
    return f"{name.removesuffix('.jsonl')}.process-{process}.jsonl"


def _there(run: Context, draw: Draw) -> list[Rollout]:
    """The rollouts of a draw so far, what other processes have sampled included; only the first moves it over."""
    log = rollout_log(run, draw)
    if run.main:
        for path in sorted(run.folder.glob(_beside(draw.name, "*"))):
            part = rollout_log(run, draw, path.name)
            for rollout in part.read():
                log.append(rollout)
            part.remove()
    run.meet()
    found = log.read()
    run.meet()
    return found


def rollout_log(run: Context, draw: Draw, name: str | None = None) -> RolloutLog:
    """The file of a draw's rollouts, which refuses to go on under other settings."""
    source = {"teacher": run.teacher} if run.teacher else {"server": run.job.server}
    asked = as_json(draw.config, "temperature", "top_p", "max_new_tokens")
    model = {"model": run.model.revision, "dtype": run.model.dtype}
    settings = model | source | asked | {"seed": draw.seed} | run.model.style.settings()
    return RolloutLog(run.folder / (name or draw.name), settings)


def _figures(run: Context, draw: Draw, found: Sequence[Rollout], report: Report) -> Iterator[Event]:
    if draw.told:
        told = rollout_figures(found, len(draw.problems), draw.config.k)
        yield "rollouts", told | ({"server": report.json()} if run.job.server else {})


def rollout_figures(found: Sequence[Rollout], problems: int, k: int) -> dict[str, Any]:
    """Counts of what was sampled so far; the histogram counts problems with all their k rollouts."""
    of_each = Counter(r.problem_id for r in found)
    whole = [r for r in found if of_each[r.problem_id] >= k]
    return {
        "at": sum(n >= k for n in of_each.values()), "of": problems, "k": k, "rollouts": len(found),
        "tokens": sum(r.completion_length for r in found), "right": sum(r.correct for r in found),
        "truncated": sum(r.stop in CUT for r in found), "unparsed": sum(r.answer is None for r in found),
        "histogram": list(pass_histogram(whole, k)),
    }  # fmt: skip


def selection_stage(run: Context) -> tuple[list[Rollout], Event]:
    """The rollouts that teach, each with its advantage."""
    job = run.job
    found = read_rollouts(Path(job.from_rollouts)) if job.from_rollouts else rollout_log(run, train_draw(run)).read()
    if given := _given(found):
        return found, ("selection", given)
    if stored := run.read(SELECTION):
        sampled = {(r.problem_id, r.gen_index): r for r in found}
        chosen = [replace(sampled[p, g], advantage=a) for p, g, a in stored["rollouts"]]
        return chosen, ("selection", stored["figures"])
    made = select(found, job.recipe.selection)
    rows = [[r.problem_id, r.gen_index, r.advantage] for r in made.rollouts]
    if run.main:
        run.write(SELECTION, {"figures": made.json(), "rollouts": rows})
    return list(made.rollouts), ("selection", made.json())


def _given(found: Sequence[Rollout]) -> dict[str, Any] | None:
    """The event's figures of rollouts that whoever wrote their file has selected; None of others."""
    if all(r.advantage is None for r in found):
        return None
    right, problems = sum(r.correct for r in found), len({r.problem_id for r in found})
    counts = {"problems": problems, "sampled": len(found), "kept": problems, "rollouts": len(found), "trimmed": 0}
    return counts | {"right": right, "wrong": len(found) - right, "out": {}, "histogram": []}


@dataclass(frozen=True, slots=True)
class Gated:
    """What training starts from."""

    tau: float | None  # nats; None where the file's own decision positions count
    items: list[Item]

    def figures(self, kind: str) -> dict[str, Any]:
        """Counts for the event `gate`."""
        tokens = sum(i.rollout.completion_length for i in self.items)
        gated = sum(len(i.decisions) for i in self.items)
        return {
            "tau": self.tau, "tokens": tokens, "gated": gated, "share": gated / tokens if tokens else 0.0,
            "gated_right": sum(len(i.decisions) for i in self.items if i.advantage > 0),
            "gated_wrong": sum(len(i.decisions) for i in self.items if i.advantage < 0), "gate": kind,
        }  # fmt: skip


def threshold(run: Context, rollouts: Sequence[Rollout]) -> float | None:
    """The gate's tau: as the recipe names it, else the file's own decisions (None), else the model's threshold."""
    gate = run.job.recipe.gate
    if gate.tau is not None:
        return gate.tau
    if gate.tau_share is not None:
        return tau_of_share(rollouts, gate.tau_share)
    if all(r.decision_positions is not None for r in rollouts):
        return None
    return run.model.tau


def gate_stage(run: Context, rollouts: Sequence[Rollout]) -> Gated:
    """The decision tokens of each rollout; `rollouts` have entropies unless their file names the decisions."""
    recipe, tau = run.job.recipe, threshold(run, rollouts)
    return Gated(tau, make_items(rollouts, recipe.gate, tau, recipe.loss, recipe.optim.max_seq_len, recipe.seed))


def sample_to_file(job: TrainJob, out: Path, official: bool = False) -> Iterator[Event]:
    """Sample K rollouts of each problem; a file that was begun under the same settings is completed.

    `official`: select, score and gate them too, and write what the official scripts read; the rollouts lie beside it.
    """
    log = out.with_suffix(".jsonl") if official else out
    model = load(job.model, job.device, job.dtype).ask_in(job.style, job.set_name)
    run = Context(job, out.parent, model, problems_of(job), lambda: False)
    draw = train_draw(run, log.name)
    yield from sample(run, [draw])
    if official:
        chosen = select(rollout_log(run, draw).read(), job.recipe.selection)
        yield "selection", chosen.json()
        scored = list(score(run.model, chosen.rollouts))
        tau = threshold(run, scored)
        write_official(out, scored, run.model.tau if tau is None else tau)


# -- What a dry run shows ---------------------------------------------------------------------------------------------


LEVELS = tuple(round(0.05 * i, 2) for i in range(81))  # nats, 0 to 4
SHOWN = 24  # rollouts whose tokens are sent


def stored_selection(job: TrainJob, folder: Path) -> tuple[list[Rollout], dict[str, Any]]:
    """The selected rollouts of a run, read from its files alone; what a dry run shows."""
    path = Path(job.from_rollouts) if job.from_rollouts else folder / ROLLOUTS
    if not path.exists():
        raise TrainError("This run has no rollouts yet. Let it sample some first.")
    found = read_rollouts(path)
    figures = _given(found)
    if not figures:
        made = select(found, job.recipe.selection)
        found, figures = list(made.rollouts), made.json()
    if any(r.entropies is None for r in found):
        raise TrainError("The rollouts of this run came without entropies, so the gate cannot be shown here.")
    return [r if r.advantage is not None else replace(r, advantage=0.0) for r in found], figures


def dry_message(
    model: Model,
    rollouts: Sequence[Rollout],
    *,
    run: str | None,
    tau: float,
    k: int,
    max_seq_len: int,
    selection: dict[str, Any],
    estimate: dict[str, Any] | None,
) -> dict[str, Any]:
    """The message that a page needs to move tau without asking again."""
    if not rollouts:
        raise TrainError("There is no rollout to look at. Sample some first, or name a file that has some.")
    read = [(r, _nats(r, max_seq_len)) for r in rollouts]
    right, wrong, zero = ([h for r, h in read if _sign(r) == sign] for sign in (1, -1, 0))
    return {
        "kind": "dry", "run": run, "tau": tau, "k": k,
        "rollouts": [_shown(model, r, max_seq_len) for r in shown(rollouts)], "levels": list(LEVELS),
        "gated_right": counts_above(right), "gated_wrong": counts_above(wrong), "gated_zero": counts_above(zero),
        "tokens": sum(len(h) for _, h in read), "of_rollouts": len(rollouts), "selection": selection,
        "estimate": estimate,
    }  # fmt: skip


def counts_above(entropies: Iterable[Sequence[float]]) -> list[int]:
    """For each of `LEVELS` how many entropies exceed it; one that equals the level does not, as in the gate."""
    pooled = np.sort(np.concatenate([np.zeros(0), *(np.asarray(h, dtype=float) for h in entropies)]))
    return (len(pooled) - np.searchsorted(pooled, LEVELS, side="right")).tolist()


def shown(rollouts: Sequence[Rollout], limit: int = SHOWN) -> list[Rollout]:
    """At most `limit` rollouts: from each problem in turn one right and one wrong, then second ones, and so on."""
    problems: dict[str, tuple[list[Rollout], list[Rollout]]] = {}
    for rollout in rollouts:
        problems.setdefault(rollout.problem_id, ([], []))[0 if rollout.correct else 1].append(rollout)
    pairs = ([[r for r in pair if r] for pair in zip_longest(*sides)] for sides in problems.values())
    rounds = zip_longest(*pairs, fillvalue=())
    return [r for round_ in rounds for pair in round_ for r in pair][:limit]


def _nats(rollout: Rollout, max_seq_len: int) -> Sequence[float]:
    if rollout.entropies is None or rollout.advantage is None:
        raise ValueError(f"{rollout.problem_id}/{rollout.gen_index} has no entropies or no advantage")
    return rollout.entropies[: max(max_seq_len - rollout.prompt_length, 0)]


def _sign(rollout: Rollout) -> int:
    advantage = rollout.advantage or 0.0
    return (advantage > 0) - (advantage < 0)


def _shown(model: Model, rollout: Rollout, max_seq_len: int) -> dict[str, Any]:
    nats, pieces = _nats(rollout, max_seq_len), model.detokenizer.stream()
    texts = [pieces.feed(token) for token in rollout.completion_ids[: len(nats)]]
    if texts:
        texts[-1] += pieces.flush()
    return {
        "problem_id": rollout.problem_id, "gen": rollout.gen_index, "correct": rollout.correct,
        "advantage": rollout.advantage, "toks": [[text, round(h, 6)] for text, h in zip(texts, nats, strict=True)],
    }  # fmt: skip
