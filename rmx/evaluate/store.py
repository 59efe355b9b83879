"""What models have answered, kept on disk: an evaluation computes only what no earlier one has.

A folder for each (weights, settings of the draws); in it one file of lines for each process that wrote, so that
nobody waits for anybody and a torn last line, of a process that was killed, harms nothing.
"""

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rmx.answers import CUT
from rmx.config import Sampling
from rmx.paths import cache_dir
from rmx.presets import PromptStyle
from rmx.records import Stop
from rmx.train.run_files import Lines, is_full, read_lines

log = logging.getLogger(__name__)
FORMAT = 2  # of the lines, of the rule that ends a completion, and of what counts as an answer
PIECE = 1 << 20  # bytes that are read at once
STOPS = get_args(Stop)

Place = tuple[str, int]  # prompt (hash of its ids) and number of the sample


@dataclass(frozen=True, slots=True)
class Answered:
    """One completion, as far as an evaluation needs it."""

    prompt: str
    number: int
    plan: str  # of the batch that made it; samples of the same plan can be completed bit for bit
    length: int  # tokens, the end token included
    answer: str | None
    stop: Stop

    @property
    def truncated(self) -> bool:
        """It was cut off at a limit, so it is wrong."""
        return self.stop in CUT

    def json(self) -> dict[str, Any]:
        return {
            "p": self.prompt,
            "i": self.number,
            "plan": self.plan,
            "len": self.length,
            "answer": self.answer,
            "stop": self.stop,
        }

    @classmethod
    def from_json(cls, row: Any) -> "Answered | None":
        """None where the line is not ours."""
        try:
            found = cls(row["p"], row["i"], row["plan"], row["len"], row["answer"], row["stop"])
        except (KeyError, TypeError):
            return None
        words = (found.prompt, found.plan, "" if found.answer is None else found.answer)
        whole = all(type(x) is int and x >= 0 for x in (found.number, found.length))
        return found if whole and found.stop in STOPS and all(isinstance(w, str) for w in words) else None


class SampleStore:
    """The completions of all models, on this machine's disk. `None` for a folder keeps nothing."""

    def __init__(self, folder: Path | None = None, *, keep: bool = True) -> None:
        self.folder = (folder or cache_dir() / "samples") if keep else None

    def shelf(
        self, key: str, sampling: Sampling, style: PromptStyle, prompts: Collection[str] | None = None
    ) -> "Shelf":
        """What one model made with these settings, with answers by the rule of this prompt style.

        Args:
            prompts: hashes of the prompts that are wanted; None: all.
        """
        if self.folder is None:
            return Shelf(None)
        parts = {"format": FORMAT, "key": key, "limit": sampling.max_new_tokens, "temperature": sampling.temperature}
        parts |= {"answers": style.answers, "stop": list(style.stops)}
        if not sampling.greedy:
            parts |= {"top_p": sampling.top_p, "seed": sampling.seed}
        name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
        return Shelf(self.folder / name, prompts)

    def trim(self, most_bytes: int) -> None:
        """Forget the completions that were made longest ago where all together take more than `most_bytes`.

        Files that somebody is writing to are among the newest; one that vanishes meanwhile is not missed.
        """
        if self.folder is None:
            return
        found = []
        for path in self.folder.glob("*/*.jsonl"):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found)[:-1]:
            if left <= most_bytes:
                return
            with suppress(OSError):
                path.unlink()
                left -= size


class Shelf:
    """The completions of one model with one setting.

    Args:
        prompts: hashes of those that are wanted: the files of a busy site hold far more than one evaluation needs.
    """

    def __init__(self, folder: Path | None, prompts: Collection[str] | None = None) -> None:
        self._folder = folder
        self._lines: Lines | None = None
        self.fault: str | None = None  # why nothing more is kept
        self.found: dict[Place, Answered] = {}
        if folder is not None:
            for one in filter(None, map(Answered.from_json, _rows(folder))):
                if prompts is None or one.prompt in prompts:
                    self.found.setdefault((one.prompt, one.number), one)

    def add(self, one: Answered) -> None:
        """Keep a completion. A disk that refuses costs the cache, not the evaluation."""
        self.found[one.prompt, one.number] = one
        if self._folder is None or self.fault is not None:
            return
        try:
            if self._lines is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._lines = Lines(self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.jsonl")
            self._lines.append(one.json())
        except OSError as error:
            why = "is full" if is_full(error) else f"cannot be written to ({error.strerror})"
            self.fault = f"The disk of the samples {why}: what is computed now is not kept."
            log.warning("%s: %s", self._folder, self.fault)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None


def _rows(folder: Path) -> Iterator[Any]:
    """The lines of all files of a folder, a piece at a time."""
    for path in sorted(folder.glob("*.jsonl")):
        start = 0
        while (read := read_lines(path, start, PIECE))[1] > start:
            rows, start = read
            yield from rows
