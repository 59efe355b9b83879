"""Swaps from the prefix cache against cold runs, on the model that ships and on a real one."""

import random
from dataclasses import replace

import pytest
import torch

from rmx.arguments import Sampling
from rmx.data.problem_sets import load_set
from rmx.explore.generate import Generation, Job, swap_job

ENTROPY_TOLERANCE = 1e-4  # nats, fp32


def check_swaps(model, problems, count: int, seed: int, max_new: int) -> None:
    """`count` random swaps, half greedy and half sampled, half from the top five and half from anywhere."""
    rng = random.Random(seed)
    for n in range(count):
        problem = problems[n % len(problems)]
        greedy = n % 2 == 0
        sampling = Sampling(0.0 if greedy else 0.8, 1.0 if greedy else 0.95, seed=n, max_new_tokens=max_new)
        start = Job(model.prompt_ids(problem.problem), sampling, model.tau, known=problem.answer)
        trace = Generation(model, start).run()
        pos = rng.randrange(len(trace.tokens))
        near = n % 4 < 2
        forced = rng.choice(trace.tokens[pos].top[:5]).id if near else rng.randrange(model.engine.vocab_size)
        branch = swap_job(start, trace.tokens, pos, [forced], model.engine.vocab_size)
        warm = Generation(model, branch).run()
        cold = Generation(model, replace(branch, cold=True)).run()
        place = f"{problem.id}, {sampling.label}, token {forced} at {pos}"
        assert warm.ids == cold.ids, place
        assert cold.reuse.reused == 0
        assert warm.reuse.computed <= 2, place
        for a, b in zip(warm.tokens, cold.tokens, strict=True):
            assert abs(a.entropy - b.entropy) < ENTROPY_TOLERANCE, f"{place}: {a.pos}"
            assert abs(a.logp - b.logp) < ENTROPY_TOLERANCE * max(1.0, abs(b.logp)), f"{place}: {a.pos}"
            assert a.forced == b.forced


def check_statistics(model, problem, max_new: int) -> None:
    """Entropy, top-k and log-probs against one plain forward pass of the bare network in fp64."""
    ids = model.prompt_ids(problem.problem)
    trace = Generation(model, Job(ids, Sampling(1.0, seed=3, max_new_tokens=max_new), model.tau)).run()
    network = model.engine.model
    exact = type(network)(network.config).double()
    exact.load_state_dict({k: v.double() for k, v in network.state_dict().items()})
    with torch.inference_mode():
        logits = exact.eval()(torch.tensor([[*ids, *trace.ids]])).logits[0, len(ids) - 1 : -1]
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    for i, token in enumerate(trace.tokens):
        assert token.entropy == pytest.approx(entropy[i].item(), abs=1e-4)
        assert token.logp == pytest.approx(logp[i, token.id].item(), abs=1e-4)
        best = logp[i].exp().topk(len(token.top))
        assert [c.p for c in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        clear = best.values[:-1] - best.values[1:] > 1e-4  # a near tie may swap places
        if clear[:5].all():
            assert [c.id for c in token.top[:5]] == best.indices[:5].tolist()


def test_mini_eight_swaps(mini):
    check_swaps(mini, load_set("mini")[:8], 8, seed=0, max_new=120)


@pytest.mark.real
def test_smollm2_four_swaps(smol):
    """One of each kind."""
    check_swaps(smol, load_set("arith")[:4], 4, seed=1, max_new=18)


@pytest.mark.long
def test_mini_two_hundred_swaps(mini):
    check_swaps(mini, load_set("mini")[:200], 200, seed=2, max_new=120)


@pytest.mark.long
@pytest.mark.real
def test_smollm2_two_hundred_swaps(smol):
    check_swaps(smol, load_set("arith")[:45], 200, seed=3, max_new=18)


def test_mini_statistics_in_fp64(mini):
    for problem in load_set("mini")[:5]:
        check_statistics(mini, problem, 120)


@pytest.mark.real
@pytest.mark.long
def test_smollm2_statistics_in_fp64(smol):
    check_statistics(smol, load_set("arith")[0], 24)
