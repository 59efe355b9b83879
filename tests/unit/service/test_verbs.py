"""The verbs over a workspace: the command line's documents, arguments that are checked, calls that can be stopped."""

import json
import re
import threading

import pytest

from rmx.arguments import hints_of
from rmx.cli.main import _parser, main
from rmx.cli.options import request_of
from rmx.errors import RmxError
from rmx.models.load import load
from rmx.models.site_rules import SiteRules
from rmx.models.stand_ins import scripted_model
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.runs.job import TrainJob
from rmx.runs.store import RunStore
from rmx.service import VERBS, Limits, Site, call, write_command
from rmx.service.checks import count_later
from rmx.service.requests import AskingRequest, ClaimsRequest, EvalRequest, RescueRequest, ShiftsRequest
from rmx.service.studies import without_folders
from rmx.ui.endpoints import limits_of
from rmx.ui.settings import Settings


@pytest.fixture(scope="module")
def space():
    """On weights that no other test uses: adapters are put on them."""
    own = load("mini", device="cpu")
    return Workspace("cpu", loader=lambda spec: own)


@pytest.fixture(scope="module")
def site(space):
    return Site(space)


def last(site, name, **given):
    *_, document = call(site, name, given)
    return document


def unlike(value):
    """Without what differs from run to run."""
    if isinstance(value, list):
        return [unlike(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {k: unlike(v) for k, v in value.items() if k not in ("seconds", "minutes")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "given", "words"),
    [
        ("trace", {"problem": "241"}, ["--problem", "241"]),
        (
            "trace",
            {"prompt": "Q: 2 + 3?", "raw": True, "answer": "5", "temperature": 0.8, "seed": 3, "tau": 0.5},
            ["Q: 2 + 3?", "--raw", "--answer", "5", "--temperature", "0.8", "--seed", "3", "--tau", "0.5"],
        ),
        (
            "swap",
            {"problem": "241", "swaps": "28=879, 30=12"},
            ["--problem", "241", "--swap", "28=879", "--swap", "30=12"],
        ),
        (
            "outcomes",
            {"problem": "241", "pos": 28, "samples": 8},
            ["--problem", "241", "--pos", "28", "--samples", "8"],
        ),
        (
            "outcomes",
            {"problem": "241", "samples": 2, "forks": 2, "seed": 1},
            ["--problem", "241", "--samples", "2", "--forks", "2", "--seed", "1"],
        ),
        ("rescue", {"problem": "241", "budget": 300}, ["--problem", "241", "--budget", "300"]),
        (
            "trace",
            {"prompt": "2 + 3?", "style": "abel", "stop": [".", ","], "answers": "boxed", "max_new_tokens": 40},
            ["2 + 3?", "--style", "abel", "--stop", ".", "--stop", ",", "--answers", "boxed", "--max-new-tokens", "40"],
        ),
        (
            "shifts",
            {"limit": 1, "placebo": False, "style": "abel", "max_new_tokens": 20},
            ["--limit", "1", "--no-placebo", "--style", "abel", "--max-new-tokens", "20"],
        ),
        (
            "shifts",
            {"problem": "241", "source": "adapted", "max_new_tokens": 12},
            ["--problem", "241", "--source", "adapted", "--max-new-tokens", "12"],
        ),
        ("shifts", {"limit": 2, "placebo": False}, ["--limit", "2", "--no-placebo"]),
        (
            "intervene",
            {"limit": 2, "arms": "base, oracle", "placebo": False},
            ["--limit", "2", "--arms", "base,oracle", "--no-placebo"],
        ),
        ("shifts", {"problem": "241", "tau_share": 0.05}, ["--problem", "241", "--tau-share", "0.05"]),
        (
            "swap",
            {"problem": "241", "swaps": "28=879", "tau_share": 0.05},
            ["--problem", "241", "--swap", "28=879", "--tau-share", "0.05"],
        ),
        ("sofar", {"problem": "241"}, ["--problem", "241"]),
        (
            "locator",
            {"limit": 1, "samples": 2, "max_new_tokens": 48},
            ["--limit", "1", "--samples", "2", "--max-new-tokens", "48", "--no-cache"],
        ),
        (
            "eval",
            {"limit": 2, "n": 2, "adapter": ["rl"], "k": [1, 2], "max_new_tokens": 64},
            ["--limit", "2", "--n", "2", "--adapter", "rl", "--k", "1,2", "--max-new-tokens", "64", "--no-cache"],
        ),
        (
            "claims",
            {"limit": 2, "n": 2, "only": "gain, cost", "max_new_tokens": 48},
            ["--limit", "2", "--n", "2", "--only", "gain,cost", "--max-new-tokens", "48", "--no-cache"],
        ),
    ],
)
def test_the_last_document_is_that_of_the_command_line(site, space, monkeypatch, capsys, verb, given, words):
    forget = space.model("mini").engine.prefixes.clear  # what is reused rounds differently in the last digit
    forget()
    ours = last(site, verb, **given)
    forget()
    monkeypatch.setattr("rmx.models.workspace.Workspace", lambda *_, **__: space)
    assert main(["trace" if verb == "swap" else verb, *words, "--json"]) == 0
    assert unlike(ours) == unlike(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("kind", ["html", "json", "svg", "csv"])
def test_an_export_is_the_file_of_the_command_line(site, space, monkeypatch, capsys, tmp_path, kind):
    forget = space.model("mini").engine.prefixes.clear
    forget()
    ours = last(site, "export", problem="241", swaps="28=879", format=kind, title="Ann's cards")
    forget()
    monkeypatch.setattr("rmx.models.workspace.Workspace", lambda *_, **__: space)
    assert main(["trace", "--problem", "241", "--swap", "28=879", "--json"]) == 0
    (tmp_path / "trace.json").write_text(capsys.readouterr().out, encoding="utf-8")
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "trace.json"), "--title", "Ann's cards", f"--{kind}", str(out)]) == 0
    passing = re.compile(r'"(seconds|created)": ?[\d.]+')
    assert passing.sub("", ours["text"]) == passing.sub("", out.read_bytes().decode())
    assert ours["name"] == f"solution.{kind}"


