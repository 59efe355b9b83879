r"""Problem sets of the Hugging Face Hub: which repositories, which columns, which rows.

Repositories, columns and sizes of the last five were found in stored public pages and in public code that reads the
same sets; none of them has been fetched by its authors here.

- math: DigitalLearningGmbH/MATH-lighteval; `level` is a text such as "Level 5", the answer is the last box of
  `solution`. HuggingFaceH4/MATH-500 is out of the same test rows, hence they are left out by text.
- aime24, amc23: one split of 30 and 40 rows.
- minerva: 272 rows without ids: the row's index serves.
- olympiadbench: configuration OE_TO_maths_en_COMP (open-ended, text only, mathematics, English, competitions), one
  split of 674 rows, whose `final_answer` is a list of one text each. 93 of them have several answers in that text
  (`is_multiple_answer`), says a reader's test at revision 91184b5.

A set whose only split is called `train` on the Hub is a test set none the less: these are not for training. HubRows
without a final answer are left out.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME

from rmx.data.problem_files import normalised, short_answer
from rmx.errors import ProblemError, first_line
from rmx.grading.equality import last_box
from rmx.records import Problem

HubRows = Iterable[Mapping[str, Any]]
MATH, MATH_500 = "DigitalLearningGmbH/MATH-lighteval", "HuggingFaceH4/MATH-500"
MATH_LEVELS = (3, 4, 5)


def fetch(name: str, split: str) -> tuple[Problem, ...]:
    """Read a set of the Hub; ProblemError where it cannot be fetched, or has not the columns that it had."""
    repository, config, on_hub, read = _SETS[name]
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
            yield Problem(str(row["id"]), text, _without_dollars(answers[0]), name, split)


def _without_dollars(answer: str) -> str:
    """`$\\frac{1}{2}$` -> `\\frac{1}{2}`, where the two dollar signs are the only ones."""
    return answer[1:-1].strip() if answer.count("$") == 2 and answer[0] == answer[-1] == "$" else answer


_MATH_500 = partial(_columns, question="problem", key="unique_id")
# name -> repository, configuration, split there (None: ours), rows to problems
_SETS: dict[str, tuple[str, str | None, str | None, Callable[[HubRows, str, str], Iterator[Problem]]]] = {
    "gsm8k": ("openai/gsm8k", "main", None, _gsm8k),
    "math": (MATH_500, None, "test", _MATH_500),  # of its test split; the others are read by `_math`
    "math500": (MATH_500, None, "test", _MATH_500),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", partial(_columns, question="problem", key="id")),
    "amc23": ("math-ai/amc23", None, "test", partial(_columns, question="question", key="id")),
    "minerva": ("math-ai/minervamath", None, "test", partial(_columns, question="question", key=None)),
    "olympiadbench": ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", _olympiadbench),
}

REPOSITORIES = {name: repository for name, (repository, *_) in _SETS.items()} | {"math": MATH}


def is_cached(name: str) -> bool:
    """Whether a set of the Hub lies, ready to be read, in the cache of the datasets library."""
    repository, config, *_ = _SETS[name]
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
