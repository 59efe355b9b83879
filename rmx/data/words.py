"""The problem set `words`: word problems in ordinary English, of one to three steps.

They are drawn from the wordings in assets/problems/words.toml. No sentence and no choice of numbers of one split is in
another, so what is measured on the test split is neither a wording nor a sum that was trained on. Other draws are
written as a file by `python -m rmx.data.words`.
"""

import argparse
import json
import random
import re
import tomllib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import cycle
from pathlib import Path

from rmx.config import ASSETS
from rmx.records import Problem

# split -> which sentences of a kind are its own: those that tell, those that ask
SENTENCES = {
    "train": (slice(0, 3), slice(0, 2)),
    "validation": (slice(3, 4), slice(2, 3)),
    "test": (slice(4, 6), slice(3, 4)),
}
SIZES = {"train": 1200, "validation": 240, "test": 640}
LEVELS = (1,)  # steps of the problems of the bundled set: SmolLM2 never got two steps right, so they taught nothing
BUCKETS = ("train", "train", "train", "train", "validation", "test", "test", "test")  # of the numbers, by a hash
HIGHEST = 24  # no number and no result of the bundled set is larger
SEED = 16
TRIES = 100_000  # draws of numbers before a kind counts as impossible


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """What happens in a problem, and the sentences that tell it."""

    name: str
    numbers: Mapping[str, tuple[int, int]]  # lowest and highest value, both allowed
    steps: tuple[str, ...]  # `a + b`, over the numbers and the earlier results s1, s2
    tell: tuple[str, ...]
    ask: tuple[str, ...]
    things: tuple[str, ...]

    def wordings(self, split: str) -> list[str]:
        """Every text of this split, with its names and numbers open."""
        told, asked = SENTENCES[split]
        return [f"{tell} {ask}" for tell in self.tell[told] for ask in self.ask[asked]]

    def draw_numbers(self, rng: random.Random, split: str, highest: int) -> tuple[dict[str, int], int]:
        """Draw numbers that belong to a split and come out even, and work out their answer."""
        for _ in range(TRIES):
            drawn = {name: rng.randint(low, min(high, highest)) for name, (low, high) in self.numbers.items()}
            bucket = BUCKETS[zlib.crc32(f"{self.name}{sorted(drawn.items())}".encode()) % len(BUCKETS)]
            answer = work_out(self.steps, drawn, highest)
            if bucket == split and answer is not None:
                return drawn, answer
        raise ValueError(f"No {split} numbers of the kind {self.name} keep to {highest}.")


def work_out(steps: Sequence[str], numbers: Mapping[str, int], highest: int) -> int | None:
    """Work the steps out; None where a division leaves a rest or a result does not lie in 1 ... `highest`."""
    known = dict(numbers)
    result = 0
    for i, step in enumerate(steps, 1):
        left, op, right = step.split()
        x, y = known[left], known[right]
        if op == "/" and x % y:
            return None
        result = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[op]
        if not 0 < result <= highest:
            return None
        known[f"s{i}"] = result
    return result


@cache
def _file() -> tuple[tuple[ProblemKind, ...], Mapping[str, tuple[str, str, str]]]:
    """The kinds, and for each name its words for he, his and him."""
    stored = tomllib.loads((ASSETS / "problems" / "words.toml").read_text(encoding="utf-8"))
    kinds = tuple(
        ProblemKind(
            name,
            {number: (low, high) for number, (low, high) in row["numbers"].items()},
            tuple(row["steps"].split("; ")),
            tuple(row["tell"]),
            tuple(row["ask"]),
            tuple(row.get("things", stored["things"]).split()),
        )
        for name, row in stored["kinds"].items()
    )
    people = dict.fromkeys(stored["women"].split(), ("she", "her", "her"))
    return kinds, people | dict.fromkeys(stored["men"].split(), ("he", "his", "him"))


def draw_words(
    split: str, size: int, seed: int = SEED, levels: Sequence[int] = LEVELS, highest: int = HIGHEST
) -> list[Problem]:
    """Draw problems of a split, no two alike, as many of each kind.

    Args:
        size: how many. seed: of all draws; the bundled set has `SEED`.
        levels: steps that a problem may have, of 1, 2 and 3: the more, the harder.
        highest: no number and no result is larger; 24 or more.
    """
    found: dict[str, Problem] = {}
    draws = draw_texts(split, seed, levels, highest)
    while len(found) < size:
        kind, _, answer, text = next(draws)
        if text not in found:
            name = f"words-{split}-{len(found):04d}"
            found[text] = Problem(name, text, str(answer), "words", split, len(kind.steps))
    return list(found.values())


def draw_texts(
    split: str, seed: int, levels: Sequence[int], highest: int
) -> Iterator[tuple[ProblemKind, dict[str, int], int, str]]:
    """Draw kinds, their numbers, answers and texts without end, some of them more than once; see `draw_words`."""
    kinds, people = _file()
    rng = random.Random(f"words/{split}/{seed}")
    for kind in cycle(kind for kind in kinds if len(kind.steps) in levels):
        numbers, answer = kind.draw_numbers(rng, split, highest)
        wording, names, thing = rng.choice(kind.wordings(split)), rng.sample(sorted(people), 2), rng.choice(kind.things)
        yield kind, numbers, answer, fill(wording, names, thing, numbers)


def fill(wording: str, names: Sequence[str], thing: str, numbers: Mapping[str, int]) -> str:
    """Put two names, a thing and the numbers into a wording; a sentence begins with a capital letter."""
    he, his, him = _file()[1][names[0]]
    capitals = {"He": he.capitalize(), "His": his.capitalize()}
    text = wording.format(A=names[0], B=names[1], he=he, his=his, him=him, o=thing, **capitals, **numbers)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def words_set(split: str) -> tuple[Problem, ...]:
    """The bundled problems of a split."""
    return tuple(draw_words(split, SIZES[split]))


def main() -> None:
    """Write one draw as a JSONL file that every command takes."""
    parser = argparse.ArgumentParser(prog="python -m rmx.data.words", description=__doc__)
    parser.add_argument("out", type=Path, help="the JSONL file to write")
    parser.add_argument("--split", choices=list(SIZES), default="test", help="whose wordings and numbers")
    parser.add_argument("--size", type=int, default=500, help="problems")
    parser.add_argument("--seed", type=int, default=SEED, help="of the draws")
    parser.add_argument(
        "--levels", type=int, nargs="+", choices=(1, 2, 3), default=list(LEVELS), help="numbers of steps"
    )
    parser.add_argument("--highest", type=int, default=HIGHEST, help="no number and no result is larger; 24 or more")
    args = parser.parse_args()
    drawn = draw_words(args.split, args.size, args.seed, args.levels, args.highest)
    args.out.write_text("".join(json.dumps(asdict(problem)) + "\n" for problem in drawn), encoding="utf-8")


if __name__ == "__main__":
    main()
