"""Decoding against transformers: one row, a swap, branches, many samples; and many streams against one after the other.

How long each sample gets is drawn beforehand, evenly from 8 to 64 tokens, and scripted on both sides; end tokens do
not count. So both make the same number of useful tokens, whatever they sample.
"""

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from rmx.arguments import Sampling
from rmx.bench.timing import PROBLEM, alternate, endless, in_turn, milliseconds, ratio, seconds_of
from rmx.config import TOP_KEPT
from rmx.engine.batch import SampleRequest, continue_batch, sample_continuously
from rmx.engine.engine import Engine
from rmx.engine.entropy import capture
from rmx.engine.token_draws import prompt_key, uniform
from rmx.explore.generate import Generation, Job
from rmx.models.load import Model
from rmx.models.stopping import Ending


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
    """A swap's next distribution from the cached prefix against running the prefix again, and against a plain step."""
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

    under_way = engine.open(forced)

    def step() -> None:
        capture(under_way.feed(forced[-1])[None], TOP_KEPT)

    difference = (plain().float() - ours().float()).abs().max().item()
    step()  # warm-up, as are the two above
    slow, fast, steps = in_turn((plain, ours, step), rounds, engine.device.type == "cuda")
    return {
        "plain_re-run / swap": ratio(slow, fast),
        "swap / step": ratio(fast, steps),
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
        given = [(token,) for token in firsts]
        return continue_batch(engine, prefix, given, max_new=length, over=lambda row, token: False)

    same = each() == batch()
    slow, fast = in_turn((each, batch), rounds, engine.device.type == "cuda")
    return {
        "prefix_for_each / one_batch": ratio(slow, fast),
        "same_tokens": same,
        "batch_ms": 1000 * statistics.median(fast),
    }


def streams(model: Model, rounds: int, counts: Sequence[int] = (8, 32), tokens: int = 48) -> dict[str, Any]:
    """Solutions of different prompts that visitors ask for at the same time, each in a thread of its own, against one
    after the other; of the whole solutions, whose prompts are read in both, and of the steps alone."""
    unending, found, cuda = endless(model), dict[str, Any](), model.engine.device.type == "cuda"
    jobs = [Job(model.prompt_ids(f"{n}: {PROBLEM}"), Sampling(max_new_tokens=tokens), model.tau) for n in range(1, 33)]

    def each(n: int) -> list[list[int]]:
        model.engine.prefixes.clear()
        return [Generation(unending, job).run().ids for job in jobs[:n]]

    def together(n: int) -> list[list[int]]:
        model.engine.prefixes.clear()
        with ThreadPoolExecutor(n) as visitors:
            return list(visitors.map(lambda job: Generation(unending, job).run().ids, jobs[:n]))

    def step_seconds(n: int) -> float:
        """Seconds of a step of n streams: the first half of their tokens, since who began first ends first."""
        model.engine.prefixes.clear()
        with ExitStack() as stack:
            made = [stack.enter_context(closing(iter(Generation(unending, job)))) for job in jobs[:n]]
            for stream in made:
                next(stream)
            steps = tokens // 2
            return seconds_of(lambda: [next(stream) for _ in range(steps) for stream in made], cuda) / steps

    for n in counts:
        same = sum(a == b for a, b in zip(each(n), together(n), strict=True))
        slow, fast = in_turn((partial(each, n), partial(together, n)), rounds, cuda)
        found[f"one_after_the_other / {n}_together"] = ratio(slow, fast)
        one, all_of_them = zip(*[(n * step_seconds(1), step_seconds(n)) for _ in range(rounds)], strict=True)
        found[f"{n}_steps_of_one / one_step_of_{n}"] = ratio(one, all_of_them)
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


# -- `rmx bench outcomes` and `rmx bench rollouts` --------------------------------------------------------------------


SAMPLES = 64  # of one prompt
SAMPLES_EACH = 8  # of each of several prompts
SHORTEST, LONGEST = 8, 64  # tokens of a sample
PROBLEMS = (
    "Ann has 3 apples and buys 4 more. How many apples does Ann have?",
    "A train leaves at 9:40 and arrives at 11:05. How many minutes does the journey take?",
    "What is the sum of the first ten odd numbers?",
    "A shirt costs 24 dollars and is sold at a discount of one quarter. What does it cost now, in dollars?",
    "Tom is twice as old as Sue, and together they are 36 years old. How old is Sue?",
    "How many edges does a cube have?",
    "A tank holds 120 litres. One pipe fills 8 litres a minute and another empties 3. After how long is it full?",
    "Seven friends shake hands, each with each other once. How many handshakes are there?",
)
Lengths = Sequence[Sequence[int]]  # tokens of each sample, by prompt


def draw_lengths(prompts: int, samples: int, longest: int) -> list[list[int]]:
    """How many tokens each sample of each prompt gets; always the same."""
    generator = torch.Generator().manual_seed(0)
    drawn: list[list[int]] = torch.randint(SHORTEST, longest + 1, (prompts, samples), generator=generator).tolist()
    return drawn


class Script(StoppingCriteria):
    """Ends each row when it has its number of tokens."""

    def __init__(self, prompt: int, lengths: Tensor) -> None:
        self.ends = prompt + lengths

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        return input_ids.shape[1] >= self.ends


def generate(model: Model, ids: Tensor, mask: Tensor, lengths: Sequence[int], copies: int = 1) -> list[list[int]]:
    """Sample completions of the given lengths by one `generate()` of transformers at temperature 1.

    Args:
        ids, mask: (B, T) prompts, padded on the left. copies: samples of each of them.
        lengths: (B * copies,) tokens of each sample.
    """
    network, width = model.engine.model, ids.shape[1]
    config = network.generation_config
    before, config.eos_token_id = config.eos_token_id, None
    try:
        out = network.generate(
            ids,
            attention_mask=mask,
            num_return_sequences=copies,
            max_new_tokens=max(lengths),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([Script(width, torch.tensor(lengths, device=ids.device))]),
        )
    finally:
        config.eos_token_id = before
    return [row[width : width + n] for row, n in zip(out.tolist(), lengths, strict=True)]


@torch.inference_mode()
def bench_outcomes(model: Model, rounds: int, samples: int = SAMPLES, longest: int = LONGEST) -> dict[str, Any]:
    """Samples of one prefix at temperature 1, against transformers' own `generate(num_return_sequences=...)`."""
    prefix = list(model.prompt_ids(PROBLEM))
    (lengths,) = draw_lengths(1, samples, longest)
    ours, theirs = partial(sample_ours, model, prefix, lengths), partial(sample_theirs, model, prefix, lengths)
    slow, fast = alternate(theirs, ours, rounds, model.engine.device.type == "cuda")
    return {
        "generate / rmx_samples": ratio(slow, fast),
        "samples": samples,
        "prefix_tokens": len(prefix),
        "useful_tokens": sum(lengths),
        "longest": max(lengths),
        "ms": milliseconds(generate=slow, rmx=fast),
    }


def sample_ours(model: Model, prefix: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """One sample of each length as `rmx outcomes` makes them; the real ending rule is paid for, the script decides."""
    engine: Engine = model.engine
    key, ending = prompt_key(prefix), Ending(model, prefix, (), len(lengths))
    left = list(lengths)

    def over(row: int, token: int) -> bool:
        ending(row, token)
        left[row] -= 1
        return left[row] == 0

    with engine.queue.turn():
        engine.prefixes.clear()
        return continue_batch(
            engine,
            prefix,
            [()] * len(lengths),
            max_new=max(lengths),
            over=over,
            sampling=Sampling(temperature=1.0),
            draw=lambda row, place: uniform(0, key, row, place),
        )


def sample_theirs(model: Model, prefix: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """The same by `generate`."""
    prompt = torch.tensor([list(prefix)], device=model.engine.device)
    return generate(model, prompt, torch.ones_like(prompt), lengths, copies=len(lengths))


@torch.inference_mode()
def bench_rollouts(model: Model, rounds: int, samples: int = SAMPLES_EACH, longest: int = LONGEST) -> dict[str, Any]:
    """Rollouts at temperature 1 of several prompts; `no_dropping` goes on with every row until the longest is done."""
    prompts = [model.prompt_ids(problem) for problem in PROBLEMS]
    lengths = draw_lengths(len(prompts), samples, longest)
    most = max(map(max, lengths))
    whole = [[most] * samples for _ in prompts]
    work = [
        partial(rollouts_theirs, model, prompts, lengths),
        partial(rollouts_ours, model, prompts, whole),
        partial(rollouts_ours, model, prompts, lengths),
    ]
    for side in (rollouts_theirs, rollouts_ours):  # warm-up
        side(model, prompts, [[2] * samples for _ in prompts])
    slow, kept, fast = in_turn(work, rounds, model.engine.device.type == "cuda")
    return {
        "generate / rmx_rollouts": ratio(slow, fast),
        "generate / no_dropping": ratio(slow, kept),
        "rows": len(prompts) * samples,
        "prompt_tokens": [len(prompt) for prompt in prompts],
        "useful_tokens": sum(map(sum, lengths)),
        "longest": most,
        "seconds": {
            name: statistics.median(found) for name, found in (("generate", slow), ("no_dropping", kept), ("rmx", fast))
        },
    }


def rollouts_ours(model: Model, prompts: Sequence[tuple[int, ...]], lengths: Lengths) -> list[list[list[int]]]:
    """Samples of the given lengths as `rmx rollouts` makes them; the completions by prompt."""
    left = [list(row) for row in lengths]

    def over(prompt: int, sample: int, token: int) -> bool:
        left[prompt][sample] -= 1
        return left[prompt][sample] == 0

    sampling = Sampling(temperature=1.0, max_new_tokens=max(map(max, lengths)))
    asks = [SampleRequest(prompt, range(len(row)), sampling) for prompt, row in zip(prompts, lengths, strict=True)]
    made: list[list[list[int]]] = [[[] for _ in row] for row in lengths]
    rows = sum(map(len, lengths))
    for ended in sample_continuously(model.engine, asks, stop_ids=frozenset(), rows=rows, over=over):
        for sample in ended:
            made[sample.prompt][sample.number] = list(sample.ids)
    return made


def rollouts_theirs(model: Model, prompts: Sequence[tuple[int, ...]], lengths: Lengths) -> list[list[list[int]]]:
    """The same by one `generate()` over rows that are padded on the left."""
    device, width = model.engine.device, max(map(len, prompts))
    rows = [prompt for prompt, row in zip(prompts, lengths, strict=True) for _ in row]
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    made = iter(generate(model, ids, mask, [n for row in lengths for n in row]))
    return [[next(made) for _ in row] for row in lengths]
