"""The base in memory: what is recorded of it, what is found when it changes, and that nobody uses a ruined one."""

import json
from typing import Any

import pytest
import torch

from rmx.compare.controls import against_file, check_base, check_loaded
from rmx.data.problem_sets import load_set
from rmx.errors import ModelError
from rmx.evaluate.eval_report import EvalConfig, contestants_of
from rmx.evaluate.evaluation import Evaluation
from rmx.evaluate.sample_store import SampleStore
from rmx.models import adapters as adapters_module
from rmx.models.adapters import add_adapter
from rmx.models.base_state import base_changes, base_tensors, checksum, digest, key_of, probe, remember_base
from rmx.models.load import Model
from rmx.models.model_pair import Pair, make_pair
from rmx.models.workspace import Workspace
from tests.conftest import qwen, wrap
from tests.helpers.adapter_kinds import FOLDED, save, tied
from tests.helpers.pairs import save_lora

pytestmark = pytest.mark.slow

# -- checksums ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (257, 129), (300, 400)])
def test_a_checksum_is_of_the_bits(dtype, shape):
    torch.manual_seed(0)
    tensor = (4 * torch.randn(shape)).to(dtype)
    found = checksum(tensor)
    assert found == checksum(tensor.clone())
    assert -(2**63) <= found < 2**63
    data = tensor.clone().flatten().contiguous().view(torch.uint8)
    for place in (0, len(data) // 2, len(data) - 1):
        data[place] ^= 1
        assert checksum(data.view(dtype)) != found
        data[place] ^= 1
    assert checksum(data.view(dtype)) == found


def test_order_counts_as_values_do():
    torch.manual_seed(0)
    tensor = torch.randn(100_000)  # more than one chunk
    seen = {checksum(tensor), checksum(tensor.flip(0)), checksum(tensor.roll(1)), checksum(tensor.roll(32768))}
    for one, other in ((0, 1), (0, 2), (5, 70_000), (99_998, 99_999)):
        swapped = tensor.clone()
        swapped[[one, other]] = swapped[[other, one]]
        seen.add(checksum(swapped))
    assert len(seen) == 8
    assert checksum(torch.zeros(8)) != checksum(torch.zeros(16))


def test_views_and_strides_do_not_count():
    tensor = torch.randn(64, 48)
    assert checksum(tensor.T) == checksum(tensor.T.contiguous())
    assert checksum(tensor.flatten()[1:]) == checksum(tensor.flatten()[1:].clone())
    assert checksum(torch.empty(0)) == checksum(torch.empty(3, device="meta")) == 0


def test_the_sum_does_not_depend_on_how_much_is_taken_at_once(monkeypatch):
    tensor = torch.randn(200_000)
    found, real = checksum(tensor), torch.arange
    sizes = []

    def seen(size: int, **options: Any) -> torch.Tensor:
        sizes.append(size)
        return real(size, **options)

    monkeypatch.setattr(torch, "arange", seen)
    words = tensor.view(torch.int64)
    step = 0x1E3779B97F4A7C15
    mixed = words + real(len(words)) * step  # all at once, as a GPU does
    mixed = (mixed ^ (mixed >> 31)) * 0x3F58476D1CE4E5B9
    assert checksum(tensor) == found == int((mixed ^ (mixed >> 29)).sum())
    assert sizes == [1 << 15]


def test_a_digest_tells_names_dtypes_and_shapes_apart():
    tensor = torch.zeros(4, 4)
    others = [{"b": tensor}, {"a": tensor.flatten()}, {"a": tensor.view(torch.int32)}, {"a": tensor, "b": tensor}]
    assert len({digest(t) for t in [{"a": tensor}, *others]}) == 5
    assert digest({"a": tensor, "b": tensor + 1}) == digest({"b": tensor + 1, "a": tensor})


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_the_base_is_recorded_before_the_first_adapter_and_never_after(tmp_path):
    model = wrap(qwen())
    assert base_changes(model) is None
    remember_base(model)
    first = model.engine.checksums
    assert first == {name: checksum(tensor) for name, tensor in qwen().state_dict().items()}
    add_adapter(model, save_lora(tmp_path / "a", qwen()))
    model.engine.model.get_base_model().lm_head.weight.data[0, 0] += 1
    remember_base(model)
    assert model.engine.checksums is first
    assert base_changes(model)


def test_tied_tensors_are_there_under_both_names():
    names = base_tensors(wrap(tied()).engine).keys()
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= names


def test_changes_name_the_tensors_and_the_probe(tmp_path):
    model = wrap(qwen())
    add_adapter(model, save_lora(tmp_path / "a", qwen()))
    changes = base_changes(model)
    assert changes is not None
    assert (bool(changes), changes.tensors, changes.probe, str(changes)) == (False, (), 0.0, "")
    layer = model.engine.model.get_base_model().model.layers[1]
    layer.self_attn.q_proj.get_base_layer().weight.data[0, 0] += 0.5
    layer.mlp.up_proj.weight.data[0, 0] += 0.5
    changes = base_changes(model)
    assert changes is not None
    assert changes.tensors == ("model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight")
    assert changes.probe > 0
    assert "2 of 27 tensors in memory are not those that were loaded" in str(changes)


# -- an adapter that changes the base all the same ---------------------------------------------------------------------


def harmful(monkeypatch, harm) -> None:
    """PEFT, with something that it does to the base while it fills an adapter's layers."""
    real = adapters_module.set_peft_model_state_dict

    def fill(network: Any, tensors: Any, adapter_name: str) -> Any:
        harm(network.get_base_model().model.layers[0].mlp.up_proj)
        return real(network, tensors, adapter_name=adapter_name)

    monkeypatch.setattr(adapters_module, "set_peft_model_state_dict", fill)


def reassign(module: torch.nn.Module) -> None:
    module.weight.data = module.weight.data - 0.25


def write_over(module: torch.nn.Module) -> None:
    module.weight.data -= 0.25


def fail_half_way(module: torch.nn.Module) -> None:
    reassign(module)
    raise RuntimeError("half way")


def test_it_is_taken_off_and_the_base_is_as_it_was(tmp_path, monkeypatch):
    model, folder = wrap(qwen()), save_lora(tmp_path / "a", qwen())
    before, key, network = probe(model), key_of(model, None), model.engine.model
    harmful(monkeypatch, reassign)
    with pytest.raises(ModelError, match="because it changed the base: 1 of 27 tensors in memory"):
        add_adapter(model, folder)
    assert (model.adapters, model.engine.attached, model.engine.fault) == ([], set(), None)
    assert model.engine.model is network
    assert torch.equal(probe(model), before)
    assert key_of(model, None) == key
    monkeypatch.undo()
    assert check_base(Pair(model, model, add_adapter(model, folder)), [1, 2, 3]).holds


def test_beside_another_only_the_harmful_one_is_taken_off(tmp_path, monkeypatch):
    model = wrap(qwen())
    one = add_adapter(model, save_lora(tmp_path / "a", qwen()))
    two = save_lora(tmp_path / "b", qwen(), seed=8)
    harmful(monkeypatch, reassign)
    with pytest.raises(ModelError, match="taken off"):
        add_adapter(model, two)
    assert model.engine.attached == {one}
    assert not base_changes(model)


def test_one_that_fails_half_way_leaves_the_base_as_it_was(tmp_path, monkeypatch):
    model, folder = wrap(qwen()), save_lora(tmp_path / "a", qwen())
    before = probe(model)
    harmful(monkeypatch, fail_half_way)
    with pytest.raises(ModelError, match="half way"):
        add_adapter(model, folder)
    assert torch.equal(probe(model), before)
    assert (model.engine.fault, model.engine.attached) == (None, set())


def test_weights_that_were_written_over_are_used_by_nobody_and_loaded_again(tmp_path, monkeypatch):
    folder = save_lora(tmp_path / "a", qwen())
    space = Workspace(loader=lambda spec: wrap(qwen()))
    model = space.model("tiny")
    before = probe(model)
    harmful(monkeypatch, write_over)
    with pytest.raises(ModelError, match="taken off"):
        space.adapter(model, folder)
    with pytest.raises(ModelError, match="has damaged the weights of tiny in memory.*Load the model again"):
        model.engine.using(None)
    monkeypatch.undo()
    again = space.model("tiny")
    assert again is not model
    assert torch.equal(probe(again), before)
    assert space.adapter(again, folder) in again.adapters


# -- the badge ---------------------------------------------------------------------------------------------------------


def fresh() -> Pair:
    return make_pair(Workspace("cpu"), "mini", "rl")


def spoil(model: Model, by: float) -> None:
    model.engine.model.get_base_model().model.layers[1].mlp.down_proj.weight.data[3, 4] += by


def test_the_sentence_says_what_has_changed():
    pair = fresh()
    check = check_loaded(pair)
    assert check.sentence == "base is base: largest change of a logit 0"
    assert (check.memory.json(), check.probe) == ({"changed": 0, "of": 38, "names": [], "probe": 0.0}, 0.0)
    spoil(pair.base, 1e-3)
    check = check_loaded(pair)
    assert not check.holds
    assert check.max_dlogit == 0
    assert check.sentence.startswith("THE BASE HAS CHANGED: 1 of 38 tensors in memory are not those that were loaded")
    assert "1 of 38 tensors are not those of model.safetensors" in check.sentence
    assert "a logit moved by" in check.sentence
    assert "largest change of a logit 0" not in check.sentence
    assert json.loads(json.dumps(check.json(), allow_nan=False))["sentence"] == check.sentence


@pytest.mark.parametrize("look", ["max_dlogit", "copy", "probe", "weights", "memory"])
def test_a_base_that_has_changed_is_said_with_a_reason_whichever_look_finds_it(look):
    from dataclasses import replace

    from rmx.compare.controls import Weights
    from rmx.models.base_state import Changes

    check = check_loaded(fresh())
    wrong = {
        "max_dlogit": {"max_dlogit": 0.5},
        "copy": {"copy": float("inf")},
        "probe": {"memory": Changes((), 38, 0.5)},
        "memory": {"memory": Changes(("a", "b", "c", "d"), 38, 0.0)},
        "weights": {"weights": Weights("model.safetensors", 38, 37)},
    }[look]
    found = replace(check, **wrong)
    assert not found.holds
    assert len(found.changes) == 1
    assert found.changes[0]
    assert found.sentence == f"THE BASE HAS CHANGED: {found.changes[0]}"


def test_the_file_is_read_once_per_load_and_again_after_a_change(monkeypatch):
    from rmx.compare import controls as basecheck

    pair, read = fresh(), []

    def reading(*args: Any) -> Any:
        read.append(1)
        return against_file(*args)

    monkeypatch.setattr(basecheck, "against_file", reading)
    assert [check_loaded(pair).holds for _ in range(3)] == [True] * 3
    assert len(read) == 1
    spoil(pair.base, 1e-3)
    assert not check_loaded(pair).holds
    assert len(read) == 2


def test_tensors_of_the_file_that_are_held_under_other_names_are_counted_apart(tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    from rmx.compare import controls as basecheck

    pair = fresh()
    place = basecheck._weight_files(pair.base)[0]
    tensors = load_file(place)
    save_file(tensors | {"model.rotary.inv_freq": torch.ones(3)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(basecheck, "_weight_files", lambda _: [tmp_path / "model.safetensors"])
    found = check_loaded(pair)
    assert (found.weights.tensors, found.weights.equal, found.weights.absent, found.holds) == (39, 38, 1, True)


# -- evaluations and claims --------------------------------------------------------------------------------------------

CONFIG = EvalConfig(n=0, max_new_tokens=64)
PROBLEMS = load_set("mini:test")[:6]


def evaluated(space: Workspace, store: SampleStore, adapters: list[str]) -> dict[str, Any]:
    *_, report = Evaluation(contestants_of(space, "mini", adapters), PROBLEMS, CONFIG, "mini:test", store=store).run()
    return report.json()


def test_an_evaluation_says_that_the_base_is_the_base(tmp_path):
    found = evaluated(Workspace("cpu"), SampleStore(tmp_path), ["rl"])
    assert found["base_check"]["holds"] is True
    assert (found["base_check"]["weights"]["equal"], found["base_check"]["adapter"]["name"]) == (38, "rl")
    alone = evaluated(Workspace("cpu"), SampleStore(tmp_path), [])
    assert (alone["base_check"]["holds"], alone["base_check"]["adapter"]) == (True, None)
    assert alone["cached"] == len(PROBLEMS)  # the base's completions are found again by another load


def test_a_ruined_base_keeps_nothing_under_the_clean_ones_key_and_is_told(tmp_path):
    from rmx.cli.sets import eval_table

    store = SampleStore(tmp_path)
    clean = evaluated(Workspace("cpu"), store, [])
    ruined = Workspace("cpu")
    ruined.adapter(ruined.model("mini"), "rl")
    for weight in ruined.model("mini").engine.model.get_base_model().model.layers[0].mlp.parameters():
        weight.data.mul_(-3)
    found = evaluated(ruined, store, ["rl"])
    assert found["cached"] == 0
    assert found["base"]["greedy"] != clean["greedy"]
    assert found["base_check"]["holds"] is False
    assert "THE BASE HAS CHANGED: 3 of 38 tensors" in eval_table(found)
    again = evaluated(Workspace("cpu"), store, [])
    assert (again["cached"], again["greedy"]) == (len(PROBLEMS), clean["greedy"])
    assert "THE BASE HAS CHANGED" not in eval_table(again)


def test_an_adapter_begun_from_the_base_does_not_spoil_an_evaluation(tmp_path):
    from transformers import AutoModelForCausalLM

    from rmx.config import ASSETS

    network = AutoModelForCausalLM.from_pretrained(ASSETS / "mini", dtype=torch.float32)
    folder, _ = save(tmp_path / "a", FOLDED["pissa"], network)
    store, space = SampleStore(tmp_path / "store"), Workspace("cpu")
    clean = evaluated(Workspace("cpu"), SampleStore(tmp_path / "other"), [])
    found = evaluated(space, store, [folder])
    assert found["base"]["greedy"] == clean["greedy"]
    assert found["base_check"]["holds"] is True
    assert found["base_check"]["adapter"]["folded"] == "pissa"
    again = evaluated(Workspace("cpu"), store, [folder])
    assert again["cached"] == 2 * len(PROBLEMS)
    assert again["adapted"]["greedy"] == found["adapted"]["greedy"]


def test_claims_ask_the_base_once_and_say_so_before_all_else_where_it_has_changed():
    from dataclasses import replace

    from rmx.claims.board import ClaimsReport, caveats
    from rmx.claims.studies import ClaimOptions
    from rmx.compare.shift_map import PairOptions

    subject = ClaimOptions(PairOptions("mini", adapter="rl", set_name="mini", limit=2)).subject(Workspace("cpu"))
    report = ClaimsReport(subject, (), None, 0, 0, 0.0, True)
    assert report.json()["base_check"]["holds"] is True
    assert "THE BASE" not in " ".join(report.json()["caveats"])
    spoil(subject.pair.base, 1e-2)
    spoilt = replace(subject, check=check_loaded(subject.pair))
    assert caveats(spoilt)[0].startswith("THE BASE HAS CHANGED: 1 of 38 tensors")
    assert caveats(spoilt)[1:] == caveats(subject)
