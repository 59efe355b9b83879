"""The claims for the page: jobs that measure rows, and their state as messages. No gradio in here.

A message holds the whole state, so any of them may be lost. A job continues with what the job before it has found of
the same subject: measuring a second row of the same study costs nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rmx.claims.ask import ClaimOptions, subject_of
from rmx.claims.board import Board, ClaimsReport
from rmx.claims.html_report import bars_of, command_of, html_report, set_facts
from rmx.claims.registry import BY_ID, CLAIMS
from rmx.errors import RmxError
from rmx.models.model_pair import Pair
from rmx.models.workspace import Workspace
from rmx.storage.job_store import JobStore
from rmx.ui.jobs.page_jobs import JobLimits, Message, PageJob, download, field_of, line_and_error, stream_job

KEPT = 60  # jobs in memory, the oldest forgotten first
INTERVAL = 0.5  # seconds between messages
PUBLIC = JobLimits(
    "measurement of claims", "measurements of claims", most=4, per_owner=1, per_address=2
)  # on a public site


@dataclass
class ClaimsJob(PageJob):
    """Some rows, or all of them, being measured on one subject."""

    options: ClaimOptions
    only: frozenset[str] | None  # None: all
    before: "ClaimsJob | None" = None  # of the same subject
    board: Board | None = None
    report: ClaimsReport | None = None


class Claims:
    """The claims of all pages; on a `public` site with each visitor's own runs only, and so many at the same time."""

    def __init__(self, workspace: Workspace, keep: int = KEPT, public: bool = False) -> None:
        self.workspace, self.public = workspace, public
        gone = "These claims are no longer in memory. Measure them again."
        self.jobs: JobStore[ClaimsJob] = JobStore(gone, most=keep)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def start(self, options: ClaimOptions, claim: object = None, before: object = None) -> ClaimsJob:
        """Make a job, not begun yet: one claim, or all of them where `claim` is None.

        Args:
            before: id of the job that the page shows; what it found is kept where the subject is the same.

        Raises:
            RmxError: there is no such claim. Busy: on a public site, too many are measured.
        """
        if claim is not None and claim not in BY_ID:
            raise RmxError("There is no such claim. Reload the page.")
        last = self.jobs.find(before)
        job = ClaimsJob(options, None if claim is None else frozenset([str(claim)]))
        if last is not None and last.board is not None and last.options == options:
            job.before = last
        return self.jobs.add(job, check=PUBLIC.check(job) if self.public else None)

    def halt(self, data: object) -> None:
        """Stop a job within one step; unknown ids are ignored."""
        self.jobs.halt(field_of(data, "id"))

    def stream(self, job: ClaimsJob) -> Iterator[Message]:
        """Load the pair and measure; yields a message twice a second, the last one is done whatever happens."""

        def finish() -> None:
            job.done, job.before = True, None

        message = partial(self.message, job)
        full = "The GPU ran out of memory. Take smaller models."
        return stream_job(job, self._steps(job), message, INTERVAL, out_of_memory=lambda: full, finish=finish)

    def _steps(self, job: ClaimsJob) -> Iterator[bool]:
        yield True
        job.board = self._board(job)
        for report in job.board:
            job.report = report
            if not report.done:
                yield False

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

    def message(self, job: ClaimsJob, sent: int = 0) -> Message:
        """The whole state, whatever was sent already."""
        message: Message = {"kind": "claims", "id": job.id, "done": job.done, "stopped": job.stopped, "rows": []}
        message |= line_and_error(job)
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
        return self.message(self.jobs.get(field_of(data, "id")))

    def export(self, data: object) -> Message:
        """The report of {"id"} as a file: {"name", "mime", "text"}.

        Raises:
            RmxError: no such job, or nothing is measured yet.
        """
        report = self.jobs.get(field_of(data, "id")).report
        if report is None or not any(row.reading for row in report.rows):
            raise RmxError("There is nothing to report yet. Measure something first.")
        found = report.json()
        return download("claims", {"html": lambda: html_report(found, command_of(found, report.subject.asked))}, "html")


def _wait(pair: Pair, job: ClaimsJob) -> None:
    """Wait until the pair is free, or the job is stopped: the first measurements of it cannot be ended.

    Raises:
        RmxError: the job was stopped.
    """
    with pair.when_free(lambda: job.stopped) as mine:
        if not mine:
            raise RmxError("This was stopped before it began.")


def claims_texts() -> list[dict[str, Any]]:
    """The parts of the rows that never change: the page has them from the start."""
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
    """The parts of a row that change."""
    kept = {name: row[name] for name in ("id", "verdict", "rule", "why", "n", "minutes", "state")}
    return kept | {"text": row["measured"]["text"], "bars": [bar.json() for bar in bars_of(row)]}
