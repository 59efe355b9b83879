"""The jobs of the compare view and their messages: a map, a patched decode, a run over a problem set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, ClassVar

import torch

from rmx.compare.intervene import Arm, Intervention, Patched, PatchJob
from rmx.compare.intervene_set import InterveneReport
from rmx.compare.shift_map import MapJob, Shift, ShiftMap, largest, map_json
from rmx.compare.shift_set import PAPER, TOPS, ShiftReport
from rmx.engine.divergence import KINDS
from rmx.models.model_pair import Pair
from rmx.records import Answer, is_fork
from rmx.ui.jobs.page_jobs import INTERVAL, STATE_INTERVAL, Message, PageJob, line_and_error

NEAR, FORK, SPECIAL = 1, 2, 4  # flags of a token of a map
PATCHED, DIFFERS, GATED, SPECIAL_PATCH, OVER_BUDGET = 1, 2, 4, 8, 16  # of a token of a decode
CLASSES = {kind: i for i, kind in enumerate(KINDS)}  # unshifted 0, reranked 1, shifted 2
ROWS: tuple[tuple[str, str, str], ...] = (
    ("reranked", "Reranked: another choice, inside the base's top 5", "share"),
    ("shifted", "Shifted: outside the base's top 5", "share"),
    ("mean_rank", "Mean rank of the adapted model's choice", "number"),
    ("entropy_ratio", "Base entropy where reranked, over elsewhere", "ratio"),
    ("on_forks", "Disagreements that fall on forks", "share"),
    ("on_forks_by_chance", "… expected by chance", "share"),
    ("within_top_2", "Disagreements inside the base's top 2", "share"),
    ("within_top_10", "Disagreements inside the base's top 10", "share"),
    ("untouched", "Solutions without any disagreement", "share"),
    ("mean_kl", "KL(base ‖ adapted), mean over all tokens", "nats"),
)


@dataclass(eq=False)
class PairJob(PageJob):
    """What all jobs of the view have in common."""

    pair: Pair
    interval: ClassVar[float] = INTERVAL  # seconds between messages

    @property
    def made(self) -> int:
        """How many tokens there are."""
        return 0


@dataclass(eq=False)
class MapRun(PairJob):
    """One map and what was decoded for its problem since: the arms' answers and their tokens."""

    job: MapJob
    title: str = ""
    known_computed: bool = False  # the known answer was computed from the text, not given
    answers: dict[Arm, Answer] = field(default_factory=dict)
    other: list[int] = field(default_factory=list)  # what the model that does not write here would write by itself
    unwritten: str | None = None  # why it was not asked for that
    patches: dict[Arm, int] = field(default_factory=dict)
    decoded: dict[Arm, list[Patched]] = field(default_factory=dict)  # the longest budget of each arm
    placebo: dict[str, Any] | None = None
    check: dict[str, Any] | None = None  # whether the base is untouched, where it was measured unasked

    def __post_init__(self) -> None:
        self.prompt = self.pair.base.detokenizer.text(self.job.prompt_ids)
        self.found = ShiftMap(self.pair, self.job, lambda: self.stopped)

    @property
    def made(self) -> int:
        """How many tokens there are."""
        return len(self.found.shifts)

    def parts(self) -> list[Any]:
        """What it keeps in memory."""
        what = [self.title, self.prompt, self.job, self.found.shifts]
        return [*what, self.answers, self.other, self.decoded, self.placebo, self.check]

    def message(self, start: int = 0, whole: bool = False) -> Message:
        """Tokens from `start` on; the opening facts at the beginning, the result at the end."""
        found, special = self.found, self.pair.base.detokenizer.special_ids
        # Near ties are known once the noise is: then all tokens are sent again.
        if self.done and any(s.near_tie(found.tolerance) for s in found.shifts):
            start = 0
        toks = [_map_token(found, s, special) for s in found.shifts[start:]]
        message: Message = {"kind": "map", "id": self.id, "start": start, "done": self.done, "toks": toks}
        if whole or self.done or start == 0:
            message["open"] = self._open()
        message |= line_and_error(self)
        return message | ({"result": self._result()} if self.done else {})

    def _open(self) -> Message:
        pair, job = self.pair, self.job
        problem = {"title": self.title, "prompt": self.prompt, "style": pair.base.style.sentence()}
        known = {"known": job.known, "known_computed": self.known_computed, "source": job.source, "tau": job.tau}
        models = {"base": pair.base.spec, "adapted": pair.name, "strength": pair.strength}
        return problem | known | models | {"noise": self.found.noise and self.found.noise.json()}

    def _result(self) -> Message:
        found, shifts = self.found, self.found.shifts
        differ = [s for s in shifts if s.rank > 1]
        on_forks, forks = (sum(is_fork(s.base.entropy, self.job.tau) for s in of) for of in (differ, shifts))
        counts = {kind: sum(s.kind == kind for s in shifts) for kind in CLASSES}
        plain = ("mean_rank", "entropy_ratio")  # one text has no intervals
        placebo = self.placebo and self.placebo | {name: self.placebo[name]["value"] for name in plain}
        return {
            "answer": found.answer.json(),
            "adapted_answer": self.answers["teacher"].json() if "teacher" in self.answers else None,
            "beside": self._beside(),
            "counts": counts | {"near_ties": sum(s.near_tie(found.tolerance) for s in differ)},
            "n": len(shifts),
            "on_forks": {"disagreements": len(differ), "on_forks": on_forks, "by_chance": forks / max(len(shifts), 1)},
            "figures": {k: map_json(found)[k] for k in plain} if shifts else None,
            "largest": [self._parting(s) for s in largest(shifts)],
            "placebo": placebo,
            "check": self.check,
            "noise": found.noise and found.noise.json(),
            "stop": found.stop,
            "seconds": round(found.seconds, 3),
        }

    def _beside(self) -> Message | None:
        """This solution and the other model's own, in rows; or why that was not written, and the arm that does so."""
        arm: Arm = "base" if self.job.source == "adapted" else "teacher"
        if not self.other or arm not in self.answers:
            return {"arm": arm, "unwritten": self.unwritten} if self.unwritten else None
        texts = self.pair.base.detokenizer
        mine, theirs = ([i for i in ids if i not in texts.special_ids] for ids in (self.found.ids, self.other))
        rows = [[texts.text(a), texts.text(b), same] for a, b, same in aligned_rows(mine, theirs)]
        return {"answer": self.answers[arm].json(), "rows": rows}

    def _parting(self, s: Shift) -> Message:
        base, adapted = (self.pair.base.detokenizer.token_text(side.top[0].id) for side in (s.base, s.adapted))
        where = {"pos": s.pos, "text": s.text, "base": base, "adapted": adapted}
        return where | {"kl": round(s.kl, 4), "cls": CLASSES[s.kind]}


