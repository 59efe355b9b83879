"""An evaluation: what it counts, that nothing is made twice, and that a broken one ends as an unbroken one."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rmx.data.problem_sets import load_set
from rmx.engine.engine import Engine
from rmx.errors import ModelError, ProblemError, RmxError
from rmx.evaluate import evaluation as evaluate_module
from rmx.evaluate.eval_report import (
    Contestant,
    EvalConfig,
    EvalReport,
    ProblemRow,
    answered,
    contestants_of,
    with_answers,
)
from rmx.evaluate.evaluation import Evaluation
from rmx.evaluate.sample_store import Answered, SampleStore, Shelf
from rmx.models.base_state import key_of
from rmx.models.workspace import Workspace
from rmx.records import Problem
from rmx.storage.safe_files import KeptLines

pytestmark = pytest.mark.slow

CONFIG = EvalConfig(n=4, temperature=1.0, top_p=1.0, seed=3, max_new_tokens=96)
PROBLEMS = load_set("mini:test")[:4]
UNSURE = ("seconds", "cached", "usd")  # figures that depend on how often an evaluation was begun


@pytest.fixture(scope="module")
def pair() -> list[Contestant]:
    """Mini and its RL partner."""
    return contestants_of(Workspace("cpu"), "mini", ["rl"])


@pytest.fixture(scope="module")
def whole(pair) -> dict[str, Any]:
    """The unbroken evaluation, without a cache."""
    return last(Evaluation(pair, PROBLEMS, CONFIG, "mini:test")).json()


def last(evaluation: Evaluation) -> EvalReport:
    *_, report = evaluation.run()
    return report


def figures(document: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on how an evaluation came about."""
    kept = {name: value for name, value in document.items() if name not in UNSURE}
    took = ("tokens", "seconds", "usd")
    for part in (kept, *kept["parts"]):
        part["models"] = [{k: v for k, v in m.items() if k not in took} for m in part["models"]]
    return kept


def counted(monkeypatch) -> list[int]:
    """How many samples each batch job was asked for that nobody knew."""
    asked: list[int] = []

    def counting(engine: Any, asks: Sequence[Any], *args: Any, **options: Any) -> Iterator[Any]:
        asked.append(sum(len(ask.numbers) for ask in asks))
        return refill(engine, asks, *args, **options)

    refill = evaluate_module.sample_continuously
    monkeypatch.setattr(evaluate_module, "sample_continuously", counting)
    return asked


# -- what is counted --------------------------------------------------------------------------------------------------


def test_figures_against_counting_by_hand(pair, whole) -> None:
    assert (whole["problems"], whole["samples"], whole["k"], whole["done"]) == (4, 4, [1, 2, 4], True)
    assert whole["at"] == whole["of"] == 4 * 2 * 5
    for model in whole["models"]:
        rows = [row["models"][model["name"]] for row in whole["per_problem"]]
        assert model["greedy"]["value"] == pytest.approx(sum(r["greedy"]["correct"] for r in rows) / 4)
        assert model["pass@k"]["1"]["value"] == pytest.approx(sum(r["right"] for r in rows) / 16)
        assert model["pass@k"]["4"]["value"] == pytest.approx(sum(r["right"] > 0 for r in rows) / 4)
        assert model["truncated"] == {
            "greedy": sum(r["greedy"]["truncated"] for r in rows),
            "sampled": sum(r["truncated"] for r in rows),
        }
    assert whole["base"]["greedy"] == whole["models"][0]["greedy"]
    assert whole["adapted"]["pass@k"] == whole["models"][1]["pass@k"]
    assert whole["paired"][0]["greedy"]["value"] == pytest.approx(
        whole["adapted"]["greedy"]["value"] - whole["base"]["greedy"]["value"]
    )


