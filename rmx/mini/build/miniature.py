"""The miniature as its builders use it: loaded like any model, decoded and scored in batches; and its files."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from rmx.engine.rows import RowBatch, RowSet
from rmx.mini.problem_sets import final_answer
from rmx.mini.task import PROMPT, MiniProblem
from rmx.models import load as models
from rmx.models.load import Model
from rmx.storage.safe_files import read_json

Ids = list[int]
Choose = Callable[[Tensor], Tensor]  # (rows, V) logits -> (rows,) token ids

MAX_NEW_TOKENS = 140  # the longest solution has about 100
ROWS = 256  # decoded together
SCORED_ROWS = 64
WEIGHTS, CONFIG, TRAINING = "adapter_model.safetensors", "adapter_config.json", "training.json"


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
        return torch.multinomial(F.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]

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


def write_adapter(trained: Path, out: Path) -> None:
    """Write an adapter as PEFT wrote it for shipping: in fp16, readable by everyone, equal files for equal runs."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half() for name, tensor in load_file(trained / WEIGHTS).items()}
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    config = read_json(trained / CONFIG)
    config |= {"base_model_name_or_path": "mini", "target_modules": sorted(config["target_modules"])}
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in out.iterdir():
        path.chmod(0o644)