def test_rollouts_are_those_of_the_command_line(site, capsys, tmp_path):
    ours = last(site, "rollouts", problems=2, k=2, max_new_tokens=24, seed=3)
    out = tmp_path / "rollouts.jsonl"
    words = ["--problems", "2", "--k", "2", "--max-new-tokens", "24", "--seed", "3", "--out", str(out), "--json"]
    assert main(["rollouts", *words]) == 0
    theirs = json.loads(capsys.readouterr().out)
    rows = [row for row in map(json.loads, out.read_text().splitlines()) if "input_ids" in row]
    assert {name: theirs[name] for name in ours if name != "rows"} == {n: v for n, v in ours.items() if n != "rows"}
    assert ours["rows"] == rows
    assert "rows" not in last(site, "rollouts", problems=2, k=2, max_new_tokens=4, brief=True)


def test_the_deltas_of_a_trace_are_its_tokens(site, monkeypatch):
    monkeypatch.setattr("rmx.service.solution.INTERVAL", 0.0)
    *deltas, document = call(site, "trace", {"problem": "241", "top": 3})
    tokens = [token for delta in deltas for token in delta["tokens"]]
    assert [d["start"] for d in deltas] == list(range(len(deltas)))
    assert tokens == document["tokens"]
    assert {len(t["top"]) for t in tokens} == {3}


def test_a_swap_says_which_branch_its_deltas_belong_to(site, monkeypatch):
    monkeypatch.setattr("rmx.service.solution.INTERVAL", 0.0)
    *deltas, (before, after) = call(site, "swap", {"problem": "241", "swaps": "28=879"})
    assert (before["answer"], after["answer"]) == ({"text": "33", "correct": False}, {"text": "52", "correct": True})
    assert after["reuse"]["computed"] == 1
    second = [d for d in deltas if d["branch"] == 1]
    assert second[0]["start"] == 28
    assert second[0]["tokens"][0]["forced"]


@pytest.mark.slow
def test_brief_documents_are_small_and_say_the_same(site):
    whole, brief = last(site, "trace", problem="241"), last(site, "trace", problem="241", top=5, brief=True)
    assert [t["pos"] for t in brief["tokens"]] == [t["pos"] for t in whole["tokens"] if t["fork"]] == [0, 12, 28]
    assert brief["text"] == "".join(t["text"] for t in whole["tokens"])
    assert (brief["length"], brief["answer"]) == (len(whole["tokens"]), whole["answer"])
    assert len(json.dumps(brief)) < 2500 < 40_000 < len(json.dumps(whole))
    parted = last(site, "shifts", problem="241", brief=True)
    assert [(t["pos"], t["class"]) for t in parted["tokens"]] == [(28, "reranked")]
    assert "problems" not in last(site, "intervene", limit=1, arms="base", placebo=False, brief=True)


