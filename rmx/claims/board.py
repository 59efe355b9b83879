"""All asked claims on one pair: each study is made once, and its rows are told as it goes on."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rmx.claims.claim import TABLE, Claim, Row, State, StudyName, Subject
from rmx.claims.studies import STUDIES
from rmx.claims.verdicts import by_construction
from rmx.errors import RmxError
from rmx.runs.store import versions

CAVEATS: list[str] = TABLE["caveats"]
MINIATURE: str = TABLE["miniature"]


@dataclass(frozen=True, slots=True)
class ClaimsReport:
    """Where it stands; each report holds everything so far."""

    subject: Subject
    rows: tuple[Row, ...]
    study: StudyName | None  # under way
    at: int  # of that study
    of: int
    seconds: float
    done: bool
    stopped: bool = False

    @property
    def does(self) -> str:
        """What is being done, in words."""
        return TABLE["does"][self.study] if self.study else ""

    def json(self) -> dict[str, Any]:
        """The document of `rmx claims`."""
        s = self.subject
        return {
            "model": s.pair.base.spec,
            "adapter": s.asked.get("adapter"),
            "teacher": s.asked.get("teacher"),
            "pair": s.pair.name,
            "revision": s.pair.base.revision,
            "dtype": s.pair.base.dtype,
            "device": str(s.pair.base.engine.device),
            "set": s.set_name,
            "n": len(s.problems),
            "tau": s.tau,
            "calibration": s.calibration.json() if s.calibration else None,
            "seed": s.seed,
            "style": s.pair.base.style.json(),
            "samples": s.samples,
            "max_new_tokens": s.max_new,
            "by_construction": s.by_construction,
            "stopped": self.stopped,
            "base_check": s.check.json() if s.check else None,
            "rows": [row.json() for row in self.rows],
            "caveats": caveats(s),
            "seconds": round(self.seconds, 1),
            "versions": versions(),
        }


def caveats(subject: Subject) -> list[str]:
    """What holds for all rows."""
    check = subject.check
    changed = [f"{check.sentence}. No row is about the model that was named."] if check and not check.holds else []
    return [*changed, *([MINIATURE] if subject.by_construction else []), *CAVEATS]


@dataclass
class Board:
    """An iterable of reports. A study that fails leaves its reason in its rows, and the others go on.

    Args:
        claims: one row each. only: ids of those that are measured now; None for all of them.
        found: what earlier boards of the same subject found; those studies are not made again.
    """

    subject: Subject
    claims: tuple[Claim, ...]
    cancelled: Callable[[], bool] = lambda: False
    only: frozenset[str] | None = None
    found: dict[StudyName, Any] = field(default_factory=dict)  # whole studies
    partial: dict[StudyName, Any] = field(default_factory=dict)  # of the study under way, or of one that was stopped
    errors: dict[StudyName, str] = field(default_factory=dict)
    took: dict[StudyName, float] = field(default_factory=dict)
    _whole: dict[str, Row] = field(default_factory=dict)  # rows that will not change any more

    def __iter__(self) -> Iterator[ClaimsReport]:
        self._began = time.perf_counter()
        asked = [claim for claim in self.claims if self.only is None or claim.id in self.only]
        wanted = {study for claim in asked for study in claim.studies}
        yield self._report(None, 0, 0, False)
        for name in STUDIES:
            if name not in wanted or name in self.found:
                continue
            if self.cancelled():
                break
            yield from self._study(name)
        yield self._report(None, 0, 0, True)

    def _study(self, name: StudyName) -> Iterator[ClaimsReport]:
        began, self.took[name] = time.perf_counter(), 0.0
        self.partial.pop(name, None)
        self.errors.pop(name, None)
        yield self._report(name, 0, len(self.subject.problems), False)
        try:
            for progress in STUDIES[name](self.subject, self.cancelled):
                if progress.found is not None:
                    self.partial[name] = progress.found
                self.took[name] = time.perf_counter() - began
                yield self._report(name, progress.at, progress.of, False)
        except RmxError as error:
            self.errors[name] = str(error)
            return
        except ImportError as error:
            self.errors[name] = f"This installation cannot measure it: {error}."
            return
        if name in self.partial and not self.cancelled():
            self.found[name] = self.partial.pop(name)

    def _report(self, study: StudyName | None, at: int, of: int, done: bool) -> ClaimsReport:
        rows = tuple(self._row(claim, study, done) for claim in self.claims)
        took = time.perf_counter() - self._began
        return ClaimsReport(self.subject, rows, study, at, of, took, done, self.cancelled())

    def _row(self, claim: Claim, study: StudyName | None, over: bool) -> Row:
        if claim.id in self._whole:
            return self._whole[claim.id]
        known = self.found | self.partial
        row = Row(claim, seconds=sum(self.took.get(s, 0.0) for s in claim.studies))
        if failed := next((self.errors[s] for s in claim.studies if s in self.errors), None):
            return replace(row, state="failed", error=failed)
        whole = all(s in self.found for s in claim.studies)
        resting = over or study not in claim.studies
        if whole or (resting and all(s in known for s in claim.studies)):
            state: State = "done" if whole else "stopped"
            reading = claim.read(known, self.subject)
            if self.subject.by_construction:
                reading = replace(reading, judged=by_construction(reading.judged))
            row = replace(row, reading=reading, state=state)
            if whole:
                self._whole[claim.id] = row  # its intervals take a moment, and it is told with every report
            return row
        if over and self.cancelled() and any(s in self.took for s in claim.studies):
            return replace(row, state="stopped", error="It was stopped before anything was found.")
        return replace(row, state="measuring" if study in claim.studies else "waiting")
