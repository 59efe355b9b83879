"""Packed weights: the same products, never those of weights that have changed since."""

import copy
import pickle

import pytest
import torch
from torch import nn

from rmx.engine import acceleration
from rmx.engine.acceleration import PackedLinear, forget_packed, pack_linear_layers, packed_bytes

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(acceleration, "SMALLEST", 0)
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(48, 80), nn.ReLU(), nn.Linear(80, 33, bias=False))
    pack_linear_layers(made)
    return made


def plain(network: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    first, act, second = network
    return nn.functional.linear(act(nn.functional.linear(x, first.weight, first.bias)), second.weight)


def inferred(network: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(x).clone()


@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (3, 5, 48), (70, 48)])
def test_products_are_those_of_the_weights(network, shape):
    x = torch.randn(shape)
    assert torch.allclose(inferred(network, x), plain(network, x), atol=1e-5)
    assert packed_bytes(network) == sum(layer.weight.nbytes for layer in network if isinstance(layer, PackedLinear))


def test_a_row_depends_neither_on_its_place_nor_on_the_others(network):
    for rows in (2, 5, 32, 33):
        x = torch.randn(rows, 48)
        alike = inferred(network, x[:1].expand(rows, -1))
        assert torch.equal(alike, alike[:1].expand(rows, -1))
        assert torch.equal(inferred(network, torch.cat([torch.randn(rows - 1, 48), x[:1]]))[-1], alike[0])


def test_weights_that_change_are_packed_anew(network):
    x, first = torch.randn(4, 48), network[0]
    before = inferred(network, x)
    with torch.no_grad():
        first.weight.mul_(2)
    changed = inferred(network, x)
    assert torch.allclose(changed, plain(network, x), atol=1e-5)
    assert not torch.allclose(changed, before, atol=1e-2)
    first.weight.data = torch.zeros_like(first.weight)
    assert torch.allclose(inferred(network, x), plain(network, x), atol=1e-5)
    network[2].weight.data += 1  # as merging an adapter writes, which nothing tells
    forget_packed(network)
    assert packed_bytes(network) == 0
    assert torch.allclose(inferred(network, x), plain(network, x), atol=1e-4)


def test_weights_that_were_made_in_inference_mode_are_packed_too(monkeypatch):
    monkeypatch.setattr(acceleration, "SMALLEST", 0)
    with torch.inference_mode():
        made = nn.Sequential(nn.Linear(48, 80), nn.ReLU(), nn.Linear(80, 33, bias=False))
        pack_linear_layers(made)
        x = torch.randn(4, 48)
        assert torch.allclose(made(x), plain(made, x), atol=1e-5)
    assert packed_bytes(made) > 0


def test_training_computes_with_the_weights_themselves(network):
    x = torch.randn(4, 48)
    assert torch.equal(network(x), plain(network, x))
    network(x).sum().backward()
    assert network[0].weight.grad is not None
    assert packed_bytes(network) == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_packs_its_own_weights(network, copied):
    x = torch.randn(4, 48)
    inferred(network, x)
    other = copied(network)
    assert packed_bytes(other) == 0
    with torch.no_grad():
        other[0].weight.zero_()
    assert torch.allclose(inferred(other, x), plain(other, x), atol=1e-5)
    assert torch.allclose(inferred(network, x), plain(network, x), atol=1e-5)


def test_small_networks_and_machines_without_room_are_left_alone(monkeypatch):
    def packs(network: nn.Module) -> bool:
        pack_linear_layers(network)
        return isinstance(network[0], PackedLinear)

    assert not packs(nn.Sequential(nn.Linear(48, 80)))
    monkeypatch.setattr(acceleration, "SMALLEST", 0)
    monkeypatch.setattr(acceleration, "PART_OF_MEMORY", 1 << 40)
    assert not packs(nn.Sequential(nn.Linear(48, 80)))


def test_a_real_model_packs_its_layers_and_keeps_its_logits(smol):
    engine, ids = smol.engine, smol.prompt_ids("How much is 3 + 4?")
    packed = engine.open(ids, reuse=False).logits
    assert packed_bytes(engine.model) > 400e6
    assert engine.nbytes > 900e6
    with torch.no_grad():  # not in inference mode: the weights themselves
        ordinary = engine.model(torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(packed, ordinary, atol=1e-3)
    assert packed.argmax() == ordinary.argmax()
