r"""Problem sets of the Hugging Face Hub: which repositories, which columns, which rows.

None of the five that were added last has been fetched by its authors here; repositories, columns and sizes are those
that were found in stored public pages and in public code that reads the same sets:

- math: the card of DigitalLearningGmbH/MATH-lighteval (MIT; configuration `default` with columns problem, level,
  solution, type; splits `train` of 7,500 and `test` of 5,000 rows; `level` is a text such as "Level 5", the answer is
  the last box of `solution`). HuggingFaceH4/MATH-500 is out of the same test rows, hence they are left out by text.
- aime24: the card of HuggingFaceH4/aime_2024 itself (columns id, problem, solution, answer, url, year; one split
  `train` of 30 rows; no licence named).
- amc23: the Hub's page of math-ai/amc23 (one file `test`, no licence named); columns id, question, answer, url and 40
  rows as several independent readers have them.
- minerva: the Hub's page of math-ai/minervamath (one file test.jsonl, no licence named); columns question and answer
  and 272 rows as several independent readers have them. It has no ids: the row's index serves.
- olympiadbench: the Hub's page of Hothan/OlympiadBench (Apache-2.0); the columns as OpenBMB/OlympiadBench's README
  and several readers have them; configuration OE_TO_maths_en_COMP (open-ended, text only, mathematics, English,
  competitions), one split `train` of 674 rows, whose `final_answer` is a list of one text each. 93 of them have several
  answers in that text (`is_multiple_answer`), says a reader's test at revision 91184b5.

A set whose only split is called `train` on the Hub is a test set none the less: these are not for training.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME

from rmx.data.problem_files import short_answer
from rmx.data.splits import normalised
from rmx.errors import ProblemError, first_line
from rmx.grading.equality import last_box
from rmx.records import Problem

Row = Mapping[str, Any]
Found = tuple[tuple[Problem, ...], dict[str, int]]  # problems; why rows were left out, and how many

SEVERAL = "several answers"
OTHER_LEVEL = "another level than 3 to 5"
MEASURED_ON = "in MATH-500"
MATH, MATH_500 = "DigitalLearningGmbH/MATH-lighteval", "HuggingFaceH4/MATH-500"
MATH_LEVELS = (3, 4, 5)
VALIDATION_TENTH = 10  # one of so many training problems of the Hub is held out for validation
NO_ANSWER = "no final answer"


def fetch(name: str, split: str) -> Found:
    """The problems of a set of the Hub, and how many of its rows are left out, by the reason.

    Raises:
        ProblemError: it cannot be fetched, or has not the columns that it had.
    """
    repository, config, on_hub, read = _SETS[name]
    left_out: Counter[str] = Counter()
    try:
        if name == "math" and split != "test":
            problems = _math(split, left_out)
        else:
            rows = _hub(repository, config, on_hub or ("test" if split == "test" else "train"))
            problems = tuple(read(rows, split, left_out))
    except KeyError as error:
        raise ProblemError(
            f"{REPOSITORIES[name]} has no column {error} any more, which {name} is read from. Use another set, or save "
            "its problems as a .jsonl file with `problem` and `answer`."
        ) from error
    return problems, dict(left_out)


def _gsm8k(rows: Iterable[Row], split: str, left_out: Counter[str]) -> Iterator[Problem]:
    """GSM8K has no validation split: a fixed tenth of its train split serves, so the three are disjoint."""
    on_hub = "test" if split == "test" else "train"
    for index, row in enumerate(rows):
        if split == "test" or _held_out(row["question"]) == (split == "validation"):
            yield Problem(f"{on_hub}-{index}", row["question"], short_answer(row["answer"]), "gsm8k", split)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8])


def _held_out(text: str) -> bool:
    """Whether a training problem of the Hub is one of ours for validation."""
    return _digest(text) % VALIDATION_TENTH == 0


def _math_500(name: str) -> "_Read":
    def read(rows: Iterable[Row], split: str, left_out: Counter[str]) -> Iterator[Problem]:
        for row in rows:
            yield Problem(str(row["unique_id"]), row["problem"], row["answer"], name, split, _level(row.get("level")))

    return read


def _math(split: str, left_out: Counter[str]) -> tuple[Problem, ...]:
    """MATH of levels 3 to 5, both splits of the Hub, without MATH-500; validation is a tenth of it, by the text's hash.

    SimpleRL-Zoo trains on the same levels of the 12,000 problems that are not in MATH-500. Problems of validation come
    in the order of their hashes, so that the first ones are of all subjects and levels.
    """
    sides = {on_hub: _hub(MATH, None, on_hub) for on_hub in ("train", "test")}
    measured_on = {normalised(row["problem"]) for row in _hub(MATH_500, None, "test")}
    found = list[Problem]()
    for on_hub, rows in sides.items():
        for index, row in enumerate(rows):
            level, (answer, _) = _level(row["level"]), last_box(row["solution"])
            if level not in MATH_LEVELS:
                left_out[OTHER_LEVEL] += 1
            elif normalised(row["problem"]) in measured_on:
                left_out[MEASURED_ON] += 1
            elif not answer:
                left_out[NO_ANSWER] += 1
            elif _held_out(row["problem"]) == (split == "validation"):
                found.append(Problem(f"{on_hub}-{index}", row["problem"], answer, "math", split, level))
    return tuple(sorted(found, key=lambda p: _digest(p.problem)) if split == "validation" else found)


def _level(text: object) -> int | None:
    """`"Level 5"` and 5 -> 5; None where the row does not know."""
    number = str(text).rpartition(" ")[2]
    return int(number) if number.isdecimal() else None


def _columns(name: str, key: str | None, question: str) -> "_Read":
    """Rows with the final answer in a column `answer`; without a column for ids the row's index serves."""

    def read(rows: Iterable[Row], split: str, left_out: Counter[str]) -> Iterator[Problem]:
        for index, row in enumerate(rows):
            answer = "" if row["answer"] is None else str(row["answer"]).strip()
            if answer:
                yield Problem(str(index if key is None else row[key]), row[question], answer, name, split)
            else:
                left_out[NO_ANSWER] += 1

    return read


