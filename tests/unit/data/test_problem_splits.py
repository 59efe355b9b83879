"""Training, validation and test problems are kept apart, in named sets and in own files."""

import json
import logging
from pathlib import Path

import pytest

from rmx.data.problem_files import SPLITS, deal, normalised, overlap, shared, side_of, without
from rmx.data.problem_sets import every_split, load_set, problems_from_text
from rmx.errors import ProblemError, TrainError
from rmx.records import Problem
from rmx.runs.job import TrainJob, problems_of
from rmx.runs.recipe import PAPER

ALL = PAPER.with_(problems=10_000, validation=10_000, test=10_000)

# where these texts are dealt to; runs of before were dealt like this, so it must never change
DEALT = {"What is 1 + 1?": "train", "What is 32 + 1?": "validation", "What is 7 + 1?": "test"}


def problem(text: str, key: str = "") -> Problem:
    return Problem(key or text, text, "1")


def write(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def own(tmp_path: Path) -> str:
    return write(tmp_path / "own.jsonl", *({"problem": f"What is {i} + 1?", "answer": i + 1} for i in range(400)))


@pytest.fixture
def stated(tmp_path: Path) -> str:
    """A file that says in a column where each problem belongs; one text stands in two."""
    sides = ["train"] * 5 + ["Validation"] * 2 + ["test "] * 3
    rows = [{"id": f"p{i}", "problem": f"Say {i}.", "answer": "1", "split": side} for i, side in enumerate(sides)]
    return write(tmp_path / "stated.jsonl", *rows, {"id": "again", "problem": "say  4. ", "split": "test"})


# ---- texts


def test_overlap_counts_by_text_not_by_id():
    train = [problem("Two  plus\n two?", "a"), problem("Café?", "b"), problem("c", "c")]
    test = [problem("two plus two?", "z"), problem("Cafe\u0301?", "y"), problem("other", "a"), problem("c", "x")]
    assert overlap(train, test) == 3
    assert overlap(test, train) == 3
    assert overlap([], test) == overlap(train, []) == 0
    assert overlap(train, [*test, *test]) == 6  # each problem of the second counts


def test_what_differs_in_a_sign_or_a_digit_is_another_problem():
    assert len({normalised(t) for t in ("x² = 2?", "x2 = 2?", "x = 2?", "-x = 2?", "x = 2", "x = 3?")}) == 6


def test_shared_and_without():
    train, validation, test = ([problem(text) for text in texts] for texts in ("ab", "c", ("B ", "d")))
    sides = {"train": train, "validation": validation, "test": test}
    assert shared(sides) == {("train", "test"): 1}
    assert [p.problem for p in without(train, validation, test)] == ["a"]


def test_a_text_is_always_dealt_to_the_same_side():
    assert {text: side_of(text) for text in DEALT} == DEALT
    assert all(side_of(f"  {text}\n") == side for text, side in DEALT.items())


def test_dealing_takes_every_problem_once():
    problems = [problem(f"What is {i}?") for i in range(2000)]
    sides = deal(problems)
    assert sorted(p.id for side in sides.values() for p in side) == sorted(p.id for p in problems)
    assert [len(sides[split]) / 2000 for split in SPLITS] == pytest.approx([0.75, 0.125, 0.125], abs=0.03)
    assert all(p.split == split for split, side in sides.items() for p in side)


# ---- named sets


@pytest.mark.parametrize("name", ["mini", "arith", "words"])
def test_bundled_splits_share_no_text(name):
    sides = every_split(name)
    assert set(sides) == set(SPLITS)
    assert shared(sides) == {}


# ---- own files without a column


def test_an_own_files_splits_are_apart_and_together_the_whole(own):
    sides = {split: load_set(f"{own}:{split}") for split in SPLITS}
    whole = load_set(own)
    assert {p.split for p in whole} == {"test"}
    assert sorted(p.id for side in sides.values() for p in side) == sorted(p.id for p in whole)  # ids stay
    assert shared(sides) == {}
    assert sides == every_split(own)
    assert all(sides.values())


def test_a_run_trains_on_none_of_what_is_measured_afterwards(own):
    run = problems_of(TrainJob(set_name=own, recipe=ALL))
    assert {p.id for p in run.train} == {p.id for p in load_set(f"{own}:train")}
    assert run.validation == load_set(f"{own}:validation")
    assert run.test == load_set(f"{own}:test")
    assert overlap(run.train, load_set(f"{own}:test")) == 0
    assert overlap(run.train, load_set(own)) == len(run.train)  # the whole file has them in it
    assert problems_of(TrainJob(set_name=f"{own}:train", recipe=ALL)) == run


DRAWN = [["173", "14", "2", "162", "260"], ["32", "38", "47"], ["7", "10", "11"]]


def test_a_runs_problems_are_those_of_before(own):
    """Drawn by the seed out of the dealt ones: runs of an earlier version go on with the same problems."""
    few = PAPER.with_(problems=5, validation=3, test=3, seed=1)
    run = problems_of(TrainJob(set_name=own, recipe=few))
    assert [[p.id for p in side] for side in (run.train, run.validation, run.test)] == DRAWN


def test_the_test_problems_of_an_own_file_are_not_trained_on(own):
    with pytest.raises(TrainError, match="only test problems"):
        problems_of(TrainJob(set_name=f"{own}:test", recipe=ALL))


def test_a_file_too_small_to_have_the_split(tmp_path):
    path = write(tmp_path / "own.jsonl", {"problem": "What is 1 + 1?"})
    assert len(load_set(path)) == 1
    with pytest.raises(ProblemError, match=r"own.jsonl has no test problems. .* dealt to only train \(1\)"):
        load_set(f"{path}:test")


def test_the_same_text_in_another_case_is_not_trained_on(tmp_path, caplog):
    texts = [f"what is {i}?" for i in range(60)] + [f"What is {i}?" for i in range(60)]
    path = write(tmp_path / "own.jsonl", *({"problem": text} for text in texts))
    with caplog.at_level(logging.WARNING):
        run = problems_of(TrainJob(set_name=path, recipe=ALL))
    assert overlap(run.train, [*run.validation, *run.test]) == 0
    assert "are among its validation or test problems too; they are not trained on" in caplog.text


# ---- own files with a column


def test_a_column_split_is_used(stated):
    assert [p.id for p in load_set(f"{stated}:train")] == ["p0", "p1", "p2", "p3", "p4"]
    assert [p.id for p in load_set(f"{stated}:validation")] == ["p5", "p6"]
    assert [p.id for p in load_set(stated)] == ["p7", "p8", "p9", "again"]


def test_a_text_in_two_splits_is_told_and_not_trained_on(stated, caplog):
    with caplog.at_level(logging.WARNING):
        load_set(stated)
    assert "stated.jsonl: 1 of its test problems are among its train problems as well." in caplog.text
    run = problems_of(TrainJob(set_name=stated, recipe=ALL))
    assert sorted(p.id for p in run.train) == ["p0", "p1", "p2", "p3"]
    assert [p.id for p in run.test] == ["p7", "p8", "p9", "again"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"problem": "a", "split": "dev"}], "line 1: `split` must be train, validation or test, not 'dev'"),
        ([{"problem": "a", "split": ["train"]}], "line 1: `split` must be"),
        (
            [{"problem": "a", "split": "train"}, {"problem": "b"}],
            "line 2: either every .* this one has none",
        ),
        (
            [{"problem": "a"}, {"problem": "b", "split": "test"}],
            "line 2: either every .* the first has none",
        ),
        ([{"problem": "a", "split": "train"}], r"no test problems. Its column `split` names only train \(1\)"),
    ],
)
def test_a_column_that_cannot_be_used(tmp_path, rows, words):
    with pytest.raises(ProblemError, match=words):
        load_set(write(tmp_path / "own.jsonl", *rows))


def test_csv_and_parquet_have_the_column_too(tmp_path):
    text = "problem,split\na,train\nb,test\n"
    (tmp_path / "own.csv").write_text(text)
    assert [p.problem for p in load_set(str(tmp_path / "own.csv"))] == ["b"]
    assert [p.problem for p in problems_from_text("own.csv", text)] == ["b"]
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"problem": ["a", "b"], "split": ["train", "test"]}), tmp_path / "own.parquet")
    assert [p.problem for p in load_set(f"{tmp_path / 'own.parquet'}:train")] == ["a"]
