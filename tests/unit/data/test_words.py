"""The set `words`: right answers, splits that share no sentence and no numbers, draws by seed and difficulty."""

import json
import random
import re
import sys

import pytest

from rmx.data import words
from rmx.data.problem_sets import load_set
from rmx.data.words import SIZES, draw_words, fill, work_out

KINDS = words._file()[0]


def test_the_bundled_set_is_large_enough_to_tell_three_points_apart():
    assert {split: len(load_set(f"words:{split}")) for split in SIZES} == SIZES
    assert SIZES["test"] >= 600


def test_no_sentence_stands_in_two_splits():
    for kind in KINDS:
        every = (*kind.tell, *kind.ask)
        sentences = [{s for wording in kind.wordings(split) for s in every if s in wording} for split in SIZES]
        assert sum(map(len, sentences)) == len(set().union(*sentences)) == len(every), kind.name
    assert sum(len(kind.wordings(split)) for kind in KINDS for split in SIZES) >= 240


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_choice_of_numbers_of_a_kind_stands_in_two_splits(kind):
    rng = random.Random(0)
    drawn = [{tuple(kind.draw_numbers(rng, split, words.HIGHEST)[0].items()) for _ in range(150)} for split in SIZES]
    assert min(map(len, drawn)) > 1
    assert sum(map(len, drawn)) == len(set().union(*drawn))


@pytest.mark.parametrize(
    ("steps", "numbers", "answer"),
    [
        (("a + b",), {"a": 3, "b": 4}, 7),
        (("a * b", "s1 - c"), {"a": 3, "b": 4, "c": 5}, 7),
        (("a / k",), {"a": 9, "k": 2}, None),  # a rest
        (("a - b",), {"a": 3, "b": 3}, None),  # nothing is left
        (("a * b",), {"a": 5, "b": 5}, None),  # above the highest
        (("a + b", "s1 / k"), {"a": 5, "b": 7, "k": 4}, 3),
    ],
)
def test_steps_are_worked_out_in_turn(steps, numbers, answer):
    assert work_out(steps, numbers, 24) == answer


@pytest.mark.parametrize("split", SIZES)
def test_every_problem_is_whole_english_with_its_own_numbers(split):
    for problem in draw_words(split, 540, levels=(1, 2, 3)):
        assert not re.search(r"[{}|\[\]]|  ", problem.problem), problem
        assert re.fullmatch(r"[A-Z\d].*\?", problem.problem), problem
        assert problem.level in (1, 2, 3)
        assert 0 < int(problem.answer) <= words.HIGHEST
        assert max(map(int, re.findall(r"\d+", problem.problem))) <= words.HIGHEST


def test_pronouns_follow_the_name_and_an_the_vowel():
    text = fill("{A} counts {his} {o}. {He} gives {B} a {o}.", ["Ruth", "Tom"], "apple", {})
    assert text == "Ruth counts her apple. She gives Tom an apple."


def test_draws_depend_on_the_seed_and_difficulty_is_chosen():
    first, again, other = (draw_words("test", 50, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert {p.level for p in draw_words("train", 60, levels=(3,))} == {3}
    assert max(int(p.answer) for p in draw_words("train", 200, highest=80)) > 24
    with pytest.raises(ValueError, match="keep to 3"):
        draw_words("train", 60, highest=3)


def test_a_draw_is_written_as_a_file_that_every_command_takes(tmp_path, monkeypatch):
    out = tmp_path / "mine.jsonl"
    monkeypatch.setattr(sys, "argv", ["words", str(out), "--seed", "7", "--size", "30", "--levels", "2"])
    words.main()
    assert [json.loads(line)["level"] for line in out.read_text().splitlines()] == [2] * 30
    assert [p.problem for p in load_set(f"{out}:test")] == [p.problem for p in draw_words("test", 30, 7, (2,))]
