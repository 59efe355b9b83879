"""Readings of the shift study: where base and adapted model part on the base's own solutions."""

from collections.abc import Mapping
from typing import Any

from rmx.claims.figures import difference_of_ratios, told
from rmx.claims.records import Reading, StudyName, Subject, ceiling_of, span_of
from rmx.claims.verdicts import above, below, inside, too_wide
from rmx.compare.shift_set import ShiftFigures, ShiftReport
from rmx.records import is_fork

Found = Mapping[StudyName, Any]


def reranked(found: Found, subject: Subject) -> Reading:
    """Share of positions with another choice inside the base's top 5, against 1.0 to 4.1 %."""
    report = _report(found)
    share = report.figures.shares()["reranked"]
    text = f"{told(share, '%')} of {_positions(report)} positions{_near(report)}"
    return Reading(text, inside(share, *span_of("reranked")), {"reranked": share}, share["n"])


def shifted(found: Found, subject: Subject) -> Reading:
    """Share outside the base's top 5: nearly none, so less than the paper's least agrees too."""
    report = _report(found)
    share = report.figures.shares()["shifted"]
    judged = below(share, "Nearly none, as the paper says", ceiling_of("shifted"), "%")
    return Reading(f"{told(share, '%')} of {_positions(report)} positions", judged, {"shifted": share}, share["n"])


def mean_rank(found: Found, subject: Subject) -> Reading:
    """Mean rank of the adapted choice under the base where they disagree, against 2.14 to 2.39."""
    report = _report(found)
    rank = report.figures.mean_rank()
    figures = {"mean_rank": rank}
    text = f"{told(rank)} at {_disagreements(report.figures)} disagreements"
    if report.placebo:
        figures["placebo_rank"] = noise = report.placebo.mean_rank()
        text += f"; noise that reranks as often: {told(noise)}"
    return Reading(text, inside(rank, *span_of("mean_rank")), figures, rank["n"])


def entropy_ratio(found: Found, subject: Subject) -> Reading:
    """Base entropy where reranked over where unshifted, against 5 to 12."""
    report = _report(found)
    ratio = report.figures.entropy_ratio()
    figures = {"entropy_ratio": ratio}
    text = f"{told(ratio)} times"
    if report.placebo:
        figures["placebo_ratio"] = noise = report.placebo.entropy_ratio()
        text += f"; noise that reranks as often: {told(noise)}"
    return Reading(text, inside(ratio, *span_of("entropy_ratio")), figures, ratio["n"])


def on_forks(found: Found, subject: Subject) -> Reading:
    """Share of disagreements on forks minus the share of positions that are forks."""
    report = _report(found)
    shares, places = report.figures.shares(), report.figures.places
    forks = [is_fork(p.entropy, report.tau) for p in places]
    excess = difference_of_ratios(
        [float((p.differs & f).sum()) for p, f in zip(places, forks, strict=True)],
        [float(p.differs.sum()) for p in places],
        [float(f.sum()) for f in forks],
        [float(len(f)) for f in forks],
    )
    here, chance = shares["on_forks"], shares["on_forks_by_chance"]
    text = f"{told(here, '%')} of disagreements lie on forks; by chance {told(chance, '%')} would"
    figures = {"on_forks": here, "by_chance": chance, "excess": excess}
    judged = above(excess, "More disagreements lie on forks than chance puts there")
    return Reading(text, too_wide(chance["value"], subject.tau) or judged, figures, excess["n"])


def _report(found: Found) -> ShiftReport:
    report: ShiftReport = found["shifts"]
    return report


def _positions(report: ShiftReport) -> str:
    return f"{sum(len(p.rank) for p in report.figures.places):,}"


def _disagreements(figures: ShiftFigures) -> str:
    return f"{sum(int(p.differs.sum()) for p in figures.places):,}"


def _near(report: ShiftReport) -> str:
    near = sum(int(p.near.sum()) for p in report.figures.places)
    return f"; {near} of the disagreements are ties within rounding" if near else ""
