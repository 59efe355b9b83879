"""The pair that ships with SmolLM2: small, known by name, and another model where its base is undecided."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from rmx.config import ASSETS
from rmx.data.problem_sets import load_set
from rmx.models.model_pair import make_pair
from rmx.models.names import PAIRS, SMOLLM2, shipped_adapters
from rmx.models.workspace import Workspace
from rmx.train.heldout import solve

FOLDER = ASSETS / SMOLLM2


@pytest.mark.parametrize("name", shipped_adapters(SMOLLM2))
def test_an_adapter_is_small_and_says_where_it_comes_from(name):
    weights = FOLDER / name / "adapter_model.safetensors"
    assert weights.stat().st_size <= 4_000_000
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert "opened once for all adapters" in card
    pair = PAIRS[f"smollm2+{name}"]
    assert pair.adapter == name
    # Whoever chooses the pair reads what the adapter gained: the very figures of its card, rounded in the title.
    found = re.search(r"([+−]\d+\.\d) points \[([−\d.]+), ([\d.]+)\]", pair.method)
    assert found is not None
    gain, low, high = (float(figure.replace("−", "-")) for figure in found.groups())
    numbers = {float(figure) for figure in re.findall(r"[-+]?\d+\.\d", card)}
    assert {gain, low, high} <= numbers
    assert ("no gain" if low < 0 < high else f"{gain:+.0f} points") in pair.title


def test_the_log_is_that_of_the_adapter():
    events = [json.loads(line) for line in (FOLDER / "rl" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    training = json.loads((FOLDER / "rl" / "training.json").read_text(encoding="utf-8"))
    config = next(event for event in events if event["kind"] == "config")
    assert config.items() >= training["config"].items()
    steps = {event["iteration"] for event in events if event["kind"] == "step"}
    assert steps == set(range(1, config["iterations"] + 1))


@pytest.mark.slow
@pytest.mark.real
def test_base_and_partner_part_on_a_problem_and_are_asked_in_the_set_s_way():
    pair = make_pair(Workspace("cpu"), SMOLLM2, "rl")
    assert pair.base.style.name == "three-shot"
    asked = load_set("words:validation")[12:20]
    base, partner = (solve(pair.base, asked, key, 40) for key in (None, pair.adapter))
    assert sum(base.right) < sum(partner.right)
