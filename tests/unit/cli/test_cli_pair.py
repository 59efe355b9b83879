"""`rmx shifts` and `rmx intervene`: the documents of the contract, refusals in one line, a real model."""

import csv
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from rmx.cli.main import main
from rmx.data.problem_sets import load_set
from rmx.progress import Progress
from rmx.stats.intervals import wilson
from tests.unit.cli.test_cli import run

pytestmark = pytest.mark.slow

ESTIMATE = {"value", "low", "high", "n"}


def document(capsys, *argv):
    code, out, err = run(capsys, *argv, "--json")
    assert code == 0, err

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(out, parse_constant=refuse)


def test_one_problems_map(capsys):
    found = document(capsys, "shifts", "--problem", "0")
    assert {"positions", "unshifted", "reranked", "shifted", "within_top", "on_forks", "on_forks_by_chance"} <= set(
        found
    )
    assert (found["base"], found["adapted"], found["problems"], found["tau"]) == ("mini", "mini + rl", 1, 1.0)
    for name in ("mean_rank", "entropy_ratio"):
        assert set(found[name]) >= ESTIMATE
    assert list(found["within_top"]) == [str(k) for k in range(1, 11)]
    tokens = found["tokens"]
    assert found["positions"] == len(tokens)
    for kind in ("unshifted", "reranked", "shifted"):
        assert found[kind] == pytest.approx(sum(t["class"] == kind for t in tokens) / len(tokens))
    assert found["disagreements"] == sum(t["rank"] > 1 for t in tokens)
    assert found["near_ties"] == sum(t["near_tie"] for t in tokens)
    assert found["on_forks_by_chance"] == pytest.approx(sum(t["fork"] for t in tokens) / len(tokens))
    assert found["mean_kl"] == pytest.approx(sum(t["kl"] for t in tokens) / len(tokens), abs=1e-6)
    assert [t["pos"] for t in tokens] == list(range(len(tokens)))
    check = found["base_check"]
    assert check["holds"]
    assert (check["max_dlogit"], check["probe"], check["weights"]["equal"]) == (0.0, 0.0, check["weights"]["tensors"])
    assert found["placebo"]["strength"] >= 0


def test_other_sources_of_a_map(capsys, tmp_path):
    base = document(capsys, "shifts", "--problem", "0")
    adapted = document(capsys, "shifts", "--problem", "0", "--source", "adapted")
    assert adapted["source"] == "adapted"
    assert all(t["adapted"]["rank"] == 1 for t in adapted["tokens"])
    assert all(t["base"]["rank"] == 1 for t in base["tokens"])
    text = "".join(t["text"] for t in base["tokens"][:-1])
    (tmp_path / "text").write_text(text)
    read = document(capsys, "shifts", "--problem", "0", "--read", str(tmp_path / "text"))
    assert read["stop"] == "read"
    # Written and read: the same places, the end token apart, which is no text.
    for a, b in zip(base["tokens"][:-1], read["tokens"], strict=True):
        assert (a["id"], a["class"], a["rank"]) == (b["id"], b["class"], b["rank"])
        assert a["kl"] == pytest.approx(b["kl"], abs=1e-4)


@pytest.mark.long
def test_a_solution_that_fills_the_context_is_mapped_to_its_end(capsys):
    found = document(capsys, "shifts", "Ann has 42 cards.", "--source", "adapted", "--max-new-tokens", "600")
    assert found["stop"] in ("context", "eos", "answer")
    assert found["base_check"]["holds"]


def test_a_set_of_shifts(capsys):
    found = document(capsys, "shifts", "--limit", "3")
    assert (found["problems"], found["of"], found["stopped"]) == (3, 3, False)
    assert found["unshifted"] + found["reranked"] + found["shifted"] == pytest.approx(1)
    assert found["intervals"]["reranked"]["n"] == 3
    for name in ("mean_rank", "entropy_ratio"):
        assert set(found[name]) >= ESTIMATE
    assert {"reranked", "mean_rank", "strength"} <= set(found["placebo"])
    assert found["noise"]["batch_shape"]["positions"] > 0
    assert "tokens" not in found
    plain = document(capsys, "shifts", "--limit", "3", "--no-placebo")
    assert plain["placebo"] is None
    unlike = {"placebo", "seconds"}
    assert {k: v for k, v in plain.items() if k not in unlike} == {k: v for k, v in found.items() if k not in unlike}


def test_interventions_on_a_set(capsys, tmp_path):
    path = tmp_path / "arms.csv"
    found = document(capsys, "intervene", "--limit", "3", "--csv", str(path))
    assert (found["n"], found["tau"]) == (3, 1.0)
    assert list(found["arms"]) == ["base", "teacher", "oracle", "random", "matched", "entropy"]
    for arm, figures in found["arms"].items():
        right = sum(p["correct"][arm] for p in found["problems"])
        low, high = wilson(right, 3)
        assert figures["pass@1"] == {"value": right / 3, "low": low, "high": high, "n": 3}
        assert 0 <= figures["touched"] < 1
        assert ("vs_base" in figures) == (arm != "base")
    assert found["arms"]["base"]["touched"] == 0
    assert found["oracle_equals_teacher"]["same"] == 3
    assert [p["id"] for p in found["problems"]] == [p.id for p in load_set("mini")[:3]]
    assert all(set(p) >= {"id", "answers", "correct", "patches"} for p in found["problems"])
    with path.open() as file:
        assert len(list(csv.DictReader(file))) == 18


