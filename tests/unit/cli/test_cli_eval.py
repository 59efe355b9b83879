"""`rmx eval`: what it prints, and one sentence for what cannot be."""

import json

import pytest

from rmx.cli.main import main
from rmx.cli.sets import eval_table

TINY = ["eval", "--limit", "5", "--n", "2", "--max-new-tokens", "96", "--device", "cpu"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RMX_CACHE", str(tmp_path))


@pytest.mark.slow
def test_one_model(capsys) -> None:
    assert main([*TINY, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["problems"], found["samples"], found["done"], found["k"]) == (5, 2, True, [1, 2])
    assert found["greedy"]["n"] == found["pass@k"]["2"]["n"] == 5
    assert found["paired"] == []
    assert [row["id"] for row in found["per_problem"]] == [f"mini-test-000{i}" for i in range(5)]


@pytest.mark.slow
def test_two_models_for_the_terminal_and_the_second_time_from_the_cache(capsys) -> None:
    assert main([*TINY, "--adapter", "rl", "--k", "2"]) == 0
    told = capsys.readouterr()
    for line in ("mini + rl", "rl against base", "pass@2", "By construction"):
        assert line in told.out
    assert "pass@1" not in told.out  # only the k that was asked for
    assert main([*TINY, "--adapter", "rl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cached"] == 5 * 2 * 3


def test_an_evaluation_without_a_finished_problem_is_said_to_have_none() -> None:
    nothing = {"set": "mini", "problems": 0, "of_problems": 9, "done": False, "samples": 2, "temperature": 1.0}
    assert "Nothing is finished yet" in eval_table(nothing | {"top_p": 1.0, "seed": 0})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--k", "1,x"], "--k takes whole numbers"),
        (["--n", "300"], "--n must be a whole number from 0 to 256; got 300"),
        (["--limit", "0"], "--limit must be a whole number, 1 or more; got 0"),
        (["--set", "nowhere"], "There is no problem set"),
        (["--adapter", "nobody"], "no adapter 'nobody'"),
        (["--k", "64"], "from 1 to the number of samples"),
    ],
)
def test_mistakes_are_one_sentence(options: list[str], sentence: str, capsys) -> None:
    assert main([*TINY, *options]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert sentence in told.err
    assert len(told.err.strip().splitlines()) == 1
