"""`rmx bench pair`: base and adapter on one set of weights.

The adapter is a random LoRA of rank 32 on q, k, v, o, made on the spot. What it is measured against is two separate
models, each with its adapter already on or off for good, so that they never pay for switching.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rmx.bench.timing import PROBLEM, Load, alternate, milliseconds, open_model, peaks_of, ratio, tell_peak
from rmx.compare.controls import add_placebo
from rmx.engine.acceleration import forget_packed
from rmx.models.load import Model
from rmx.models.model_pair import Pair, PairStream, open_pair, read_both

READ_TOKENS = 300
STEPS = 8  # of one timed block


@torch.inference_mode()
def bench_pair(base: Model, load: Load, rounds: int) -> dict[str, Any]:
    """Reading and stepping under base and adapter, one set of weights against two models.

    `step` is one token under both: a mixed batch of one set, against one pass of each of two models.
    `merged` is the adapted model with its adapter folded into the weights: as fast as a checkpoint, but rounded anew.
    Peaks are those of loading one side and reading the text. Two loads of one file may share its pages; they are
    counted twice, as two checkpoints would be.

    Args:
        base: a plain model, without any adapter. load: loads the same model once more at each call.
    """
    one, two = one_set(load()), two_models(base, load())
    merged = Pair(two.base, _adapted(load()), None)
    merged.adapted.engine.model = merged.adapted.engine.model.merge_and_unload()
    forget_packed(merged.adapted.engine.model)
    # Asked of every model, so that all of them read the beginning that prompts share by itself.
    (ids, start), *_ = [_text(model) for pair in (one, two, merged) for model in (pair.base, pair.adapted)]
    differences = {
        "reading": reading_difference(one, two, ids, start),
        "reading_merged": reading_difference(one, merged, ids, start),
        "step": step_difference(one, two, ids[: start + 1]),
    }
    cuda = one.base.engine.device.type == "cuda"
    read = partial(_read, ids=ids, start=start)
    halves = alternate(partial(read, two), partial(read, one), rounds, cuda)
    against_merged = alternate(partial(read, merged), partial(read, one), rounds, cuda)
    steps = _steps(one, two, ids[: start + 1], rounds, cuda)
    weights = {
        name: weight_bytes([pair.base.engine.model, pair.adapted.engine.model])
        for name, pair in (("one_set", one), ("two_models", two))
    }
    return {
        "read_one_set / read_two_models": ratio(halves[1], halves[0]),
        "read_one_set / read_merged": ratio(against_merged[1], against_merged[0]),
        "two_steps / mixed_step": ratio(steps[0], steps[1]),
        "weights_one_set / weights_two_models": weights["one_set"] / weights["two_models"],
        "max_logit_difference": differences,
        "weights_mb": {name: size / 1e6 for name, size in weights.items()},
        "read_tokens": len(ids),
        "read_ms": milliseconds(two_models=halves[0], one_set=halves[1], merged=against_merged[0]),
        "step_ms": milliseconds(two_steps=steps[0], mixed_step=steps[1], per=STEPS),
    }


def one_set(model: Model) -> Pair:
    """A model with a random adapter on its own weights."""
    return Pair(model, model, add_placebo(model, None))


def two_models(plain: Model, other: Model) -> Pair:
    """The same as two models: a plain one, and one whose adapter is on for good."""
    return Pair(plain, _adapted(other), None)


def _adapted(model: Model) -> Model:
    add_placebo(model, None)
    model.engine.adapters.clear()  # an engine that knows of no adapter switches none
    return model


def _text(model: Model) -> tuple[list[int], int]:
    """Ids of a prompt and a completion, and the index whose logits decide the completion's first token."""
    prompt = list(model.prompt_ids(PROBLEM))
    length = min(READ_TOKENS, model.engine.context - 1)
    once = model.encode(f" {PROBLEM}")
    filling = once * (length // len(once) + 1)
    return [*prompt, *filling][:length], len(prompt) - 1


def _read(pair: Pair, ids: Sequence[int], start: int) -> None:
    with pair.turn():
        read_both(pair, ids, start, lambda *_: None, reuse=False)


def reading_difference(a: Pair, b: Pair, ids: Sequence[int], start: int) -> float:
    """Largest difference of any logit, base or adapted, between two ways to read one text."""
    rows: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for pair, found in zip((a, b), rows, strict=True):
        with pair.turn():
            read_both(pair, ids, start, lambda _, *logits, to=found: to.append(logits), reuse=False)
    return max(_gap(ours, theirs) for ours, theirs in zip(*rows, strict=True))


def step_difference(a: Pair, b: Pair, prefix: Sequence[int], steps: int = STEPS) -> float:
    """Largest difference of any logit over some steps, the same tokens fed to both."""
    with _streams(a, b, prefix) as (ours, theirs):
        worst = 0.0
        for _ in range(steps):
            token = int(ours.base.argmax())
            ours.feed([token])
            theirs.feed([token])
            worst = max(worst, _gap((ours.base, ours.adapted), (theirs.base, theirs.adapted)))
        return worst


def _gap(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    return max(float((x.float() - y.float()).abs().max()) for x, y in zip(a, b, strict=True))


@contextmanager
def _streams(a: Pair, b: Pair, prefix: Sequence[int]) -> Iterator[tuple[PairStream, PairStream]]:
    """One sequence under each of two pairs that share no model."""
    with ExitStack() as stack:
        for pair in (a, b):
            stack.enter_context(pair.turn())
        one, two = (stack.enter_context(open_pair(pair, [prefix], reuse=False)) for pair in (a, b))
        yield one, two


def _steps(one: Pair, two: Pair, prefix: Sequence[int], rounds: int, cuda: bool) -> list[list[float]]:
    """Seconds of blocks of greedy steps of two models and of one set; prefill and switching are not in them."""

    def block(stream: PairStream) -> None:
        for _ in range(STEPS):
            stream.feed([int(stream.base.argmax())])

    with _streams(two, one, prefix) as (separate, mixed):
        return alternate(partial(block, separate), partial(block, mixed), rounds, cuda)


def weight_bytes(networks: Iterable[nn.Module]) -> int:
    """Bytes of the storages behind all parameters and buffers; what is shared, tied or a view counts once."""
    storages: dict[tuple[torch.device, int], int] = {}
    for network in networks:
        for tensor in (*network.parameters(), *network.buffers()):
            storage = tensor.untyped_storage()
            storages[tensor.device, storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def peaks(name: str, device: str, dtype: str) -> dict[str, Any]:
    """Peak memory of either side, and of the imports alone; empty where nothing tells it."""
    found = peaks_of(read_once, ("imports", "one_set", "two_models"), device, name, dtype)
    return {"peak_one_set / peak_two_models": found["one_set"] / found["two_models"], "peak_mb": found} if found else {}


def read_once(side: str, device: str, name: str, dtype: str) -> None:
    """Load one side and read the text."""
    if side != "imports":
        load = partial(open_model, name, device, dtype)
        pair = one_set(load()) if side == "one_set" else two_models(load(), load())
        _read(pair, *_text(pair.base))


if __name__ == "__main__":
    torch.set_num_threads(1)
    read_once(*sys.argv[1:])
    tell_peak()
