"""A run that is killed at any moment goes on to the very adapter that an unbroken run makes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rmx.runs.folder import RunFolder
from tests.helpers.training_runs import delays, finish, kill_in, tiny_run

pytestmark = pytest.mark.slow

ADAPTER = Path("adapter") / "adapter_model.safetensors"


def lines(folder: RunFolder, name: str) -> int:
    path = folder.path / name
    return path.read_bytes().count(b"\n") if path.exists() else 0


def there(name: str) -> Callable[[RunFolder], bool]:
    return lambda folder: (folder.path / name).exists()


# Where each stage can be caught: what must be there, and how long the stage takes at most from then on.
MOMENTS: dict[str, tuple[Callable[[RunFolder], bool], float]] = {
    "rollouts": (lambda folder: lines(folder, "rollouts.jsonl") > 0, 0.4),
    "selection": (lambda folder: lines(folder, "validation_rollouts.jsonl") >= 11, 0.2),
    "gate": (there("selection.json"), 0.3),
    "training": (there("gate.json"), 1.5),
    "checkpoint": (there("checkpoints"), 1.0),
    "final": (there("checkpoints/step_4"), 0.5),
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = finish(tiny_run(tmp_path_factory.mktemp("unbroken")))
    return load_file(folder.path / ADAPTER)


def equal(folder: RunFolder, expected: dict[str, torch.Tensor]) -> None:
    found = load_file(folder.path / ADAPTER)
    assert found.keys() == expected.keys()
    worst = max((found[name] - expected[name]).abs().max().item() for name in expected)
    assert worst <= 1e-6, worst
    assert folder.state == "done"


def test_killed_once_in_every_stage(tmp_path: Path, unbroken: dict[str, torch.Tensor]) -> None:
    folder, caught = tiny_run(tmp_path), 0
    for nth, (reached, most) in enumerate(MOMENTS.values()):
        caught += kill_in(folder, reached, delays(nth, most)[0])
    assert caught >= 4  # a machine may be faster than a delay
    equal(finish(folder), unbroken)
    assert sum(1 for e in folder.events()[0] if e["kind"] == "done") == 1


@pytest.mark.long
@pytest.mark.parametrize("stage", MOMENTS)
def test_killed_five_times_in_a_stage(stage: str, tmp_path: Path, unbroken: dict[str, torch.Tensor]) -> None:
    folder, (reached, most) = tiny_run(tmp_path), MOMENTS[stage]
    caught = sum(kill_in(folder, reached, delay) for delay in delays(7, most))
    if folder.state != "done":
        finish(folder)
    equal(folder, unbroken)
    if stage != "final":
        assert caught >= 3


def test_trained_weights_moved(unbroken: dict[str, torch.Tensor]) -> None:
    assert max(w.abs().max().item() for name, w in unbroken.items() if "lora_B" in name) > 1e-3
