"""The head in chunks against full softmaxes and autograd, and which models may take it."""

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch.nn import functional as F
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from rmx.train import head as head_module
from rmx.train.base_figures import BaseFigures
from rmx.train.batches import make_batch
from rmx.train.head import LinearHead, anchor, ce_and_kl, find_head, sweep
from rmx.train.recipe import LossConfig
from rmx.train.rows import read_rows, read_rows_whole
from tests.conftest import SHAPE, qwen, wrap
from tests.unit.training import QUICK, items_of, policy_of, rollouts

V, D, N = 50, 8, 21


def random_head(scale=1.0, bias=False):
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(V, D, generator=draws)
    return LinearHead(weight, torch.randn(V, generator=draws) if bias else None, scale)


@pytest.fixture(params=[(1.0, False), (0.25, True)], ids=["plain", "scaled with bias"])
def head(request, monkeypatch):
    monkeypatch.setattr(head_module, "CHUNK_BYTES", 4 * V * 16)  # 16 rows a chunk: the last one is shorter
    made = random_head(*request.param)
    assert made.chunk_rows == 16
    return made


@pytest.fixture
def states():
    draws = torch.Generator().manual_seed(1)
    return torch.randn(N, D, generator=draws), torch.randn(N, D, generator=draws), torch.arange(N) % V


def logp(head, hidden):
    return (head.scale * F.linear(hidden, head.weight, head.bias)).log_softmax(-1)


def test_a_sweep_finds_what_full_distributions_say(head, states):
    hidden, _, target = states
    got = sweep(head, hidden, target, entropy=True, expected=True)
    wanted = logp(head, hidden)
    assert (got.own - got.lse).tolist() == pytest.approx(wanted[range(N), target].tolist(), abs=1e-5)
    assert got.entropy.tolist() == pytest.approx((-(wanted.exp() * wanted).sum(1)).tolist(), abs=1e-5)
    assert torch.allclose(got.expected, wanted.exp() @ head.weight, atol=1e-5)


def test_ce_and_kl_and_their_gradients_are_those_of_autograd(head, states):
    hidden, base, target = states
    swept = sweep(head, base, target, entropy=False, expected=True)
    by_rows = torch.linspace(-2, 2, N), torch.linspace(0, 1, N)  # some rows pull on one alone, some on both

    def total(ce, kl):
        return (by_rows[0] * ce + by_rows[1] * kl).sum()

    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    ce, kl = ce_and_kl(head, ours, target, swept.expected, anchor(head, swept.lse, swept.expected, base))
    ours_logp, base_logp = logp(head, theirs), logp(head, base)
    ce_wanted = -ours_logp[range(N), target]
    kl_wanted = (base_logp.exp() * (base_logp - ours_logp)).sum(1)
    assert torch.allclose(ce, ce_wanted, atol=1e-5)
    assert torch.allclose(kl, kl_wanted, atol=1e-5)
    total(ce, kl).backward()
    total(ce_wanted, kl_wanted).backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
    assert float(ours.grad.abs().max()) > 0.1


def test_an_unchanged_policy_has_no_kl_at_all(head, states):
    hidden, _, target = states
    swept = sweep(head, hidden, target, entropy=False, expected=True)
    _, kl = ce_and_kl(head, hidden, target, swept.expected, anchor(head, swept.lse, swept.expected, hidden))
    assert kl.tolist() == [0.0] * N


def test_small_negatives_are_not_clamped(head, states):
    hidden, _, target = states
    swept = sweep(head, hidden, target, entropy=False, expected=True)
    offset = anchor(head, swept.lse, swept.expected, hidden) + 1e-6
    _, kl = ce_and_kl(head, hidden, target, swept.expected, offset)
    assert float(kl.max()) < 0


def capped(**changes):
    torch.manual_seed(0)
    shape = SHAPE | {"head_dim": 16, "sliding_window": 64, "tie_word_embeddings": True} | changes
    return Gemma2ForCausalLM(Gemma2Config(**shape))


def test_plain_heads_are_found(mini):
    found = find_head(qwen())
    assert (found.scale, found.bias) == (1.0, None)
    assert find_head(mini.engine.model).width == 128


def test_known_scales_are_taken_from_the_config():
    torch.manual_seed(0)
    assert find_head(CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.0625)).eval()).scale == 0.0625
    assert find_head(GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=4.0)).eval()).scale == 0.25


def test_capped_logits_take_the_general_path():
    network = capped(final_logit_softcapping=5.0).eval()
    assert find_head(network) is None
    network.config.final_logit_softcapping = None
    assert find_head(network).width == SHAPE["hidden_size"]


def test_a_cap_that_no_config_names_is_found_by_trying():
    network = qwen()
    forward = network.forward

    def softly(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = 200 * (out.logits / 200).tanh()
        return out

    network.forward = softly
    assert find_head(network) is None


@pytest.mark.parametrize("where", ["lm_head", "embed_tokens"])
def test_an_adapted_head_takes_the_general_path(where):
    tied = where == "embed_tokens"
    network = capped(final_logit_softcapping=None) if tied else qwen()
    adapted = PeftModel(network, LoraConfig(r=2, target_modules=["q_proj", where]))
    assert find_head(adapted.get_base_model()) is None


MODELS = {
    "capped": lambda: wrap(capped(final_logit_softcapping=5.0)),
    "lora on the head": lambda: wrap(qwen()),
    "plain": lambda: wrap(qwen()),
}


@pytest.mark.parametrize("name", MODELS)
def test_both_paths_say_the_same(name):
    recipe = QUICK.with_(targets=("q_proj", "lm_head")) if name == "lora on the head" else QUICK
    policy = policy_of(MODELS[name](), recipe)
    assert (policy.head is None) == (name != "plain")
    batch = make_batch(items_of(rollouts(problems=2, k=2)), LossConfig(), policy.device)
    with policy.learning():
        ours, whole = read_rows(policy, batch, BaseFigures()), read_rows_whole(policy, batch)
    assert torch.allclose(ours.ce, whole.ce, atol=2e-5)
    assert torch.allclose(ours.kl, whole.kl, atol=2e-5)
    assert torch.allclose(ours.base_logp, whole.base_logp, atol=2e-5)
    assert float(whole.kl.detach().max()) > 1e-3