def test_greedy_solutions_are_those_of_the_explore_road(pair, whole) -> None:
    from rmx.arguments import Sampling
    from rmx.explore.generate import Generation, Job

    model = pair[0].model
    for problem, row in zip(PROBLEMS[:2], whole["per_problem"], strict=False):
        for contestant in pair:
            job = Job(
                model.prompt_ids(problem.problem), Sampling(max_new_tokens=96), 1.0,
                adapter=contestant.adapter, known=problem.answer,
            )  # fmt: skip
            trace = Generation(model, job).run()
            found = row["models"][contestant.name]["greedy"]
            assert (found["answer"], found["correct"]) == (trace.answer.text, trace.answer.correct)


def test_completions_that_break_off_or_have_no_answer_are_counted_and_wrong(pair) -> None:
    config = replace(CONFIG, max_new_tokens=6, k=())
    found = last(Evaluation(pair[:1], PROBLEMS, config, "mini:test")).json()
    assert found["models"][0]["truncated"] == {"greedy": 4, "sampled": 16}
    assert found["truncated"] == found["models"][0]["truncated"]  # of one model the figures stand on top as well
    assert found["greedy"]["value"] == 0
    assert found["greedy"]["high"] > 0.2  # none of four says little


def test_equal_writings_of_an_answer_are_one_vote() -> None:
    problem = Problem("a", "?", "0.5")
    texts = ["1/2", "0.5", "3", "3.0", None]
    drawn = [Answered("p", i, 5, text, "answer") for i, text in enumerate(texts)]
    found = ProblemRow.graded(problem, {}, {"base": drawn}).by["base"]
    assert found.right == (True, True, False, False, False)
    first, second, third, fourth, none = found.votes
    assert first == second != third == fourth
    assert none == -1
    assert found.json()["unparsed"] == 1


# -- nothing twice ----------------------------------------------------------------------------------------------------


def test_what_is_known_is_not_made_again(pair, whole, tmp_path, monkeypatch) -> None:
    store = SampleStore(tmp_path)
    first = last(Evaluation(pair, PROBLEMS, CONFIG, "mini:test", store=store)).json()
    assert figures(first) == figures(whole)
    asked = counted(monkeypatch)
    again = last(Evaluation(pair, PROBLEMS, CONFIG, "mini:test", store=SampleStore(tmp_path)))
    assert asked == []
    assert again.cached == again.of
    assert figures(again.json()) == figures(whole)


@pytest.mark.long
def test_a_larger_n_more_problems_and_another_model_cost_only_what_is_new(pair, tmp_path, monkeypatch) -> None:
    store = SampleStore(tmp_path)
    last(Evaluation(pair[:1], PROBLEMS[:3], CONFIG, "mini:test", store=store))
    asked = counted(monkeypatch)
    last(Evaluation(pair[:1], PROBLEMS[:3], replace(CONFIG, n=6, k=()), "mini:test", store=store))
    assert sum(asked) == 3 * 2  # two more samples of each problem, no greedy one
    asked.clear()
    last(Evaluation(pair[:1], PROBLEMS, CONFIG, "mini:test", store=store))
    assert sum(asked) == 5
    asked.clear()
    last(Evaluation(pair, PROBLEMS[:3], CONFIG, "mini:test", store=store))
    assert sum(asked) == 3 * 5  # of the adapter alone
    asked.clear()
    last(Evaluation(pair[:1], PROBLEMS[:3], replace(CONFIG, seed=4), "mini:test", store=store))
    assert sum(asked) == 3 * 4  # greedy solutions know no seed


def test_samples_do_not_depend_on_n(pair, tmp_path) -> None:
    small = last(Evaluation(pair[:1], PROBLEMS, CONFIG, "mini:test")).solved
    store = SampleStore(tmp_path)
    last(Evaluation(pair[:1], PROBLEMS, replace(CONFIG, n=2, k=()), "mini:test", store=store))
    grown = last(Evaluation(pair[:1], PROBLEMS, CONFIG, "mini:test", store=store)).solved
    assert [s.by["base"].right for s in grown] == [s.by["base"].right for s in small]


# -- interruptions ----------------------------------------------------------------------------------------------------


