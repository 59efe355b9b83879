"""Two processes under `accelerate launch` do what one does, on the reference data with its short last windows."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("two_processes.py")
ROOT = SCRIPT.parents[2]
# On CPUs `--cpu` starts one process, whatever number is asked for; `--multi_gpu` starts them all, over gloo.
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")  # fmt: skip


@cache
def ran(run: str, processes: int) -> Path:
    out = Path(mkdtemp(prefix="rmx-two-"))
    command = [sys.executable, *(LAUNCH if processes == 2 else ()), str(SCRIPT), run, str(out)]
    alone = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=os.environ | alone, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return out


def made(run, processes, rank=0):
    return json.loads((ran(run, processes) / f"made-{rank}.json").read_text())


@pytest.mark.long
def test_same_losses_and_the_same_adapter():
    run = "adv_ce_uneven"  # windows of three micro-batches, so that the processes have unequal numbers of them
    one = made(run, 1)
    for rank in (0, 1):
        two = made(run, 2, rank)
        assert [line.get("step") for line in two] == [line.get("step") for line in one]
        for mine, wanted in zip(two, one, strict=True):
            assert mine == pytest.approx(wanted, abs=1e-5)
    weights = [load_file(ran(run, n) / "checkpoint" / "adapter_model.safetensors") for n in (1, 2)]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-5
