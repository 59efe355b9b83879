"""What studies share: pieces that are kept on disk, a budget of tokens, and whole solutions sampled anew."""

import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rmx.arguments import Sampling
from rmx.engine.batch import continue_batch
from rmx.engine.token_draws import prompt_key, uniform
from rmx.models.base_state import key_of
from rmx.models.load import Model
from rmx.models.stopping import Ending
from rmx.records import Trace, as_json
from rmx.stats.intervals import share, wilson
from rmx.storage.safe_files import KeptLines, LineStore

FORMAT = 1  # of the lines, and of what is computed for them


class Journal:
    """The pieces of one study with one setting, by name. Without a store nothing is known and nothing is kept."""

    def __init__(self, lines: KeptLines | None = None) -> None:
        self._lines = lines or KeptLines(None)
        self._rows: dict[str, dict[str, Any]] = {
            row["piece"]: row
            for row in self._lines.read()
            if isinstance(row, dict) and isinstance(row.get("piece"), str)
        }

    def get(self, piece: str) -> dict[str, Any] | None:
        """What is known of a piece of the work; None where it is still to be done."""
        return self._rows.get(piece)

    def put(self, piece: str, row: dict[str, Any]) -> None:
        """Keep a piece that is done."""
        self._rows[piece] = row
        self._lines.append({"piece": piece, **row})

    def close(self) -> None:
        """No more pieces come."""
        self._lines.close()


def journal_of(
    store: LineStore | None, study: str, models: Sequence[tuple[Model, str | None]], **settings: Any
) -> Journal:
    """The journal of a study.

    Args:
        store: where it is kept; None: nowhere.
        models: those that are looked at, each with the key of its adapter on the engine; the first one is asked.
        settings: whatever else decides what is found, fit for JSON.
    """
    if store is None or store.folder is None:
        return Journal()
    style = {name: value for name, value in models[0][0].style.json().items() if name != "why"}
    keys = [key_of(model, adapter) for model, adapter in models]
    return Journal(store.lines(study=study, format=FORMAT, models=keys, style=style, **settings))


def chained(prompts: Sequence[Sequence[int]]) -> list[str]:
    """A name for each prompt and all before it: the same name, the same prompts in the same order."""
    digest, names = hashlib.blake2b(digest_size=12), []
    for prompt in prompts:
        digest.update(prompt_key(prompt))
        names.append(digest.hexdigest())
    return names


# -- Sampling with a limit of tokens ----------------------------------------------------------------------------------


INTERVAL = 0.25  # seconds between two reports within a batch
ROWS = 32  # solutions in one batch, at most
NOTE = "Whole solutions at temperature 1 for as many tokens; the known answer says which of them are hits."


@dataclass
class Meter:
    """Tokens that a job has decoded, and how many it may."""

    budget: int
    spent: int = 0

    @property
    def left(self) -> int:
        """Tokens that may still be decoded."""
        return self.budget - self.spent

    def decode(
        self, steps: Iterable[list[list[int]]], cancelled: Callable[[], bool]
    ) -> Generator[None, None, tuple[list[list[int]], bool]]:
        """Decode a batch while the budget lasts; yields when it is time to report.

        The caller sees to it that the first token of each row is affordable.

        Args:
            steps: `decode_steps` of rmx/engine/batch.py.

        Returns:
            The rows, and whether they were decoded to their ends.
        """
        before, due = self.spent, time.monotonic() + INTERVAL
        rows: list[list[int]] = []
        for so_far in steps:
            rows = so_far
            self.spent = before + sum(map(len, rows))
            if self.left < len(rows) or cancelled():
                return rows, False
            if time.monotonic() >= due:
                due = time.monotonic() + INTERVAL
                yield
        return rows, True


@dataclass(frozen=True, slots=True)
class Resampling:
    """Solutions at temperature 1, in the order of their sample numbers."""

    samples: int
    hits: int
    tokens_spent: int

    def json(self) -> dict[str, Any]:
        """`pass@n`: the chance that `samples` new solutions hold a hit, 1 - (1 - p)^n, with p's interval."""
        n = self.samples
        low, high = (1 - (1 - p) ** n for p in wilson(self.hits, n))
        value = 1 - (1 - self.hits / n) ** n if n else None
        return {
            **as_json(self, "samples", "hits", "tokens_spent"),
            "pass@1": share(self.hits, n),
            "pass@n": {"value": value, "low": low, "high": high, "n": n},
            "note": NOTE,
        }


def resample(
    model: Model,
    trace: Trace,
    hit: Callable[[Sequence[int]], bool],
    budget: int,
    seed: int,
    max_new_tokens: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Resampling]:
    """Sample whole solutions until they have `budget` tokens together, the one that crosses it counted.

    A sample depends on (seed, prompt, sample number, position). Yields after each batch; a batch that is cancelled is
    not counted.

    Args:
        hit: called with the tokens of a whole solution; whether it counts as a hit.
    """
    samples = hits = spent = 0
    length = len(trace.tokens)
    while spent < budget and not cancelled():
        size = max(1, min(ROWS, -(-(budget - spent) // length)))
        rows = _batch(model, trace, range(samples, samples + size), seed, max_new_tokens, cancelled)
        if cancelled():
            return
        for row in rows:
            if spent >= budget:
                break
            samples, spent = samples + 1, spent + len(row)
            hits += hit(row)
        yield Resampling(samples, hits, spent)


def _batch(
    model: Model, trace: Trace, numbers: range, seed: int, max_new: int, cancelled: Callable[[], bool]
) -> list[list[int]]:
    key = prompt_key(trace.prompt_ids)
    with model.engine.queue.when_free(cancelled) as mine:
        if not mine:
            return []
        return continue_batch(
            model.engine,
            trace.prompt_ids,
            [()] * len(numbers),
            max_new=max_new,
            over=Ending(model, trace.prompt_ids, (), len(numbers)),
            sampling=Sampling(1.0, 1.0, seed, max_new),
            draw=lambda row, place: uniform(seed, key, numbers[row], place),
            adapter=trace.adapter,
            cancelled=cancelled,
        )