def test_an_evaluation_cancelled_again_and_again_ends_as_an_unbroken_one(pair, whole, tmp_path) -> None:
    store, stops, ended = SampleStore(tmp_path), 0, None
    for limit in (3, 40, 47, 10_000):
        evaluation = Evaluation(pair, PROBLEMS, CONFIG, "mini:test", store=store)
        seen = 0

        def enough() -> bool:
            nonlocal seen
            seen += 1
            return seen > limit  # noqa: B023

        *_, ended = evaluation.run(enough)
        stops += not ended.done
        assert ended.done or ended.at < ended.of
    assert stops == 3
    assert ended is not None
    assert figures(ended.json()) == figures(whole)


@pytest.mark.long
def test_a_killed_evaluation_goes_on_to_the_same_document(whole, tmp_path) -> None:
    command = [
        sys.executable, "-m", "rmx", "eval", "--model", "mini", "--adapter", "rl", "--limit", "4", "--n", "4",
        "--temperature", "1", "--top-p", "1", "--seed", "3", "--max-new-tokens", "96", "--device", "cpu", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "RMX_CACHE": str(tmp_path), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def lines() -> int:
        return sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("samples/*/*.jsonl"))

    while process.poll() is None and lines() < 10:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < lines() < 40
    for path in tmp_path.glob("samples/*/*.jsonl"):  # the last line torn, as a power cut leaves it
        path.write_bytes(path.read_bytes()[:-9])
    done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    found = json.loads(done.stdout)
    assert found["cached"] > 0
    assert figures(found) == figures(whole | {"set": "mini"})


def test_a_full_disk_costs_the_cache_not_the_evaluation(pair, whole, tmp_path, monkeypatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rmx.storage.safe_files.Lines.append", full)
    found = last(Evaluation(pair, PROBLEMS, CONFIG, "mini:test", store=SampleStore(tmp_path))).json()
    assert "is full" in found.pop("fault")
    assert figures(found | {"fault": None}) == figures(whole)


def test_lines_that_are_not_ours_are_passed_over(tmp_path) -> None:
    good = Answered("aa", 1, 7, "42", "eos")
    bad = [{}, [], None, {**good.json(), "i": -1}, {**good.json(), "stop": "no"}, {**good.json(), "answer": 42}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*bad, good.json()]) + '{"p": "bb"')
    assert Shelf(KeptLines(tmp_path)).found == {("aa", 1): good}


# -- who is evaluated -------------------------------------------------------------------------------------------------


def test_an_adapter_counts_by_its_weights_not_by_its_name(tmp_path) -> None:
    from rmx.config import ASSETS

    copy = tmp_path / "other-name"
    copy.mkdir()
    for path in (ASSETS / "mini" / "rl").glob("adapter_*"):
        (copy / path.name).write_bytes(path.read_bytes())
    base, rl, same, other = contestants_of(Workspace("cpu"), "mini", ["rl", str(copy), "reasonmaxxer", "rl"])
    assert rl.key == same.key
    assert len({base.key, rl.key, other.key}) == 3
    assert [base.name, rl.name, same.name] == ["base", "rl", str(copy)]


def test_models_of_two_repositories_are_two_even_at_a_revision_of_the_same_name(tiny) -> None:
    main = [replace(tiny, spec=spec, revision="main") for spec in ("org/one", "org/two")]
    assert len({key_of(model, None) for model in main}) == 2
    here, there = (replace(tiny, spec=spec, revision="sha256:0a") for spec in ("here", "there"))
    assert key_of(here, None) == key_of(there, None)  # the same weights in two folders


def test_problems_that_a_run_was_trained_on_are_counted(tmp_path, monkeypatch) -> None:
    from rmx.evaluate.evaluation import trained_on
    from rmx.runs.job import TrainJob, problems_of
    from rmx.runs.recipe import PRESETS
    from rmx.runs.store import RunStore

    monkeypatch.setenv("RMX_RUNS", str(tmp_path))
    job = TrainJob("mini", "mini", PRESETS["small"], "small")
    run = RunStore().create(job).id
    train = problems_of(job).train
    assert trained_on(run, [*train[:3], *PROBLEMS]) == 3
    assert trained_on(f"{run}/step_20", PROBLEMS) == 0
    assert trained_on("rl", PROBLEMS) is None  # nobody knows


