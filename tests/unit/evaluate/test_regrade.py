"""Kept completions have their token ids, can be judged again by other rules, and do not fill the disk."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rmx.arguments import Sampling
from rmx.cli.main import main
from rmx.data.problem_sets import load_set
from rmx.engine.engine import Engine
from rmx.errors import RmxError
from rmx.evaluate import eval_report as report_module
from rmx.evaluate.eval_report import Contestant, EvalConfig, EvalReport, contestants_of
from rmx.evaluate.evaluation import Evaluation, Regrading
from rmx.evaluate.sample_store import Answered, SampleStore
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.prompt_styles import STYLES

pytestmark = pytest.mark.slow

CONFIG = EvalConfig(n=3, temperature=1.0, top_p=1.0, seed=3, max_new_tokens=96)
PROBLEMS = load_set("mini:test")[:5]


def of(rule: str | None = None) -> list[Contestant]:
    return contestants_of(Workspace("cpu"), "mini", ["rl"], style=StyleOptions(answers=rule))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pair() -> list[Contestant]:
    return of()


def last(evaluation: Evaluation) -> EvalReport:
    *_, report = evaluation.run()
    return report


def rows(folder: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for path in folder.rglob("*.jsonl") for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def boxed() -> list[Contestant]:
    return of("boxed")


@pytest.fixture(scope="module")
def made(pair, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    last(Evaluation(pair, PROBLEMS, CONFIG, "mini:test", store=SampleStore(folder)))
    return folder


@pytest.fixture
def kept(made, tmp_path) -> SampleStore:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return SampleStore(tmp_path)


def regraded(who: list[Contestant], store: SampleStore, config: EvalConfig = CONFIG) -> EvalReport:
    return last(Regrading(who, PROBLEMS, config, "mini:test", store=store))


@pytest.fixture
def no_network(monkeypatch) -> None:
    def forward(*_: Any, **__: Any) -> None:
        raise AssertionError("a forward pass")

    monkeypatch.setattr(Engine, "forward", forward)
    monkeypatch.setattr(Engine, "open", forward)


def test_the_text_of_a_kept_completion_comes_from_its_ids(pair, kept, tmp_path) -> None:
    made = [row for row in rows(tmp_path) if "ids" in row]
    assert len(made) == 5 * 2 * 4
    assert all(len(row["ids"]) == row["len"] for row in made)
    model = pair[0].model
    texts = [model.answer_text(row["ids"]) for row in made]
    assert all(text == "" or str(row["answer"]) in text for row, text in zip(made, texts, strict=True))
    assert sum("\\boxed{" in text for text in texts) > 20


def test_the_same_rules_change_nothing(pair, kept, no_network) -> None:
    found = regraded(pair, kept).json()
    assert found["regraded"] == {
        "completions": 40, "changed": 0, "answers_changed": 0, "without_ids": 0, "not_judged_before": 0,
        "left_out": 0, "changes": [],
    }  # fmt: skip
    assert found["done"]
    assert found["cached"] == 40


def test_figures_are_those_of_the_evaluation(pair, kept) -> None:
    plain = last(Evaluation(pair, PROBLEMS, CONFIG, "mini:test", store=kept)).json()
    again = regraded(pair, kept).json()
    for key in ("greedy", "pass@k", "majority", "truncated", "unparsed"):
        assert [m[key] for m in again["models"]] == [m[key] for m in plain["models"]]
    assert again["per_problem"] == plain["per_problem"]


def test_another_equality_changes_verdicts_and_says_which(pair, kept, no_network, monkeypatch) -> None:
    before = regraded(pair, kept).solved
    monkeypatch.setattr(report_module, "equal", lambda given, known: given != known)
    found = regraded(pair, kept).json()["regraded"]
    answered = {
        (s.problem.id, name, None if one.greedy is None else one.greedy.answer): one.greedy_right
        for s in before
        for name, one in s.by.items()
        if one.greedy is not None and one.greedy.answer is not None and not one.greedy.truncated
    }
    changed = {
        (c["id"], c["model"], c["before"]["answer"]): c["before"]["correct"]
        for c in found["changes"]
        if c["sample"] is None
    }
    assert changed == answered
    assert found["changed"] == len(found["changes"]) > 20
    assert all(c["after"]["correct"] is not c["before"]["correct"] for c in found["changes"])
    assert found["answers_changed"] == 0
    assert regraded(pair, kept).json()["regraded"]["changed"] == 0  # what was found is kept


def test_another_way_to_read_answers_is_kept_for_later_evaluations(pair, kept, no_network, monkeypatch) -> None:
    model = type(pair[0].model)
    monkeypatch.setattr(model, "find_answer", lambda *_: "99999")
    found = regraded(pair, kept).json()
    assert found["regraded"]["answers_changed"] == 40
    assert found["base"]["greedy"]["value"] == 0
    monkeypatch.undo()
    later = last(Evaluation(pair, PROBLEMS, CONFIG, "mini:test", store=SampleStore(kept.folder)))
    assert later.cached == 40
    assert {row["models"]["base"]["greedy"]["answer"] for row in later.json()["per_problem"]} == {"99999"}


def test_completions_of_the_other_rule_are_read_by_the_present_one(boxed, kept, no_network, monkeypatch) -> None:
    found = regraded(boxed, kept).json()["regraded"]
    assert found["completions"] == 40
    assert found["left_out"] == 0
    monkeypatch.undo()  # an evaluation looks at the base, which computes
    later = last(Evaluation(boxed, PROBLEMS, CONFIG, "mini:test", store=SampleStore(kept.folder)))
    assert later.cached == 40
    assert regraded(boxed, kept).json()["regraded"]["changed"] == 0


def test_nothing_kept_is_one_sentence(pair, tmp_path) -> None:
    with pytest.raises(RmxError, match="Of none of these problems all completions are kept"):
        regraded(pair, SampleStore(tmp_path))


def test_problems_that_are_not_whole_are_left_out(pair, kept, tmp_path) -> None:
    found = last(Regrading(pair, load_set("mini:test")[:8], CONFIG, "mini:test", store=kept)).json()
    assert (found["problems"], found["regraded"]["left_out"], found["done"]) == (5, 3, True)
    with pytest.raises(RmxError, match="Of none"):
        regraded(pair, kept, replace(CONFIG, n=4, k=()))


def test_lines_of_earlier_versions_without_ids_are_judged_by_the_answer_that_stands_there(pair, kept) -> None:
    for path in kept.folder.rglob("*.jsonl"):
        old = [{k: v for k, v in json.loads(line).items() if k != "ids"} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in old if "right" not in row))
    found = regraded(pair, kept).json()["regraded"]
    assert (found["without_ids"], found["changed"]) == (40, 0)
    assert found["not_judged_before"] > 20


def test_what_strangers_had_computed_is_not_readable(pair, tmp_path) -> None:
    last(Evaluation(pair[:1], PROBLEMS[:2], CONFIG, "mini:test", store=SampleStore(tmp_path, readable=False)))
    assert len(rows(tmp_path)) == 8
    assert not any("ids" in row or "right" in row for row in rows(tmp_path))


# -- the disk ---------------------------------------------------------------------------------------------------------


def test_what_is_kept_has_a_limit_and_the_oldest_goes(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RMX_KEPT_GB", "0.00003")  # 30 kB
    monkeypatch.setattr("rmx.storage.safe_files.PART_BYTES", 5_000)
    shelf = SampleStore(tmp_path).shelf("weights", Sampling(), STYLES["boxed"])
    for i in range(400):
        shelf.add(Answered(f"prompt {i}", 0, 50, "7", "eos", tuple(range(50))))
    shelf.close()
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.jsonl")]
    assert 20_000 < sum(sizes) <= 30_000
    left = {int(prompt.split()[1]) for prompt, _ in SampleStore(tmp_path).shelf(
        "weights", Sampling(), STYLES["boxed"]).found}  # fmt: skip
    assert left == set(range(min(left), 400))  # the newest, without a hole


def test_a_limit_that_is_none_is_one_sentence(monkeypatch) -> None:
    for wrong in ("x", "-1", "0", "nan", "inf"):
        monkeypatch.setenv("RMX_KEPT_GB", wrong)
        with pytest.raises(RmxError, match=f"number of gigabytes above 0, such as 4; got '{wrong}'"):
            SampleStore()


# -- the command ------------------------------------------------------------------------------------------------------

TINY = ["eval", "--limit", "4", "--n", "2", "--max-new-tokens", "96", "--device", "cpu"]


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RMX_CACHE", str(tmp_path))
    assert main([*TINY, "--regrade"]) == 2
    assert "Evaluate once without --regrade" in capsys.readouterr().err
    assert main(TINY) == 0
    capsys.readouterr()
    assert main([*TINY, "--regrade"]) == 0
    assert "12 kept completions looked at again: 0 verdicts changed, 0 answers" in capsys.readouterr().out
    monkeypatch.setattr(report_module, "equal", lambda given, known: False)
    assert main([*TINY, "--regrade"]) == 0
    told = capsys.readouterr().out
    assert "(right) → " in told
    assert "mini-test-000" in told.split("looked at again")[1]
    assert main([*TINY, "--regrade", "--no-cache"]) == 2
