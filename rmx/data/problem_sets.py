"""Problem sets by name: bundled ones, seven from the Hugging Face Hub, and the reader's own files; and the examples.

A set is named `NAME[:train|validation|test]`, or is the path of a .jsonl, .csv or .parquet file with a column `problem`
or `question` and, where they are known, `answer`, `id` and `split`.

Of the Hub, a set whose only split is called `train` is a test set none the less: these are not for training. Rows
without a final answer are left out. Repositories, columns and sizes of the last five sets were found in stored public
pages and in public code that reads the same sets; none of them has been fetched by its authors here.
"""

import difflib
import hashlib
import json
import logging
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.constants import HF_HOME

from rmx.config import ASSETS
from rmx.data.problem_files import SPLITS, SUFFIXES, deal, normalised, read_file, read_text, shared, short_answer
from rmx.data.words import words_set
from rmx.errors import ProblemError, first_line
from rmx.grading.equality import last_box
from rmx.records import Problem

HubRows = Iterable[Mapping[str, Any]]
MATH, MATH_500 = "DigitalLearningGmbH/MATH-lighteval", "HuggingFaceH4/MATH-500"
MATH_LEVELS = (3, 4, 5)


def fetch(name: str, split: str) -> tuple[Problem, ...]:
    """Read a set of the Hub; ProblemError where it cannot be fetched, or has not the columns that it had."""
    repository, config, on_hub, read = _ON_HUB[name]
    try:
        if name == "math" and split != "test":
            return tuple(_math(split))
        rows = _hub(repository, config, on_hub or ("test" if split == "test" else "train"))
        return tuple(read(rows, name, split))
    except KeyError as error:
        raise ProblemError(
            f"{REPOSITORIES[name]} has no column {error} any more, which {name} is read from. Use another set, or save "
            "its problems as a .jsonl file with `problem` and `answer`."
        ) from error


def _gsm8k(rows: HubRows, name: str, split: str) -> Iterator[Problem]:
    """GSM8K has no validation split: a fixed tenth of its train split serves, so the three are disjoint."""
    on_hub = "test" if split == "test" else "train"
    for index, row in enumerate(rows):
        if split == "test" or _held_out(row["question"]) == (split == "validation"):
            yield Problem(f"{on_hub}-{index}", row["question"], short_answer(row["answer"]), name, split)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8])


def _held_out(text: str) -> bool:
    """Whether a training problem of the Hub is of the tenth that serves for validation."""
    return _digest(text) % 10 == 0


def _math(split: str) -> list[Problem]:
    """MATH of levels 3 to 5, both splits of the Hub, without MATH-500; validation is a tenth of it, by the text's hash.

    SimpleRL-Zoo trains on the same levels. Validation is in the order of the hashes: its first ones are of all levels.
    """
    sides = {on_hub: _hub(MATH, None, on_hub) for on_hub in ("train", "test")}
    measured_on = {normalised(row["problem"]) for row in _hub(MATH_500, None, "test")}
    found = list[Problem]()
    for on_hub, rows in sides.items():
        for index, row in enumerate(rows):
            text, level, (answer, _) = row["problem"], _level(row["level"]), last_box(row["solution"])
            wanted = level in MATH_LEVELS and normalised(text) not in measured_on
            if wanted and answer and _held_out(text) == (split == "validation"):
                found.append(Problem(f"{on_hub}-{index}", text, answer, "math", split, level))
    return sorted(found, key=lambda p: _digest(p.problem)) if split == "validation" else found


def _level(text: object) -> int | None:
    """`"Level 5"` and 5 -> 5; None where the row does not know."""
    number = str(text).rpartition(" ")[2]
    return int(number) if number.isdecimal() else None


def _columns(rows: HubRows, name: str, split: str, *, question: str, key: str | None) -> Iterator[Problem]:
    """Rows with the final answer in a column `answer`; without a column for ids the row's index serves."""
    for index, row in enumerate(rows):
        answer = "" if row["answer"] is None else str(row["answer"]).strip()
        if answer:
            own = str(index if key is None else row[key])
            yield Problem(own, row[question], answer, name, split, _level(row.get("level")))


def _olympiadbench(rows: HubRows, name: str, split: str) -> Iterator[Problem]:
    """One final answer each: several answers are graded nowhere in rmx. A row's tolerance (`error`) is not used."""
    for row in rows:
        answers = [str(a).strip() for a in row["final_answer"] or () if str(a).strip()]
        if len(answers) == 1 and not row["is_multiple_answer"]:
            context = (row["context"] or "").strip()
            text = f"{context}\n\n{row['question']}" if context else row["question"]
            answer = answers[0]  # `$\\frac{1}{2}$` -> `\\frac{1}{2}`, where the two dollar signs are the only ones
            if answer.count("$") == 2 and answer[0] == answer[-1] == "$":
                answer = answer[1:-1].strip()
            yield Problem(str(row["id"]), text, answer, name, split)


