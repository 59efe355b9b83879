"""`rmx bench outcomes` and `rmx bench rollouts`: many samples of one prompt or of several, against `generate()`.

How long each sample gets is drawn beforehand, evenly from 8 to 64 tokens, and scripted on both sides; end tokens do
not count. So both make the same number of useful tokens, whatever they sample.
"""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from rmx.bench.timing import PROBLEM, alternate, in_turn, milliseconds, ratio
from rmx.config import Sampling
from rmx.engine.batch import continue_batch
from rmx.engine.continuous_batching import SampleRequest, sample_continuously
from rmx.engine.engine import Engine
from rmx.engine.token_draws import draw_rows, prompt_key, uniform
from rmx.models.load import Model
from rmx.models.stopping import Ending

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


@contextmanager
def never_ending(network: Any) -> Iterator[None]:
    """No end token for the length of a `with` block."""
    before = network.generation_config.eos_token_id
    network.generation_config.eos_token_id = None
    try:
        yield
    finally:
        network.generation_config.eos_token_id = before


def generate(model: Model, ids: Tensor, mask: Tensor, lengths: Sequence[int], copies: int = 1) -> list[list[int]]:
    """Sample completions of the given lengths by one `generate()` of transformers at temperature 1.

    Args:
        ids, mask: (B, T) prompts, padded on the left. copies: samples of each of them.
        lengths: (B * copies,) tokens of each sample.
    """
    network, width = model.engine.model, ids.shape[1]
    with never_ending(network):
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

    def choose(logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
        return draw_rows(logits, 1.0, 1.0, [uniform(0, key, row, step) for row in rows])

    def over(row: int, token: int) -> bool:
        ending(row, token)
        left[row] -= 1
        return left[row] == 0

    with engine.queue.turn(), engine.using(None):
        engine.prefixes.clear()
        stream = engine.open(prefix)
        stream.save()
        firsts = choose(stream.logits.expand(len(lengths), -1), range(len(lengths)), 0).tolist()
        return continue_batch(engine, prefix, firsts, max_new=max(lengths), over=over, choose=choose)


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

    asks = [SampleRequest(prompt, (None,) * len(row)) for prompt, row in zip(prompts, lengths, strict=True)]
    sampling = Sampling(temperature=1.0, max_new_tokens=max(map(max, lengths)))
    made: list[list[list[int]]] = [[[] for _ in row] for row in lengths]
    rows = sum(map(len, lengths))
    for ended in sample_continuously(model.engine, asks, sampling, stop_ids=frozenset(), rows=rows, over=over):
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
