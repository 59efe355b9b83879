"""The claims for the page: jobs that measure rows, and their state as messages.

A job continues with what the job before it has found of the same subject, so a second row of a study costs nothing.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from rmx.claims.board import BY_ID, CLAIMS, Board, ClaimsReport, bars_of, html_report, set_facts
from rmx.claims.studies import ClaimOptions, subject_of
from rmx.config import ASSETS
from rmx.engine.decoding_memory import out_of_memory
from rmx.errors import RmxError
from rmx.models.names import PAIRS
from rmx.models.workspace import Workspace
from rmx.service.studies import claims_command
from rmx.storage.job_store import JobStore
from rmx.ui.jobs import page_jobs
from rmx.ui.jobs.page_jobs import FAULT, RECORDED, STATE_INTERVAL, Message, PageJob, field_of

log = logging.getLogger(__name__)
FACTS = ("pair", "set", "n", "tau", "seed", "caveats", "by_construction", "calibration")  # of a report
KEPT = 60  # jobs in memory, the oldest forgotten first


@dataclass(eq=False)
class ClaimsJob(PageJob):
    """Some rows, or all of them, being measured on one subject."""

    options: ClaimOptions
    only: frozenset[str] | None  # None: all
    before: Board | None = None  # what was found of the same subject
    board: Board | None = None
    report: ClaimsReport | None = None
    last: Message = field(default_factory=dict)  # the newest state, as the page gets it


class Claims:
    """The claims of all pages."""

    def __init__(self, workspace: Workspace, keep: int = KEPT) -> None:
        self.workspace = workspace
        gone = "These claims are no longer in memory. Measure them again."
        self.jobs: JobStore[ClaimsJob] = JobStore(gone, most=keep)

    def start(self, options: ClaimOptions, claim: object = None, before: object = None) -> ClaimsJob:
        """Make a job, not begun yet: one claim, or all of them where `claim` is None.

        What the job `before`, which the page shows, has found is kept where the subject is the same.
        """
        if claim is not None and claim not in BY_ID:
            raise RmxError("There is no such claim. Reload the page.")
        last = self.jobs.find(before)
        known = last.board if last is not None and last.options == options else None
        job = ClaimsJob(options, None if claim is None else frozenset([str(claim)]), known)
        page_jobs.MEASURED_CLAIMS.begin(job, self.workspace)
        return self.jobs.add(job)

    def stream(self, job: ClaimsJob) -> Iterator[Message]:
        """Load the pair and measure; yields a message twice a second, the last one is done whatever happens."""

        def finish() -> None:
            job.done, job.before = True, None

        steps, message = page_jobs.report_steps(job, lambda: self._board(job)), partial(self.message, job)
        full = partial(out_of_memory, "Take smaller models.")
        return page_jobs.stream_job(job, steps, message, STATE_INTERVAL, full=full, finish=finish)

    def _board(self, job: ClaimsJob) -> Board:
        """The rows to measure, with what is known of them."""
        last, known = job.before, dict[str, Any]()
        if last is not None:
            subject, known = last.subject, {name: dict(getattr(last, name)) for name in ("found", "partial", "took")}
            known["found"].pop("runs", None)  # a run may have ended since
        else:
            options = job.options
            pair = options.pair.pair(self.workspace)
            with pair.when_free(lambda: job.stopped) as mine:  # the first measurements of it cannot be ended
                if not mine:
                    raise RmxError("This was stopped before it began.")
            subject = subject_of(pair, options.pair, options.samples, options.budget)
            subject = replace(subject, private_runs=self.workspace.policy.public)
        job.board = Board(subject, CLAIMS, lambda: job.stopped, job.only, **known)
        return job.board

    def message(self, job: ClaimsJob, sent: int = 0) -> Message:
        """The whole state, whatever was sent already. Where it cannot be written the job ends with the state before."""
        about: Message = {"kind": "claims", "id": job.id, "rows": [], "done": job.done}
        try:
            job.last = about | {"stopped": job.stopped} | self._state(job)
        except Exception:
            log.exception("the state of a job of claims cannot be written")
            job.error = FAULT
            job.halt()
            job.last = about | job.last | {"done": job.done, "stopped": True, "error": FAULT}
        if job.done:  # a report that broke off names what it was at
            job.last["rows"] = [_at_rest(row, job.error) for row in job.last["rows"]]
        return job.last

    def _state(self, job: ClaimsJob) -> Message:
        message, report = page_jobs.line_and_error(job), job.report
        if report is None:
            return message | {"does": "" if job.done else "loading the models", "at": 0, "of": 0}
        message |= {"does": report.does, "at": report.at, "of": report.of}
        return message | _figures(report.json(), report.subject.asked)

    def tail(self, data: object) -> Message:
        """The state of {"id"}, of a job or of a recorded example."""
        if (name := field_of(data, "id")) in recorded_claims():
            found = recorded_claims()[name]
            about: Message = {"kind": "claims", "id": name, "done": True, "stopped": False, "recorded": True}
            return about | _figures(found, _asked(found))
        return self.message(self.jobs.get(name))

    def export(self, data: object) -> Message:
        """The report of {"id"} as a file: {"name", "mime", "text"}."""
        if (name := field_of(data, "id")) in recorded_claims():
            found = recorded_claims()[name]
            asked = _asked(found)
        else:
            report = self.jobs.get(name).report
            if report is None or not any(row.reading for row in report.rows):
                raise RmxError("There is nothing to report yet. Measure something first.")
            found, asked = report.json(), report.subject.asked
        return page_jobs.download("claims", {"html": lambda: html_report(found, claims_command(found, asked))}, "html")


@lru_cache(maxsize=1)
def recorded_claims() -> dict[object, dict[str, Any]]:
    """Documents of `rmx claims` that pages show at first, by the ids that they have there; the miniature's first."""
    places = sorted(ASSETS.glob("*/claims.json"))
    return {f"{RECORDED}:{path.parent.name}": json.loads(path.read_text(encoding="utf-8")) for path in places}


