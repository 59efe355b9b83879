"""A ZeroGPU Space: the package `spaces` outside of one, its models and adapters, and the package as it is there."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import spaces
import torch

from rmx.arguments import Sampling
from rmx.config import ASSETS
from rmx.errors import ModelError, Refused, RmxError
from rmx.explore.generate import Generation, Job
from rmx.models import zerogpu as carry
from rmx.models.site_rules import SiteRules
from rmx.models.workspace import Workspace
from rmx.models.zerogpu import ZeroWorkspace, is_zerogpu
from rmx.ui.jobs.explorer import Explorer
from rmx.ui.jobs.training import Training
from rmx.ui.server.serve import launch
from rmx.ui.settings import Settings
from tests.helpers.other_process import OtherProcess

pytestmark = pytest.mark.slow

PROBLEM = "Ann has 12 apples and gives 5 to Ben. Then Ann buys 9 more. How many apples does Ann have?"


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that stands for a larger model."""
    place = tmp_path_factory.mktemp("larger") / "model"
    shutil.copytree(ASSETS / "mini", place, ignore=shutil.ignore_patterns("rl", "reasonmaxxer"))
    return str(place)


@pytest.fixture(scope="module")
def gpu() -> Iterator[OtherProcess]:
    other = OtherProcess()
    yield other
    other.close()


@pytest.fixture(scope="module")
def space(gpu, larger) -> ZeroWorkspace:
    torch.set_num_threads(1)
    space = ZeroWorkspace(gpu, "cpu")
    for spec in ("mini", larger):
        space.model(spec)
    space.ready()
    return space


def stream(space: Workspace, spec: str, adapter: str | None = None) -> list[dict]:
    explorer = Explorer(space)
    return list(explorer.stream(explorer.start(spec, adapter, PROBLEM, Sampling(max_new_tokens=40), 0.5)))


# -- outside a Space --------------------------------------------------------------------------------------------------


def test_outside_a_space_the_decorator_changes_nothing(larger):
    assert not is_zerogpu()
    assert spaces.GPU(duration=60)(carry.run_on_worker) is carry.run_on_worker
    space = ZeroWorkspace(device="cpu")
    model = space.model(larger)
    space.ready()
    assert model.engine.remote is None
    plain = Workspace("cpu")
    told, expected = stream(space, larger)[-1], stream(plain, larger)[-1]
    assert told["result"] | {"seconds": 0} == expected["result"] | {"seconds": 0}
    assert inspect.isgeneratorfunction(carry.run_on_worker)  # spaces asks that to tell streams from single values


@pytest.mark.parametrize(("value", "so"), [("true", True), ("1", True), ("", False), ("false", False)])
def test_a_space_is_known_by_its_variable(monkeypatch, value, so):
    monkeypatch.setenv("SPACES_ZERO_GPU", value)
    assert is_zerogpu() is so


def test_without_the_package_it_is_said_what_to_add(monkeypatch):
    monkeypatch.setitem(sys.modules, "spaces", None)
    with pytest.raises(RmxError, match=r"requirements\.txt"):
        ZeroWorkspace()


# -- models -----------------------------------------------------------------------------------------------------------


def test_mini_computes_here_and_the_larger_model_elsewhere(space, larger, gpu):
    calls = len(gpu.sent)
    assert "error" not in stream(space, "mini")[-1]
    assert len(gpu.sent) == calls
    far = stream(space, larger)[-1]
    assert len(gpu.sent) == calls + 1
    here = stream(Workspace("cpu"), larger)[-1]
    told = ("answer", "stop", "n")
    assert [far["result"][name] for name in told] == [here["result"][name] for name in told]
    assert space.remote_of(larger) is space.carrier
    assert space.remote_of("mini") is None


def test_no_model_is_loaded_once_the_space_is_ready(space):
    with pytest.raises(ModelError, match="On ZeroGPU models are loaded when the Space starts"):
        space.model("HuggingFaceTB/SmolLM2-135M")


def test_the_adapter_of_a_run_is_put_on_over_there(space, larger, tmp_path, gpu):
    place = tmp_path / "an.adapter"
    shutil.copytree(ASSETS / "mini" / "rl", place)
    model = space.model(larger)
    before = stream(space, larger)[-1]
    with_it = stream(space, larger, str(place))[-1]
    assert "error" not in with_it
    assert model.engine.attached == set()  # not here
    expected = Workspace("cpu")
    job = Job(
        model.prompt_ids(PROBLEM), Sampling(max_new_tokens=40), 0.5, expected.adapter(expected.model("mini"), "rl")
    )
    assert with_it["result"]["n"] == len(Generation(expected.model("mini"), job).run().tokens)
    assert stream(space, larger)[-1]["result"]["n"] == before["result"]["n"]


def test_an_adapter_that_is_not_here_is_refused(space, larger):
    model = space.model(larger)
    with pytest.raises(ModelError, match="There is no adapter"):
        space.adapter(model, "nothing")
    with pytest.raises(ModelError, match="loaded when the Space starts"):
        space.adapter(model, "somebody/adapter")


def test_the_policy_counts_there_too(gpu):
    space = ZeroWorkspace(gpu, "cpu", policy=SiteRules(public=True))
    with pytest.raises(Refused):
        space.model("somebody/model")


def test_the_plan_of_a_run_computes_nothing_in_the_app(space, larger):
    """A gradient that was computed here would keep every copy of this process from computing one."""
    from rmx.runs.job import TrainJob

    plan = Training(space).plan(TrainJob(model=larger))
    assert plan["minutes"] is None
    assert "slices of a minute" in plan["rate"]
    assert Training(space).plan(TrainJob())["minutes"] is None


def test_a_password_is_refused_at_the_start():
    with pytest.raises(RmxError, match="Make the Space private"):
        launch(Settings(auth="me:long-enough"), OtherProcess(), "cpu")


# -- the package as it is on a Space ----------------------------------------------------------------------------------


@pytest.mark.long
def test_on_a_space_the_app_is_launched_and_the_gpu_is_asked_for_each_call(larger, tmp_path):
    """Real hooks, worker processes and errors of `spaces`; who lends the GPU is played."""
    script, told = Path(__file__).parents[2] / "helpers" / "zerogpu_space.py", tmp_path / "seen.json"
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, str(script), larger, str(told)],
        env=os.environ | {"PYTHONPATH": path, "RMX_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
        check=False,
    )
    assert told.exists(), run.stdout.decode(errors="replace")[-3000:]
    seen = json.loads(told.read_text())
    assert seen["reported"]  # without it ZeroGPU takes the Space for one that uses no GPU
    assert (seen["health"], seen["policy"], seen["closed"]) == ("ok", True, 404)
    assert seen["far"]["dtype"] == "bfloat16"  # it was put on the GPU that is pretended
    assert len(seen["far"]["tokens"]) > 5
    assert seen["near"] == "float32"
    assert seen["again"]["reused"] > 0  # the worker stays, and its prefixes with it
    assert [one["seconds"] for one in seen["asked"]] == [15, 15]  # none for mini
    assert all(one["token"] for one in seen["asked"])  # the quota is that of the visitor who asks
    assert seen["stopped"] == {"kept": 3, "same": True, "workers": [1, 1]}  # a stop costs no worker
    assert "Shorten it" in seen["mistake"]
    assert seen["quota"].startswith(
        "No GPU at the moment: You have exceeded your ZeroGPU quota (15s requested vs. 3s left)"
    )
    assert {fail.lower() for fail in seen["released"]} == {"false"}  # every lent GPU was given back, none as failed
    assert len(seen["released"]) == 4