def test_chosen_arms_come_in_their_usual_order(capsys):
    found = document(capsys, "intervene", "--limit", "1", "--arms", "oracle, base", "--tau", "0.5")
    assert list(found["arms"]) == ["base", "oracle"]
    assert found["tau"] == 0.5


def test_strength_0_changes_nothing(capsys):
    found = document(capsys, "shifts", "--limit", "2", "--strength", "0", "--no-placebo")
    assert (found["disagreements"], found["unshifted"]) == (0, 1.0)
    assert found["mean_kl"] < 1e-7  # one half may come out of the prefix cache, rounded another way
    assert found["adapted"] == "mini + rl*0"


def test_a_checkpoint_against_itself_never_parts(capsys):
    found = document(capsys, "intervene", "--teacher", "mini", "--limit", "2")
    assert found["arms"]["oracle"]["patches"] == found["arms"]["teacher"]["patches"] == 0
    assert found["arms"]["entropy"]["gated"] > 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["shifts", "--problem", "0", "--adapter", "rl", "--teacher", "mini"], "Name what to compare"),
        (["shifts", "--problem", "0", "--adapter", "nobody"], "no adapter 'nobody'"),
        (["shifts", "--problem", "0", "--strength", "2"], "--strength must be a number from 0 to 1.5; got 2"),
        (["shifts", "--problem", "0", "--tau", "-1"], "--tau must be a number, 0 or more; got -1"),
        (["shifts", "--problem", "nobody"], "nobody"),
        (["shifts", "Ann has 3.", "--problem", "0"], "exactly one"),
        (["shifts", "--read", str(Path(__file__))], "--read needs the PROMPT"),
        (["shifts", "--problem", "0", "--read", "nowhere.txt"], "Cannot read"),
        (["shifts", "--limit", "0"], "--limit"),
        (["shifts", "--limit", "1", "--set", "nobody"], "nobody"),
        (["shifts", "--limit", "1", "--max-new-tokens", "0"], "--max-new-tokens must be a whole number, 1 or more"),
        (["shifts", "--limit", "1", "--seed", "-1"], "seed"),
        (["shifts", "--problem", "0", "--max-new-tokens", "0"], "--max-new-tokens must be a whole number, 1 or more"),
        (["shifts", "--problem", "0", "--temperature", "-1"], "--temperature"),
        (["intervene", "--limit", "1", "--arms", "orakel"], "no arm 'orakel'"),
        (["intervene", "--limit", "1", "--arms", ","], "no arm"),
        (["intervene", "--limit", "1", "--seed", "-1"], "seed"),
        (["intervene", "--limit", "1", "--max-new-tokens", "0"], "--max-new-tokens must be a whole number, 1 or more"),
        (["intervene", "--limit", "1", "--tau", "nan"], "--tau must be a number, 0 or more; got nan"),
        (["intervene", "--limit", "1", "--teacher", "mini", "--strength", "0.5"], "full checkpoint"),
        (["intervene", "--limit", "1", "--arms", "base", "--csv", "/nowhere/arms.csv"], "Cannot write"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(capsys, argv, said):
    code, out, err = run(capsys, *argv, "--json")
    last = err.strip().splitlines()[-1]
    assert code == 2
    assert said in last
    assert "Traceback" not in err
    assert out == ""


def test_what_the_terminal_shows(capsys):
    code, out, _ = run(capsys, "shifts", "--problem", "5")
    assert code == 0
    assert "base is base" in out
    code, out, _ = run(capsys, "shifts", "--limit", "2")
    assert code == 0
    assert "reranked" in out
    code, out, _ = run(capsys, "intervene", "--limit", "2", "--arms", "base,oracle,teacher")
    assert code == 0
    assert "the same tokens in 2 of 2 problems" in out


@pytest.mark.long
@pytest.mark.real
def test_a_real_model_with_an_adapter_trained_on_the_spot(capsys, tmp_path, smol):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(smol.source, dtype=torch.float32)
    torch.manual_seed(0)
    tuned = get_peft_model(network, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])).train()
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=3e-3)
    for problem in load_set("arith:train")[:4]:
        prompt = list(smol.prompt_ids(problem.problem))
        solution = smol.encode(f" The answer is \\boxed{{{problem.answer}}}.")
        ids = torch.tensor([[*prompt, *solution]])
        labels = torch.tensor([[*[-100] * len(prompt), *solution]])
        tuned(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned.save_pretrained(str(tmp_path / "lora"))
    options = ["--model", smol.spec, "--adapter", str(tmp_path / "lora"), "--set", "arith", "--limit", "2"]
    shifts = document(capsys, "shifts", *options, "--max-new-tokens", "24", "--no-placebo")
    assert shifts["positions"] <= 48
    assert shifts["mean_kl"] > 1e-3
    assert shifts["unshifted"] + shifts["reranked"] + shifts["shifted"] == pytest.approx(1)
    arms = document(capsys, "intervene", *options, "--max-new-tokens", "16", "--arms", "base,teacher,oracle")
    assert arms["oracle_equals_teacher"]["same"] == 2
    assert arms["arms"]["oracle"]["patches"] > 0


@pytest.mark.parametrize("verb", [["shifts"], ["intervene", "--arms", "base,oracle"]])
def test_ctrl_c_ends_a_run_and_reports_what_is_there(verb, monkeypatch, capsys):
    reports = []

    def interrupt(*_):
        reports.append(True)
        if len(reports) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Progress, "__call__", interrupt)
    before = signal.getsignal(signal.SIGINT)
    assert main([*verb, "--limit", "40", "--json"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["stopped"]
    assert 1 <= found.get("n", found.get("problems")) < 40
    assert found["of"] == 40
    assert "stopping" in err
