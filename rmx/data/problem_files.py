"""Problems in a reader's own file: JSONL, CSV or Parquet by its path, or a text that a browser sent; and their splits.

A row has a column `problem` or `question`, and may have `answer`, `id` and `split`. Every refusal names the line.

The bundled sets and GSM8K come with splits that share no problem. A user's own file either says in a column `split`
where each problem belongs, or `deal` does, by the text alone: the same text is always on the same side, in whatever
file and order it comes. `overlap` counts what is the same all the same.
"""

import csv
import io
import json
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from rmx.errors import ProblemError, first_line
from rmx.records import Problem
from rmx.storage.safe_files import without_half_characters

SPLITS = ("train", "validation", "test")
TRAIN_SHARE, VALIDATION_SHARE = 0.75, 0.125  # of an own file without a column `split`; the rest is test


def side_of(text: str) -> str:
    """The split that a problem's text is dealt to: three quarters train, an eighth each validation and test."""
    at = random.Random(f"split/{text.strip()}").random()
    return "train" if at < TRAIN_SHARE else "validation" if at < TRAIN_SHARE + VALIDATION_SHARE else "test"


def deal(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """Split -> its problems, each in the order given."""
    dealt = [replace(problem, split=side_of(problem.problem)) for problem in problems]
    return {split: [p for p in dealt if p.split == split] for split in SPLITS}


def normalised(text: str) -> str:
    """A problem's text as it is compared: runs of white space are one space, letters without case."""
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def overlap(train: Sequence[Problem], test: Sequence[Problem]) -> int:
    """How many problems of `test` are in `train` too, by their normalised text; ids are not looked at."""
    return len(test) - len(without(test, train))


def shared(sides: Mapping[str, Sequence[Problem]]) -> dict[tuple[str, str], int]:
    """For each pair of splits how many problems of the second are in the first too; pairs that share none are left out.

    >>> shared({"train": [Problem("1", "2 + 2?", "4")], "test": [Problem("9", "2 +  2?", "4")]})
    {('train', 'test'): 1}
    """
    counts = {(a, b): overlap(sides[a], sides[b]) for a, b in combinations(sides, 2)}
    return {pair: count for pair, count in counts.items() if count}


def without(problems: Sequence[Problem], *others: Sequence[Problem]) -> list[Problem]:
    """Leave out the problems that stand, by their normalised text, in any of the others."""
    seen = {normalised(p.problem) for other in others for p in other}
    return [p for p in problems if normalised(p.problem) not in seen]


# -- Problems in a reader's own file ----------------------------------------------------------------------------------


SUFFIXES = (".jsonl", ".csv", ".parquet")

MAX_FILE_BYTES = 200_000_000  # of a reader's own file; parquet: also of its uncompressed columns
MAX_TEXT_BYTES = 2_000_000  # of a file whose text a browser sent
MAX_PROBLEMS = 100_000
MAX_PROBLEM_CHARS = 20_000  # of one problem's text
MAX_ANSWER_CHARS = 1_000  # of one known answer, after GSM8K's solution is cut off

Rows = Iterator[tuple[str, dict[str, Any]]]  # the words for a row's place ("line 3"), and the row


def read_file(path: Path, set_name: str) -> list[Problem]:
    """The problems of a .jsonl, .csv or .parquet file, `split` "" where it has none; ProblemError names the line."""
    try:
        if not path.is_file():
            raise ProblemError(f"There is no file {str(path)!r}. Check the path.")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ProblemError(
                f"{path.name} has {size / 1e6:.0f} MB; at most {MAX_FILE_BYTES / 1e6:.0f} MB are read. "
                "Cut it down to the problems that you want to use."
            )
        suffix = path.suffix.lower()
        rows = _parquet_rows(path) if suffix == ".parquet" else _READERS[suffix](path.name, path.read_bytes())
        return _problems(path.name, rows, set_name)
    except OSError as error:
        raise ProblemError(f"{path.name} cannot be read ({error.strerror or error}). Check its permissions.") from error


def read_text(name: str, text: str, set_name: str) -> list[Problem]:
    """Read the problems of a .jsonl or .csv file that was sent as text; the suffix of `name` decides which."""
    if not isinstance(name, str) or not isinstance(text, str):
        raise ProblemError("A file of problems is sent by its name and its text.")
    shown = shown_name(name)
    suffix = Path(shown).suffix.lower()
    if suffix == ".parquet":
        raise ProblemError(
            f"{shown} cannot be sent as text. Save it as .jsonl or .csv, or give its path on this server."
        )
    if suffix not in _READERS:
        raise ProblemError(f"{shown} ends neither in .jsonl nor in .csv. Save the problems as one of these.")
    raw = text.encode("utf-8", "surrogatepass")  # half a character is refused below, by its line
    if len(raw) > MAX_TEXT_BYTES:
        raise ProblemError(
            f"{shown} has {len(raw) / 1e6:.1f} MB; at most {MAX_TEXT_BYTES / 1e6:.0f} MB are taken. "
            "Cut it down to the problems that you want to use."
        )
    return _problems(shown, _READERS[suffix](shown, raw), set_name)


def shown_name(name: str) -> str:
    """A file's name as messages call it: no folders, nothing that does not print, at most 80 characters."""
    return "".join(c for c in re.split(r"[/\\]", name)[-1] if c.isprintable())[-80:] or "the file"


def _problems(name: str, rows: Rows, set_name: str) -> list[Problem]:
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for place, row in rows:
        if len(problems) >= MAX_PROBLEMS:
            raise ProblemError(f"{name} has more than {MAX_PROBLEMS} problems. Cut it down.")
        try:
            problem = _problem(row, len(problems), set_name)
        except ProblemError as error:
            raise ProblemError(f"{name}, {place}: {error}") from None
        if problem.id in places:
            raise ProblemError(
                f"{name}, {place}: the id {problem.id[:80]!r} is taken by {places[problem.id]}. Ids must differ."
            )
        if problems and bool(problem.split) != bool(problems[0].split):
            which = "this one has none" if problems[0].split else "the first has none"
            raise ProblemError(f"{name}, {place}: either every problem says its `split` or none does; {which}.")
        places[problem.id] = place
        problems.append(problem)
    if not problems:
        raise ProblemError(f"{name} has no problems in it.")
    return problems


def _problem(row: dict[str, Any], index: int, set_name: str) -> Problem:
    text = row.get("problem") if row.get("problem") is not None else row.get("question")
    if not isinstance(text, str) or not text.strip():
        found = ", ".join(sorted(str(key)[:40] for key in row if key is not None)[:12]) or "nothing"
        raise ProblemError(f"there is no text in a column `problem` or `question`; the columns are: {found}.")
    if len(text) > MAX_PROBLEM_CHARS:
        raise ProblemError(f"the problem has {len(text)} characters; at most {MAX_PROBLEM_CHARS} are read.")
    answer = row.get("answer")
    if isinstance(answer, bool | list | dict):
        raise ProblemError("`answer` must be a text or a number.")
    known = short_answer(str(answer)) if answer is not None else None
    if known is not None and len(known) > MAX_ANSWER_CHARS:
        raise ProblemError(
            f"`answer` has {len(known)} characters; at most {MAX_ANSWER_CHARS} are read. Give the final answer alone, "
            "or a solution that ends in `#### ` and the answer."
        )
    own_id = row.get("id")
    return Problem(str(index if own_id in (None, "") else own_id), text, known or None, set_name, _split(row))


def _split(row: dict[str, Any]) -> str:
    label = row.get("split")
    if label in (None, ""):
        return ""
    split = str(label).strip().lower()
    if split not in SPLITS:
        raise ProblemError(f"`split` must be train, validation or test, not {str(label)[:40]!r}.")
    return split


_NUMBER_WITH_COMMAS = re.compile(r"[-+]?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def short_answer(answer: str) -> str:
    """GSM8K writes the solution, `####`, and the answer with thousands separators: the answer without them."""
    if "####" not in answer:
        return answer.strip()
    short = answer.rpartition("####")[2].strip()
    return short.replace(",", "") if _NUMBER_WITH_COMMAS.fullmatch(short) else short


def _lines(name: str, raw: bytes) -> Iterator[str]:
    """The lines of a file in UTF-8, with their ends."""
    for number, line in enumerate(io.BytesIO(raw.removeprefix(b"\xef\xbb\xbf")), start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            kind = "UTF-16" if line[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding"
            where = f"line {number}, byte {error.start + 1}"
            raise ProblemError(f"{name}, {where} is not UTF-8; it may be {kind}. Save the file as UTF-8.") from None


def _jsonl_rows(name: str, raw: bytes) -> Rows:
    for number, line in enumerate(_lines(name, raw), start=1):
        place = f"line {number}"
        if not line.strip():
            continue
        try:
            # Numbers stay as they are written: an answer of 18.50 is "18.50".
            row = json.loads(without_half_characters(line.strip()), parse_int=str, parse_float=str, parse_constant=str)
        except (json.JSONDecodeError, RecursionError) as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise ProblemError(
                f'{name}, {place} is not JSON ({what}). Each line is one object: {{"problem": "…", "answer": "…"}}.'
            ) from None
        if not isinstance(row, dict):
            raise ProblemError(f"{name}, {place} is a {type(row).__name__}, not an object with `problem`.")
        yield place, row


def _csv_rows(name: str, raw: bytes) -> Rows:
    reader = csv.DictReader(io.StringIO("".join(_lines(name, raw)), newline=""), strict=True)
    line = 1  # where the row begins; a quoted text may span several
    try:
        columns = reader.fieldnames or []
        if not {"problem", "question"} & set(columns):
            found = ", ".join(column[:40] for column in columns[:12]) or "nothing"
            raise ProblemError(f"{name}, line 1 names no column `problem` or `question`, only: {found}.")
        line = reader.line_num + 1
        for row in reader:
            place, line = f"line {line}", reader.line_num + 1
            if None in row:
                raise ProblemError(f"{name}, {place} has more fields than line 1. Put texts with commas in quotes.")
            yield place, {key: value or None for key, value in row.items()}
    except csv.Error as error:
        raise ProblemError(f"{name}, line {line} is not proper CSV ({error}).") from error


_READERS = {".jsonl": _jsonl_rows, ".csv": _csv_rows}


def _parquet_rows(path: Path) -> Rows:
    from pyarrow import ArrowException, parquet  # it takes long to import

    try:
        with parquet.ParquetFile(path) as file:
            columns = [c for c in ("id", "problem", "question", "answer", "split") if c in file.schema_arrow.names]
            if file.metadata.num_rows > MAX_PROBLEMS:
                raise ProblemError(f"{path.name} has more than {MAX_PROBLEMS} problems. Cut it down.")
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            if sum(group.total_byte_size for group in groups) > MAX_FILE_BYTES:
                raise ProblemError(f"{path.name} unpacks to more than {MAX_FILE_BYTES / 1e6:.0f} MB. Cut it down.")
            if not {"problem", "question"} & set(columns):
                found = ", ".join(name[:40] for name in file.schema_arrow.names[:12])
                raise ProblemError(f"{path.name} has no column `problem` or `question`, only: {found}.")
            rows = file.read(columns=columns).to_pylist()
    except ArrowException as error:
        raise ProblemError(f"{path.name} is not a parquet file that can be read ({first_line(error)}).") from error
    for index, row in enumerate(rows):
        yield f"row {index + 1}", row
