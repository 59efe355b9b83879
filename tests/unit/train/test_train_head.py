"""The head in chunks against full softmaxes and autograd, and which models may take it."""

from dataclasses import replace

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

from rmx.cli.terminal import Teller
from rmx.models.load import load
from rmx.runs.recipe import DistillRecipe, LossConfig, Recipe, command, write_flags
from rmx.train.adapter_folder import BaseFacts, provenance
from rmx.train.step import loss as head_module
from rmx.train.step.lora_policy import make_policy
from rmx.train.step.loss import LinearHead, Products, anchor, ce_and_kl, find_head, products, sweep, with_tf32
from rmx.train.step.scoring import BaseFigures, make_batch, read_rows, read_rows_whole
from tests.conftest import SHAPE, qwen, wrap
from tests.helpers.training import QUICK, items_of, policy_of, rollouts

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


def test_plain_heads_are_found():
    found = find_head(qwen())
    assert (found.scale, found.bias) == (1.0, None)
    assert find_head(load("mini", device="cpu").engine.model).width == 128


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


# -- TF32 -------------------------------------------------------------------------------------------------------------


def test_products_ask_for_tf32_and_put_the_switch_back(head, states, monkeypatch):
    matmul = torch.backends.cuda.matmul
    before, seen = matmul.fp32_precision, []
    real = head_module._swept
    monkeypatch.setattr(head_module, "_swept", lambda *a: seen.append(matmul.fp32_precision) or real(*a))
    hidden, _, target = states
    rough = replace(head, tf32=True)
    ours, exact = (sweep(h, hidden, target, entropy=True, expected=True) for h in (rough, head))
    assert seen == ["tf32", before]
    assert matmul.fp32_precision == before
    assert torch.equal(ours.lse, exact.lse)  # on a CPU the switch changes nothing
    with pytest.raises(KeyError), products(rough):
        raise KeyError
    assert matmul.fp32_precision == before


def test_on_a_cpu_tf32_has_no_effect_and_says_so(head, states):
    same, found = with_tf32(head, states[0], states[2])
    assert same is head
    assert found.json() == {
        "tf32": False,
        "why": "TF32 exists on CUDA only: the products of the head stay in fp32.",
        "logp_error": None,
        "mean_error": None,
    }


def test_a_policy_says_whether_its_head_is_in_tf32():
    assert policy_of(wrap(qwen())).products is None
    policy = make_policy(wrap(qwen()), QUICK.adapter, None, 0, tf32=True)
    assert not policy.head.tf32
    assert policy.products is not None
    assert "stay in fp32" in policy.products.why
    network = qwen()
    network.config.final_logit_softcapping = 30.0
    capped = make_policy(wrap(network), QUICK.adapter, None, 0, tf32=True)
    assert "made whole" in capped.products.why


def test_a_run_says_it_on_the_terminal_and_in_its_documents():
    told = Products(False, "TF32 exists on CUDA only.").json()
    assert Teller().line("head", told) == "head       --tf32 has no effect. TF32 exists on CUDA only."
    on = Products(True, None, 3.2e-6, 1.5e-4).json()
    assert "moves by up to 3.2e-06 nats, a mean of the head's rows by 1.5e-02 %" in Teller().line("head", on)
    recipe = Recipe().with_(tf32=True)
    config, base = {"id": "r", "recipe": recipe.json()}, BaseFacts("mini", "bundled", "x", None, "bfloat16")
    events = [{"kind": "head", "t": 1.0, **on}]
    story = provenance(config, events, base).json()
    assert story["head"] == on
    assert story["recipe"]["tf32"] is True
    assert story["departures"]["tf32"] == (False, True)
    assert provenance(config | {"recipe": Recipe().json()}, [], base).json()["head"] is None
    assert command(recipe) == ["--tf32"]
    assert write_flags(DistillRecipe(tf32=True), DistillRecipe()) == ["--tf32"]
    assert DistillRecipe(tf32=True).optim(4).tf32
