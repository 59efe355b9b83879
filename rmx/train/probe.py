"""How fast and how large this model is on this machine, from a few seconds of a run's work, and whether a run has room.

The backward pass goes to the input embeddings, which costs what a LoRA's costs but for the LoRA itself (estimate.py).
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median_high
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from rmx.engine.acceleration import packed_bytes
from rmx.engine.decoding_memory import CPU_BYTES, is_out_of_memory, out_of_memory, room_of_rows
from rmx.engine.engine import Engine
from rmx.engine.entropy import capture
from rmx.engine.rows import RowBatch, RowSet
from rmx.engine.token_draws import cooled
from rmx.errors import TrainError
from rmx.models.load import Model, choose_device
from rmx.models.names import preset_of
from rmx.records import Problem
from rmx.runs.job import TrainJob
from rmx.runs.recipe import OptimConfig
from rmx.train.step.lora_policy import LoraPolicy

ROWS = 64  # completions decoded together
PROMPTS = 4
FEW = 8  # rows whose ends are waited for where all would take too long
STEPS = 3  # with all rows, at least
LONG = 80  # steps that a completion may have
TYPICAL, LONGEST = 96, 256  # tokens of the text that is read and trained on, at least and at most
TRAINED = 8  # sequences trained together, at most: more rows cost no less per token
SEED = 0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Completions seen by a probe: how long the finished ones are, and how long the others were when it ended."""

    ended: tuple[int, ...]
    cut: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Speeds:
    """What the probe measured."""

    device: str  # as rates are looked up: the GPU's name, or cpu
    rows: int  # of the decode steps
    decode_step: float  # seconds for one token of each row, with its statistics
    read_token: float  # seconds per token read by the base, one sequence at a time
    train_token: float  # seconds per token, forward and backward, in micro-batches as they are trained
    weights: int  # bytes
    kv_token: int  # bytes of keys and values per token of a row
    saved_token: int  # bytes that a forward pass keeps per token for the backward pass
    hidden: int  # width of a hidden state
    prompt: float  # tokens, mean
    lengths: Lengths  # of the model's own completions
    kv_most: int = CPU_BYTES  # bytes of keys and values that rows decoded together may take
    packed: int = 0  # bytes of the weights that are packed beside the others


def probe(
    model: Model, problems: Sequence[Problem], *, temperature: float, micro_batch: int, seconds: float = 3.0
) -> Speeds:
    """Measure for about `seconds`. The caller holds the engine's turn, and others get theirs in between."""
    engine = model.engine
    prompts = [model.prompt_ids(p.problem) for p in problems[:PROMPTS]]
    with RowSet(engine) as together:
        batch = RowBatch.of(together, engine, [prompts[i % len(prompts)] for i in range(ROWS)], None)
        step, lengths, text = _decode(model, batch, temperature, 0.5 * seconds)
    with engine.using(None):
        text = (text + text[-1:] * (TYPICAL - len(text)))[:LONGEST]
        rows = min(micro_batch, TRAINED)
        read = _timed(engine, lambda: _read(model, text), 0.15 * seconds) / len(text)
        texts, saved = [text] * rows, list[int]()
        train = _timed(engine, lambda: saved.append(_backward(model, texts)), 0.35 * seconds) / (len(text) * rows)
    config: Any = engine.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weights = list(_network(model).parameters())
    return Speeds(
        device=device_name(engine.device), rows=ROWS, decode_step=step, read_token=read, train_token=train,
        weights=sum(w.nbytes for w in weights),
        kv_token=2 * config.num_hidden_layers * heads * width * weights[0].element_size(),
        saved_token=saved[-1] // (len(text) * rows), hidden=config.hidden_size,
        prompt=sum(map(len, prompts)) / len(prompts), lengths=lengths, kv_most=room_of_rows(engine),
        packed=packed_bytes(engine.model),
    )  # fmt: skip


