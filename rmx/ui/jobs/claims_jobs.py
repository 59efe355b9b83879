"""The claims for the page: jobs that measure rows, and their state as messages. No gradio in here.

A message holds the whole state, so any of them may be lost. What one job found of a subject the next one goes on with:
measuring a second row of the same study costs nothing. Ids are unguessable and are the permission.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rmx.claims.ask import ClaimOptions, subject_of
from rmx.claims.board import Board, ClaimsReport
from rmx.claims.registry import BY_ID, CLAIMS
from rmx.claims.report import bars_of, command_of, html_report, set_facts
from rmx.engine.fair_queue import RequestOwner, current_owner
from rmx.errors import RmxError
from rmx.models.pair import Pair
from rmx.models.workspace import Workspace
from rmx.ui.jobs.page_jobs import AtOnce

KEPT = 60  # jobs in memory, the oldest forgotten first
INTERVAL = 0.5  # seconds between messages
PUBLIC = AtOnce(
    "measurement of claims", "measurements of claims", most=4, per_owner=1, per_address=2
)  # on a public site
Message = dict[str, Any]


@dataclass
class ClaimsJob:
    """Some rows, or all of them, being measured on one subject."""

    options: ClaimOptions
    only: frozenset[str] | None  # None: all
    before: "ClaimsJob | None" = None  # of the same subject
    who: RequestOwner = field(default_factory=current_owner.get)
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    board: Board | None = None
    report: ClaimsReport | None = None
    error: str | None = None
    done: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    def halt(self) -> None:
        """Ask the job to end at its next step."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()


class Claims:
    """The claims of all pages; on a `public` site with each visitor's own runs only, and so many at the same time."""

    def __init__(self, workspace: Workspace, keep: int = KEPT, public: bool = False) -> None:
        self.workspace, self.public = workspace, public
        self._jobs: OrderedDict[str, ClaimsJob] = OrderedDict()
        self._keep = keep
        self._lock = threading.Lock()

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def start(self, options: ClaimOptions, claim: object = None, before: object = None) -> ClaimsJob:
        """A new job, not begun yet: one claim, or all of them where `claim` is None.

        Args:
            before: id of the job that the page shows; what it found is kept where the subject is the same.

        Raises:
            RmxError: there is no such claim. Busy: on a public site, too many are measured.
        """
        if claim is not None and claim not in BY_ID:
            raise RmxError("There is no such claim. Reload the page.")
        last = self.find(before)
        job = ClaimsJob(options, None if claim is None else frozenset([str(claim)]))
        if last is not None and last.board is not None and last.options == options:
            job.before = last
        with self._lock:
            if self.public:
                PUBLIC.admit(job.who, [j.who for j in self._jobs.values() if not j.done and not j.stopped])
            self._jobs[job.id] = job
            while len(self._jobs) > self._keep:
                self._jobs.popitem(last=False)[1].halt()
        return job

    def find(self, job_id: object) -> ClaimsJob | None:
        with self._lock:
            return self._jobs.get(job_id) if isinstance(job_id, str) else None

    def halt(self, data: object) -> None:
        """Stop a job within one step; unknown ids are ignored."""
        if job := self.find(_get(data, "id")):
            job.halt()

    def stream(self, job: ClaimsJob) -> Iterator[Message]:
        """Load the pair, measure, and tell the page twice a second; the last message is done, whatever happens."""
        yield self.message(job)
        due = 0.0
        try:
            job.board = self._board(job)
            for report in job.board:
                job.report = report
                if time.monotonic() >= due and not report.done:
                    yield self.message(job)
                    due = time.monotonic() + INTERVAL
        except (torch.OutOfMemoryError, RmxError) as error:
            job.error = str(error) if isinstance(error, RmxError) else "The GPU ran out of memory. Take smaller models."
        job.done, job.before = True, None
        yield self.message(job)

    def _board(self, job: ClaimsJob) -> Board:
        last = job.before.board if job.before else None
        if last is None:
            options = job.options
            pair = options.pair.pair(self.workspace)
            _wait(pair, job)
            subject = subject_of(pair, options.pair, options.samples, options.budget)
            subject = replace(subject, private_runs=self.public)
            return Board(subject, CLAIMS, lambda: job.stopped, job.only)
        found, took, partial = dict(last.found), dict(last.took), dict(last.partial)
        found.pop("runs", None)  # a run may have ended since
        return Board(last.subject, CLAIMS, lambda: job.stopped, job.only, found, partial, took=took)

    # -- messages -----------------------------------------------------------------------------------------------------

    def message(self, job: ClaimsJob) -> Message:
        """The whole state."""
        message: Message = {"kind": "claims", "id": job.id, "done": job.done, "stopped": job.stopped, "rows": []}
        if job.error:
            message["error"] = job.error
        report = job.report
        if report is None:
            return message | {"does": "" if job.done else "loading the models", "at": 0, "of": 0}
        found = report.json()
        licence, source = set_facts(report.subject.set_name)
        return message | {
            "does": report.does,
            "at": report.at,
            "of": report.of,
            "rows": [_row(row) for row in found["rows"]],
            "licence": licence,
            "source": source,
            **{
                name: found[name]
                for name in ("pair", "set", "n", "tau", "seed", "caveats", "by_construction", "calibration")
            },
            "command": command_of(found, report.subject.asked),
        }

    # -- questions of the page ----------------------------------------------------------------------------------------

    def tail(self, data: object) -> Message:
        """The state of {"id"}.

        Raises:
            RmxError: no such job (any more).
        """
        return self.message(self._known(data))

    def export(self, data: object) -> Message:
        """The report of {"id"} as a file: {"name", "mime", "text"}.

        Raises:
            RmxError: no such job, or nothing is measured yet.
        """
        report = self._known(data).report
        if report is None or not any(row.reading for row in report.rows):
            raise RmxError("There is nothing to report yet. Measure something first.")
        found = report.json()
        text = html_report(found, command_of(found, report.subject.asked))
        return {"name": "claims.html", "mime": "text/html", "text": text}

    def _known(self, data: object) -> ClaimsJob:
        job = self.find(_get(data, "id"))
        if job is None:
            raise RmxError("These claims are no longer in memory. Measure them again.")
        return job


def _wait(pair: Pair, job: ClaimsJob) -> None:
    """Wait until the pair can be looked at, or nobody wants it any more: the looks themselves cannot be ended.

    Raises:
        RmxError: the job was stopped.
    """
    with pair.when_free(lambda: job.stopped) as mine:
        if not mine:
            raise RmxError("This was stopped before it began.")


def claims_texts() -> list[dict[str, Any]]:
    """What never changes of the rows: the page has it from the start."""
    return [
        {
            "id": claim.id,
            "section": claim.section,
            "claim": claim.title,
            "paper": claim.paper,
            "how": claim.how,
            "caveats": list(claim.caveats),
            "button": claim.button,
            "studies": list(claim.studies),
        }
        for claim in CLAIMS
    ]


def _row(row: dict[str, Any]) -> Message:
    """What changes of a row."""
    kept = {name: row[name] for name in ("id", "verdict", "rule", "why", "n", "minutes", "state")}
    return kept | {"text": row["measured"]["text"], "bars": [bar.json() for bar in bars_of(row)]}


def _get(data: object, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None
