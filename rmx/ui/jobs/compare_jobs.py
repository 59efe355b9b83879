"""The jobs of the compare view: a map, a patched decode, a run over a problem set."""

import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

from rmx.compare.intervene import Arm, Intervention, Patched, PatchJob
from rmx.compare.intervene_set import InterveneReport
from rmx.compare.shift_map import ShiftMap
from rmx.compare.shift_set import ShiftReport
from rmx.engine.fair_queue import RequestOwner, current_owner
from rmx.models.model_pair import Pair
from rmx.records import Answer
from rmx.storage.memory_shares import bytes_of

BASE_BYTES = 10_000  # of a job without anything in it: its decoders, locks and books


@dataclass
class PairJob:
    """What all jobs of the view have in common."""

    pair: Pair
    who: RequestOwner = field(default_factory=current_owner.get, kw_only=True)  # whose it is
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    waiting: int = 0
    expected: float | None = None  # seconds until its turn, by the turns of late
    error: str | None = None
    done: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def owner(self) -> str | None:
        """The visitor whose it is."""
        return self.who.owner

    @property
    def tokens(self) -> int:
        """How many tokens it has made."""
        return 0

    def parts(self) -> list[Any]:
        """What it keeps in memory."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps in memory."""
        return BASE_BYTES + bytes_of(*self.parts())

    def halt(self) -> None:
        """Ask the job to end at its next step."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()


@dataclass
class MapRun(PairJob):
    """One map and what was decoded for its problem since: the arms' answers and their tokens."""

    found: ShiftMap = field(init=False)
    title: str = ""
    prompt: str = ""
    known_computed: bool = False  # the known answer was computed from the text, nobody gave it
    answers: dict[Arm, Answer] = field(default_factory=dict)
    patches: dict[Arm, int] = field(default_factory=dict)
    decoded: dict[Arm, list[Patched]] = field(default_factory=dict)  # the longest budget of each arm
    placebo: dict[str, Any] | None = None
    check: dict[str, Any] | None = None  # the badge, where it was taken without being asked

    @property
    def tokens(self) -> int:
        return len(self.found.shifts) + sum(map(len, self.decoded.values()))

    def parts(self) -> list[Any]:
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
        return len(self.made.tokens)

    def parts(self) -> list[Any]:
        return [self.made.tokens]  # the rest is its map's


@dataclass
class SetRun(PairJob):
    """A run over a problem set."""

    what: str = "shifts"
    report: ShiftReport | InterveneReport | None = None

    def parts(self) -> list[Any]:
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
    return sum(t.wanted and not t.patched for t in tokens)