def aligned_rows(
    first: Sequence[int], second: Sequence[int], least: int = 4
) -> list[tuple[list[int], list[int], bool]]:
    """Cut two solutions into rows: tokens of the first, those beside them in the second, whether they are the same.

    Args:
        first: ids of one solution. second: those of the other.
        least: tokens that both must have in common to come together again; fewer stay in the row where they differ.
    """
    rows: list[tuple[list[int], list[int], bool]] = []
    for tag, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        same = tag == "equal" and (b - a >= least or a == c == 0)
        if same or not rows or rows[-1][2]:
            rows.append(([], [], same))
        rows[-1][0].extend(first[a:b])
        rows[-1][1].extend(second[c:d])
    return rows


def _map_token(found: ShiftMap, s: Shift, special: frozenset[int]) -> list[Any]:
    flags = (
        NEAR * s.near_tie(found.tolerance) | FORK * is_fork(s.base.entropy, found.job.tau) | SPECIAL * (s.id in special)
    )
    p, q = (round(float(torch.tensor(v.logp).exp()), 6) for v in (s.base, s.adapted))
    kl, h, g = round(s.kl, 5), round(s.base.entropy, 4), round(s.adapted.entropy, 4)
    return [s.text, CLASSES[s.kind], flags, kl, h, g, p, q]