def device_name(device: torch.device) -> str:
    """How a machine's rate is looked up: the GPU's name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def this_device() -> str:
    """The same of the device that a run on this machine takes by itself."""
    return device_name(choose_device("auto"))


def _network(model: Model) -> Any:
    """The causal LM itself, without PEFT around it."""
    network = model.engine.model
    return network.get_base_model() if hasattr(network, "get_base_model") else network


@torch.inference_mode()
def _decode(model: Model, batch: RowBatch, temperature: float, seconds: float) -> tuple[float, Lengths, list[int]]:
    """Seconds of a step with `ROWS` rows, lengths of the completions, and the longest text.

    Finished rows stay in the batch. Where whole completions would take too long, all but a few rows are dropped.
    """
    engine, generator = model.engine, torch.Generator(model.engine.device).manual_seed(SEED)
    prompts = [list(stream.ids) for stream in batch.streams]
    texts: list[list[int]] = [[] for _ in range(ROWS)]  # what is decoded behind the prompts
    over = [False] * ROWS
    rows, times, began = ROWS, list[float](), time.perf_counter()
    streams = list(batch.streams)
    while max(len(stream.ids) for stream in streams) < engine.context and not all(over[:rows]):
        start = time.perf_counter()
        if len(times) >= STEPS and start - began > seconds:
            break
        capture(batch.logits, 1)
        tokens = torch.multinomial(cooled(batch.logits, temperature).softmax(-1), 1, generator=generator)[:, 0]
        for row, token in enumerate(tokens.tolist()):
            if not over[row]:
                texts[row].append(token)
                over[row] = token in model.stop_ids  # as rollouts end, not at their answer
        batch.feed(tokens.tolist())
        _wait(engine.device)
        if rows == ROWS:
            times.append(time.perf_counter() - start)
            if len(times) == STEPS and LONG * median_high(times) > seconds:
                rows, began = FEW, time.perf_counter()
                batch.select(list(range(FEW)))
        engine.give_way()
    ended, unfinished = (tuple(len(texts[i]) for i in range(rows) if over[i] is whole) for whole in (True, False))
    longest = max(range(rows), key=lambda i: len(texts[i]))
    return median_high(times) if times else math.nan, Lengths(ended, unfinished), [*prompts[longest], *texts[longest]]


@torch.inference_mode()
def _read(model: Model, ids: Sequence[int]) -> None:
    model.read(ids, 0, lambda logits: capture(logits, 1))
    _wait(model.engine.device)


def _backward(model: Model, batch: Sequence[Sequence[int]]) -> int:
    """Forward and backward over equally long sequences, logits in chunks; returns the bytes kept between the two."""
    network, engine = _network(model), model.engine
    own = {w.untyped_storage().data_ptr() for w in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad():
        embedded = network.get_input_embeddings()(torch.tensor(batch, device=engine.device))
        embedded = embedded.detach().requires_grad_()
        with saved_tensors_hooks(note, lambda tensor: tensor):
            hidden = network.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        flat, head = hidden.flatten(0, 1), network.get_output_embeddings()
        grad = torch.empty_like(flat)
        with torch.no_grad():
            for start in range(0, len(flat), engine.chunk_rows):
                rows = flat[start : start + engine.chunk_rows]
                p = head(rows).softmax(-1)
                grad[start : start + len(rows)] = p @ head.weight  # what the gradient of a cross entropy costs
        flat.backward(grad)
    _wait(engine.device)
    return sum(kept.values())


def _timed(engine: Engine, work: Any, seconds: float) -> float:
    """Median time of one call, after one that does not count; of a single call where that took too long already."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 2 or (len(times) < 20 and time.perf_counter() - began < seconds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
        if times[0] > seconds:
            return times[0]
        engine.give_way()
    return median_high(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- Memory for a run: whether there is enough of it, and what to change where not ------------------------------------


SPARE = 2.0  # times the weights: keys and values of the rollouts, activations, logits of a chunk
LESS = "a smaller --max-seq-len or --micro-batch"


def check_room(job: TrainJob) -> None:
    """Refuse a run on a GPU with less free memory than the weights of its preset, and what is computed with them."""
    device, preset = choose_device(job.device), preset_of(job.model)
    if device.type != "cuda" or preset is None:
        return
    free, _ = torch.cuda.mem_get_info(device)
    needed = preset.parameters * 1e6 * 2 * SPARE
    if free < needed:
        raise TrainError(
            f"The GPU has {free / 1e9:.1f} GB free and a run on {job.model} needs about {needed / 1e9:.1f} GB. "
            "Unload models in the app, or train a smaller one."
        )


def room_of(device: torch.device) -> int:
    """Bytes that this process has and may still get, on its GPU or in this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    return int(psutil.virtual_memory().available + psutil.Process(os.getpid()).memory_info().rss)


def fit(policy: LoraPolicy, memory: float, recomputed: float, room: int) -> str | None:
    """Have the policy compute inner values twice where `memory` bytes do not fit into `room`, and say so.

    `recomputed` bytes are enough then.
    """
    if memory <= room:
        return None
    needed = f"Training needs about {_gb(memory)} of memory and {_gb(room)} are there"
    if policy.recompute or not policy.blocks():
        return f"{needed}; should it run out, take {LESS}."
    policy.recompute = True
    told = f"{needed}, so inner values are computed twice rather than kept, as --recompute does: about "
    told += f"{_gb(recomputed)}, in more time."
    return told if recomputed <= room else f"{told} Should memory still run out, take {LESS}."


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB"


@contextmanager
def memory_told(stage: str, optim: OptimConfig, device: torch.device, reusable: bool) -> Iterator[None]:
    """Tell what to change where a stage runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        change = _change(stage, optim, reusable)
        raise TrainError(out_of_memory(change, device, f"in the stage {stage}")) from error


def _change(stage: str, optim: OptimConfig, reusable: bool) -> str:
    if stage == "training":
        ways = [] if optim.recompute else ["--recompute"]
        ways.append(f"a --max-seq-len below {optim.max_seq_len}")
        ways += [f"a --micro-batch below {optim.micro_batch}"] if optim.micro_batch > 1 else []
        said = ", ".join(ways[:-1]) + f" or {ways[-1]}" if len(ways) > 1 else ways[0]
        spared = "; --from-rollouts with this run's rollouts.jsonl spares the sampling" if reusable else ""
        return f"Train again with {said}{spared}."
    return "Free memory by closing what else uses it, or take a smaller --max-new-tokens or --max-seq-len."