def _olympiadbench(rows: Iterable[Row], split: str, left_out: Counter[str]) -> Iterator[Problem]:
    """One final answer each. Several answers are graded nowhere in rmx: such rows are left out and counted.

    The answer is without its unit, which grading drops from a completion as well; a row's tolerance (`error`) is not
    used: a decimal must be right as it stands.
    """
    for row in rows:
        answers = [str(a).strip() for a in row["final_answer"] or () if str(a).strip()]
        if not answers:
            left_out[NO_ANSWER] += 1
        elif row["is_multiple_answer"] or len(answers) > 1:
            left_out[SEVERAL] += 1
        else:
            context = (row["context"] or "").strip()
            text = f"{context}\n\n{row['question']}" if context else row["question"]
            yield Problem(str(row["id"]), text, _without_dollars(answers[0]), "olympiadbench", split)


def _without_dollars(answer: str) -> str:
    """`$\\frac{1}{2}$` -> `\\frac{1}{2}`, where the two dollar signs are the only ones."""
    return answer[1:-1].strip() if answer.count("$") == 2 and answer[0] == answer[-1] == "$" else answer


_Read = Callable[[Iterable[Row], str, Counter[str]], Iterator[Problem]]
# name -> repository, configuration, split there (None: ours), rows to problems
_SETS: dict[str, tuple[str, str | None, str | None, _Read]] = {
    "gsm8k": ("openai/gsm8k", "main", None, _gsm8k),
    "math": (MATH_500, None, "test", _math_500("math")),  # of its test split; the others are read by `_math`
    "math500": (MATH_500, None, "test", _math_500("math500")),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", _columns("aime24", "id", "problem")),
    "amc23": ("math-ai/amc23", None, "test", _columns("amc23", "id", "question")),
    "minerva": ("math-ai/minervamath", None, "test", _columns("minerva", None, "question")),
    "olympiadbench": ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", _olympiadbench),
}

REPOSITORIES = {name: repository for name, (repository, *_) in _SETS.items()} | {"math": MATH}


def is_cached(name: str) -> bool:
    """Whether a set of the Hub lies, ready to be read, in the cache of the datasets library."""
    repository, config, *_ = _SETS[name]
    needed = {repository, REPOSITORIES[name]}
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets").expanduser()
    # The library is not asked itself: importing it costs seconds, and looking a set up asks the Hub.
    return all(any((cache / _cache_folder(one)).glob(f"{config or '*'}/*/*/dataset_info.json")) for one in needed)


def _cache_folder(repository: str) -> str:
    """`HuggingFaceH4/MATH-500` -> `HuggingFaceH4___math-500`, as the datasets library calls its folders."""
    owner, _, name = repository.partition("/")
    return f"{owner}___{re.sub('(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()}"


def _hub(repository: str, config: str | None, split: str) -> Any:
    """The rows of a data set of the Hub, from its cache when it was fetched before."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ProblemError(
            f"Reading {repository} needs the datasets library. Install it with: pip install datasets"
        ) from error
    try:
        return load_dataset(repository, config, split=split)
    except Exception as error:  # the Hub's client raises some twenty kinds: no network, no such name, no disk, ...
        reason = first_line(" ".join(str(error).split()), 300) or type(error).__name__
        raise ProblemError(
            f"{repository} could not be fetched from the Hugging Face Hub ({reason}). Check the network (or "
            "HF_ENDPOINT and HF_HUB_OFFLINE), try again, or use the sets mini and arith or your own .jsonl file."
        ) from error