def test_an_unknown_adapter_is_a_sentence() -> None:
    with pytest.raises(ModelError, match="no adapter 'nobody'"):
        contestants_of(Workspace("cpu"), "mini", ["nobody"])


def test_problems_without_a_known_answer_are_refused() -> None:
    with pytest.raises(ProblemError, match="1 of 2 problems of mine have no known answer"):
        answered([Problem("a", "?", "1"), Problem("b", "?", None)], "mine")
    with pytest.raises(RmxError, match="must be 1 or more"):
        with_answers("mini", 0)


# -- settings ---------------------------------------------------------------------------------------------------------


def test_ks() -> None:
    assert [EvalConfig(n=n).k for n in (0, 1, 4, 6)] == [(), (1,), (1, 2, 4), (1, 2, 4, 6)]
    assert EvalConfig(n=8, k=(4, 1, 4)).k == (1, 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n": 257}, "n must be a whole number from 0 to 256; got 257"),
        ({"n": -1}, "0 to 256"),
        ({"n": 4, "k": (8,)}, "from 1 to the number of samples, 4"),
        ({"n": 4, "k": (0,)}, "from 1 to the number of samples, 4"),
        ({"n": 4, "k": (True,)}, "k must be a list of whole numbers; got True"),
        ({"n": 4, "temperature": 0.0}, "are all the same"),
        ({"n": 0, "greedy": False}, "Nothing to evaluate"),
        ({"top_p": 0.0}, "top_p must be a number above 0 and at most 1; got 0.0"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RmxError, match=sentence):
        EvalConfig(**options)


def test_models_that_share_passes_write_at_once_and_others_in_turn(pair, monkeypatch) -> None:
    asked = counted(monkeypatch)
    monkeypatch.setattr(evaluate_module, "PORTION", 3)
    together = last(Evaluation(pair, PROBLEMS, CONFIG, "mini:test")).json()
    assert asked == [4 * 2 * 5]
    asked.clear()
    monkeypatch.setattr(Engine, "scales", lambda self, adapter: adapter is None)  # as an adapter that is no plain LoRA
    in_turn = last(Evaluation(pair, PROBLEMS, CONFIG, "mini:test")).json()
    assert asked == [3 * 5, 3 * 5, 1 * 5, 1 * 5]
    assert figures(in_turn) == figures(together)


def test_problems_are_graded_as_soon_as_they_are_whole(pair, monkeypatch) -> None:
    monkeypatch.setattr("rmx.engine.batch.ROUND_SECONDS", 0.0)
    monkeypatch.setattr(evaluate_module, "fitting_rows", lambda *_: 10)  # those of one problem
    reports = list(Evaluation(pair, PROBLEMS, CONFIG, "mini:test").run())
    graded = [len(report.solved) for report in reports]
    assert graded == sorted(graded)
    assert set(graded) == {0, 1, 2, 3, 4}
    assert [report.done for report in reports] == [*[False] * (len(reports) - 1), True]
    tallies = reports[-1].tallies.values()
    assert sum(tally.seconds for tally in tallies) == pytest.approx(reports[-1].seconds, rel=0.5)
    assert len({round(tally.tokens / tally.seconds) for tally in tallies}) == 1


def test_of_too_many_completions_on_disk_the_oldest_go(tmp_path):
    import os

    store = SampleStore(tmp_path)
    for i in range(4):
        path = tmp_path / f"shelf{i % 2}" / f"{i}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
        os.utime(path, (i, i))
    store.trim(400)
    assert len(list(tmp_path.rglob("*.jsonl"))) == 4
    store.trim(250)
    assert sorted(p.name for p in tmp_path.rglob("*.jsonl")) == ["2.jsonl", "3.jsonl"]
    store.trim(0)  # the newest stays: somebody may be writing to it
    assert [p.name for p in tmp_path.rglob("*.jsonl")] == ["3.jsonl"]
    SampleStore(keep=False).trim(0)