def recorded_choices() -> list[dict[str, str]]:
    """What a page offers of them: {"id", "label"} each."""
    names = {(pair.base, pair.adapter): name for name, pair in PAIRS.items()}
    return [
        {"id": str(name), "label": f"{names.get((found['model'], found['adapter']), found['pair'])}, n = {found['n']}"}
        for name, found in recorded_claims().items()
    ]


def _asked(found: dict[str, Any]) -> Mapping[str, str | None]:
    """What `claims_command` wants to know; a document names the budget only where it was another than the usual one."""
    return {name: found.get(name) for name in ("model", "adapter", "teacher", "budget")}


def claims_texts() -> list[dict[str, Any]]:
    """The parts of the rows that never change: the page has them from the start."""
    same = ("id", "section", "paper", "how", "caveats", "button", "studies")
    return [{"claim": claim.title, **{name: getattr(claim, name) for name in same}} for claim in CLAIMS]


def _figures(found: dict[str, Any], asked: Mapping[str, str | None]) -> Message:
    """What a message tells of a document of claims; `asked` as in `claims_command`."""
    licence, source = set_facts(found["set"])
    about = {"licence": licence, "source": source, "command": claims_command(found, asked)}
    return about | {"rows": [_row(row) for row in found["rows"]]} | {name: found[name] for name in FACTS}


def _at_rest(row: Message, error: str | None) -> Message:
    """A row of a job that is over: what was still being measured has failed, or was stopped."""
    if row["state"] != "measuring":
        return row
    return row | ({"state": "failed", "why": error} if error else {"state": "stopped"})


def _row(row: dict[str, Any]) -> Message:
    """The parts of a row that change."""
    kept = {name: row[name] for name in ("id", "verdict", "rule", "why", "n", "minutes", "state")}
    return kept | {"text": row["measured"]["text"], "bars": [bar.json() for bar in bars_of(row)]}
