"""The command line's contracts: documents, exit codes, one-line refusals."""

import json
import re
import subprocess
import sys

import pytest

from rmx.arguments import API_ONLY
from rmx.cli.main import main
from rmx.config import ASSETS
from rmx.models.names import PAIRS, PRESETS
from rmx.service import VERBS

pytestmark = pytest.mark.slow

PROBLEM = ["--problem", "0"]


def run(capsys, *argv) -> tuple[int, str, str]:
    try:
        code = main(argv)
    except SystemExit as error:
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def document(capsys, *argv):
    code, out, err = run(capsys, "trace", *argv, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_trace_has_what_the_contract_names(capsys):
    trace = document(capsys, *PROBLEM, "--tau", "1.0")
    assert {"model", "adapter", "revision", "dtype", "prompt_ids", "seed", "temperature", "tau"} <= set(trace)
    assert trace["model"] == "mini"
    assert trace["adapter"] is None
    assert trace["dtype"] == "float32"
    token = trace["tokens"][3]
    assert {"pos", "id", "text", "entropy", "logp", "rank", "fork", "forced", "top"} == set(token)
    assert token["pos"] == 3
    assert len(token["top"]) >= 5
    assert [c["p"] for c in token["top"]] == sorted((c["p"] for c in token["top"]), reverse=True)
    assert all(t["fork"] == (t["entropy"] > 1.0) for t in trace["tokens"])
    assert set(trace["answer"]) == {"text", "correct"}
    assert trace["stop"] == "eos"
    assert trace["reuse"]["reused"] == 0
    assert trace["tokens"][-1]["text"] == "<|end|>"
    assert trace["path"] == {"step": "eager", "rows": 1}


def test_swaps_give_a_list_the_unswapped_first_each_from_the_one_before(capsys):
    base = document(capsys, *PROBLEM)
    fork = next(t for t in base["tokens"] if t["fork"])
    later = base["tokens"][fork["pos"] + 8]
    traces = document(
        capsys, *PROBLEM, "--swap", f"{fork['pos']}={fork['top'][1]['id']}", "--swap", f"{later['pos']}={later['id']}"
    )
    ids = [[t["id"] for t in trace["tokens"]] for trace in traces]
    assert len(traces) == 3
    assert ids[0] == [t["id"] for t in base["tokens"]]
    assert ids[1][: fork["pos"]] == ids[0][: fork["pos"]]
    assert ids[1][fork["pos"]] == fork["top"][1]["id"]
    assert ids[2][: later["pos"]] == ids[1][: later["pos"]]
    assert [t["pos"] for t in traces[2]["tokens"] if t["forced"]] == [fork["pos"], later["pos"]]
    assert traces[1]["reuse"]["computed"] == 1


def test_cold_reuses_nothing_and_says_the_same(capsys):
    base = document(capsys, *PROBLEM)
    fork = next(t for t in base["tokens"] if t["fork"])
    swap = ["--swap", f"{fork['pos']}={fork['top'][2]['id']}"]
    warm = document(capsys, *PROBLEM, *swap)[1]
    cold = document(capsys, *PROBLEM, *swap, "--cold")[1]
    assert cold["reuse"]["reused"] == 0 < warm["reuse"]["reused"]
    assert [t["id"] for t in cold["tokens"]] == [t["id"] for t in warm["tokens"]]
    assert all(abs(a["entropy"] - b["entropy"]) < 1e-4 for a, b in zip(cold["tokens"], warm["tokens"], strict=True))


def test_reading_a_text(capsys, tmp_path):
    text = " First, the facts are 42, 11. So the answer is \\boxed{53}."
    (tmp_path / "text").write_text(text)
    trace = document(capsys, "Ann has 42 cards.", "--read", str(tmp_path / "text"), "--answer", "53")
    assert "".join(t["text"] for t in trace["tokens"]) == text
    assert trace["stop"] == "read"
    assert trace["answer"] == {"text": "53", "correct": True}


def test_prompt_ids_are_taken_as_they_are(capsys, tmp_path):
    base = document(capsys, *PROBLEM)
    (tmp_path / "ids.json").write_text(json.dumps(base["prompt_ids"]))
    again = document(capsys, "--prompt-ids", str(tmp_path / "ids.json"))
    assert [t["id"] for t in again["tokens"]] == [t["id"] for t in base["tokens"]]
    assert again["answer"]["correct"] is None


def test_raw_takes_no_template(capsys):
    raw = document(capsys, "Q: Ann has 4 cards.\nA:", "--raw")
    templated = document(capsys, "Ann has 4 cards.")
    assert raw["prompt_ids"] == templated["prompt_ids"]


def test_sampling_repeats_with_its_seed(capsys):
    options = [*PROBLEM, "--temperature", "1", "--seed"]
    a, b, c = (document(capsys, *options, s)["tokens"] for s in ("7", "7", "8"))
    assert a == b
    assert [t["id"] for t in a] != [t["id"] for t in c]


def test_a_share_becomes_one_tau(capsys):
    few = document(capsys, *PROBLEM, "--tau-share", "0.02")["tau"]
    many = document(capsys, *PROBLEM, "--tau-share", "0.09")["tau"]
    assert 0 < many < few


def test_plain_output_marks_forks(capsys):
    code, out, _ = run(capsys, "trace", *PROBLEM)
    assert code == 0
    assert "answer" in out
    assert "[ " in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trace", ""], "empty"),
        (["trace", "   "], "empty"),
        (["trace"], "exactly one"),
        (["trace", "x", "--problem", "0"], "exactly one"),
        (["trace", "--problem", "no-such"], "no-such"),
        (["trace", "--problem", "0", "--set", "nowhere"], "nowhere"),
        (["trace", "x", "--model", "no-such-model"], "Unknown model"),
        (["trace", "x", "--model", "/no/such/folder"], "/no/such/folder"),
        (["trace", "x", "--model", "weights.bin"], "pickle"),
        (["trace", "x", "--adapter", "nothing"], "no adapter"),
        (["trace", "x", "--device", "tpu9"], "not available"),
        (["trace", "x", "--dtype", "int3"], "Unknown dtype"),
        (["trace", "x", "--tau", "-1"], "0 or more"),
        (["trace", "x", "--tau", "nan"], "0 or more"),
        (["trace", "x", "--tau", "high"], "--tau"),
        (["trace", "x", "--tau-share", "1.5"], "between 0 and 1"),
        (["trace", "x", "--temperature", "-0.1"], "--temperature must be a number from 0 to 10; got -0.1"),
        (["trace", "x", "--temperature", "inf"], "--temperature must be a number"),
        (["trace", "x", "--top-p", "0"], "--top-p must be a number above 0 and at most 1; got 0"),
        (["trace", "x", "--max-new-tokens", "0"], "1 or more"),
        (["trace", "x", "--seed", "-4"], "seed"),
        (["trace", "x", "--swap", "here=there"], "POSITION=TOKEN_ID"),
        (["trace", "x", "--swap", "9999=5"], "no token at position 9999"),
        (["trace", "x", "--swap", "0=999999"], "999999 does not exist"),
        (["trace", "x", "--swap", "0=-3"], "-3 does not exist"),
        (["trace", "x", "--read", "/no/such/file"], "Cannot read"),
        (["trace", "x " * 5000], "tokens and mini holds"),
        (["trace", "--prompt-ids", "/no/such/file"], "Cannot read"),
        (["trace", "x", "--answer"], "--answer"),
        (["dance"], "dance"),
        ([], "COMMAND"),
        (["bench", "swap", "--rounds", "0"], "--rounds"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(capsys, argv, said):
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert out == ""
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("content", ["{", "{}", "[1.5]", '["a"]', "[true]", "[]", "[999999]", "[-1]"])
def test_malformed_prompt_ids_are_refused(capsys, tmp_path, content):
    (tmp_path / "ids.json").write_text(content)
    code, _, err = run(capsys, "trace", "--prompt-ids", str(tmp_path / "ids.json"))
    assert code == 2
    assert len(err.strip().splitlines()) == 1


ASKED = ["trace", "outcomes", "rescue", "sofar", "shifts", "intervene", "locator", "claims", "eval"]
OTHERWISE = {"prompt": "PROMPT", "most_swaps": "--swaps", "placebo": "--no-placebo", "greedy": "--no-greedy"}


@pytest.mark.parametrize("verb", ASKED)
def test_what_can_be_asked_of_the_api_is_an_option_too(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    told = " ".join(out.split())
    assert code == 0
    for name, field in VERBS[verb].model_fields.items():
        spelled = OTHERWISE.get(name, "--" + name.replace("_", "-"))
        assert (f" {spelled} " in told) != (API_ONLY in field.metadata), name
    usual = VERBS[verb].model_fields.get("temperature")
    assert usual is None or f"(default {usual.default:g})" in told


def test_help_loads_neither_a_model_nor_what_runs_one():
    code = """
import contextlib, io, sys
from rmx.cli.main import VERBS, main
found = ["pydantic" in sys.modules]
for verb in VERBS:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main([verb, "--help"])
print(found, [name for name in ("torch", "transformers", "peft", "gradio", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False] []"


def test_doctor_says_what_is_here(capsys):
    code, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["mini"].startswith("loads")
    assert found["mini"].endswith("eager steps)")
    assert found["steps"].startswith("eager" if "no CUDA" in found["device"] else "cuda graph")
    assert "GB" in found["qwen2.5-1.5b"]


def test_the_help_of_models_names_every_preset_and_pair():
    text = (ASSETS / "help.txt").read_text(encoding="utf-8")
    assert [
        name for name in (*PRESETS, *PAIRS) if not re.search(rf"(?<![\w.+-]){re.escape(name)}(?![\w+-])", text)
    ] == []


@pytest.mark.parametrize("argv", [["rollouts", "--out", "x.jsonl"], ["bench", "decode"]])
def test_an_adapter_that_would_be_ignored_is_refused(capsys, argv):
    with pytest.raises(SystemExit, match="2"):
        main([*argv, "--adapter", "rl"])
    assert "unrecognized arguments: --adapter rl" in capsys.readouterr().err
