"""The bundled problem sets `mini` and `arith`, written by `python -m rmx.mini.problem_sets`; always the same files."""

import argparse
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rmx.mini.task import MiniProblem, make_set
from rmx.mini.wordings import Split
from rmx.paths import ASSETS

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# split -> (problems, of these with a held-out wording, seed)
MINI_SIZES: Mapping[Split, tuple[int, int, int]] = {
    "train": (600, 0, 101),
    "validation": (200, 50, 102),
    "test": (400, 100, 103),
}
ARITH_BUCKETS: Sequence[Split] = ("train", "train", "train", "validation", "test")

Line = Mapping[str, str | int]


def mini_set(split: Split) -> list[MiniProblem]:
    """Make the bundled word problems of a split."""
    size, held_out_wordings, seed = MINI_SIZES[split]
    return make_set(size, seed, split, held_out_wordings)


def _arith_split(op: str, x: int, y: int) -> Split:
    """Choose a split by hash; x op y and y op x share one where they mean the same."""
    pair = (x, y) if op == "-" else (min(x, y), max(x, y))
    return ARITH_BUCKETS[zlib.crc32(f"{op}{pair}".encode()) % len(ARITH_BUCKETS)]


def arith_set(split: Split) -> list[Line]:
    """Make one-digit sums, differences from 0 up and products as short questions, in mixed order."""
    digits = [(x, y) for x in range(10) for y in range(10)]
    facts = [(op, x, y, {"+": x + y, "-": x - y, "*": x * y}[op]) for x, y in digits for op in "+-*"]
    chosen = [fact for fact in facts if fact[3] >= 0 and _arith_split(*fact[:3]) == split]
    chosen.sort(key=lambda fact: zlib.crc32(f"order {fact}".encode()))
    return [
        {"id": f"arith-{split}-{i:03d}", "problem": f"What is {x} {op} {y}?", "answer": str(value)}
        for i, (op, x, y, value) in enumerate(chosen)
    ]


def write_sets(folder: Path) -> list[Path]:
    """Write all six files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for split in SPLITS:
        lines: dict[str, Sequence[Line]] = {"mini": [p.json() for p in mini_set(split)], "arith": arith_set(split)}
        for name, content in lines.items():
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
            written.append(folder / f"{name}.{split}.jsonl")
            written[-1].write_text(text, encoding="utf-8")
    return written


def main() -> None:
    """Write the problem sets and say how large they are."""
    parser = argparse.ArgumentParser(prog="python -m rmx.mini.problem_sets", description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS / "problems", help="folder for the JSONL files")
    for path in write_sets(parser.parse_args().out):
        print(f"{path}: {len(path.read_text(encoding='utf-8').splitlines())} problems")


if __name__ == "__main__":
    main()
