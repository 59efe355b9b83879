"""The claims of `assets/claims.toml` measured on one pair, each study made once and told as it goes on; their report.

The report is one HTML file: no script, no request, light and dark, narrow and on paper. What comes from outside (names
of models, sets, tokens) is escaped by its template and nowhere else.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from rmx import __version__
from rmx.claims import from_runs, readings
from rmx.claims.claim import TABLE, Claim, Read, Row, State, StudyName, Subject, by_construction
from rmx.claims.studies import STUDIES
from rmx.data.problem_sets import SETS, split_name
from rmx.errors import RmxError
from rmx.records import as_json
from rmx.runs.store import versions
from rmx.stats.text import brief
from rmx.storage.rendering import render

READ: dict[str, Read] = {
    "gain": readings.gain,
    "reranked": readings.reranked,
    "shifted": readings.shifted,
    "mean-rank": readings.mean_rank,
    "entropy-ratio": readings.entropy_ratio,
    "on-forks": readings.on_forks,
    "oracle": readings.oracle,
    "random": readings.random_control,
    "gate": readings.gate,
    "gate-share": readings.gate_share,
    "swaps": readings.swaps,
    "locator": readings.locator,
    "placebo": readings.placebo,
    "low-rank": from_runs.distilled,
    "reasonmaxxer": from_runs.reasonmaxxer,
    "positive-only": from_runs.positive_only,
    "random-gate": from_runs.random_gate,
    "tau-range": from_runs.tau_range,
    "cost": from_runs.cost,
    "pass-at-k": readings.pass_at_k,
}
BY_ID = {name: Claim(name, read=READ[name], **row) for name, row in TABLE["claims"].items()}
CLAIMS = tuple(BY_ID.values())


def chosen(ids: tuple[str, ...] | None) -> tuple[Claim, ...]:
    """The claims of these ids in their usual order, all where none is named; RmxError for an unknown id."""
    if unknown := [i for i in ids or () if i not in BY_ID]:
        raise RmxError(f"There is no claim '{unknown[0][:40]}'. Known: {', '.join(BY_ID)}.")
    return tuple(claim for claim in CLAIMS if not ids or claim.id in ids)


# -- All asked claims on one pair -------------------------------------------------------------------------------------


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
            **as_json(s.pair.base, "revision", "dtype"),
            "device": str(s.pair.base.engine.device),
            "set": s.set_name,
            "n": len(s.problems),
            **as_json(s, "tau", "calibration", "seed"),
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
            reading = claim.read(*(known[study] for study in claim.studies), self.subject)
            if self.subject.by_construction:
                reading = replace(reading, judged=by_construction(reading.judged))
            row = replace(row, reading=reading, state=state)
            if whole:
                self._whole[claim.id] = row  # its intervals take a moment, and it is told with every report
            return row
        if over and self.cancelled() and any(s in self.took for s in claim.studies):
            return replace(row, state="stopped", error="It was stopped before anything was found.")
        return replace(row, state="measuring" if study in claim.studies else "waiting")


# -- The claims as one HTML file --------------------------------------------------------------------------------------


Figures = Mapping[str, Any]
THIN = 0.4  # per cent; the least that can be seen


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure."""

    name: str
    numbers: str
    said: str  # the whole of it in words
    low: float
    value: float
    high: float
    zero: float
    band: tuple[float, float] | None

    def json(self) -> dict[str, Any]:
        return asdict(self)


def bars_of(row: Figures) -> list[Bar]:
    """The bars of a row of `rmx claims`; figures without an interval have none."""
    named = row.get("labels", {})
    shown = [(named[n], f) for n, f in row["measured"]["figures"].items() if n in named and f.get("low") is not None]
    units = {label["unit"] for label, _ in shown}
    scales = {unit: scale_of([pair for pair in shown if pair[0]["unit"] == unit]) for unit in units}
    return [_bar(label, figure, scales[label["unit"]]) for label, figure in shown]


def scale_of(bars: Sequence[tuple[Figures, Figures]]) -> tuple[float, float]:
    """From the least to the greatest of intervals and ranges, 0 among them, with a little room at either end."""
    ends = [0.0]
    for label, figure in bars:
        ends += [float(x) for x in (figure["low"], figure["high"], label["low"], label["high"]) if x is not None]
    room = 0.04 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room


def _bar(label: Figures, figure: Figures, scale: tuple[float, float]) -> Bar:
    left, right = scale

    def at(x: float) -> float:
        return round(100 * (x - left) / (right - left), 2)

    numbers, exact = brief(dict(figure), label["unit"]), " (exact bound)" if figure.get("exact") else ""
    said, band = f"{label['text']}: {numbers}, 95 % interval{exact}", None
    if label["low"] is not None or label["high"] is not None:
        a, b = (end if x is None else at(x) for x, end in ((label["low"], 0.0), (label["high"], 100.0)))
        band = a, max(b, a + THIN)
        said += (
            f"; {'margin of ours' if label['ours'] else 'paper'}: {_edges(label['low'], label['high'], label['unit'])}"
        )
    low, value, high = (at(float(figure[key])) for key in ("low", "value", "high"))
    return Bar(label["text"], numbers, said, low, value, max(high, low + THIN), at(0.0), band)


def _edges(low: float | None, high: float | None, unit: str) -> str:
    """What agrees, in words."""
    least, most = (brief({"value": x, "low": None, "high": None}, unit) for x in (low, high))
    return f"from {least}" if high is None else f"up to {most}" if low is None else f"{least} to {most}"


def html_report(found: Figures, command: str, when: datetime | None = None) -> str:
    """The whole file, of the document of `rmx claims` and the command that made it; `when` is now by default."""
    licence, source = set_facts(str(found["set"]))
    about = {"licence": licence, "source": source, "when": when or datetime.now(UTC), "version": __version__}
    return render("claims_report.html", found=found, command=command, bars_of=bars_of, **about)


def set_facts(name: str) -> tuple[str, str]:
    """Licence and source of a named set; of a file its owner knows them."""
    try:
        info = SETS.get(split_name(name)[0])
    except RmxError:
        info = None
    return (info.licence, info.source) if info else ("of the file's owner", "a file of the user")
