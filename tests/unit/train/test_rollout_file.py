"""Files of rollouts: what goes in comes out, what is broken is named, and a stage goes on where it broke off."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rmx.errors import TrainError
from rmx.records import Rollout
from rmx.train.rollouts import RolloutLog, from_row, read_rollouts, to_row, write_official

REFERENCE = Path(__file__).parents[2] / "reference_data"
ROLLOUT = Rollout("p1", 0, (5, 6, 7, 8), 2, True, "42", "eos", (0.1, 1 / 3))


def row(**changes):
    return {k: v for k, v in (json.loads(json.dumps(to_row(ROLLOUT))) | changes).items() if v is not ...}


def test_a_row_holds_everything() -> None:
    full = replace(ROLLOUT, advantage=-0.5, decision_positions=(1, 2))
    assert from_row(json.loads(json.dumps(to_row(full))), "here") == full
    assert from_row(json.loads(json.dumps(to_row(ROLLOUT))), "here") == ROLLOUT
    assert to_row(ROLLOUT)["completion_length"] == 2
    assert "advantage" not in to_row(ROLLOUT)


def test_the_official_names_are_understood() -> None:
    official = row(tokens=[5, 6, 7, 8], input_ids=..., completion_length=..., num_completion_tokens=2, correct=1.0)
    assert from_row(official | {"problem_id": 7, "reward": 1.0, "stop": "EOS token"}, "here") == replace(
        ROLLOUT, problem_id="7", stop=None
    )
    assert from_row(row(entropies=..., completion_length=...), "here").entropies is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": ...}, "needs input_ids, a list of whole numbers from 0 on"),
        ({"input_ids": [5, 6, True, 8]}, "has true among its input_ids"),
        ({"input_ids": [5, 6, -1, 8]}, "has -1 among its input_ids"),
        ({"input_ids": [5]}, "has 1 tokens, but prompt_length 2"),
        ({"prompt_length": 0}, "needs prompt_length, a whole number from 1 on, not 0"),
        ({"completion_length": 3}, "has 4 tokens, but prompt_length 2 and completion_length 3"),
        ({"gen_index": "a"}, 'needs gen_index, a whole number from 0 on, not "a"'),
        ({"correct": "yes"}, 'needs correct, true or false, not "yes"'),
        ({"correct": ...}, "needs correct, true or false"),
        ({"problem_id": None}, "needs problem_id"),
        ({"entropies": [0.1]}, "has 1 entropies for 2 completion tokens"),
        ({"entropies": [0.1, float("nan")]}, "has NaN among its entropies"),
        ({"entropies": [0.1, -0.1]}, "has -0.1 among its entropies"),
        ({"advantage": "high"}, "needs a number as its advantage"),
        ({"decision_positions": [0]}, "has 0 among its decision_positions, which are whole numbers from 1 to 2"),
        ({"decision_positions": [3]}, "has 3 among its decision_positions"),
    ],
)
def test_a_broken_row_is_named(tmp_path, changes, message) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row()) + "\n" + json.dumps(row(**{"gen_index": 1} | changes)) + "\n")
    with pytest.raises(TrainError) as caught:
        read_rollouts(path)
    assert str(caught.value).startswith("r.jsonl, line 2 ")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["rollouts", "rollouts_uneven"])
def test_the_official_file_is_read_and_written_again(tmp_path, name) -> None:
    path = REFERENCE / f"{name}.json"
    official = json.loads(path.read_text())
    found = read_rollouts(path)
    assert len(found) == len(official["rollouts"])
    assert [r.advantage for r in found] == [r["advantage"] for r in official["rollouts"]]
    assert [list(r.decision_positions or ()) for r in found] == [r["decision_positions"] for r in official["rollouts"]]
    write_official(tmp_path / "again.json", found, 1.0)
    assert json.loads((tmp_path / "again.json").read_text()) == official


def test_decisions_and_advantages_are_computed_where_they_are_missing(tmp_path) -> None:
    wrong = replace(ROLLOUT, gen_index=1, correct=False, entropies=(2.0, 0.2))
    write_official(tmp_path / "o.json", [ROLLOUT, wrong], 0.2)
    rows = json.loads((tmp_path / "o.json").read_text())["rollouts"]
    assert [r["advantage"] for r in rows] == [1.0, -1.0]
    assert [r["decision_positions"] for r in rows] == [[2], [1]]  # 0.2 itself stays outside the gate
    with pytest.raises(TrainError, match="Rollout 0 of problem p1 has no entropies"):
        write_official(tmp_path / "o.json", [replace(ROLLOUT, entropies=None)], 0.2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "r.json holds no rollouts"),
        (b"\n\n", "r.json holds no rollouts"),
        (b'{"rollouts": []}', "r.json holds no rollouts"),
        (b'{"rollouts": 3}', 'r.json has no list "rollouts"'),
        (b"[1]", "r.json, rollout 1 is no JSON object"),
        (b"17", 'r.json has no list "rollouts"'),
        (b"\xff\xfe\x00", "r.json is neither JSON nor lines of JSON"),
        (b'{"rollouts": [', "r.json is neither JSON nor lines of JSON"),
        (b'{"problem_id": 1}\n{"pro\n{}', "line 1 needs input_ids"),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_sentence(tmp_path, content, message) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(TrainError) as caught:
        read_rollouts(path)
    assert message in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(TrainError, match="cannot be read"):
            read_rollouts(path)


def test_a_pretty_printed_file_is_read(tmp_path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"rollouts": [row()]}, indent=2))
    assert read_rollouts(path) == [ROLLOUT]
    path.write_text(json.dumps([row()]))
    assert read_rollouts(path) == [ROLLOUT]


def test_a_torn_last_line_is_dropped_by_every_reader(tmp_path) -> None:
    path, whole = tmp_path / "r.jsonl", json.dumps(row())
    for torn in (1, 20, len(whole) - 1):
        path.write_text(whole + "\n" + json.dumps(row(gen_index=1))[:torn])
        assert read_rollouts(path) == [ROLLOUT]
    path.write_text(whole)  # whole, but for the line break
    assert read_rollouts(path) == [ROLLOUT]


# -- the file of a stage ----------------------------------------------------------------------------------------------


def test_a_log_goes_on_behind_a_torn_line(tmp_path) -> None:
    second = replace(ROLLOUT, gen_index=1)
    log = RolloutLog(tmp_path / "r.jsonl", {"seed": 1})
    assert log.read() == []
    log.append(ROLLOUT)
    with log.path.open("a") as file:
        file.write(json.dumps(to_row(second))[:-7])
    again = RolloutLog(log.path, {"seed": 1})
    again.append(second)  # without a look at the file before
    assert again.read() == [ROLLOUT, second] == read_rollouts(log.path)
    assert log.path.read_bytes().count(b"\n") == 2


def test_the_same_rollout_counts_once(tmp_path) -> None:
    log = RolloutLog(tmp_path / "r.jsonl", {})
    log.append(ROLLOUT)
    log.append(replace(ROLLOUT, correct=False))
    assert log.read() == [ROLLOUT]
    log.path.write_text(json.dumps(row()) + "\n" + json.dumps(row(correct=False)) + "\n")
    assert log.read() == [ROLLOUT] == read_rollouts(log.path)


def test_other_settings_are_refused(tmp_path) -> None:
    path = tmp_path / "r.jsonl"
    RolloutLog(path, {"seed": 1, "temperature": 0.6, "targets": ("a",)}).append(ROLLOUT)
    assert json.loads((tmp_path / "r.jsonl.meta.json").read_text())["temperature"] == 0.6
    assert RolloutLog(path, {"seed": 1, "temperature": 0.6, "targets": ["a"]}).read() == [ROLLOUT]
    other = RolloutLog(path, {"seed": 1, "temperature": 1.0, "targets": ["a"]})
    for use in (other.read, lambda: other.append(ROLLOUT)):
        with pytest.raises(TrainError, match=r"begun with other settings: temperature was 0.6, now 1.0\. Give the run"):
            use()


def test_settings_are_written_before_the_first_rollout_and_cannot_be_missing(tmp_path) -> None:
    path = tmp_path / "r.jsonl"
    RolloutLog(path, {"seed": 1}).read()
    assert (tmp_path / "r.jsonl.meta.json").exists()
    assert not path.exists()
    (tmp_path / "r.jsonl.meta.json").unlink()
    path.write_text(json.dumps(row()) + "\n")
    with pytest.raises(TrainError, match="does not say how it was sampled"):
        RolloutLog(path, {"seed": 1}).read()


def test_a_broken_line_in_the_middle_of_a_log_is_named(tmp_path) -> None:
    log = RolloutLog(tmp_path / "r.jsonl", {})
    log.append(ROLLOUT)
    log.path.write_bytes(b'{"problem\n' + log.path.read_bytes())
    with pytest.raises(TrainError, match=r"r\.jsonl, line 1 is not JSON"):
        log.read()
