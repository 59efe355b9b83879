r"""Problem sets of the Hugging Face Hub: which repositories, which columns, which rows.

None of the four that were added last has been fetched by its authors here; repositories, columns and sizes are those
that were found in stored public pages and in public code that reads the same sets:

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

A set whose only split is called `train` on the Hub is a test set none the less: nobody trains on these.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rmx.errors import ProblemError, first_line
from rmx.problem_files import short_answer
from rmx.records import Problem

Row = Mapping[str, Any]
Found = tuple[tuple[Problem, ...], dict[str, int]]  # problems; why rows were left out, and how many

SEVERAL = "several answers"
NO_ANSWER = "no final answer"


def fetch(name: str, split: str) -> Found:
    """The problems of a set of the Hub, and how many of its rows are left out, by the reason.

    Raises:
        ProblemError: it cannot be fetched, or has not the columns that it had.
    """
    repository, config, on_hub, read = _SETS[name]
    rows = _hub(repository, config, on_hub or ("test" if split == "test" else "train"))
    left_out: Counter[str] = Counter()
    try:
        problems = tuple(read(rows, split, left_out))
    except KeyError as error:
        raise ProblemError(
            f"{repository} has no column {error} any more, which {name} is read from. Use another set, or save its "
            "problems as a .jsonl file with `problem` and `answer`."
        ) from error
    return problems, dict(left_out)


def _gsm8k(rows: Iterable[Row], split: str, left_out: Counter[str]) -> Iterator[Problem]:
    """GSM8K has no validation split: a fixed tenth of its train split serves, so the three are disjoint."""
    on_hub = "test" if split == "test" else "train"
    for index, row in enumerate(rows):
        held_out = int.from_bytes(hashlib.sha256(row["question"].strip().encode()).digest()[:8]) % 10 == 0
        if split == "test" or held_out == (split == "validation"):
            yield Problem(f"{on_hub}-{index}", row["question"], short_answer(row["answer"]), "gsm8k", split)


def _math500(rows: Iterable[Row], split: str, left_out: Counter[str]) -> Iterator[Problem]:
    for row in rows:
        yield Problem(str(row["unique_id"]), row["problem"], row["answer"], "math500", split)


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
    "math500": ("HuggingFaceH4/MATH-500", None, "test", _math500),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", _columns("aime24", "id", "problem")),
    "amc23": ("math-ai/amc23", None, "test", _columns("amc23", "id", "question")),
    "minerva": ("math-ai/minervamath", None, "test", _columns("minerva", None, "question")),
    "olympiadbench": ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", _olympiadbench),
}

REPOSITORIES = {name: repository for name, (repository, *_) in _SETS.items()}


def is_cached(name: str) -> bool:
    """Whether a set of the Hub lies, ready to be read, in the cache of the datasets library."""
    from huggingface_hub.constants import HF_HOME

    repository, config, *_ = _SETS[name]
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets").expanduser()
    # The library is not asked itself: importing it costs seconds, and looking a set up asks the Hub.
    return any((cache / _cache_folder(repository)).glob(f"{config or '*'}/*/*/dataset_info.json"))


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