@pytest.mark.parametrize(
    ("verb", "given", "said"),
    [
        ("trace", {}, "exactly one of"),
        ("trace", {"problem": "1", "prompt": "x"}, "exactly one of"),
        ("trace", {"problem": 1}, "problem must be text; got 1"),
        ("trace", {"prompt": "x", "style": "nobody's"}, "There is no prompt style"),
        ("trace", {"prompt": "x", "template": "/etc/passwd"}, "A template must hold {problem}"),
        ("trace", {"prompt": "x", "stop": "."}, "stop must be a list of texts; got '.'"),
        ("trace", {"prompt": "x", "thinking": "on"}, "cannot be told by its chat template"),
        ("shifts", {"limit": 1, "system": "x"}, "has no system line"),
        ("trace", {"problem": "1", "colour": "red"}, "no argument 'colour'"),
        ("trace", {"problem": "1", "raw": "yes"}, "raw must be true or false"),
        ("trace", {"problem": "1", "seed": True}, "seed must be a whole number from 0 to 2^63 - 1; got True"),
        ("trace", {"problem": "1", "seed": 2.5}, "seed must be a whole number"),
        ("trace", {"problem": "1", "seed": -1}, "seed must be"),
        ("trace", {"problem": "1", "seed": 10**5000}, "seed must be a whole number"),
        ("trace", {"problem": "1", "temperature": float("nan")}, "temperature must be a number from 0 to 10; got nan"),
        ("trace", {"problem": "1", "tau": True}, "tau must be a number, 0 or more; got True"),
        ("trace", {"problem": "1", "top_p": 0}, "top_p must be a number above 0 and at most 1; got 0"),
        ("intervene", {"arms": "x" * 501}, "arms has 501 characters"),
        ("trace", {"problem": "1", "tau": float("inf")}, "tau must be a number"),
        ("trace", {"problem": "1", "max_new_tokens": 4097}, "between 1 and 4,096"),
        ("trace", {"problem": "1", "top": 21}, "top must be a whole number from 1 to 20; got 21"),
        ("trace", {"prompt": "x" * 20_001}, "20,001 characters"),
        ("trace", {"prompt_ids": [1, "2"]}, "a list of whole numbers"),
        ("trace", {"prompt_ids": [10**6]}, "1000000"),
        ("trace", {"prompt_ids": []}, "The prompt is empty"),
        ("trace", {"prompt_ids": [-1]}, "prompt_ids must be a list of whole numbers from 0 to 2^31 - 1; got -1"),
        ("trace", {"prompt_ids": [2**40]}, "from 0 to 2^31 - 1"),
        ("trace", {"problem": "1", "model": "/etc/passwd"}, "no model '/etc/passwd' here"),
        ("trace", {"problem": "1", "model": "assets/mini"}, "no model 'assets/mini' here"),
        ("trace", {"problem": "1", "model": "../x/y"}, "no model"),
        ("trace", {"problem": "1", "adapter": "assets/mini"}, "no adapter 'assets/mini' here"),
        ("trace", {"problem": "1", "adapter": "~/.ssh"}, "no adapter"),
        ("trace", {"problem": "1", "set": "/etc/passwd"}, "no problem set '/etc/passwd' here"),
        ("trace", {"problem": "1", "set": "file.jsonl:test"}, "no problem set"),
        ("swap", {"problem": "1"}, "swaps are POSITION=TOKEN_ID"),
        ("swap", {"problem": "1", "swaps": "1=2=3"}, "swaps are POSITION=TOKEN_ID"),
        ("swap", {"problem": "1", "swaps": "999=3"}, "no token at position 999"),
        ("swap", {"problem": "1", "swaps": "1=999999"}, "999999"),
        ("swap", {"problem": "1", "swaps": ",".join(["1=2"] * 33)}, "33 swaps are too many"),
        ("outcomes", {"problem": "1", "pos": 0, "samples": 257}, "samples must lie between"),
        ("outcomes", {"problem": "1", "pos": 0, "budget": 0}, "budget must be a whole number, 1 or more; got 0"),
        ("outcomes", {"problem": "1", "pos": -1}, "no token at position -1"),
        ("rescue", {"problem": "1", "goal": "better"}, "goal must be one of right, wrong"),
        ("rescue", {"problem": "1", "most_swaps": 9}, "most_swaps must be a whole number from 1 to 4; got 9"),
        ("shifts", {}, "exactly one of"),
        ("shifts", {"limit": 201}, "limit must lie between 1 and 200"),
        ("shifts", {"problem": "1", "teacher": "/models/x"}, "no model '/models/x' here"),
        ("shifts", {"problem": "1", "pair": "a+b"}, "There is no pair"),
        ("shifts", {"problem": "1", "source": "both"}, "source must be one of base, adapted"),
        ("intervene", {"arms": "base,magic"}, "no arm 'magic'"),
        ("intervene", {"arms": ""}, "no arm"),
        ("train_status", {"run": "../../etc"}, "There is no run"),
        ("locator", {"samples": 3}, "samples must be a whole number, 2 or more and even; got 3"),
        ("locator", {"limit": 201}, "limit must lie between 1 and 200"),
        ("eval", {"adapter": "rl"}, "adapter must be a list of texts; got 'rl'"),
        ("eval", {"adapter": ["rl"] * 6}, "adapter holds 6 values; 5 are the most here"),
        ("eval", {"adapter": ["assets/mini/rl"]}, "no adapter 'assets/mini/rl' here"),
        ("eval", {"teacher": ["/models/x"]}, "no model '/models/x' here"),
        ("eval", {"set": "/etc/passwd"}, "no problem set '/etc/passwd' here"),
        ("eval", {"n": 2, "k": [4]}, "from 1 to the number of samples"),
        ("claims", {"only": "nonsense"}, "no claim 'nonsense'"),
        ("claims", {"set": "problems.jsonl"}, "no problem set"),
        ("claims", {"n": 0}, "n must be a whole number from 1 to 256; got 0"),
        ("sofar", {}, "exactly one of"),
        ("export", {"problem": "1", "format": "pdf"}, "format must be one of html, json, svg, csv; got 'pdf'"),
        ("export", {"problem": "1", "swaps": "x"}, "swaps are POSITION=TOKEN_ID"),
        ("rollouts", {"problems": 201}, "problems must lie between 1 and 200"),
        ("rollouts", {"k": 1}, "k must be a whole number, 2 or more"),
        ("rollouts", {"set": "file.jsonl"}, "no problem set"),
        ("train", {"gate": "none"}, "gate must be one of entropy, random, full; got 'none'"),
        ("train", {"positive_only": "yes"}, "positive_only must be true or false; got 'yes'"),
        ("train", {"lr": 2}, "lr must be a number above 0 and at most 1; got 2"),
        ("train", {"set": "../x.jsonl"}, "no problem set"),
        ("train", {"model": "/models/x"}, "no model '/models/x' here"),
        ("train", {"server": "http://127.0.0.1"}, "There is no argument 'server'"),
        ("train", {}, "Runs are not started here"),
        ("train_stop", {"run": "x"}, "Runs are not started here"),
        ("train_resume", {"run": "x", "tau": -1}, "tau must be a number, 0 or more; got -1"),
    ],
)
def test_what_is_wrong_with_an_argument_is_a_sentence(site, verb, given, said):
    with pytest.raises(RmxError) as caught:
        list(call(site, verb, given))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 700