@dataclass(eq=False)
class PatchRun(PairJob):
    """One intervened decode; it begins with the tokens that are known (`job.kept`)."""

    map: MapRun
    job: PatchJob

    def __post_init__(self) -> None:
        self.begin(self.job)

    def begin(self, job: PatchJob) -> None:
        """Decode this instead."""
        self.job = job
        self.decode = Intervention(self.pair, job, lambda: self.stopped)

    @property
    def made(self) -> int:
        """How many tokens there are."""
        return len(self.decode.tokens)

    def parts(self) -> list[Any]:
        """What it keeps in memory beside what its map keeps."""
        return [self.decode.tokens]

    def message(self, start: int = 0, whole: bool = False) -> Message:
        """Tokens from `start` on, the opening facts, the result, and the answers of all arms so far."""
        job, of, toks = self.job, self.map, [self._token(t) for t in self.decode.tokens[start:]]
        message: Message = {"kind": "patch", "id": self.id, "map": of.id, "start": start, "toks": toks}
        message |= {"done": self.done, "answers": {arm: answer.json() for arm, answer in of.answers.items()}}
        message["patches"] = dict(of.patches)
        if whole or start == 0:
            problem = {"title": of.title, "known": job.known, "known_computed": of.known_computed}
            models = {"base": self.pair.base.spec, "adapted": self.pair.name, "at": len(job.kept)}
            asked = {"arm": job.arm, "budget": job.budget, "tau": job.tau, "seed": job.seed}
            message["open"] = asked | problem | models
        message |= line_and_error(self)
        if self.done:
            message["result"] = self.decode.result.json() | {"seconds": round(self.decode.seconds, 3)}
        return message

    def _token(self, t: Patched) -> list[Any]:
        texts = self.pair.base.detokenizer
        flags = PATCHED * t.patched | DIFFERS * t.differs | GATED * t.gated
        flags |= SPECIAL_PATCH * (t.id in texts.special_ids) | OVER_BUDGET * (t.wanted and not t.patched)
        was = texts.token_text(t.base_choice) if t.patched else None
        return [t.text, flags, round(t.entropy, 4), was, round(t.p, 6), round(t.q, 6)]


@dataclass(eq=False)
class SetRun(PairJob):
    """A run over a problem set."""

    what: str = "shifts"
    of: int = 0  # problems
    reports: Iterable[Any] = ()  # what measures it
    report: ShiftReport | InterveneReport | None = None
    interval: ClassVar[float] = STATE_INTERVAL

    def parts(self) -> list[Any]:
        """What it keeps in memory."""
        return [self.report]

    def message(self, start: int = 0, whole: bool = False) -> Message:
        """The whole state."""
        report = self.report
        message: Message = {"kind": "set", "id": self.id, "what": self.what, "done": self.done, "stopped": self.stopped}
        message |= line_and_error(self)
        if report is None:
            return message | {"at": 0, "of": self.of, "rows": [], "arms": []}
        at = report.at if isinstance(report, ShiftReport) else len(report.problems)
        left = round(report.seconds / at * (report.of - at)) if at and not self.done else None
        message |= {"at": at, "of": report.of, "seconds": round(report.seconds, 1), "left": left}
        message |= {"set": report.set_name, "base": report.base, "adapted": report.adapted, "tau": report.tau}
        if isinstance(report, ShiftReport):
            return message | {"stage": report.stage, "rows": []} | (_shift_rows(report) if at else {})
        return message | _arm_rows(report)


def _shift_rows(report: ShiftReport) -> Message:
    """One row per figure, and what the charts draw: the classes by entropy, and how deep the adapted choices lie."""
    ours = _estimates(report.figures)
    noise = _estimates(report.placebo) if report.placebo else {}
    rows = [
        {"name": name, "label": label, "unit": unit, "value": ours[name]}
        | {"paper": PAPER.get(name), "placebo": noise.get(name)}
        for name, label, unit in ROWS
    ]
    inside = {
        name: [found[f"within_top_{k}"]["value"] for k in TOPS]
        for name, found in (("adapted", ours), ("placebo", noise))
        if found and found["within_top_1"]["value"] is not None
    }
    return {"rows": rows, "histogram": report.figures.histogram(), "within_top": inside}


def _estimates(figures: Any) -> dict[str, Any]:
    return figures.shares() | {"mean_rank": figures.mean_rank(), "entropy_ratio": figures.entropy_ratio()}


def _arm_rows(report: InterveneReport) -> Message:
    """The table of arms."""
    kept = ("touched", "gated", "vs_base", "won", "lost")
    measured: list[tuple[str, Any]] = [(arm, report.arm(arm)) for arm in report.arms] if report.problems else []
    if (noise := report.placebo_json()) is not None:
        measured.append(("placebo", noise | {"gated": None}))
    rows = [{"arm": arm, "pass": found["pass@1"]} | {k: found.get(k) for k in kept} for arm, found in measured]
    return {"arms": rows, "reading": report.reading(), "oracle_equals_teacher": report.same_as_teacher()}


def known_part(decoded: list[Patched], budget: int | None) -> tuple[Patched, ...]:
    """The tokens of a known decode that a decode with another budget shares.

    They part where one patches and the other does not: at the first patch past the new budget, or at the first patch
    that the old budget refused and the new one allows.
    """
    made = 0
    for i, token in enumerate(decoded):
        allowed = budget is None or made < budget
        if token.wanted and token.patched != allowed:
            return tuple(decoded[:i])
        made += token.patched
    return tuple(decoded[:-1])  # the last one is taken again, so that the decode can find its end
