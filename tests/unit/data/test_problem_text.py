"""Files whose text a browser sent: read and refused as those by a path, whatever is in them."""

import json
import time

import pytest

from rmx.data.problem_files import MAX_TEXT_BYTES, shown_name
from rmx.data.problem_sets import SETS, load_set, problems_from_text
from rmx.errors import ProblemError
from rmx.records import Problem

JSONL = '{"id": "a", "question": "1 + 1?", "answer": "#### 1,002"}\r\n\n{"problem": "Größe 👍?", "answer": 18.50}\n'
CSV = 'problem,answer\n"two\nlines, one comma",7\nb,\n'


@pytest.mark.parametrize(("name", "text"), [("own.jsonl", JSONL), ("Own.CSV", CSV), ("own.jsonl", "\ufeff" + JSONL)])
def test_the_same_as_from_a_path(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert problems_from_text(name, text) == load_set(str(tmp_path / name))
    assert problems_from_text(name, text)


def test_what_is_read():
    assert problems_from_text("own.jsonl", JSONL) == [
        Problem("a", "1 + 1?", "1002"),
        Problem("1", "Größe 👍?", "18.50"),
    ]
    assert problems_from_text("own.csv", CSV) == [Problem("0", "two\nlines, one comma", "7"), Problem("1", "b", None)]


def test_a_split_is_read():
    text = "".join(json.dumps({"problem": f"What is {i} + 1?"}) + "\n" for i in range(40))
    assert len(problems_from_text("own.jsonl", text)) == 40
    assert [p.problem for p in problems_from_text("own.csv", "problem,split\na,train\nb,test\n")] == ["b"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("own.jsonl", "", "own.jsonl has no problems in it"),
        ("own.jsonl", "\ufeff", "no problems in it"),
        ("own.jsonl", "\n \n\r\n", "no problems in it"),
        ("own.csv", "", "line 1 names no column"),
        ("own.csv", "problem,answer\n", "no problems in it"),
        ("own.jsonl", "nonsense", r"own.jsonl, line 1 is not JSON \(Expecting value\)"),
        ("own.jsonl", '{"problem": "a"}\n{"problem": "b"', "line 2 is not JSON"),
        ("own.jsonl", '{"problem": "a"}\n17', "line 2 is a str, not an object"),
        ("own.jsonl", '{"problem": "a\x00\nb"}', "line 1 is not JSON"),
        ("own.jsonl", '{"problem": {"a": 1}}', "line 1: there is no text"),
        ("own.jsonl", '{"problem": "a"}\n{"problem": "\ud83d"}', "line 2, byte 14 is not UTF-8"),
        ("own.csv", "problem\na\n\udce9\n", "line 3, byte 1 is not UTF-8"),
        ("own.jsonl", "[" * 200_000, "line 1 is not JSON"),
        ("own.jsonl", '{"problem": "' + "a" * 20_001 + '"}', "line 1: the problem has 20001 characters"),
        ("own.jsonl", '{"problem": "a", "answer": ' + "9" * 5000 + "}", "line 1: `answer` has 5000 characters"),
        ("own.csv", "problem\n" + "a" * 200_000, "line 2 is not proper CSV .field larger"),
        ("own.csv", 'problem\n"a', "line 2 is not proper CSV"),
        ("own.csv", "problem,answer\na,1,2\n", "line 2 has more fields than line 1"),
        ("own.csv", "<script>,answer\na,1\n", "line 1 names no column"),
        ("own.txt", "a", "own.txt ends neither in .jsonl nor in .csv"),
        ("", "a", "the file ends neither"),
        ("own.parquet", "PAR1", "own.parquet cannot be sent as text. Save it as .jsonl or .csv"),
        ("mini", '{"problem": "a"}', "mini ends neither"),  # a named set's name is no file
    ],
)
def test_nonsense_is_refused_with_its_line(name, text, words):
    with pytest.raises(ProblemError, match=words):
        problems_from_text(name, text)


@pytest.mark.parametrize(("name", "text"), [(None, "a"), ("own.jsonl", None), (["own.jsonl"], "a"), ("own.csv", b"a")])
def test_what_is_no_text_is_refused(name, text):
    with pytest.raises(ProblemError, match="by its name and its text"):
        problems_from_text(name, text)


def test_the_name_is_only_a_name():
    for name in ("../../etc/own.jsonl", r"C:\Users\ann\own.jsonl", "/own.jsonl", "a\n\x1b[31m/ow\x00n.jsonl"):
        with pytest.raises(ProblemError) as refused:
            problems_from_text(name, "")
        assert str(refused.value) == "own.jsonl has no problems in it."
    assert len(shown_name("a" * 10_000 + ".csv")) == 80
    assert problems_from_text("a" * 10_000 + ".csv", "problem\na\n")
    assert "mini.csv" not in SETS


def test_two_megabytes_are_the_most():
    line = json.dumps({"problem": "a" * 990, "answer": "1"}) + "\n"
    most = line * (MAX_TEXT_BYTES // len(line))
    assert len(problems_from_text("own.jsonl", most)) == MAX_TEXT_BYTES // len(line)
    with pytest.raises(ProblemError, match=r"own.jsonl has 2.0 MB; at most 2 MB are taken"):
        problems_from_text("own.jsonl", most + line)
    with pytest.raises(ProblemError, match=r"own.jsonl has 3.0 MB"):
        problems_from_text("own.jsonl", "€" * 1_000_000)  # bytes count, not characters


@pytest.mark.slow
def test_no_two_megabytes_keep_the_reader_busy():
    """Each takes a small multiple of what reading plain lines of that size takes."""
    line = json.dumps({"problem": "What is it?", "answer": "1"}) + "\n"
    began = time.perf_counter()
    problems_from_text("own.jsonl", line * (MAX_TEXT_BYTES // len(line)))
    plain = time.perf_counter() - began
    for text in (
        "\n" * MAX_TEXT_BYTES,
        '{"problem": "' + "#" * (MAX_TEXT_BYTES - 20) + '"}',
        '{"problem": "a", "answer": "####' + "1," * 900_000 + '"}',
        '{"a":' * 300_000,
        "problem" + "," * 1_900_000 + "\n",
    ):
        for name in ("own.jsonl", "own.csv"):
            began = time.perf_counter()
            with pytest.raises(ProblemError):
                problems_from_text(name, text)
            assert time.perf_counter() - began < 20 * plain, (name, text[:40])
