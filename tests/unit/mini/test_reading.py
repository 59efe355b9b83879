"""A typed problem is read back: its answer is computed where it is a wording of the miniature, and nowhere else."""

import pytest

from rmx.data.problem_sets import examples
from rmx.mini.problem_sets import SPLITS, mini_set
from rmx.mini.task import TEMPLATES, compose, computed_answer

TYPED = "Ann has 5 apples. Ben has 3 more. How many apples do they have together?"


def test_the_answer_of_a_typed_problem_is_computed():
    assert computed_answer(TYPED) == "13"
    assert computed_answer(f"  {TYPED.replace('. ', '.  ')}\n") == "13"
    assert computed_answer("Zed has 40 kites. Bo has 9 fewer. How many kites do they have in all?") == "71"


@pytest.mark.parametrize("split", SPLITS)
def test_every_problem_of_the_bundled_sets_is_read_back(split):
    problems = mini_set(split)
    assert [computed_answer(p.problem) for p in problems] == [p.answer for p in problems]


def test_every_wording_of_the_builder_and_every_example_is_read_back():
    for name, template in TEMPLATES.items():
        numbers = tuple(high for _, high in template.slots.values())
        for wording in range(len(template.wordings)):
            try:
                made = compose(name, wording, ("Ann", "Ben"), "cards", numbers)
            except ValueError:  # these numbers do not work
                continue
            assert computed_answer(made.problem) == made.answer, made.problem
    assert [computed_answer(e.problem) for e in examples()] == [e.answer for e in examples()]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Why is the sky blue?",
        "What is 2 + 3?",
        TYPED.replace("together", "in total"),  # no wording of ours
        TYPED + " Explain.",
        TYPED.replace("Ben", "Ann"),  # one person
        TYPED.replace("do they", "do we"),
        TYPED.replace("many apples", "many pears"),  # another thing than before
        TYPED.replace("5", "0"),
        TYPED.replace("5", "500"),
        TYPED.replace("5", "99"),  # beyond the miniature's numbers
        "Ann has 5 apples. Ben has 9 fewer. How many apples do they have together?",  # fewer than none
        "Ann has 7 apples for 3 friends, and Ben gives 2 more to every friend. How many does each friend have?",
        TYPED + " " * 100_000 + "x",
    ],
)
def test_no_answer_is_made_up(text):
    assert computed_answer(text) is None