def test_null_is_the_default(site):
    nothing = dict.fromkeys(hints_of(VERBS["trace"]))
    cold = {"problem": "241", "cold": True}
    assert unlike(last(site, "trace", **nothing | cold)) == unlike(last(site, "trace", **cold))


def test_limits_are_those_of_the_site(space):
    small = Site(space, limits=Limits(max_new_tokens=8, problems=1))
    assert len(last(small, "trace", problem="241")["tokens"]) == 8
    with pytest.raises(RmxError, match="between 1 and 8"):
        last(small, "trace", problem="241", max_new_tokens=9)
    with pytest.raises(RmxError, match="between 1 and 1 "):
        last(small, "intervene", limit=2)
    public = limits_of(Settings(public=True))
    for verb, name in (("eval", "n"), ("claims", "n"), ("rollouts", "k")):
        with pytest.raises(RmxError, match=f"{name} must lie between 1 and 16 here; got 17"):
            last(Site(space, limits=public), verb, **{name: 17})
    assert last(small, "eval", n=2, greedy=False)["of_problems"] == 1  # as many as there may be, where none is said
    assert last(small, "rollouts", k=2)["of"] == 1


def test_the_policy_is_asked(mini):
    public = Site(Workspace("cpu", loader=lambda spec: mini, policy=SiteRules(public=True)))
    assert last(public, "trace", problem="241", max_new_tokens=2)["model"] == "mini"
    for verb, given in (("trace", {"problem": "241"}), ("eval", {}), ("locator", {}), ("rollouts", {})):
        with pytest.raises(RmxError, match="This public site has the models mini"):
            last(public, verb, model="qwen2.5-7b", **given)
    for verb in ("eval", "claims", "locator", "rollouts"):
        with pytest.raises(RmxError, match="This public site has the problem sets"):
            last(public, verb, set="gsm8k")


