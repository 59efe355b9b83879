"""Problem sets: names, splits, files, and every refusal in words."""

import csv
import json
import sys
import types
from pathlib import Path

import pytest

from rmx.data import problem_files as problem_files
from rmx.data import problem_sets as problems
from rmx.data.problem_sets import SETS, SPLITS, find_problem, load_set, split_name
from rmx.errors import ProblemError
from rmx.records import Problem

GSM8K_LINES = [
    {
        "question": "Ann's ducks lay 16 eggs a day. She eats 3 and bakes with 4, and sells the rest at $2. What is it?",
        "answer": "She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nThat is 9 * 2 = $<<9*2=18>>18.\n#### 18",
    },
    {"question": "A house costs 80,000 and is sold for 150,000. The gain?", "answer": "150,000-80,000\n#### 70,000"},
    {"question": "What is left of 3 after 3?", "answer": "#### 0"},
]

# which of the stand-in's questions the hash takes out of train; must never change
VALIDATION_IDS = ["train-5", "train-20", "train-23", "train-36"]


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def _fresh_sets():
    problems._named.cache_clear()
    yield
    problems._named.cache_clear()


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the datasets library; returns the list of calls."""
    calls: list[tuple[str, str | None, str]] = []

    def load_dataset(repository, config=None, *, split):
        calls.append((repository, config, split))
        if repository == "openai/gsm8k":
            return [{"question": f"{split} question {i}", "answer": f"so\n#### {i},000"} for i in range(400)]
        return [{"unique_id": f"test/algebra/{i}.json", "problem": f"Find ${i}$", "answer": f"{i}"} for i in range(5)]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return calls


# ---- names


@pytest.mark.parametrize(
    ("name", "default", "expected"),
    [
        ("gsm8k", "test", ("gsm8k", "test")),
        ("gsm8k", "train", ("gsm8k", "train")),
        ("gsm8k:validation", "train", ("gsm8k", "validation")),
        ("dir/own.jsonl", "train", ("dir/own.jsonl", "train")),
        ("dir/own.jsonl:validation", "train", ("dir/own.jsonl", "validation")),
        ("C:/own.jsonl", "test", ("C:/own.jsonl", "test")),
    ],
)
def test_split_name(name, default, expected):
    assert split_name(name, default) == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gsm8k:dev", "gsm8k has no 'dev' split, only train, validation and test"),
        ("math500:train", "math500 has no 'train' split, only test.*gsm8k:train"),
        ("gsm8", "no problem set 'gsm8'. Did you mean gsm8k"),
        ("own.txt", "ends in .jsonl, .csv and .parquet"),
        ("nowhere/own.jsonl", "no file"),
    ],
)
def test_unknown_names_are_explained(name, words):
    with pytest.raises(ProblemError, match=words):
        load_set(name)


def test_every_set_says_where_it_is_from():
    for info in SETS.values():
        assert info.title
        assert info.licence
        assert info.source
        assert set(info.splits) <= set(SPLITS)


# ---- bundled sets


@pytest.mark.parametrize("name", ["mini", "arith", "words"])
def test_bundled_sets_load_and_their_splits_share_no_problem(name):
    splits = {split: load_set(f"{name}:{split}") for split in SPLITS}
    for split, loaded in splits.items():
        assert loaded, split
        assert all(p.set == name and p.split == split and p.answer for p in loaded)
    texts = [p.problem for loaded in splits.values() for p in loaded]
    assert len(texts) == len(set(texts))
    assert load_set(name) == splits["test"]


def test_a_missing_bundled_file_is_a_problem_error(monkeypatch, tmp_path):
    monkeypatch.setattr(problems, "ASSETS", tmp_path)
    with pytest.raises(ProblemError, match="mini:test is missing"):
        load_set("mini")


def test_named_sets_are_read_once_and_copied(monkeypatch, tmp_path):
    (tmp_path / "problems").mkdir()
    write(tmp_path / "problems" / "mini.test.jsonl", {"id": "a", "problem": "1+1", "answer": 2})
    monkeypatch.setattr(problems, "ASSETS", tmp_path)
    load_set("mini").clear()
    assert load_set("mini") == [Problem("a", "1+1", "2", "mini", "test")]


# ---- the Hub


def test_gsm8k_splits_are_disjoint_and_complete(hub):
    splits = {split: load_set(f"gsm8k:{split}") for split in SPLITS}
    assert len(splits["test"]) == 400
    assert len(splits["train"]) + len(splits["validation"]) == 400
    assert 20 <= len(splits["validation"]) <= 60  # a tenth
    assert not {p.problem for p in splits["train"]} & {p.problem for p in splits["validation"]}
    assert set(hub) == {("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")}
    assert splits["test"][7] == Problem("test-7", "test question 7", "7000", "gsm8k", "test")


def test_gsm8k_validation_is_the_same_everywhere(hub):
    assert [p.id for p in load_set("gsm8k:validation")][:4] == VALIDATION_IDS


def test_math500_keeps_its_ids(hub):
    assert load_set("math500")[3] == Problem("test/algebra/3.json", "Find $3$", "3", "math500", "test")
    assert find_problem("math500", "test/algebra/4.json").answer == "4"


def test_a_failed_fetch_says_what_to_do_and_is_tried_again(monkeypatch):
    calls = []

    def load_dataset(repository, config=None, *, split):
        calls.append(repository)
        # recorded from datasets 5.2 without a network
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    for _ in range(2):
        with pytest.raises(ProblemError, match=r"openai/gsm8k could not be fetched.*LocalEntryNotFoundError.*mini"):
            load_set("gsm8k")
    assert len(calls) == 2


# ---- own files


def test_gsm8k_format(tmp_path):
    loaded = load_set(write(tmp_path / "own.jsonl", *GSM8K_LINES))
    assert [p.answer for p in loaded] == ["18", "70000", "0"]
    assert [p.id for p in loaded] == ["0", "1", "2"]
    assert loaded[0].problem == GSM8K_LINES[0]["question"]
    assert {(p.set, p.split) for p in loaded} == {("own", "test")}


def test_answers_as_written(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(
        '\ufeff{"id": 7, "problem": "a", "answer": 18.50}\n\n'
        '{"id": "x", "problem": "b"}\n{"problem": "c", "answer": null}\n{"problem": "d", "answer": "  \\\\frac12 "}\n',
        encoding="utf-8",
    )
    loaded = load_set(str(path))
    assert [(p.id, p.answer) for p in loaded] == [("7", "18.50"), ("x", None), ("2", None), ("3", "\\frac12")]
    assert loaded[0].split == "test"


def test_csv(tmp_path):
    path = tmp_path / "own.CSV"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["question", "answer", "id"], ["two\nlines, one comma", "#### 1,234", "q"], ["b", "", ""]]
        )
    assert load_set(str(path)) == [Problem("q", "two\nlines, one comma", "1234"), Problem("1", "b", None)]


def test_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "own.parquet"
    table = arrow.table({"problem": ["a", "b"], "answer": [1.5, None], "other": [[1], [2]]})
    parquet.write_table(table, path)
    assert load_set(str(path)) == [Problem("0", "a", "1.5"), Problem("1", "b", None)]
    parquet.write_table(arrow.table({"text": ["a"]}), path)
    with pytest.raises(ProblemError, match="no column `problem` or `question`, only: text"):
        load_set(str(path))
    path.write_bytes(b"not parquet")
    with pytest.raises(ProblemError, match="not a parquet file"):
        load_set(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"problem": "a"}\n{"problem": \n', r"own.jsonl, line 2 is not JSON \(Expecting value\)"),
        (b'{"problem": "a"}\n["b"]\n', "line 2 is a list"),
        (b'{"problem": "a"}\n\n{"prompt": "b", "x": 1}\n', "line 3: .*columns are: prompt, x"),
        (b'{"problem": "  "}\n', "line 1: there is no text"),
        (b'{"problem": true}\n', "line 1: there is no text"),
        (b'{"problem": "a", "answer": ["1"]}\n', "line 1: `answer` must be a text or a number"),
        (b'{"problem": "a", "answer": true}\n', "`answer` must be"),
        (b'{"problem": "a", "id": "k"}\n{"problem": "b", "id": "k"}\n', "line 2: the id 'k' is taken by line 1"),
        (b'{"problem": "caf\xe9"}\n', "line 1, byte 17 is not UTF-8.*Save the file as UTF-8"),
        ('{"problem": "a"}'.encode("utf-16"), "UTF-16"),
        (b"[" * 100_000, "nested too deeply|Expecting"),
        (b"", "no problems in it"),
    ],
)
def test_malformed_jsonl_names_the_line(tmp_path, content, words):
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(ProblemError, match=words):
        load_set(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"prompt,answer\na,1\n", "line 1 names no column `problem` or `question`, only: prompt, answer"),
        (b"problem,answer\na,1\nb, with a comma,2\n", "line 3 has more fields"),
        (b"problem,answer\na,1\n,2\n", "line 3: there is no text"),
        (b'problem,answer\na,1\n"b,2\n', "line 3 is not proper CSV"),
        (b"problem,answer\na,1\ncaf\xe9,2\n", "line 3, byte 4 is not UTF-8"),
        (b"", "line 1 names no column"),
    ],
)
def test_malformed_csv_names_the_line(tmp_path, content, words):
    path = tmp_path / "own.csv"
    path.write_bytes(content)
    with pytest.raises(ProblemError, match=words):
        load_set(str(path))


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "own.jsonl"
    with path.open("wb") as file:
        file.truncate(2_000_000_000)  # sparse: takes no room on disk
    with pytest.raises(ProblemError, match="has 2000 MB; at most 200 MB"):
        load_set(str(path))


def test_too_many_problems_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(problem_files, "MAX_PROBLEMS", 3)
    path = write(tmp_path / "own.jsonl", *({"problem": str(i)} for i in range(3)))
    assert len(load_set(path)) == 3
    path = write(tmp_path / "own.jsonl", *({"problem": str(i)} for i in range(4)))
    with pytest.raises(ProblemError, match="more than 3 problems"):
        load_set(path)


def test_a_huge_problem_or_answer_is_refused(tmp_path):
    with pytest.raises(ProblemError, match="line 1: the problem has 20001 characters"):
        load_set(write(tmp_path / "own.jsonl", {"problem": "a" * 20_001}))
    with pytest.raises(ProblemError, match="line 1: `answer` has 1001 characters"):
        load_set(write(tmp_path / "own.jsonl", {"problem": "a", "answer": "1" * 1001}))


def test_a_folder_is_no_set(tmp_path):
    (tmp_path / "own.jsonl").mkdir()
    with pytest.raises(ProblemError, match="no file"):
        load_set(str(tmp_path / "own.jsonl"))


# ---- one problem


def test_find_problem_by_id_then_by_index(tmp_path):
    path = write(tmp_path / "own.jsonl", {"problem": "a", "id": "1"}, {"problem": "b", "id": "n"}, {"problem": "c"})
    assert find_problem(path, "1").problem == "a"  # its own id goes before the index
    assert find_problem(path, 0).problem == "a"
    assert find_problem(path, " n ").problem == "b"
    assert find_problem(path, "2").problem == "c"


@pytest.mark.parametrize("key", ["3", "-1", "nn", "", "9" * 5000, "²"])
def test_a_problem_that_is_not_there(tmp_path, key):
    path = write(tmp_path / "own.jsonl", {"problem": "a"}, {"problem": "b", "id": "n"}, {"problem": "c"})
    with pytest.raises(ProblemError, match="an index from 0 to 2"):
        find_problem(path, key)
