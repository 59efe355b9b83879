"""`rmx bench rollouts`: both sides make the same number of tokens, and the figures are all there."""

import json

from rmx.bench.rollouts import PROBLEMS, in_turn, rollouts_ours, rollouts_theirs
from rmx.cli.main import main


def test_both_sides_make_what_the_script_says(mini):
    prompts = [mini.prompt_ids(problem) for problem in PROBLEMS[:3]]
    lengths = [[1, 5], [4, 2], [3, 3]]
    for side in (rollouts_ours, rollouts_theirs):
        assert [[len(sample) for sample in row] for row in side(mini, prompts, lengths)] == lengths


def test_the_sides_take_turns():
    order = []
    found = in_turn([lambda: order.append("a"), lambda: order.append("b"), lambda: order.append("c")], 2, cuda=False)
    assert "".join(order) == "abccba"
    assert [len(times) for times in found] == [2, 2, 2]


def test_every_figure_is_there(capsys):
    command = ["bench", "rollouts", "--model", "mini", "--device", "cpu", "--rounds", "1", "--json"]
    assert main(command) in (0, None)
    got = json.loads(capsys.readouterr().out)
    assert got["rows"] == 64
    assert got["useful_tokens"] < 64 * got["longest"] <= 64 * 64
    assert len(set(got["prompt_tokens"])) > 3  # a batch of equal lengths would not be the point
    for name in ("generate / rmx_rollouts", "generate / no_dropping"):
        assert got[name]["n"] == 1
        assert got[name]["value"] > 0
    assert set(got["seconds"]) == {"generate", "no_dropping", "rmx"}
