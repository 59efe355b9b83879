"""The jobs of the compare view, a map, a patched decode, a run over a problem set, and their state as messages.

Messages are idempotent: each has the job that it belongs to and where its tokens start.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from rmx.compare.intervene import Arm, Intervention, Patched, PatchJob
from rmx.compare.intervene_set import InterveneReport
from rmx.compare.pair_options import map_json
from rmx.compare.shift_map import Shift, ShiftMap, largest
from rmx.compare.shift_set import PAPER, TOPS, ShiftReport
from rmx.engine.divergence import KINDS
from rmx.models.model_pair import Pair
from rmx.records import Answer, is_fork
from rmx.ui.jobs.page_jobs import Message, PageJob, line_and_error


@dataclass
class PairJob(PageJob):
    """What all jobs of the view have in common."""

    pair: Pair

    @property
    def tokens(self) -> int:
        """How many tokens it has made."""
        return 0


@dataclass
class MapRun(PairJob):
    """One map and what was decoded for its problem since: the arms' answers and their tokens."""

    found: ShiftMap = field(init=False)
    title: str = ""
    prompt: str = ""
    known_computed: bool = False  # the known answer was computed from the text, not given
    answers: dict[Arm, Answer] = field(default_factory=dict)
    patches: dict[Arm, int] = field(default_factory=dict)
    decoded: dict[Arm, list[Patched]] = field(default_factory=dict)  # the longest budget of each arm
    placebo: dict[str, Any] | None = None
    check: dict[str, Any] | None = None  # whether the base is untouched, where it was measured unasked

    @property
    def tokens(self) -> int:
        """How many tokens the map and all decodes of its problem have."""
        return len(self.found.shifts) + sum(map(len, self.decoded.values()))

    def parts(self) -> list[Any]:
        """What it keeps in memory."""
        found = self.found
        return [self.title, self.prompt, found.job, found.shifts, self.answers, self.decoded, self.placebo, self.check]


@dataclass
class PatchRun(PairJob):
    """One intervened decode."""

    job: PatchJob = field(init=False)
    map: MapRun = field(init=False)
    made: Intervention = field(init=False)
    at: int = 0  # tokens that were known before

    @property
    def tokens(self) -> int:
        """How many tokens it has made."""
        return len(self.made.tokens)

    def parts(self) -> list[Any]:
        """What it keeps in memory beside what its map keeps."""
        return [self.made.tokens]


@dataclass
class SetRun(PairJob):
    """A run over a problem set."""

    what: str = "shifts"
    of: int = 0  # problems
    reports: Iterable[Any] = ()  # what measures it
    report: ShiftReport | InterveneReport | None = None

    def parts(self) -> list[Any]:
        """What it keeps in memory."""
        return [self.report]


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


def refused(tokens: list[Patched]) -> int:
    """Count the patches that a budget did not allow."""
    return sum(t.wanted and not t.patched for t in tokens)


# -- messages ---------------------------------------------------------------------------------------------------------

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


