"""On a CUDA device: the same rules as on the CPU, with a random model of a real shape."""

from dataclasses import replace

import pytest
import torch

from rmx.config import Sampling
from rmx.errors import ModelError
from rmx.explore.branch import swap_job
from rmx.explore.generate import Generation, Job
from rmx.explore.lookahead import look_ahead
from rmx.random_weights import random_model

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request):
    return random_model("qwen2.5-1.5b", "cuda", request.param)


def test_swaps_from_the_cache_against_cold_runs(model):
    job = Job(model.prompt_ids("What is 2 + 2?"), Sampling(max_new_tokens=32), 1.4)
    trace = Generation(model, job).run()
    for pos in (0, 10, 25):
        branch = swap_job(job, trace.tokens, pos, [trace.tokens[pos].top[1].id], model.engine.vocab_size)
        warm, cold = Generation(model, branch).run(), Generation(model, replace(branch, cold=True)).run()
        assert warm.reuse.computed == 1
        tolerance = 1e-3 if model.dtype == "float32" else 0.2
        shared = next((i for i, (a, b) in enumerate(zip(warm.ids, cold.ids, strict=True)) if a != b), len(warm.ids))
        if model.dtype == "float32":
            assert shared == len(warm.ids)
        for a, b in zip(warm.tokens[:shared], cold.tokens[:shared], strict=True):
            assert abs(a.entropy - b.entropy) < tolerance


def test_statistics_are_fp32_whatever_the_weights_are(model):
    token = next(iter(Generation(model, Job(model.prompt_ids("x"), Sampling(max_new_tokens=1), 1.4))))
    assert 0 <= token.entropy < 12
    assert sum(c.p for c in token.top) <= 1 + 1e-6


def test_look_ahead_runs_as_one_batch(model):
    rows = look_ahead(model, model.prompt_ids("What?"), [1, 2, 3, 4, 5], length=8)
    assert [len(r) for r in rows] == [9] * 5


def test_a_model_that_does_not_fit_is_refused_in_a_sentence_and_frees_what_it_took():
    before = torch.cuda.memory_allocated()
    hog = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.95), dtype=torch.uint8, device="cuda")
    with pytest.raises(ModelError, match="memory"):
        random_model("qwen2.5-7b", "cuda", "float32")
    del hog
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before + (64 << 20)
