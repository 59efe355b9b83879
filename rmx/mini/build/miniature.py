"""The miniature as its builders use it: loaded like any model, decoded and scored in batches; its files, its training.

The tokenizer is a byte-level BPE in which every word of the task is one token and digits stand alone. Pretraining is
from nothing, on one processor core: Muon moves the weight matrices, AdamW the embeddings and norms. Two thirds of the
sequences are a problem with one writer's solution (loss on the solution), the rest are drills of seven equations (loss
on the results). The digits of results weigh more, because arithmetic is what takes longest to learn. A batch depends
only on the seed and on its number, so a run that was cut off goes on from its checkpoint as if nothing had happened.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rmx.engine.rows import RowBatch, RowSet
from rmx.mini import task
from rmx.mini.problem_sets import final_answer, with_made_up_words, write_solution
from rmx.mini.task import PROMPT, MiniProblem, calculate, make_problem
from rmx.models import load as models
from rmx.models.load import Model

Ids = list[int]
Choose = Callable[[Tensor], Tensor]  # (rows, V) logits -> (rows,) token ids

MAX_NEW_TOKENS = 140  # the longest solution has about 100
ROWS = 256  # decoded together
SCORED_ROWS = 64
TRAINING = "training.json"


@dataclass(frozen=True, slots=True)
class Mini:
    """The loaded miniature, with one of its adapters or as it is."""

    model: Model
    adapter: str | None = None

    def prompts(self, problems: Iterable[MiniProblem]) -> list[Ids]:
        return [self.model.tokenizer(PROMPT.format(problem=p.problem))["input_ids"] for p in problems]

    def text(self, ids: Ids) -> str:
        return str(self.model.tokenizer.decode(ids, skip_special_tokens=True))

    def answer(self, ids: Ids) -> str | None:
        return final_answer(self.text(ids))

    @contextmanager
    def _held(self) -> Iterator[None]:
        engine = self.model.engine
        with torch.inference_mode(), engine.queue.turn(), engine.using(self.adapter):
            yield

    def decode(self, prompts: Sequence[Ids], temperature: float = 0.0, seed: int = 0) -> list[Ids]:
        """Complete every prompt to its end token, which is part of the result, or to `MAX_NEW_TOKENS`; 0 is greedy.

        The bundled weights and figures rest on these very draws: from one generator, in prompts of similar length
        together. So a sample depends on the other prompts as well as on the seed.
        """
        choose = _chooser(temperature, torch.Generator().manual_seed(seed))
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        completions: list[Ids] = [[] for _ in prompts]
        for start in range(0, len(order), ROWS):
            part = order[start : start + ROWS]
            with self._held(), RowSet(self.model.engine) as rows:
                batch = RowBatch.of(rows, self.model.engine, [prompts[i] for i in part], self.adapter)
                self._complete(batch, [completions[i] for i in part], choose)
        return completions

    def _complete(self, batch: RowBatch, live: list[Ids], choose: Choose) -> None:
        """Append to the completions of a batch; a row that ends leaves it."""
        end = self.model.tokenizer.eos_token_id
        for step in range(MAX_NEW_TOKENS):
            chosen = choose(batch.logits.float())
            for row, token in zip(live, chosen.tolist(), strict=True):
                row.append(token)
            going = [i for i, row in enumerate(live) if row[-1] != end]
            if not going or step + 1 == MAX_NEW_TOKENS:
                return
            if len(going) < len(live):
                batch.select(going)
                live, chosen = [live[i] for i in going], chosen[going]
            batch.feed(chosen.tolist())

    def score(self, prompts: Sequence[Ids], completions: Sequence[Ids]) -> list[Tensor]:
        """Read the (len, V) fp32 logits that chose the tokens of each completion."""
        pairs, scored = list(zip(prompts, completions, strict=True)), list[Tensor]()
        with self._held():
            for start in range(0, len(pairs), SCORED_ROWS):
                part = pairs[start : start + SCORED_ROWS]
                logits = self.model.engine.model(input_ids=right_padded([p + c for p, c in part])).logits.float()
                scored += [logits[r, len(p) - 1 : len(p) + len(c) - 1].clone() for r, (p, c) in enumerate(part)]
        return scored


def load(folder: Path) -> Mini:
    """Load the weights of a folder as any other model is loaded, computing in fp32 on the processor."""
    return Mini(models.load(str(folder), device="cpu", dtype="float32"))


def _chooser(temperature: float, generator: torch.Generator) -> Choose:
    if temperature == 0:
        return lambda logits: logits.argmax(-1)

    def draw(logits: Tensor) -> Tensor:
        return torch.multinomial(F.softmax(logits.float() / temperature, -1), 1, generator=generator)[:, 0]

    return draw


def right_padded(sequences: Sequence[Ids]) -> Tensor:
    """Pad to (B, T) ids, on the right with zeros; under a causal mask the padding needs no attention mask."""
    ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for reading by people as well."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# -- The miniature's tokenizer and its pretraining from nothing, on one processor core --------------------------------


END, PAD = "<|end|>", "<|pad|>"
MAX_POSITIONS = 512
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] | trim }}\n"
    "{% else %}A: {{ m['content'] | trim }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
# A piece is a word, one digit or one sign, each with the space before it; the opening of the box is one piece.
PIECE = r" ?\\boxed\{| ?[A-Za-z]+| ?[0-9]|\n| ?[^\sA-Za-z0-9]|\s+"
_EACH = 100  # how often the trainer sees each piece; its minimum


def _task_texts() -> Iterator[str]:
    """Everything that problems and solutions are made of, braces and choices included."""
    yield from (wording.text for template in task.TEMPLATES.values() for wording in template.wordings)
    yield from (text for texts in task.VERBS.values() for text in texts)
    yield from (*task.NAMES, *task.THINGS, *task.NEXT_WORDS, *task.FINAL_WORDS, task.NOTICE_TEXT)
    yield from (f"{writer.opener} the facts are" for writer in task.WRITERS)
    yield "We we the answer is"


def _pieces() -> list[str]:
    """Every piece that shall be one token, each as it stands in a text."""
    slots_removed = (re.sub(r"\{\w+\}", " ", text) for text in _task_texts())
    words = sorted({word for text in slots_removed for word in re.findall(r"[A-Za-z]+", text)})
    return [" \\boxed{", "Q", "A", *(f" {word}" for word in words), *(f" {sign}" for sign in "0123456789+-*/=")]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on the task's words, always to the same; any text survives it, for it knows all 256 bytes."""
    core = Tokenizer(BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PIECE), "isolated"), bytes_])
    core.decoder = decoders.ByteLevel()
    # The size is never reached: merging ends when every word is one token.
    trainer = trainers.BpeTrainer(
        vocab_size=8192, min_frequency=_EACH, show_progress=False, special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    core.train_from_iterator((piece for piece in _pieces() for _ in range(_EACH)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=PAD, model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files, with a class name that every version of transformers knows."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    kept = {k: v for k, v in config.items() if k not in ("backend", "is_local", "local_files_only")}
    path.write_text(json.dumps(kept | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2, sort_keys=True) + "\n")


# -- Pretraining of the miniature from nothing, on one processor core -------------------------------------------------


BLOCK = 16  # batches that are made, sorted by length and shuffled together
DRILL_EQUATIONS = 7
WARMUP_STEPS = 100


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Everything that the weights depend on."""

    steps: int = 7000
    seed: int = 0
    batch: int = 32  # sequences
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 384
    matrix_lr: float = 0.02  # Muon
    other_lr: float = 0.004  # AdamW
    decay_share: float = 0.5  # of the run, at its end, over which the learning rates fall to 0
    drill_share: float = 0.3  # of the sequences
    digit_weight: float = 4.0  # loss weight of the digits of results
    stranger_share: float = 0.04  # of the problems, whose names and thing are made-up words


TrainingText = tuple[Ids, list[float]]  # one training sequence, and the loss weight of predicting each of its ids


@dataclass(frozen=True, slots=True)
class PretrainStep:
    """What one optimizer step did."""

    step: int  # counted from 1
    loss: float  # nats, weighted
    digit_loss: float  # nats, of result digits alone
    tokens: int  # so far, padding included
    seconds: float  # since this process began training


def new_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with fresh weights that depend on the seed only."""
    torch.manual_seed(config.seed)
    ends: Any = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=config.hidden, intermediate_size=config.feed_forward,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.heads,
        max_position_embeddings=MAX_POSITIONS, tie_word_embeddings=True, bos_token_id=None, rms_norm_eps=1e-5, **ends,
    )  # fmt: skip
    model = LlamaForCausalLM(shape)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=160, **ends)
    return model


def drill(rng: random.Random) -> str:
    """Seven right equations over the range of the task."""
    made: list[str] = []
    while len(made) < DRILL_EQUATIONS:
        op = rng.choice("++--*/")
        x, y = (rng.randint(2, 60), rng.randint(2, 12)) if op in "*/" else (rng.randint(2, 99), rng.randint(2, 60))
        x = x * y if op == "/" else x
        try:
            value = calculate(x, op, y)
        except ValueError:
            continue
        if x <= task.MAX_VALUE:
            made.append(f" {x} {op} {y} = {value}.")
    return "".join(made)


class Data:
    """Batches by number: batch `i` is the same in every run with the same config."""

    def __init__(self, config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.equals = tokenizer(" =")["input_ids"][0]
        self.stop = tokenizer(".")["input_ids"][0]

    def batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, T) ids and (B, T) loss weights, from batch `start` on, without end."""
        number = start // BLOCK
        while True:
            for examples in self._block(number)[start % BLOCK :]:
                ids = right_padded([sequence for sequence, _ in examples])
                weights = torch.zeros(ids.shape)
                for row, (_, given) in enumerate(examples):
                    weights[row, : len(given)] = torch.tensor(given)
                yield ids, weights
            start, number = 0, number + 1

    def _block(self, number: int) -> list[list[TrainingText]]:
        """BLOCK batches, each of sequences of about the same length."""
        label, size = f"{self.config.seed}/{number}", self.config.batch * BLOCK
        count, rng = round(size * self.config.drill_share), random.Random(f"drills/{label}")
        drills = self._encode([drill(rng) for _ in range(count)])
        examples = self._solutions(label, size - count) + [(ids, self._weights(ids, other=0.0)) for ids in drills]
        order = random.Random(f"order/{label}")
        examples.sort(key=lambda e: len(e[0]) + order.random())
        batches = [examples[i : i + self.config.batch] for i in range(0, size, self.config.batch)]
        order.shuffle(batches)
        return batches

    def _solutions(self, label: str, count: int) -> list[TrainingText]:
        numbers, words, writers = (random.Random(f"{kind}/{label}") for kind in ("numbers", "text", "writers"))
        problems = [make_problem(numbers, "train", text_rng=words) for _ in range(count)]
        solutions = [write_solution(writers, problem) for problem in problems]
        texts = [
            with_made_up_words(words, p.problem) if words.random() < self.config.stranger_share else p.problem
            for p in problems
        ]
        questions = self._encode([task.PROMPT.format(problem=text) for text in texts])
        answers = [[*ids, self.tokenizer.eos_token_id] for ids in self._encode(solutions)]
        return [(q + a, [0.0] * len(q) + self._weights(a, other=1.0)) for q, a in zip(questions, answers, strict=True)]

    def _encode(self, texts: list[str]) -> list[Ids]:
        return self.tokenizer(texts)["input_ids"] if texts else []

    def _weights(self, ids: Ids, other: float) -> list[float]:
        """`digit_weight` after each equals sign up to the full stop that ends the result; `other` elsewhere."""
        weights, result = [], False
        for token in ids:
            weights.append(self.config.digit_weight if result else other)
            result = (result or token == self.equals) and token != self.stop
        return weights


def schedule(step: int, config: PretrainConfig) -> float:
    """Share of the full learning rate at step 0, 1, ...: warm-up, plateau, linear fall."""
    rise = min(1.0, (step + 1) / WARMUP_STEPS)
    return rise * min(1.0, (config.steps - step) / (config.decay_share * config.steps))


class Pretrainer:
    """Model, optimizers and position in the data."""

    def __init__(self, config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        self.config, self.data = config, Data(config, tokenizer)
        self.model = new_model(config, tokenizer)
        self.done, self.tokens = 0, 0
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        self.others = [p for n, p in self.model.named_parameters() if p.ndim != 2 or "embed" in n]
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(matrices, lr=config.matrix_lr, momentum=0.95, weight_decay=0.01), config.matrix_lr),
            (torch.optim.AdamW(self.others, lr=config.other_lr, betas=(0.9, 0.98), weight_decay=0), config.other_lr),
        ]

    def run(self) -> Iterator[PretrainStep]:
        """Train to the end, one step at a time."""
        began = time.monotonic()
        self.model.train()
        for ids, weights in self.data.batches(self.done):
            if self.done >= self.config.steps:
                return
            loss, digit_loss = self._step(ids, weights)
            self.done, self.tokens = self.done + 1, self.tokens + ids.numel()
            yield PretrainStep(self.done, loss, digit_loss, self.tokens, time.monotonic() - began)

    def _step(self, ids: Tensor, weights: Tensor) -> tuple[float, float]:
        for optimizer, full in self.optimizers:
            optimizer.param_groups[0]["lr"] = full * schedule(self.done, self.config)
        counts = weights[:, 1:] > 0  # the head runs on these tokens alone
        hidden = self.model.model(input_ids=ids).last_hidden_state[:, :-1][counts]
        ce = F.cross_entropy(self.model.lm_head(hidden), ids[:, 1:][counts], reduction="none")
        weight = weights[:, 1:][counts]
        loss = (ce * weight).sum() / weight.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.others, 1.0)
        for optimizer, _ in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item(), ce[weight > 1].mean().item()

    def save(self, path: Path) -> None:
        """Write a checkpoint, replacing the one before in one move."""
        optimizers = [optimizer.state_dict() for optimizer, _ in self.optimizers]
        place = {"config": self.config, "done": self.done, "tokens": self.tokens}
        state = place | {"model": self.model.state_dict(), "optimizers": optimizers}
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of our own making; ValueError where it belongs to a run with another config."""
        with torch.serialization.safe_globals([PretrainConfig]):
            state = torch.load(path, weights_only=True)
        if state["config"] != self.config:
            raise ValueError(f"{path} belongs to another run: {state['config']}; remove it to begin anew.")
        self.model.load_state_dict(state["model"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.done, self.tokens = state["done"], state["tokens"]
