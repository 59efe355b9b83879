"""`rmx bench rollouts`: 64 samples of eight prompts, against transformers' `generate()` on 64 padded rows."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import StoppingCriteriaList

from rmx.bench.timing import LONGEST, SHORTEST, Script, _timed, never_ending, ratio
from rmx.config import Sampling
from rmx.engine.continuous_batching import SampleRequest, sample_continuously
from rmx.models.load import Model

SAMPLES = 8  # of each prompt
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


@torch.inference_mode()
def bench_rollouts(model: Model, rounds: int, samples: int = SAMPLES, longest: int = LONGEST) -> dict[str, Any]:
    """Rollouts at temperature 1 of prompts of different lengths.

    How long each sample gets is drawn beforehand, evenly from 8 to `longest`, and scripted on both sides; end tokens
    do not count. So both make the same number of useful tokens, whatever they sample. `no_dropping` prefills each
    prompt once as well, but goes on with every row until the longest is done.
    """
    prompts = [model.prompt_ids(problem) for problem in PROBLEMS]
    drawn = torch.randint(SHORTEST, longest + 1, (len(prompts), samples), generator=torch.Generator().manual_seed(0))
    lengths: list[list[int]] = drawn.tolist()
    whole = [[int(drawn.max())] * samples for _ in prompts]
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
        "useful_tokens": int(drawn.sum()),
        "longest": int(drawn.max()),
        "seconds": {
            name: statistics.median(found) for name, found in (("generate", slow), ("no_dropping", kept), ("rmx", fast))
        },
    }


def in_turn(work: Sequence[Callable[[], Any]], rounds: int, cuda: bool) -> list[list[float]]:
    """Seconds of each piece of work, one after the other, forwards and backwards by turns."""
    times: list[list[float]] = [[] for _ in work]
    for i in range(rounds):
        for which in range(len(work)) if i % 2 == 0 else reversed(range(len(work))):
            times[which].append(_timed(work[which], cuda))
    return times


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
    network, device = model.engine.model, model.engine.device
    width = max(map(len, prompts))
    rows = [prompt for prompt, row in zip(prompts, lengths, strict=True) for _ in row]
    wanted = [n for row in lengths for n in row]
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    with never_ending(network):
        out = network.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max(wanted),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([Script(width, torch.tensor(wanted, device=device))]),
        )
    made = iter([row[width : width + n] for row, n in zip(out.tolist(), wanted, strict=True)])
    return [[next(made) for _ in row] for row in lengths]