_MATH_500 = partial(_columns, question="problem", key="unique_id")
# name -> repository, configuration, split there (None: ours), rows to problems
_ON_HUB: dict[str, tuple[str, str | None, str | None, Callable[[HubRows, str, str], Iterator[Problem]]]] = {
    "gsm8k": ("openai/gsm8k", "main", None, _gsm8k),
    "math": (MATH_500, None, "test", _MATH_500),  # of its test split; the others are read by `_math`
    "math500": (MATH_500, None, "test", _MATH_500),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", partial(_columns, question="problem", key="id")),
    "amc23": ("math-ai/amc23", None, "test", partial(_columns, question="question", key="id")),
    "minerva": ("math-ai/minervamath", None, "test", partial(_columns, question="question", key=None)),
    "olympiadbench": ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", _olympiadbench),
}

REPOSITORIES = {name: repository for name, (repository, *_) in _ON_HUB.items()} | {"math": MATH}


def is_cached(name: str) -> bool:
    """Whether a set of the Hub lies, ready to be read, in the cache of the datasets library."""
    repository, config, *_ = _ON_HUB[name]
    needed = {repository, REPOSITORIES[name]}
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets").expanduser()
    # The library is not asked itself: importing it costs seconds, and looking a set up asks the Hub. It calls the
    # folder of HuggingFaceH4/MATH-500 HuggingFaceH4___math-500.
    for owner, _, set_name in (one.partition("/") for one in needed):
        folder = f"{owner}___{re.sub('(?<=[a-z0-9])(?=[A-Z])', '_', set_name).lower()}"
        if not any((cache / folder).glob(f"{config or '*'}/*/*/dataset_info.json")):
            return False
    return True


def _hub(repository: str, config: str | None, split: str) -> Any:
    """The rows of a data set of the Hub, from its cache when it was fetched before."""
    from datasets import load_dataset  # it takes long to import

    try:
        return load_dataset(repository, config, split=split)
    except Exception as error:  # the Hub's client raises some twenty kinds: no network, no such name, no disk, ...
        reason = first_line(" ".join(str(error).split()), 300) or type(error).__name__
        raise ProblemError(
            f"{repository} could not be fetched from the Hugging Face Hub ({reason}). Check the network (or "
            "HF_ENDPOINT and HF_HUB_OFFLINE), try again, or use the sets mini and arith or your own .jsonl file."
        ) from error


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SetInfo:
    """What a reader should know of a named set."""

    title: str
    licence: str
    source: str
    note: str = ""  # what else to know before using it
    size: int | None = None  # problems of the test split, where known without the Hub
    splits: tuple[str, ...] = ("test",)


_ABOUT = tomllib.loads((ASSETS / "problems" / "sets.toml").read_text(encoding="utf-8"))
SETS = {name: SetInfo(**about | {"splits": tuple(about.get("splits", ["test"]))}) for name, about in _ABOUT.items()}


def load_set(name: str) -> list[Problem]:
    """The problems of a set, in their fixed order.

    Args:
        name: `NAME[:train|validation|test]` with a NAME of `SETS`, or a file's path, which may carry a split as well.
            A file with a column `split` gives the problems of that split, test by default. Of one without, a split
            that is named gets its share (see rmx/data/problem_files.py); with no split named all problems are taken.

    Raises:
        ProblemError: there is no such set, split or file; the file is too big or malformed (the message names the
            line); a set of the Hub cannot be fetched.
    """
    base, split = split_name(name)
    if base in SETS:
        return list(_named(base, split))
    return _of_split(Path(base).name, _own_file(base), split, split_is_named=base != name.strip())


def problems_from_text(name: str, text: str) -> list[Problem]:
    """Read a .jsonl or .csv file, by its `name`, that a browser sent as text, as one by its path without a split."""
    problems = read_text(name, text, "own")
    return _of_split(Path(name).name[-80:], problems, "test", split_is_named=False)


def every_split(base: str) -> dict[str, list[Problem]]:
    """Split -> its problems, of a named set or an own file, each problem of which is in one of them."""
    if base in SETS:
        return {split: list(_named(base, split)) for split in SETS[base].splits}
    return _sides(_own_file(base))