def shift_rows(report: ShiftReport) -> Message:
    """One row per figure, and what the charts draw: the classes by entropy, and how deep the adapted choices lie."""
    ours = _estimates(report.figures)
    noise = _estimates(report.placebo) if report.placebo else {}
    rows = [
        {
            "name": name,
            "label": label,
            "unit": unit,
            "value": ours[name],
            "paper": PAPER.get(name),
            "placebo": noise.get(name),
        }
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


NEAR, FORK, SPECIAL = 1, 2, 4
PATCHED, DIFFERS, GATED, SPECIAL_PATCH, OVER_BUDGET = 1, 2, 4, 8, 16
CLASSES = {kind: i for i, kind in enumerate(KINDS)}  # unshifted 0, reranked 1, shifted 2


def map_message(run: MapRun, start: int, whole: bool = False) -> Message:
    """Tokens from `start` on; the opening facts at the beginning, the result at the end."""
    found = run.found
    special = run.pair.base.detokenizer.special_ids
    message: Message = {"kind": "map", "id": run.id, "start": start, "done": run.done}
    # Near ties are known once the noise is: then all tokens are sent again.
    again = run.done and any(s.near_tie(found.tolerance) for s in found.shifts)
    message["start"] = start = 0 if again else start
    message["toks"] = [_map_token(found, s, special) for s in found.shifts[start:]]
    if whole or run.done or start == 0:
        message["open"] = _map_open(run)
    message |= line_and_error(run)
    if run.done:
        message["result"] = _map_result(run)
    return message


def _map_token(found: ShiftMap, s: Shift, special: frozenset[int]) -> list[Any]:
    flags = (
        NEAR * s.near_tie(found.tolerance) | FORK * is_fork(s.base.entropy, found.job.tau) | SPECIAL * (s.id in special)
    )
    p, q = (round(float(torch.tensor(v.logp).exp()), 6) for v in (s.base, s.adapted))
    kl, h, g = round(s.kl, 5), round(s.base.entropy, 4), round(s.adapted.entropy, 4)
    return [s.text, CLASSES[s.kind], flags, kl, h, g, p, q]


def _map_open(run: MapRun) -> Message:
    job, noise = run.found.job, run.found.noise
    return {
        "title": run.title,
        "prompt": run.prompt,
        "style": run.pair.base.style.sentence(),
        "known": job.known,
        "known_computed": run.known_computed,
        "base": run.pair.base.spec,
        "adapted": run.pair.name,
        "source": job.source,
        "tau": job.tau,
        "strength": run.pair.strength,
        "noise": noise.json() if noise else None,
    }


def _map_result(run: MapRun) -> Message:
    found = run.found
    shifts, lone = found.shifts, run.pair.base.detokenizer.token_text
    differ = [s for s in shifts if s.rank > 1]
    forks = [s for s in shifts if is_fork(s.base.entropy, found.job.tau)]
    counts = {kind: sum(s.kind == kind for s in shifts) for kind in CLASSES}
    return {
        "answer": found.answer.json(),
        "adapted_answer": run.answers["teacher"].json() if "teacher" in run.answers else None,
        "counts": counts | {"near_ties": sum(s.near_tie(found.tolerance) for s in differ)},
        "n": len(shifts),
        "on_forks": {
            "disagreements": len(differ),
            "on_forks": sum(is_fork(s.base.entropy, found.job.tau) for s in differ),
            "by_chance": len(forks) / len(shifts) if shifts else 0.0,
        },
        "figures": {k: map_json(found)[k] for k in ("mean_rank", "entropy_ratio")} if shifts else None,
        "largest": [
            {
                "pos": s.pos,
                "text": s.text,
                "base": lone(s.base.top[0].id),
                "adapted": lone(s.adapted.top[0].id),
                "kl": round(s.kl, 4),
                "cls": CLASSES[s.kind],
            }
            for s in largest(shifts)
        ],
        "placebo": _plain_placebo(run.placebo),
        "check": run.check,
        "noise": found.noise.json() if found.noise else None,
        "stop": found.stop,
        "seconds": round(found.seconds, 3),
    }


def patch_message(run: PatchRun, start: int, whole: bool = False) -> Message:
    """Tokens from `start` on, the opening facts, the result, and the answers of all arms so far."""
    made, base = run.made, run.pair.base
    special, lone = base.detokenizer.special_ids, base.detokenizer.token_text
    message: Message = {
        "kind": "patch",
        "id": run.id,
        "map": run.map.id,
        "start": start,
        "toks": [_patch_token(t, special, lone) for t in made.tokens[start:]],
        "done": run.done,
        "answers": {arm: a.json() for arm, a in run.map.answers.items()},
        "patches": dict(run.map.patches),
    }
    if whole or start == 0:
        message["open"] = {
            "arm": run.job.arm,
            "budget": run.job.budget,
            "tau": run.job.tau,
            "seed": run.job.seed,
            "title": run.map.title,
            "known": run.job.known,
            "known_computed": run.map.known_computed,
            "base": base.spec,
            "adapted": run.pair.name,
            "at": run.at,
        }
    message |= line_and_error(run)
    if run.done:
        message["result"] = made.result.json() | {"seconds": round(made.seconds, 3)}
    return message


def _patch_token(t: Patched, special: frozenset[int], lone: Any) -> list[Any]:
    flags = PATCHED * t.patched | DIFFERS * t.differs | GATED * t.gated | SPECIAL_PATCH * (t.id in special)
    flags |= OVER_BUDGET * (t.wanted and not t.patched)
    was = lone(t.base_choice) if t.patched else None
    return [t.text, flags, round(t.entropy, 4), was, round(t.p, 6), round(t.q, 6)]


def set_message(run: SetRun) -> Message:
    """The whole state of a run over a set."""
    report = run.report
    message: Message = {"kind": "set", "id": run.id, "what": run.what, "done": run.done, "stopped": run.stopped}
    message |= line_and_error(run)
    if report is None:
        return message | {"at": 0, "of": run.of, "rows": [], "arms": []}
    at = report.at if isinstance(report, ShiftReport) else len(report.problems)
    left = report.seconds / at * (report.of - at) if at and not run.done else None
    message |= {
        "at": at,
        "of": report.of,
        "seconds": round(report.seconds, 1),
        "left": None if left is None else round(left),
        "set": report.set_name,
        "base": report.base,
        "adapted": report.adapted,
        "tau": report.tau,
    }
    if isinstance(report, ShiftReport):
        return message | {"stage": report.stage, "rows": []} | (shift_rows(report) if at else {})
    return message | arm_rows(report)


def arm_rows(report: InterveneReport) -> Message:
    """The table of arms."""
    rows = []
    for arm in report.arms if report.problems else ():
        found = report.arm(arm)
        rows.append(
            {
                "arm": arm,
                "pass": found["pass@1"],
                "touched": found["touched"],
                "gated": found["gated"],
                "vs_base": found.get("vs_base"),
                "won": found.get("won"),
                "lost": found.get("lost"),
            }
        )
    if (noise := report.placebo_json()) is not None:
        kept = ("touched", "vs_base", "won", "lost")
        rows.append({"arm": "placebo", "pass": noise["pass@1"], "gated": None, **{k: noise[k] for k in kept}})
    return {"arms": rows, "reading": report.reading(), "oracle_equals_teacher": report.same_as_teacher()}


def _plain_placebo(found: dict[str, Any] | None) -> Message | None:
    """A map's placebo with single figures: one text has no intervals."""
    if found is None:
        return None
    return found | {name: found[name]["value"] for name in ("mean_rank", "entropy_ratio")}
