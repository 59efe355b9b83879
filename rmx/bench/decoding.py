"""Decoding against transformers: one row, a swap, branches; and many streams against one after the other."""

import statistics
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from transformers import DynamicCache

from rmx.bench.timing import PROBLEM, alternate, endless, ratio, seconds_of
from rmx.config import TOP_KEPT, Sampling
from rmx.engine.batch import continue_batch
from rmx.engine.engine import Engine
from rmx.engine.entropy import capture
from rmx.explore.generate import Generation, Job
from rmx.models.load import Model


@torch.inference_mode()
def decode(model: Model, rounds: int, tokens: int = 64) -> dict[str, Any]:
    """Decoding with full capture against `generate()` without any scores; what the capture itself costs."""
    engine, ids = model.engine, model.prompt_ids(PROBLEM)
    prompt = torch.tensor([ids], device=engine.device)
    quiet = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "pad_token_id": 0}
    engine.model.generation_config.eos_token_id = None  # both sides decode equally many tokens
    unending = endless(model)

    def plain() -> Any:
        return engine.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, **quiet)

    def ours() -> list[int]:
        engine.prefixes.clear()
        job = Job(ids, Sampling(max_new_tokens=tokens), model.tau)
        return Generation(unending, job).run().ids

    wanted = plain()[0, len(ids) :].tolist()
    got = ours()
    if len(got) != len(wanted):
        raise RuntimeError(f"unequal work: {len(got)} tokens against {len(wanted)}")
    cuda = engine.device.type == "cuda"
    slow, fast = alternate(plain, ours, rounds, cuda)
    logits = engine.open(ids).logits[None]
    captures = [seconds_of(lambda: capture(logits, TOP_KEPT), cuda) for _ in range(200)]
    step = statistics.median(fast) / tokens
    cost = statistics.median([sum(captures[i : i + 20]) / 20 for i in range(0, 200, 20)])
    return {
        "generate_without_scores / rmx_with_capture": ratio(slow, fast),
        "same_tokens": got == wanted,
        "capture_share_of_a_step": cost / step,
        "ms_per_token": 1000 * step,
        "capture_ms": 1000 * cost,
    }


@torch.inference_mode()
def swap(model: Model, rounds: int, total: int = 256, at: int = 200) -> dict[str, Any]:
    """A swap's next distribution from the cached prefix, against running prompt and prefix again."""
    engine, ids = model.engine, list(model.prompt_ids(PROBLEM))
    kept, alternatives = _long_solution(model, ids, total, at)
    forced = [*ids, *kept, alternatives[1]]
    tokens = torch.tensor([forced], device=engine.device)

    def plain() -> torch.Tensor:
        cache = DynamicCache(config=engine.config)
        return engine.model(tokens, past_key_values=cache, use_cache=True).logits[0, -1]

    def ours() -> torch.Tensor:
        logits = engine.open(forced).logits
        capture(logits[None], TOP_KEPT)
        return logits

    difference = (plain().float() - ours().float()).abs().max().item()
    slow, fast = alternate(plain, ours, rounds, engine.device.type == "cuda")
    return {
        "plain_re-run / swap": ratio(slow, fast),
        "reused": engine.open(forced).reuse.reused,
        "max_logit_difference": difference,
        "swap_ms": 1000 * statistics.median(fast),
    }


@torch.inference_mode()
def branches(model: Model, rounds: int, at: int = 200, length: int = 24) -> dict[str, Any]:
    """Five look-aheads as one batch from the shared prefix, against running the prefix again for each."""
    engine, ids = model.engine, list(model.prompt_ids(PROBLEM))
    kept, firsts = _long_solution(model, ids, 256, at)
    prefix = [*ids, *kept]

    def each() -> list[list[int]]:
        return [_alone(engine, prefix, token, length) for token in firsts]

    def batch() -> list[list[int]]:
        return continue_batch(engine, prefix, firsts, max_new=length, over=lambda row, token: False)

    same = each() == batch()
    slow, fast = alternate(each, batch, rounds, engine.device.type == "cuda")
    return {
        "prefix_for_each / one_batch": ratio(slow, fast),
        "same_tokens": same,
        "batch_ms": 1000 * statistics.median(fast),
    }


def streams(model: Model, rounds: int, counts: Sequence[int] = (8, 32), tokens: int = 48) -> dict[str, Any]:
    """Solutions of different prompts that are written at the same time, against one after the other."""
    unending, found = endless(model), dict[str, Any]()
    jobs = [Job(model.prompt_ids(f"{n}: {PROBLEM}"), Sampling(max_new_tokens=tokens), model.tau) for n in range(1, 33)]

    def each(n: int) -> list[list[int]]:
        model.engine.prefixes.clear()
        return [Generation(unending, job).run().ids for job in jobs[:n]]

    def together(n: int) -> list[list[int]]:
        model.engine.prefixes.clear()
        made = [Generation(unending, job) for job in jobs[:n]]
        for _ in zip_longest(*made):  # one token of each in turn
            pass
        return [one.trace().ids for one in made]

    for n in counts:
        same = sum(a == b for a, b in zip(each(n), together(n), strict=True))
        slow, fast = alternate(partial(each, n), partial(together, n), rounds, model.engine.device.type == "cuda")
        found[f"one_after_the_other / {n}_together"] = ratio(slow, fast)
        found[f"same_texts_of_{n}"] = same
        found[f"tokens_per_second_of_{n}"] = n * tokens / statistics.median(fast)
    return found


def _long_solution(model: Model, ids: list[int], total: int, at: int) -> tuple[list[int], list[int]]:
    """Greedy tokens up to `at` and the five likeliest there; all `total` positions are in the prefix cache after."""
    engine = model.engine
    stream = engine.open(ids)
    top: list[int] = []
    while len(stream.ids) < len(ids) + total:
        if len(stream.ids) == len(ids) + at:
            top = stream.logits.topk(5).indices.tolist()
        stream.feed(int(stream.logits.argmax()))
    stream.save()
    return stream.ids[len(ids) : len(ids) + at], top


def _alone(engine: Engine, prefix: list[int], first: int, length: int) -> list[int]:
    stream = engine.open([*prefix, first], reuse=False)
    row = [first]
    while len(row) < length:
        row.append(int(stream.logits.argmax()))
        if len(row) < length:
            stream.feed(row[-1])
    return row