def sizes(name: str) -> dict[str, int | None]:
    """Split -> number of problems of a named set, without a network; None where only the Hub knows."""
    info = SETS[name]
    if name in REPOSITORIES:
        return {split: info.size if split == "test" else None for split in info.splits}
    return {split: len(_named(name, split)) for split in info.splits}


def find_problem(set_name: str, key: str | int) -> Problem:
    """One problem by its own id or else by its 0-based index in the set; ProblemError where neither matches."""
    problems = load_set(set_name)
    wanted = str(key).strip()
    for problem in problems:
        if problem.id == wanted:
            return problem
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 10 and int(wanted) < len(problems):
        return problems[int(wanted)]
    near = difflib.get_close_matches(wanted, [p.id for p in problems[:2000]], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ProblemError(
        f"The set {set_name!r} has no problem {wanted[:80]!r}: give one of its ids (the first is "
        f"{problems[0].id!r}) or an index from 0 to {len(problems) - 1}.{hint}"
    )


def split_name(name: str, default_split: str = "test") -> tuple[str, str]:
    """`"gsm8k:train"` -> `("gsm8k", "train")`; ProblemError where the set has no such split."""
    name = name.strip()
    base, colon, split = name.rpartition(":")
    if not colon or (split not in SPLITS and base not in SETS):
        base, split = name, default_split
    there = SETS[base].splits if base in SETS else SPLITS
    if split not in there:
        instead = f"Say {base}:{there[0]}, for example."
        if there == ("test",):
            instead = f"Say {base}:test to measure on it, and use another set, gsm8k:train say, to train."
        raise ProblemError(f"{base} has no {split[:40]!r} split, only {_spoken(there)}. {instead}")
    return base, split


def _spoken(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


@lru_cache(maxsize=32)
def _named(name: str, split: str) -> tuple[Problem, ...]:
    if name in REPOSITORIES:
        return fetch(name, split)
    if name == "words":
        return words_set(split)
    path = ASSETS / "problems" / f"{name}.{split}.jsonl"
    if not path.is_file():
        raise ProblemError(f"The bundled set {name}:{split} is missing. Install rmx again.")
    return tuple(replace(p, split=split) for p in read_file(path, name))


def _own_file(base: str) -> list[Problem]:
    path = Path(base).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        near = difflib.get_close_matches(str(path), SETS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ProblemError(
            f"There is no problem set {str(path)[:120]!r}.{hint} Sets are {_spoken(SETS)}, or the path of a file that "
            f"ends in {_spoken(SUFFIXES)}."
        )
    return read_file(path, "own")


def _sides(problems: list[Problem]) -> dict[str, list[Problem]]:
    """Split by the column `split` or, where there is none, by the texts."""
    if not problems[0].split:
        return deal(problems)
    return {split: [p for p in problems if p.split == split] for split in SPLITS}


def _of_split(name: str, problems: list[Problem], split: str, *, split_is_named: bool) -> list[Problem]:
    """One split of a file, or all of it where none is named and it has no column `split`."""
    stated = bool(problems[0].split)
    if not stated and not split_is_named:
        return [replace(p, split=split) for p in problems]
    sides = _sides(problems)
    for (one, other), count in shared(sides).items() if stated else ():
        logger.warning("%s: %d of its %s problems are among its %s problems as well.", name, count, other, one)
    if not sides[split]:
        there = _spoken(f"{side} ({len(found)})" for side, found in sides.items() if found)
        why = "Its column `split` names" if stated else "Without a column `split`, its texts are dealt to"
        raise ProblemError(f"{name} has no {split} problems. {why} only {there}.")
    return sides[split]


# -- Prepared examples ------------------------------------------------------------------------------------------------


Kind = Literal["rescue", "break", "harmless"]
TITLES: dict[Kind, str] = {"rescue": "wrong → right", "break": "right → wrong", "harmless": "harmless fork"}


@dataclass(frozen=True, slots=True)
class Example:
    """A problem of the bundled model with a place worth looking at."""

    title: str
    kind: Kind
    problem_id: str
    problem: str
    answer: str
    pos: int  # completion token, from 0
    token_id: int
    token_text: str
    base_answer: str
    swapped_answer: str
    entropy: float  # nats, at the fork
    p: float  # of the swapped token


@lru_cache(maxsize=1)
def examples() -> tuple[Example, ...]:
    """The examples that ship with mini, the one for the first screen first."""
    rows = json.loads((ASSETS / "mini" / "examples.json").read_text(encoding="utf-8"))
    return tuple(Example(**row) for row in rows)


def of_kind(kind: Kind) -> list[Example]:
    """Return the examples of one kind, in their order."""
    return [e for e in examples() if e.kind == kind]
