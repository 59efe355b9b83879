"""What models have answered, kept on disk: an evaluation computes only what no earlier one has.

A folder of lines for each (weights, settings of the draws, what counts as an answer); see rmx/storage/safe_files.py. A
completion is a line with its token ids, from which its text can be read again. Beside the completions stand answers
that were read again later, and what every answer was judged to be, so that another grader can say what it changes.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rmx.arguments import Sampling
from rmx.grading.answers import CUT
from rmx.prompt_styles import PromptStyle
from rmx.records import Stop
from rmx.storage.safe_files import KeptLines, LineStore

FORMAT = 2  # of the lines, of the rule that ends a completion, and of what counts as an answer
STOPS = get_args(Stop)

Place = tuple[str, int]  # prompt (hash of its ids) and number of the sample


@dataclass(frozen=True, slots=True)
class Answered:
    """One completion, as far as an evaluation needs it."""

    prompt: str
    number: int
    length: int  # tokens, the end token included
    answer: str | None
    stop: Stop
    ids: tuple[int, ...] = ()  # of its tokens; () where they are not kept, or not asked for

    @property
    def truncated(self) -> bool:
        """It was cut off at a limit, so it is wrong."""
        return self.stop in CUT

    def json(self) -> dict[str, Any]:
        """Return the completion as a line of the store."""
        row: dict[str, Any] = {"p": self.prompt, "i": self.number, "len": self.length}
        return row | {"answer": self.answer, "stop": self.stop} | ({"ids": list(self.ids)} if self.ids else {})

    @classmethod
    def from_json(cls, row: Any, with_ids: bool = False) -> "Answered | None":
        """None where the line is not a completion."""
        try:
            ids = tuple(row.get("ids", ())) if with_ids else ()
            found = cls(row["p"], row["i"], row["len"], row["answer"], row["stop"], ids)
        except (KeyError, TypeError, AttributeError):
            return None
        words = (found.prompt, "" if found.answer is None else found.answer)
        whole = all(type(x) is int and x >= 0 for x in (found.number, found.length, *ids))
        return found if whole and found.stop in STOPS and all(isinstance(w, str) for w in words) else None


class SampleStore(LineStore):
    """The completions of all models. What they were asked is known by a hash only.

    Args:
        readable: whether token ids and verdicts are kept too. False for what strangers have had computed: their
            solutions can then not be read on the disk, nor judged again.
    """

    def __init__(self, folder: Path | None = None, *, keep: bool = True, readable: bool = True) -> None:
        super().__init__(folder, keep=keep)
        self._readable = readable

    def shelf(
        self,
        key: str,
        sampling: Sampling,
        style: PromptStyle,
        prompts: Collection[str] | None = None,
        *,
        with_ids: bool = False,
    ) -> "Shelf":
        """What one model made with these settings, with answers by the rule of this prompt style; see `Shelf`."""
        parts = {"format": FORMAT, "key": key, "limit": sampling.max_new_tokens, "temperature": sampling.temperature}
        parts |= {"answers": style.answers, "stop": list(style.stops)}
        if not sampling.greedy:
            parts |= {"top_p": sampling.top_p, "seed": sampling.seed}
        return Shelf(self.lines(**parts), prompts, with_ids, self._readable)


class Shelf:
    """The completions of one model with one setting.

    Args:
        prompts: hashes of those that are wanted, None for all: the files of a busy site hold far more than one
            evaluation needs.
        with_ids: whether `found` holds token ids; an evaluation does not need them in memory.
        readable: as for `SampleStore`.
    """

    def __init__(
        self, lines: KeptLines, prompts: Collection[str] | None = None, with_ids: bool = False, readable: bool = True
    ) -> None:
        self._lines, self._with_ids, self._readable = lines, with_ids, readable
        self.found: dict[Place, Answered] = {}
        self._judged: dict[tuple[str, str, str], tuple[float, bool]] = {}  # prompt, known, answer -> when, right?
        self._others: list[Shelf] = []  # that completions were borrowed from
        self._borrowed = set[Place]()
        again: dict[Place, tuple[float, str | None]] = {}  # when an answer was read again, and what it is then
        for row in lines.read():
            if not isinstance(row, dict) or (prompts is not None and row.get("p") not in prompts):
                continue
            if "right" in row:
                self._take_verdict(row)
            elif "t" in row:
                _take_answer(again, row)
            elif (one := Answered.from_json(row, with_ids)) is not None:
                self.found.setdefault((one.prompt, one.number), one)
        for place in again.keys() & self.found.keys():
            self.found[place] = replace(self.found[place], answer=again[place][1])

    @property
    def fault(self) -> str | None:
        """Why nothing more is kept."""
        return self._lines.fault

    def add(self, one: Answered) -> None:
        """Keep a completion. A disk that refuses costs the cache, not the evaluation."""
        bare = replace(one, ids=())
        self.found[one.prompt, one.number] = one if self._with_ids else bare
        self._lines.append((one if self._readable else bare).json())

    def borrow(self, other: "Shelf") -> None:
        """Take completions that this shelf lacks from one with another rule for answers; `read_again` keeps them."""
        self._others.append(other)
        for place in other.found.keys() - self.found.keys():
            if other.found[place].ids:
                self.found[place] = other.found[place]
                self._borrowed.add(place)

    def read_again(self, one: Answered) -> None:
        """Keep the answer of a completion that was read again."""
        place = one.prompt, one.number
        if place in self._borrowed:
            self._borrowed.remove(place)
            self.add(one)
        elif one != self.found[place]:
            self.found[place] = one
            self._lines.append({"p": one.prompt, "i": one.number, "answer": one.answer, "t": time.time()})

    def judge(self, prompt: str, known: str, verdicts: Mapping[str, bool]) -> None:
        """Keep what answers to a prompt were judged to be, where it is not kept already."""
        for answer, right in verdicts.items() if self._readable else ():
            if self._judged.get((prompt, known, answer), (0.0, None))[1] is not right:
                row = {"p": prompt, "known": known, "answer": answer, "right": right, "t": time.time()}
                self._take_verdict(row)
                self._lines.append(row)

    def judged(self, prompt: str, known: str, answer: str | None) -> bool | None:
        """The last verdict on an answer; None where there is none yet. No answer at all is wrong."""
        if answer is None:
            return False
        for shelf in (self, *self._others):
            if (found := shelf._judged.get((prompt, known, answer))) is not None:
                return found[1]
        return None

    def close(self) -> None:
        """Close the file; nothing more is stored."""
        self._lines.close()

    def _take_verdict(self, row: Mapping[str, Any]) -> None:
        """Note a verdict, unless a later one is known."""
        prompt, known, answer, right, at = (row.get(name) for name in ("p", "known", "answer", "right", "t"))
        if not (isinstance(prompt, str) and isinstance(known, str) and isinstance(answer, str)):
            return
        place = prompt, known, answer
        if isinstance(right, bool) and isinstance(at, int | float) and at >= self._judged.get(place, (0.0, False))[0]:
            self._judged[place] = float(at), right


def _take_answer(found: dict[Place, tuple[float, str | None]], row: Mapping[str, Any]) -> None:
    """Note an answer that was read again, unless a later one is known."""
    prompt, number, answer, at = (row.get(name) for name in ("p", "i", "answer", "t"))
    if not (isinstance(prompt, str) and type(number) is int and isinstance(at, int | float)):
        return
    if (answer is None or isinstance(answer, str)) and at >= found.get((prompt, number), (0.0, None))[0]:
        found[prompt, number] = (float(at), answer)
