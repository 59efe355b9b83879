"""On a CUDA device: the same rules as on the CPU, with a random model of a real shape."""

from dataclasses import replace

import pytest
import torch

from rmx.arguments import Sampling
from rmx.compare.controls import add_placebo
from rmx.compare.intervene import AllArms, ArmProblem
from rmx.errors import ModelError
from rmx.explore.generate import Generation, Job, swap_job
from rmx.explore.greedy_answers import look_ahead
from rmx.models.model_pair import Pair, open_pair, read_both
from rmx.models.stand_ins import random_model
from rmx.train.step.loss import find_head, sweep, with_tf32

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


@pytest.fixture(scope="module")
def pair(model):
    with model.engine.queue.turn():
        return Pair(model, model, add_placebo(model, None))


def test_a_mixed_step_against_reading_under_both(pair):
    ids = list(pair.base.prompt_ids("What is 12 + 30? Let us see, step by step."))
    rows = []
    with pair.turn():
        read_both(pair, ids, 7, lambda _, base, adapted: rows.append((base, adapted)), reuse=False)
        with open_pair(pair, [ids[:8], ids[:8]], reuse=False) as stream:
            for token in ids[8:]:
                stream.feed([token, token])
            tolerance = 1e-3 if pair.base.dtype == "float32" else 0.5
            for got, wanted in ((stream.base, rows[-1][0]), (stream.adapted, rows[-1][1])):
                assert float((got[1].float() - wanted[-1].float()).abs().max()) < tolerance


def test_the_oracle_follows_the_teacher(pair):
    asked = [ArmProblem(str(i), pair.base.prompt_ids(f"What is {i} + 2?"), None) for i in range(4)]
    with pair.turn():
        found = AllArms(pair, asked, ("base", "teacher", "oracle", "random"), 1.4, max_new=24).run()
    same = sum(f["oracle"].ids == f["teacher"].ids for f in found)
    if pair.base.dtype == "float32":
        assert same == len(found)
    # In bf16 a near tie may part them; nothing but their number is known beforehand.
    assert all(len(f["oracle"].ids) == 24 for f in found)


def test_products_of_the_head_in_tf32(model, record_property):
    """What TF32 changes; `--junitxml` keeps it. bf16 factors are not rounded, so that their logits hardly move."""
    head = find_head(model.engine.model)
    torch.manual_seed(0)
    ids = torch.randint(0, len(head.weight), (2, 256), device="cuda")
    with torch.no_grad():
        hidden = model.engine.model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1).float()
    before = torch.backends.cuda.matmul.fp32_precision
    rough, found = with_tf32(head, hidden, ids.flatten().roll(-1))
    for name, value in found.json().items():
        record_property(f"{model.dtype} {name}", value)
    assert found.tf32
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert found.logp_error < (1e-3 if model.dtype == "bfloat16" else 2e-2)
    assert found.mean_error < 1e-2
    exact = sweep(head, hidden, ids.flatten(), entropy=True, expected=False)
    ours = sweep(rough, hidden, ids.flatten(), entropy=True, expected=False)
    assert float((ours.entropy - exact.entropy).abs().max()) < 2e-2


def test_a_model_that_does_not_fit_is_refused_in_a_sentence_and_frees_what_it_took():
    before = torch.cuda.memory_allocated()
    hog = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.95), dtype=torch.uint8, device="cuda")
    with pytest.raises(ModelError, match="memory"):
        random_model("qwen2.5-7b", "cuda", "float32")
    del hog
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before + (64 << 20)
