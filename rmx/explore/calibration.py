"""From a share of tokens to a threshold in nats, by a model's own solutions.

A model is calibrated once per weights, prompt style and problem set: it solves the set's first problems greedily, as
everything here does unless it is asked to sample, and the quantiles of its entropies are kept on disk. The bundled
miniature brings its calibration, which was sampled at temperature 1 as in training.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from rmx.arguments import Sampling
from rmx.config import ASSETS, cache_dir, check_tau, is_number
from rmx.data.problem_sets import load_set, split_name
from rmx.engine.batch import SampleRequest, longest_of, sample_continuously
from rmx.engine.decoding_memory import fitting_rows
from rmx.engine.engine import Engine
from rmx.errors import NOT_HERE, ModelError, RmxError, shown
from rmx.explore.generate import Generation, Job
from rmx.models.base_state import base_tensors, digest
from rmx.models.load import Model, load
from rmx.models.stopping import Endings
from rmx.records import Problem, as_json
from rmx.storage.safe_files import read_json, write_json

log = logging.getLogger(__name__)
STORED = {"mini": ASSETS / "mini" / "calibration.json"}
STORED_STYLE = "mini"  # in which, and on which set, the stored solutions were asked
FORMAT = 1  # of the files, and of the rule that ends a solution
PROBLEMS, LONGEST = 16, 128  # solutions, and tokens of each at most
BINS = 1000
MOST_KEPT = 500  # files; of more, those made longest ago go
_weights: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold that a share of a model's tokens lies above, and what it was found from."""

    tau: float  # nats
    share: float  # of the tokens
    tokens: int | None
    problems: int | None
    temperature: float | None
    set_name: str
    style: str
    kept: bool  # whether the solutions were there before this call

    def json(self) -> dict[str, Any]:
        figures = as_json(self, "tau", "share", "tokens", "problems", "temperature")
        return figures | {"set": self.set_name, "style": self.style, "sentence": self.sentence}

    @property
    def sentence(self) -> str:
        """What came out, from how many tokens, and how."""
        how = "greedy" if self.temperature == 0 else f"sampled (temperature {self.temperature or 1:g})"
        return (
            f"{100 * self.share:.3g} % of {self.tokens or 0:,} tokens of {self.problems or 0} {how} solutions of "
            f"{self.set_name}, asked in the style {self.style}, have an entropy above {self.tau:.3g} nats."
        )


def threshold_of(model: Model, tau: float | None, share: float | None, set_name: str, again: bool = False) -> float:
    """The threshold in nats that is asked for, else that of the share that is asked for, else the model's own.

    Raises:
        RmxError: both are given, or the model cannot be calibrated.
    """
    if share is None:
        if again:
            raise RmxError("--recalibrate makes the solutions behind --tau-share anew; give a share as well.")
        return model.tau if tau is None else check_tau(tau)
    if tau is not None:
        raise RmxError("--tau and --tau-share say the same thing in two ways; give one of them.")
    return calibration_of(model, share, set_name, again=again).tau


def calibration_of(model: Model, share: float, set_name: str = "mini", *, again: bool = False) -> Calibration:
    """The threshold of a share of a model's tokens, calibrating the model if nothing is kept of it.

    A record holds "quantiles": entropies (nats) at 0, 1/n, 2/n … 1 of completion tokens; between them the threshold is
    interpolated.

    Args:
        model: in the prompt style that is asked about; its base is calibrated, without adapters.
        set_name: problem set; its first problems are solved.
        again: make the solutions anew, and keep these.

    Raises:
        RmxError: the share is not between 0 and 1, the set cannot be had, or the weights are in another process.
    """
    if not is_number(share) or not 0 < share < 1:
        raise RmxError(f"--tau-share must lie between 0 and 1; got {shown(share)}.")
    record, kept = _record(model, set_name, again)
    quantiles: list[float] = record["quantiles"]
    place = (1 - share) * (len(quantiles) - 1)
    low = min(int(place), len(quantiles) - 2)
    tau = round(quantiles[low] + (place - low) * (quantiles[low + 1] - quantiles[low]), 4)
    tokens, problems, temperature = (record.get(name) for name in ("tokens", "problems", "temperature"))
    asked = record.get("set", "mini:train")
    return Calibration(tau, share, tokens, problems, temperature, asked, model.style.name, kept)


