"""The sets of the Hub: which repository is asked for, which columns are read, which rows are left out."""

import random
import sys
import types
from collections import Counter

import pytest

from rmx.cli.main import _parser
from rmx.cli.train import job_of
from rmx.data import problem_sets as problems
from rmx.data.problem_sets import REPOSITORIES, SETS, find_problem, is_cached, load_set, sizes
from rmx.errors import ProblemError, TrainError
from rmx.grading.answers import grade
from rmx.records import Problem
from rmx.runs.job import TrainJob, draw_problems, problems_of

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


def test_olympiad_problems_with_several_answers_are_left_out(hub):
    found = load_set("olympiadbench")
    assert [(p.id, p.answer) for p in found] == [("1606", "4"), ("1610", "12"), ("1611", "$1$ and $2$")]
    assert found[1].problem == "A road is straight.\n\nHow many of the numbers from 1 to 9 are prime?"


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
            load_set(f"{name}:{SETS[name].splits[0]}")


def test_sizes_need_no_network(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert sizes("mini") == {"train": 600, "validation": 200, "test": 400}
    assert sizes("gsm8k") == {"train": None, "validation": None, "test": 1319}
    assert {name: sizes(name) for name in ("aime24", "amc23", "minerva", "olympiadbench")} == {
        "aime24": {"test": 30}, "amc23": {"test": 40}, "minerva": {"test": 272}, "olympiadbench": {"test": 581}
    }  # fmt: skip
    for name, info in SETS.items():
        assert (name in REPOSITORIES) == ("huggingface.co/datasets/" in info.source), name
        assert REPOSITORIES.get(name, "") in info.source


# -- MATH -------------------------------------------------------------------------------------------------------------


def math_row(i: int, level: object, answer: str = "7", text: str | None = None) -> dict[str, object]:
    """A row with the columns of MATH-lighteval."""
    problem = f"Find the value of $x_{{{i}}}$." if text is None else text
    return {"problem": problem, "level": level, "solution": rf"So $\boxed{{{answer}}}$.", "type": "Algebra"}


MATH_500_ROWS = [
    {"problem": f"Measured  on {i}?", "solution": "", "answer": str(i), "subject": "Algebra", "level": 1 + i % 5,
     "unique_id": f"test/algebra/{i}.json"}
    for i in range(6)
]  # fmt: skip
MATH_ROWS = {
    "train": [
        *(math_row(i, f"Level {1 + i % 5}") for i in range(400)),
        math_row(400, "Level ?"),
        math_row(401, "Level 4", text="No box here.") | {"solution": "It is 4."},
    ],
    "test": [
        math_row(500, "Level 5", r"\frac{\sqrt{3}}{2}"),
        *(math_row(600 + i, "Level 3", text=f"measured on {i}?\n") for i in range(6)),  # other spaces, other case
    ],
}


@pytest.fixture
def math(monkeypatch, tmp_path):
    """Both repositories as local folders, read by the datasets library itself."""
    datasets = pytest.importorskip("datasets")
    folders = {
        "DigitalLearningGmbH/MATH-lighteval": MATH_ROWS,
        "HuggingFaceH4/MATH-500": {"test": MATH_500_ROWS},
    }
    for repository, sides in folders.items():
        for split, rows in sides.items():
            path = tmp_path / repository / "data" / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_list(rows).to_parquet(path)
    load, asked = datasets.load_dataset, []

    def here(repository, config=None, *, split):
        asked.append((repository, config, split))
        return load(str(tmp_path / repository), config, split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", here)
    return asked


def test_math_is_levels_3_to_5_without_math_500(math):
    train, validation = load_set("math:train"), load_set("math:validation")
    assert {p.level for p in train} == {p.level for p in validation} == {3, 4, 5}
    assert len(train) + len(validation) == 240 + 1  # of 400 by fives, and one of the Hub's test split
    assert not {p.id for p in train} & {p.id for p in validation}
    assert 10 <= len(validation) <= 40
    assert all((p.set, p.split) == ("math", "train") for p in train)
    both = {p.id: p for p in (*train, *validation)}
    assert both["test-0"].answer == r"\frac{\sqrt{3}}{2}"
    assert both["train-2"].answer == "7"
    assert not any("easured" in p.problem for p in both.values())
    assert set(math) == {
        ("DigitalLearningGmbH/MATH-lighteval", None, "train"),
        ("DigitalLearningGmbH/MATH-lighteval", None, "test"),
        ("HuggingFaceH4/MATH-500", None, "test"),
    }


def test_the_first_validation_problems_are_of_all_levels(math):
    found = load_set("math:validation")
    assert {p.level for p in found[:10]} == {3, 4, 5}
    assert [p.id for p in found] != sorted((p.id for p in found), key=lambda i: int(i.partition("-")[2]))


def test_its_test_split_is_math_500(math):
    found = load_set("math")
    assert [(p.id, p.answer, p.level) for p in found] == [(p.id, p.answer, p.level) for p in load_set("math500")]
    assert {p.set for p in found} == {"math"}


def test_a_run_trains_on_as_many_problems_of_each_level(math):
    job = job_of(_parser().parse_args(["train", "--model", "qwen2.5-1.5b", "--set", "math"]))
    assert (job.recipe.rollouts.problems, job.recipe.rollouts.k, job.preset) == (150, 20, "paper")
    found = problems_of(job)
    assert Counter(p.level for p in found.train) == {3: 50, 4: 50, 5: 50}
    assert found.train == problems_of(job).train
    assert [p.id for p in found.test] == [f"test/algebra/{i}.json" for i in range(6)]
    assert found.validation
    texts = {p.problem for p in found.train}
    assert not texts & {p.problem for p in (*found.validation, *found.test)}


def test_where_a_level_has_too_few_problems_the_others_make_up_for_it():
    rows = [Problem(f"{level}-{i}", "?", "1", level=level) for level, n in ((3, 2), (4, 30), (5, 30)) for i in range(n)]
    found = [p.level for p in draw_problems(rows, 22, random.Random(0))]
    assert (found.count(3), found.count(4), found.count(5)) == (2, 10, 10)
    plain = [Problem(str(i), "?", "1") for i in range(9)]
    assert draw_problems(plain, 4, random.Random(1)) == random.Random(1).sample(plain, 4)


def test_a_public_site_knows_math_as_cached_only_with_both_repositories(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    for folder, expected in (("HuggingFaceH4___math-500", False), ("DigitalLearningGmbH___math-lighteval", True)):
        path = tmp_path / folder / "default" / "0.0.0" / "abc"
        path.mkdir(parents=True)
        (path / "dataset_info.json").write_text("{}")
        assert is_cached("math") is expected
    assert is_cached("math500")