def test_an_adapter_is_named_as_on_the_command_line(site):
    assert last(site, "trace", problem="241", adapter="rl")["answer"] == {"text": "52", "correct": True}


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        ("trace", {"prompt": "x", "max_new_tokens": 2000}),
        ("swap", {"prompt": "x", "max_new_tokens": 2000, "swaps": "1=300"}),
        ("outcomes", {"prompt": "x", "max_new_tokens": 200, "pos": 1, "answer": "7"}),
    ],
)
def test_a_call_that_is_cancelled_gives_the_engine_back(verb, given):
    slow = Site(Workspace(loader=lambda spec: scripted_model(seconds=0.01)))
    asked = threading.Event()
    steps = call(slow, verb, given, asked.is_set)
    next(steps)
    asked.set()
    rest = list(steps)
    assert len(rest) <= 2
    assert slow.workspace.model("mini").engine.queue.waiting() == 0


def test_how_runs_stand_without_paths_of_the_machine(tmp_path):
    store = RunStore(tmp_path)
    folder = store.create(TrainJob(preset="small"), owner="me")
    site = Site(Workspace(loader=lambda spec: scripted_model()), store)
    (row,) = last(site, "train_status")["runs"]
    assert (row["id"], row["state"]) == (folder.id, "stopped")
    found = last(site, "train_status", run=folder.id[:12])
    assert found["run"] == without_folders(row) | {"minutes": found["run"]["minutes"]}
    assert found["config"]["model"] == "mini"
    assert {"path": "config.json", "bytes": (folder.path / "config.json").stat().st_size} in found["files"]
    assert str(tmp_path) not in json.dumps(found)
    assert without_folders({"a": ["rmx train --out /home/me/runs/x1 --lr 1e-4"]}) == {
        "a": ["rmx train --out x1 --lr 1e-4"]
    }


def test_arguments_keep_their_places_for_callers_that_give_them_by_position():
    first = ["prompt", "problem", "set", "answer", "model", "adapter", "raw", "tau", "max_new_tokens"]
    assert list(hints_of(VERBS["trace"]))[:9] == first
    later = ["style", "system", "template", "thinking", "stop", "answers"]
    for verb in (verb for verb in VERBS.values() if issubclass(verb, AskingRequest)):
        assert list(hints_of(verb))[-count_later(verb) :][:6] == later


@pytest.mark.parametrize(
    "asked",
    [
        EvalRequest(
            model="m", adapter=["rl", "my run's"], teacher=["a/b"], k=[1, 4], n=8, temperature=1.0, greedy=False
        ),
        EvalRequest(greedy=False),
        ClaimsRequest(model="m", adapter="b", tau=1.23456789, limit=7, only="gain,reranked", budget=9),
        RescueRequest(prompt="Ann's 2 cards", answer="2", raw=True, goal="right", most_swaps=2),
        ShiftsRequest(pair="mini+rl", limit=3, placebo=False, strength=0.5, max_new_tokens=12),
    ],
    ids=lambda asked: type(asked).__name__,
)
def test_a_written_command_asks_the_same_and_names_no_default(asked):
    verb, *words = write_command(asked, StyleOptions())[1:]
    assert request_of(_parser().parse_args([verb, *words]), type(asked)) == asked
    assert {"--set", "--seed", "--top-p", "--brief"}.isdisjoint(words)
    style = StyleOptions(style="abel", stops=())
    assert write_command(asked, style) == ["rmx", verb, *words, "--style", "abel", "--stop", ""]
