"""The rollout stage: graded rows in the draws' own order, and a stage that is killed goes on to the same file."""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from rmx.data.problem_sets import load_set
from rmx.engine import decoding_memory
from rmx.engine.decoding_memory import ROWS, fitting_rows
from rmx.engine.entropy import capture
from rmx.engine.token_draws import draw, prompt_key, uniform
from rmx.errors import PromptError
from rmx.grading.answers import grade
from rmx.records import Problem, Rollout
from rmx.runs.recipe import RolloutConfig
from rmx.train.rollouts import RolloutLog, sample_rollouts

pytestmark = pytest.mark.slow

CONFIG = RolloutConfig(k=6, problems=6, temperature=1.0, top_p=1.0, max_new_tokens=96)


def problems(n: int = 6) -> list[Problem]:
    return load_set("mini:train")[:n]


def lengths(rollouts: list[Rollout]) -> dict[tuple[str, int], int]:
    return {(r.problem_id, r.gen_index): r.completion_length for r in rollouts}


@pytest.fixture(scope="module")
def whole(mini) -> list[Rollout]:
    return list(sample_rollouts(mini, problems(), CONFIG, 5, {}, rows=16))


def test_every_rollout_is_graded_and_keeps_its_figures(mini, whole) -> None:
    assert sorted(lengths(whole)) == [(p.id, gen) for p in problems() for gen in range(6)]
    by_id = {p.id: p for p in problems()}
    for r in whole:
        problem = by_id[r.problem_id]
        assert r.prompt_ids == mini.prompt_ids(problem.problem)
        graded = grade(mini.answer_text(r.completion_ids), problem.answer)
        assert (r.answer, r.correct) == (graded.text, graded.correct)
        assert r.stop == ("eos" if r.completion_ids[-1] in mini.stop_ids else "length")
        assert not set(r.completion_ids[:-1]) & mini.stop_ids
    assert 0 < sum(r.correct for r in whole) < len(whole)


def test_a_rollout_is_drawn_as_it_would_be_alone(mini, whole) -> None:
    for r in (whole[0], whole[-1]):
        logits = mini.engine.model(torch.tensor([r.input_ids])).logits[0, r.prompt_length - 1 : -1]
        assert torch.allclose(capture(logits, 1).entropy, torch.tensor(r.entropies), atol=1e-4)
        key = prompt_key(r.prompt_ids)
        drawn = [draw(row, 1.0, 1.0, uniform(5, key, r.gen_index, pos)) for pos, row in enumerate(logits)]
        assert drawn == list(r.completion_ids)


def by_key(rollouts):
    return {(r.problem_id, r.gen_index): r for r in rollouts}


def test_batches_of_other_shapes_draw_the_same(mini, whole) -> None:
    wanted = {(r.problem_id, r.gen_index): r.input_ids for r in whole}
    for rows in (1, 64):
        other = sample_rollouts(mini, problems(2), CONFIG, 5, {}, rows=rows)
        assert all(wanted[r.problem_id, r.gen_index] == r.input_ids for r in other)


def test_a_short_limit_is_told(mini) -> None:
    short = list(sample_rollouts(mini, problems(2), replace(CONFIG, max_new_tokens=4), 5, {}))
    assert {(r.completion_length, r.stop, r.correct) for r in short} == {(4, "length", False)}


def test_what_is_done_is_not_made_again_and_the_rest_has_the_same_tokens(mini, whole) -> None:
    for cut in (1, 17, 35):
        rest = list(sample_rollouts(mini, problems(), CONFIG, 5, lengths(whole[:cut]), rows=16))
        assert by_key(rest).keys() == by_key(whole[cut:]).keys()
        for key, made in by_key(rest).items():
            wanted = by_key(whole)[key]
            assert replace(made, entropies=None) == replace(wanted, entropies=None)
            assert made.entropies == pytest.approx(wanted.entropies, abs=1e-4)
    assert list(sample_rollouts(mini, problems(), CONFIG, 5, lengths(whole), rows=16)) == []


def test_a_cancelled_stage_ends(mini) -> None:
    asked = count()
    found = list(sample_rollouts(mini, problems(), CONFIG, 5, {}, rows=6, cancelled=lambda: next(asked) > 100))
    assert 2 < len(found) < 36  # a hundred steps of six rows: some have ended, most never began


def test_the_paper_s_sampling_and_an_unknown_answer(mini) -> None:
    asked = [replace(problems()[0], answer=None)]
    found = list(sample_rollouts(mini, asked, RolloutConfig(k=3, max_new_tokens=96), 5, {}))
    assert len(found) == 3
    assert not any(r.correct for r in found)


def test_a_problem_without_text_is_refused(mini) -> None:
    with pytest.raises(PromptError, match="empty"):
        list(sample_rollouts(mini, [Problem("a", " ", "1")], CONFIG, 5, {}))


def test_rows_fit_the_memory(mini, monkeypatch) -> None:
    assert fitting_rows(mini.engine, 256) == ROWS
    config = mini.engine.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    monkeypatch.setattr("rmx.engine.decoding_memory.CPU_BYTES", 10 * per_token * 100 + 1)
    assert fitting_rows(mini.engine, 100) == 10
    monkeypatch.setattr("rmx.engine.decoding_memory.CPU_BYTES", 1)
    assert fitting_rows(mini.engine, 100) == 1


def test_the_weights_leave_less_memory_to_the_rows(mini, monkeypatch) -> None:
    weights = sum(p.nbytes for p in mini.engine.model.parameters())
    each = decoding_memory.token_bytes(mini.engine) * 100
    monkeypatch.setattr(decoding_memory, "_memory_of", lambda device: weights + 2 * 10 * each)
    assert fitting_rows(mini.engine, 100) == 10
    monkeypatch.setattr(decoding_memory, "_memory_of", lambda device: weights)
    assert fitting_rows(mini.engine, 100) == 1


# -- killed -----------------------------------------------------------------------------------------------------------


def stage(path: str, threads: int) -> None:
    """What a run's process does in its first stage."""
    from rmx.models.load import load

    torch.set_num_threads(threads)
    model, log = load("mini", device="cpu"), RolloutLog(Path(path), {"seed": 5})
    for rollout in sample_rollouts(model, problems(), CONFIG, 5, lengths(log.read()), rows=16):
        log.append(rollout)


@pytest.mark.long  # test_kill.py has a run that is killed in each stage, in this one too
def test_a_stage_killed_again_and_again_makes_the_same_file(tmp_path, whole) -> None:
    unbroken, killed = RolloutLog(tmp_path / "a.jsonl", {"seed": 5}), tmp_path / "b.jsonl"
    for rollout in whole:
        unbroken.append(rollout)
    context, draws = multiprocessing.get_context("forkserver"), random.Random(2)
    context.set_forkserver_preload(["rmx.train.rollouts", "rmx.models.load"])
    kills, threads = 0, torch.get_num_threads()  # another number of them may round otherwise
    for _ in range(20):
        process = context.Process(target=stage, args=(str(killed), threads), daemon=True)
        process.start()
        before = killed.stat().st_size if killed.exists() else 0
        while process.is_alive() and (killed.stat().st_size if killed.exists() else 0) == before:
            time.sleep(0.005)
        time.sleep(draws.uniform(0, 0.05))
        if kills < 2 and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
    assert kills == 2
    assert killed.read_bytes() == unbroken.path.read_bytes()
    assert json.loads(killed.read_text().splitlines()[0])["entropies"] == list(whole[0].entropies or ())
