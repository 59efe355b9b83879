"""Random mixes of visitors who solve, swap and leave, under different adapters and strengths, against cold runs."""

import random
from dataclasses import replace

import pytest

from rmx.arguments import Sampling
from rmx.engine.fair_queue import as_owner
from rmx.engine.scheduler import scheduler_of
from rmx.explore.generate import Generation, Job, swap_job

pytestmark = pytest.mark.slow


def visitor(model, adapters, draw):
    """What a visitor asks for first."""
    a, b = draw.randrange(2, 30), draw.randrange(2, 30)
    text = draw.choice((f"Tom has {a} pens and buys {b} more. How many pens has Tom?", f"{a} + {b} =", "x"))
    greedy = Sampling(max_new_tokens=draw.randrange(4, 30))
    sampled = Sampling(draw.choice((0.7, 1.0)), draw.choice((0.9, 1.0)), draw.randrange(99), draw.randrange(4, 30))
    return Job(tuple(model.prompt_ids(text)), draw.choice((greedy, sampled)), 1.0, draw.choice(adapters))


def mix(model, adapters, draw):
    """Visitors come, listen in any order, swap a token of what they have, and go; yields each finished generation."""
    arrivals = [(f"visitor {i}", visitor(model, adapters, draw)) for i in range(6)]
    listening: list = []
    while arrivals or listening:
        if arrivals and (not listening or draw.random() < 0.3):
            owner, job = arrivals.pop()
            with as_owner(owner):
                generation = Generation(model, job)
                listening.append((owner, generation, iter(generation), draw.random() < 0.15))
        owner, generation, stream, leaves = entry = draw.choice(listening)
        with as_owner(owner):
            if leaves and len(generation.tokens) > 2:
                stream.close()
            elif next(stream, None) is not None:
                continue
        listening.remove(entry)
        if leaves:
            continue
        yield generation
        trace = generation.trace()
        if trace.tokens and draw.random() < 0.5:
            pos = draw.randrange(len(trace.tokens))
            other = draw.choice(trace.tokens[pos].top[:5]).id
            job = swap_job(generation.job, trace.tokens, pos, [other], model.engine.vocab_size)
            arrivals.append((owner, replace(job, adapter=draw.choice(adapters)) if draw.random() < 0.3 else job))


def check(rl, seeds):
    model, seen = rl.base, 0
    adapters = (None, rl.adapter, f"{rl.adapter}*0.5", f"{rl.adapter}*1.25")
    for seed in seeds:
        model.engine.prefixes.clear()
        for generation in list(mix(model, adapters, random.Random(seed))):
            job, trace = generation.job, generation.trace()
            given = len(job.kept) + len(job.forced)  # of a swap: another one's beginning, perhaps under another adapter
            tokens, prompt = trace.tokens[given:], (*job.prompt_ids, *trace.ids[:given])
            with model.engine.queue.turn(), model.engine.using(job.adapter):
                stream = model.engine.open(prompt, adapter=job.adapter, reuse=False)
                for token in tokens:
                    top = stream.logits.double().log_softmax(-1)
                    assert token.logp == pytest.approx(float(top[token.id]), abs=2e-4), (seed, token.pos)
                    if job.sampling.greedy:
                        assert float(top.max() - top[token.id]) < 2e-4  # the likeliest, or as good as that
                    stream.feed(token.id)
            if not given:
                cold = Generation(model, replace(job, cold=True)).run()
                assert trace.ids == cold.ids, seed
            seen += 1
        assert model.engine.queue.waiting() == 0
        assert scheduler_of(model.engine).bucket is None
    assert seen > 4 * len(seeds)


def test_twenty_mixes_equal_cold_runs(rl):
    check(rl, range(20))


@pytest.mark.long
def test_two_hundred_mixes_equal_cold_runs(rl):
    check(rl, range(20, 220))
