"""Rollouts: K graded completions of each problem, sampled here; and their files, ours and the official pipeline's."""

import json
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from rmx.arguments import Sampling
from rmx.config import is_number
from rmx.engine.batch import SampleRequest, longest_of, not_over, sample_continuously
from rmx.engine.decoding_memory import fitting_rows
from rmx.errors import TrainError, first_line
from rmx.grading.answers import CUT
from rmx.models.load import Model
from rmx.models.stopping import Endings
from rmx.records import Problem, Rollout, Stop, is_fork
from rmx.runs.recipe import RolloutConfig
from rmx.storage.safe_files import disk, write_json
from rmx.train.step.items import with_advantages

log = logging.getLogger(__name__)
Key = tuple[str, int]  # a problem's id and which of its rollouts


def sample_rollouts(
    model: Model,
    problems: Sequence[Problem],
    config: RolloutConfig,
    seed: int,
    done: Collection[Key],
    *,
    adapter: str | None = None,
    rows: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Rollout]:
    """Sample what is missing of `config.k` completions of each problem, and yield each as it ends.

    Completions end with an end token, with a stop text of the prompt style or at a limit, not at their answer. A stage
    that broke off makes what is missing from the same draws; its order is another, and so may be a token where a draw
    falls on the edge between two (rmx/engine/batch.py). The engine's turn is taken for a quarter of a
    second at a time.

    Args:
        seed: of the draws, which depend on it, the prompt, the completion's number and the position alone.
        done: rollouts that are there already.
        rows: completions decoded together; None: as many as memory allows, 64 at most.
        cancelled: asked between steps; unfinished completions are dropped.
    """
    prompts = [model.prompt_ids(p.problem) for p in problems]
    sampling = Sampling(config.temperature, config.top_p, seed, config.max_new_tokens)
    missing = [
        SampleRequest(prompt, [gen for gen in range(config.k) if (problem.id, gen) not in done], sampling, adapter)
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    ended = sample_continuously(
        model.engine,
        missing,
        stop_ids=model.stop_ids,
        rows=rows or fitting_rows(model.engine, longest_of(missing)),
        over=Endings(model, prompts, answers=False) if model.style.stops else not_over,
        cancelled=cancelled,
    )
    for samples in ended:
        for s in samples:
            problem, prompt = problems[s.prompt], prompts[s.prompt]
            yield graded(model, problem, s.number, prompt, s.ids, s.stop, s.entropies)


def graded(
    model: Model,
    problem: Problem,
    gen_index: int,
    prompt_ids: Sequence[int],
    ids: Sequence[int],
    stop: Stop,
    entropies: Sequence[float] | None,
) -> Rollout:
    """A completion with its answer. Without a known answer nothing counts as right, nor does what was cut off."""
    answer = model.grade(prompt_ids, ids, problem.answer, cut=stop in CUT)
    return Rollout(
        problem_id=problem.id, gen_index=gen_index, input_ids=(*prompt_ids, *ids), prompt_length=len(prompt_ids),
        correct=bool(answer.correct), answer=answer.text, stop=stop,
        entropies=None if entropies is None else tuple(entropies),
    )  # fmt: skip


# -- Files: lines of JSON, which grow while a stage runs, and the official pipeline's scored file ---------------------


OFFICIAL = {"input_ids": "tokens", "completion_length": "num_completion_tokens"}  # our names -> the official file's


def to_row(rollout: Rollout) -> dict[str, Any]:
    """One line of our files."""
    row = _named(rollout) | {name: _listed(getattr(rollout, name)) for name in ("answer", "stop", "entropies")}
    later = {name: _listed(getattr(rollout, name)) for name in ("advantage", "decision_positions")}
    return row | {name: value for name, value in later.items() if value is not None}


def _named(rollout: Rollout) -> dict[str, Any]:
    names = ("problem_id", "gen_index", "input_ids", "prompt_length", "completion_length", "correct")
    return {name: _listed(getattr(rollout, name)) for name in names}


def _listed(value: Any) -> Any:
    """A tuple as JSON has it, so that a document in memory equals the file's."""
    return list(value) if isinstance(value, tuple) else value


def from_row(row: Any, place: str) -> Rollout:
    """One row of ours or of the official file, which a refusal calls `place`; unknown keys are passed over."""
    if not isinstance(row, dict):
        _refuse(place, "is no JSON object")
    row = row | {ours: row.get(theirs) for ours, theirs in OFFICIAL.items() if row.get(ours) is None}
    ids, prompt = _whole_numbers(row, "input_ids", place, 0), _whole(row, "prompt_length", place, 1)
    told = row["completion_length"] is not None or len(ids) < prompt
    length = _whole(row, "completion_length", place, 0) if told else len(ids) - prompt
    if prompt + length != len(ids):
        _refuse(place, f"has {len(ids)} tokens, but prompt_length {prompt} and completion_length {length}")
    problem, correct, advantage = row.get("problem_id"), row.get("correct"), row.get("advantage")
    if not (isinstance(problem, str) and problem) and type(problem) is not int:
        _refuse(place, "needs problem_id, a name or a number", problem)
    gen_index = _whole(row, "gen_index", place, 0)
    if correct not in (0, 1):  # True and False among them
        _refuse(place, "needs correct, true or false", correct)
    entropies = _entropies(row.get("entropies"), place, length)
    if advantage is not None and not is_number(advantage):
        _refuse(place, "needs a number as its advantage", advantage)
    positions, answer, stop = row.get("decision_positions"), row.get("answer"), row.get("stop")
    if positions is not None:
        positions = _whole_numbers(row, "decision_positions", place, prompt - 1, len(ids) - 2)
    # The official file's words for how a rollout stopped are its own.
    return Rollout(
        problem_id=str(problem), gen_index=gen_index, input_ids=ids, prompt_length=prompt, correct=bool(correct),
        answer=None if answer is None else str(answer), stop=stop if stop in get_args(Stop) else None,
        entropies=entropies, advantage=None if advantage is None else float(advantage), decision_positions=positions,
    )  # fmt: skip


def _refuse(place: str, what: str, value: Any = None) -> NoReturn:
    got = "" if value is None else f", not {json.dumps(value)[:40]}"
    raise TrainError(f"{place} {what}{got}. Correct the file, or sample the rollouts anew.")


def _whole(row: Mapping[str, Any], name: str, place: str, least: int) -> int:
    value = row.get(name)
    if type(value) is not int or value < least:
        _refuse(place, f"needs {name}, a whole number from {least} on", value)
    return value


def _whole_numbers(
    row: Mapping[str, Any], name: str, place: str, least: int, most: int | None = None
) -> tuple[int, ...]:
    values, limits = row[name], f"from {least} on" if most is None else f"from {least} to {most}"
    if not isinstance(values, list):
        _refuse(place, f"needs {name}, a list of whole numbers {limits}", values)
    for value in values:
        if type(value) is not int or value < least or (most is not None and value > most):
            _refuse(place, f"has {json.dumps(value)[:40]} among its {name}, which are whole numbers {limits}")
    return tuple(values)


def _entropies(values: Any, place: str, length: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != length:
        found = len(values) if isinstance(values, list) else 0
        _refuse(place, f"has {found} entropies for {length} completion tokens, where each token needs its own")
    for value in values:
        if not is_number(value) or value < 0:
            _refuse(place, f"has {json.dumps(value)[:40]} among its entropies, which are nats, 0 or more")
    return tuple(map(float, values))


def read_rollouts(path: Path) -> list[Rollout]:
    """The rollouts of one of our files or of an official one, in their order; of two with one name the first."""
    data = _bytes(path)
    rows = _official_rows(data, path.name)
    found = [from_row(row, place) for row, place in (_lines(data, path.name) if rows is None else rows)]
    if not found:
        raise TrainError(f"{path.name} holds no rollouts. Give a file that rmx rollouts or the official scripts wrote.")
    return _once(found)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        log.warning("%s: %s", path, error)
        raise TrainError(f"The rollouts {path.name} cannot be read ({error.strerror}). Check the path.") from error


def _official_rows(data: bytes, name: str) -> list[tuple[Any, str]] | None:
    """The rows of a file that is one JSON document; None where it is one document a line."""
    head = data.partition(b"\n")[0]
    try:
        first = json.loads(head)
    except ValueError:
        first = None
    if isinstance(first, dict) and "rollouts" not in first:
        return None
    try:
        document = json.loads(data)
    except ValueError as error:
        if head.lstrip().startswith(b'{"problem_id"') or first is not None or not data.strip():
            return None
        raise TrainError(f"{name} is neither JSON nor lines of JSON ({error}). Give a file of rollouts.") from error
    rows = document.get("rollouts") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise TrainError(f'{name} has no list "rollouts". Give a file that rmx rollouts or the official scripts wrote.')
    return [(row, f"{name}, rollout {i}") for i, row in enumerate(rows, 1)]


def _lines(data: bytes, name: str) -> Iterator[tuple[Any, str]]:
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line), f"{name}, line {number}"
        except ValueError as error:
            if number == len(lines):
                return  # whoever wrote it was stopped half way
            said = f"{name}, line {number} is not JSON ({error})."
            raise TrainError(f"{said} Correct the line, or sample the rollouts anew.") from error


def _once(rollouts: Sequence[Rollout]) -> list[Rollout]:
    return list({(r.problem_id, r.gen_index): r for r in reversed(rollouts)}.values())[::-1]


def write_official(path: Path, rollouts: Sequence[Rollout], tau: float) -> None:
    """The scored JSON of the official pipeline.

    Advantages that are missing are made; decisions are the file's own positions, else the tokens above tau (nats).
    """
    pairs = zip(rollouts, with_advantages(rollouts), strict=True)
    rows = [_official_row(given if given.advantage is not None else scored, tau) for given, scored in pairs]
    with disk(path):
        write_json(path, {"rollouts": rows, "config": {"tau": tau}})


def _official_row(rollout: Rollout, tau: float) -> dict[str, Any]:
    first, positions = rollout.prompt_length - 1, rollout.decision_positions
    if positions is None and rollout.entropies is None:
        said = f"Rollout {rollout.gen_index} of problem {rollout.problem_id} has no entropies."
        raise TrainError(f"{said} Score the rollouts first.")
    if positions is None:
        positions = tuple(first + i for i, h in enumerate(rollout.entropies or ()) if is_fork(h, tau))
    return _named(rollout) | {
        "reward": float(rollout.correct), "advantage": rollout.advantage, "entropies": rollout.entropies,
        "generation_pred_start": first, "decision_positions": positions,
    }  # fmt: skip


class RolloutLog:
    """A stage's rollouts, one line each as they are made. `FILE.meta.json` beside it says how they were sampled."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, json.loads(json.dumps(dict(settings)))
        self._meta = path.with_name(path.name + ".meta.json")
        self._there, self._looked = set[tuple[str, int]](), False

    def read(self) -> list[Rollout]:
        """What is there. A last line that broke off is cut away, so that the next one begins where it began."""
        self._check_settings()
        data = _bytes(self.path) if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        found = _once([from_row(row, place) for row, place in _lines(whole, self.path.name)])
        self._there, self._looked = {(r.problem_id, r.gen_index) for r in found}, True
        return found

    def append(self, rollout: Rollout) -> None:
        """Add one line; a rollout that is there already is passed over."""
        if not self._looked:
            self.read()
        key = rollout.problem_id, rollout.gen_index
        if key in self._there:
            return
        line = json.dumps(to_row(rollout)) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            said = f"{self.path.name} cannot be written ({error.strerror})."
            raise TrainError(f"{said} Make room and resume the run.") from error
        self._there.add(key)

    def remove(self) -> None:
        """Remove the file and what is beside it."""
        self.path.unlink(missing_ok=True)
        self._meta.unlink(missing_ok=True)

    def _check_settings(self) -> None:
        if not self._meta.exists():
            if self.path.exists() and self.path.stat().st_size:
                said = f"{self.path.name} does not say how it was sampled ({self._meta.name} is missing)."
                raise TrainError(f"{said} Train from it with --from-rollouts, or give the run a new folder.")
            with disk(self._meta):
                write_json(self._meta, self.settings)
            return
        try:
            begun = json.loads(self._meta.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = f"{self._meta.name} cannot be read ({first_line(error)})"
            raise TrainError(f"{why}. Give the run a new folder.") from error
        if not isinstance(begun, dict):
            raise TrainError(f"{self._meta.name} is no JSON object. Give the run a new folder.")
        names = sorted({*begun, *self.settings})
        other = [n for n in names if begun.get(n) != self.settings.get(n)]
        if other:
            said = "; ".join(f"{n} was {begun.get(n)}, now {self.settings.get(n)}" for n in other)
            raise TrainError(f"{self.path.name} was begun with other settings: {said}. Give the run a new folder.")
