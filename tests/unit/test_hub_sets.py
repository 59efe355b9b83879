"""The sets of the Hub: which repository is asked for, which columns are read, which rows are left out."""

import sys
import types

import pytest

from rmx import problems
from rmx.answers import grade
from rmx.errors import ProblemError, TrainError
from rmx.hub_sets import REPOSITORIES
from rmx.problems import SETS, find_problem, left_out, load_set, sizes
from rmx.records import Problem
from rmx.train.job import TrainJob, problems_of

OLYMPIAD = {  # the columns of OE_TO_maths_en_COMP, with a problem of our own
    "id": 1606, "question": "How many of the numbers from 1 to 9 are prime?", "solution": ["2, 3, 5 and 7."],
    "final_answer": ["$4$"], "context": None, "image_1": None, "modality": "Text-only", "difficulty": "Competition",
    "is_multiple_answer": False, "unit": None, "answer_type": "Numerical", "error": None,
    "question_type": "Open-ended", "subfield": "Number Theory", "subject": "Math", "language": "English",
}  # fmt: skip

ROWS = {
    "HuggingFaceH4/aime_2024": [
        {
            "id": 60 + i,
            "problem": f"Find ${i}$.",
            "solution": "So",
            "answer": f"{i:03d}",
            "url": "",
            "year": "2024",
        }
        for i in range(3)
    ],
    "math-ai/amc23": [{"id": i, "question": f"What is ${i}+1$?", "answer": f"{i + 1}.0", "url": ""} for i in range(3)],
    "math-ai/minervamath": [
        {"question": "What is the diameter of the image, in cm?", "answer": "1.6"},
        {"question": "How many photons per second?", "answer": "4.5e33"},
    ],
    "Hothan/OlympiadBench": [
        OLYMPIAD,
        OLYMPIAD | {"id": 1607, "final_answer": ["$221,$8$"], "is_multiple_answer": True},
        OLYMPIAD | {"id": 1608, "final_answer": ["2", "3"]},
        OLYMPIAD | {"id": 1609, "final_answer": []},
        OLYMPIAD | {"id": 1610, "final_answer": ["12"], "unit": "km", "context": "A road is straight.\n"},
        OLYMPIAD | {"id": 1611, "final_answer": ["$1$ and $2$"]},
    ],
}


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
        return ROWS[repository]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return calls


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("aime24", ("HuggingFaceH4/aime_2024", None, "train")),
        ("amc23", ("math-ai/amc23", None, "test")),
        ("minerva", ("math-ai/minervamath", None, "test")),
        ("olympiadbench", ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train")),
    ],
)
def test_the_repository_and_its_split(hub, name, asked):
    found = load_set(name)
    assert hub == [asked]
    assert {(p.set, p.split) for p in found} == {(name, "test")}
    assert len({p.id for p in found}) == len(found)
    assert load_set(f"{name}:test") == found
    assert hub == [asked]  # once


def test_rows_become_problems(hub):
    assert load_set("aime24")[1] == Problem("61", "Find $1$.", "001", "aime24", "test")
    assert load_set("amc23")[2] == Problem("2", "What is $2+1$?", "3.0", "amc23", "test")
    assert find_problem("minerva", "1").answer == "4.5e33"


@pytest.mark.parametrize(
    ("name", "index", "text", "right"),
    [
        ("aime24", 1, r"\boxed{1}", True),  # known as 001
        ("amc23", 2, r"\boxed{3}", True),  # known as 3.0
        ("minerva", 0, r"\boxed{1.6 \text{ cm}}", True),
        ("minerva", 1, r"\boxed{4.5 \times 10^{33}}", True),
        ("minerva", 1, r"\boxed{4.49e33}", False),
        ("olympiadbench", 1, r"\boxed{12 \mathrm{~km}}", True),  # the unit stands in a column of its own
        ("olympiadbench", 0, r"\boxed{5}", False),
    ],
)
def test_answers_are_graded_as_the_sets_write_them(hub, name, index, text, right):
    assert grade(text, load_set(name)[index].answer).correct is right


def test_olympiad_problems_with_several_answers_are_left_out_and_counted(hub):
    found = load_set("olympiadbench")
    assert [(p.id, p.answer) for p in found] == [("1606", "4"), ("1610", "12"), ("1611", "$1$ and $2$")]
    assert found[1].problem == "A road is straight.\n\nHow many of the numbers from 1 to 9 are prime?"
    assert left_out("olympiadbench") == {"several answers": 2, "no final answer": 1}
    assert left_out("minerva") == left_out("mini") == {}


@pytest.mark.parametrize("name", ["aime24", "amc23", "minerva", "olympiadbench"])
def test_they_are_for_measuring_only(hub, name):
    with pytest.raises(ProblemError, match=f"{name} has no 'train' split, only test. Say {name}:test to measure"):
        load_set(f"{name}:train")
    with pytest.raises(TrainError, match=f"{name} has only test problems here; training on them would spoil"):
        problems_of(TrainJob(set_name=name))
    assert hub == []  # refused before anything is fetched


def test_a_row_without_an_answer_is_left_out(monkeypatch):
    rows = [{"question": "What is it?", "answer": answer} for answer in ("", None, 0)]
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, split: rows))
    assert load_set("minerva") == [Problem("2", "What is it?", "0", "minerva", "test")]
    assert left_out("minerva") == {"no final answer": 2}


def test_a_column_that_is_gone_is_told(monkeypatch):
    rows = [{"problem": "1 + 1?", "solution": "2"}]
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, split: rows))
    with pytest.raises(ProblemError, match=r"math-ai/amc23 has no column 'answer' any more, which amc23 is read from"):
        load_set("amc23")


def test_without_the_hub_each_says_which_repository_cannot_be_had(monkeypatch):
    def load_dataset(*_, split):
        raise ConnectionError("Couldn't reach it on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    for name, repository in REPOSITORIES.items():
        with pytest.raises(ProblemError, match=f"{repository} could not be fetched from the Hugging Face Hub"):
            load_set(name)


def test_sizes_need_no_network(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert sizes("mini") == {"train": 600, "validation": 200, "test": 400}
    assert sizes("gsm8k") == {"train": None, "validation": None, "test": 1319}
    assert {name: sizes(name) for name in ("aime24", "amc23", "minerva", "olympiadbench")} == {
        "aime24": {"test": 30}, "amc23": {"test": 40}, "minerva": {"test": 272}, "olympiadbench": {"test": 581}
    }  # fmt: skip
    for name, info in SETS.items():
        assert set(info.sizes) <= set(info.splits), name
        assert (name in REPOSITORIES) == ("huggingface.co/datasets/" in info.source), name
        assert REPOSITORIES.get(name, "") in info.source