def calibrate(model: Model, problems: Sequence[Problem]) -> dict[str, Any]:
    """Entropies of one completion per problem, sampled at temperature 1, as quantiles."""
    jobs = [
        Job(model.prompt_ids(problem.problem), Sampling(1.0, seed=i), model.tau, cold=True)
        for i, problem in enumerate(problems)
    ]
    entropies = [token.entropy for job in jobs for token in Generation(model, job).run().tokens]
    return _about(model, len(problems), entropies, 1.0) | {"seed": 0}


def calibrate_greedily(model: Model, problems: Sequence[Problem], longest: int) -> dict[str, Any]:
    """Entropies of the greedy solutions of some problems, decoded as one batch, as quantiles.

    Args:
        longest: tokens of a solution; longer ones are cut off.

    Raises:
        RmxError: not a single token was made.
    """
    prompts = [model.prompt_ids(p.problem) for p in problems]
    asked = [SampleRequest(prompt, (0,), Sampling(max_new_tokens=longest)) for prompt in prompts]
    ended = sample_continuously(
        model.engine,
        asked,
        stop_ids=model.stop_ids,
        rows=fitting_rows(model.engine, longest_of(asked)),
        over=Endings(model, prompts),
    )
    entropies = [entropy for samples in ended for sample in samples for entropy in sample.entropies]
    if not entropies:
        raise RmxError("No token was made, so a share cannot become a tau. Give --tau.")
    return _about(model, len(problems), entropies, 0.0)


def _about(model: Model, problems: int, entropies: Sequence[float], temperature: float) -> dict[str, Any]:
    quantiles = torch.tensor(entropies, dtype=torch.float64).quantile(torch.linspace(0, 1, BINS + 1).double())
    return {
        "model": model.spec,
        "revision": model.revision,
        "problems": problems,
        "tokens": len(entropies),
        "temperature": temperature,
        "quantiles": [round(q, 5) for q in quantiles.tolist()],
    }


# -- what is kept -----------------------------------------------------------------------------------------------------


def _record(model: Model, set_name: str, again: bool) -> tuple[Mapping[str, Any], bool]:
    """The record of this model, style and set, and whether it was there before."""
    if model.engine.remote is not None:
        raise ModelError(NOT_HERE)
    stored = STORED.get(model.spec)
    if split_name(set_name)[0] != "mini" or model.style.name != STORED_STYLE:
        stored = None
    if stored is not None and not again:
        return json.loads(stored.read_text(encoding="utf-8")), True
    problems = load_set(set_name)[:PROBLEMS]
    path = _place(model, problems)
    if not again and (record := _read(path)) is not None:
        return record, True
    log.info("Calibrating %s once on %d problems of %s; kept in %s", model.spec, len(problems), set_name, path)
    record = calibrate_greedily(model, problems, LONGEST) | {"set": set_name, "style": model.style.json()}
    _keep(path, record)
    return record, False


def _place(model: Model, problems: Sequence[Problem]) -> Path:
    """The file of these weights, asked these problems in this style."""
    parts = {
        "format": FORMAT,
        "weights": _weights_of(model.engine),
        "dtype": model.dtype,
        "device": model.engine.device.type,
        "stops": [sorted(model.stop_ids), list(model.style.stops), model.style.answers],
        "prompts": [model.prompt_ids(p.problem) for p in problems],
        "limits": [PROBLEMS, LONGEST],
    }
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
    return cache_dir() / "calibration" / f"{name}.json"


def _weights_of(engine: Engine) -> str:
    """A hash of the base's tensors, made once: no adapter changes them."""
    if engine not in _weights:
        with engine.queue.turn():
            _weights[engine] = digest(base_tensors(engine))
    return _weights[engine]


def _read(path: Path) -> Mapping[str, Any] | None:
    """What is kept there; None where nothing is, or it is not ours."""
    record = read_json(path)
    whole = isinstance(record, dict) and isinstance(record.get("quantiles"), list) and len(record["quantiles"]) > 1
    return record if whole and all(map(is_number, record["quantiles"])) else None


def _keep(path: Path, record: Mapping[str, Any]) -> None:
    """Write it down. A disk that refuses costs the next calibration, not this one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        for old in sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)[:-MOST_KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("The calibration is not kept: %s cannot be written (%s).", path, error.strerror)


if __name__ == "__main__":
    found = calibrate(load("mini", device="cpu"), load_set("mini:train")[:300])
    STORED["mini"].write_text(json.dumps(found) + "\n", encoding="utf-8")
