"""Evaluations for the page: what it may ask for, the jobs and the pages that look at them, the visitors' own files."""

import json
import logging
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from rmx.config import ASSETS, MOST_NAME
from rmx.data.problem_files import MAX_TEXT_BYTES, shown_name
from rmx.data.problem_sets import SETS, load_set, problems_from_text, split_name
from rmx.engine.decoding_memory import is_out_of_memory, out_of_memory
from rmx.engine.fair_queue import Kind, current_owner
from rmx.errors import ProblemError, RmxError
from rmx.evaluate.eval_report import EvalConfig, answered, contestants_of
from rmx.evaluate.evaluation import Evaluation
from rmx.evaluate.sample_store import SampleStore
from rmx.models.names import shipped_adapters
from rmx.models.style_options import StyleOptions, from_form
from rmx.models.workspace import Workspace
from rmx.records import Problem
from rmx.runs.store import RunStore, row
from rmx.service import write_command
from rmx.service.checks import short_enough
from rmx.service.requests import EvalRequest
from rmx.storage.job_store import JobStore, MemoryShares, bytes_of, give_back
from rmx.storage.rendering import csv_text
from rmx.ui.jobs import page_jobs
from rmx.ui.jobs.page_jobs import EVALUATIONS, RECORDED, Message, PageJob, field_of, number, whole

GRACE = 30.0  # seconds after its last page has left that an evaluation goes on: a reload takes less
UNSEEN = 180.0  # seconds after the last look at it, on a public site; a page that is hidden looks once a minute


@dataclass(frozen=True, slots=True)
class EvaluateForm:
    """What a visitor wants measured, checked. `own` are the problems of a file that was read in the browser."""

    model: str
    adapters: tuple[str, ...]
    set_name: str
    limit: int
    n: int
    temperature: float
    top_p: float
    seed: int
    max_new_tokens: int
    own: tuple[Problem, ...] | None = None
    style: StyleOptions = field(default_factory=StyleOptions)  # what is asked of the prompt

    @property
    def samples(self) -> int:
        """Completions that it takes at most, the greedy ones included."""
        problems = self.limit if self.own is None else min(self.limit, len(self.own))
        return problems * (self.n + 1) * (1 + len(self.adapters))

    def command(self) -> str:
        """The same evaluation from a shell."""
        names = ("model", "limit", "n", "temperature", "top_p", "seed", "max_new_tokens")
        asked = {name: getattr(self, name) for name in names}
        request = EvalRequest.model_construct(**asked, adapter=list(self.adapters), set=self.set_name)
        return shlex.join([*write_command(request, self.style), "--json"])


@dataclass(eq=False)
class EvalJob(PageJob):
    """One evaluation. A thread of its own feeds it; any page that knows its id may look."""

    asked: EvaluateForm
    clock: Callable[[], float] = time.monotonic
    unseen: float | None = None  # seconds without a look after which it ends; None: never
    state: str = "loading"  # then running; at last done, stopped or failed
    document: Message = field(default_factory=dict)  # the report's JSON
    rows: dict[str, tuple[int, int, Message]] = field(default_factory=dict)  # id -> stamp of last change, place, row
    notes: dict[str, str] = field(default_factory=dict)  # of the runs among the contestants
    stamp: int = 0
    _found: int = 0  # bytes of what it has found
    _places: dict[str, int] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)
    _watchers: set[str] = field(default_factory=set)
    _alone: float | None = None  # since when no page looks at it

    def __post_init__(self) -> None:
        self._begun = self._seen = self.clock()  # when it began, and when it was last looked at

    def parts(self) -> list[Any]:
        return [self.asked]

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._found

    def begin(self, problems: Sequence[Problem]) -> None:
        """Take the problems, in the order in which pages list them."""
        with self._lock:
            self._places = {problem.id: i for i, problem in enumerate(problems)}
            self.state = "running"
            self.stamp += 1

    def take(self, document: dict[str, Any]) -> None:
        """Take a newer report."""
        with self._lock:
            self.stamp += 1
            rows = document.get("per_problem", [])
            for row in rows:
                _, place, known = self.rows.get(row["id"], (0, len(self._places) + len(self.rows), None))
                if known != row:
                    self.rows[row["id"]] = (self.stamp, self._places.get(row["id"], place), row)
                    self._found += bytes_of(row) - (bytes_of(known) if known else 0)
            # Each row is there once, in however many reports it came.
            self.document = document | ({"per_problem": [self.rows[row["id"]][2] for row in rows]} if rows else {})

    def end(self, error: str | None = None) -> None:
        """Note that nothing more comes, and what went wrong."""
        with self._lock:
            self.error = error
            done = bool(self.document.get("done"))
            self._found += bytes_of({key: value for key, value in self.document.items() if key != "per_problem"})
            self.state = "failed" if error else "done" if done else "stopped"
            self.stamp += 1
            self.done = True

    def message(self, since: int = 0) -> Message:
        """Its state; figures and rows that have changed after `since`, a stamp of an earlier message."""
        with self._lock:
            self._seen = self.clock()
            news: Message = {"kind": "eval", "id": self.id, "state": self.state, "stamp": self.stamp}
            news |= self._progress() | page_jobs.line_and_error(self)
            if since < self.stamp and self.document:
                news["report"] = {key: value for key, value in self.document.items() if key != "per_problem"}
                news["rows"] = [[place, row] for stamp, place, row in self.rows.values() if stamp > since]
            if since <= 0:
                news |= {"command": self.asked.command(), "own": self.asked.own is not None, "notes": self.notes}
                news["recorded"] = self.id == RECORDED
            return news

    def _progress(self) -> Message:
        at, of, cached = (int(self.document.get(key) or 0) for key in ("at", "of", "cached"))
        seconds = float(self.document.get("seconds") or 0.0)
        made = at - cached
        # What was known already came at once: the speed is that of what is made.
        left = seconds / made * (of - at) if made > 0 and not self.done else None
        passed = seconds if self.done or seconds else self.clock() - self._begun
        return {"at": at, "of": of, "cached": cached, "seconds": round(passed, 1), "left": left}

    def join(self, session: str) -> None:
        with self._lock:
            self._watchers.add(session)
            self._alone = None

    def leave(self, session: str) -> None:
        """Note that a page looks no longer. After the last one it goes on for a moment: a page may be reloaded."""
        with self._lock:
            self._watchers.discard(session)
            if not self._watchers:
                self._alone = self.clock()

    @property
    def stopped(self) -> bool:
        """Whether it shall end: it was asked to, its pages are closed, or no page looks at it."""
        alone, now = self._alone, self.clock()
        if self.unseen is not None and now - self._seen > self.unseen:
            return True
        return self._stop.is_set() or (alone is not None and now - alone > GRACE)


log = logging.getLogger(__name__)
OWN = "own file"  # the choice of a set that was read in the browser
STYLE_FORM = ("style", "system", "thinking", "stops", "answers")  # of a form, in the order of `from_form`
COUNTS = (0, 4, 16, 64, 256)  # samples per problem that the page offers
MOST_PROBLEMS, MOST_SAMPLES, MOST_ADAPTERS = 5000, 256, 5
PUBLIC_PROBLEMS, PUBLIC_SAMPLES = 200, 16  # on a public site, where others wait
PUBLIC_BYTES = 500_000_000  # of completions that a public site keeps on disk
FILE_BYTES = MAX_TEXT_BYTES
LISTED = 200  # runs that are offered
INTERVAL = 0.6  # seconds between two looks at the figures, or more where they take long to make
Measure = Callable[[EvalJob, list[Problem]], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file that one visitor has read in."""

    name: str
    problems: tuple[Problem, ...]
    owner: str | None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return bytes_of(self)


@dataclass(frozen=True, slots=True)
class Opened:
    """A problem of an evaluation, for another tab."""

    model: str
    adapter: str | None
    problem: str
    answer: str
    max_new_tokens: int
    style: StyleOptions
    set_name: str


class Evaluator:
    """Evaluations for the page. They and own files share the account of what visitors keep in memory.

    Args:
        measure: makes the reports of a job; tests put a script here.
    """

    def __init__(
        self,
        workspace: Workspace,
        store: RunStore | None = None,
        measure: Measure | None = None,
        kept: MemoryShares | None = None,
    ) -> None:
        self.workspace, self.store = workspace, store or RunStore()
        self._measure = measure or self._evaluation
        gone = "This evaluation is no longer in memory. Press Evaluate: what was made is kept on disk."
        self.jobs: JobStore[EvalJob] = JobStore(gone, kept)
        self.kept = self.jobs.kept
        first = "Choose a .jsonl or .csv file of your own first."
        self.files: JobStore[OwnFile] = JobStore(first, self.kept, error=ProblemError)
        self._pace: dict[tuple[str, str], float] = {}  # (model, set) -> seconds per completion, as last seen here

    def contestants(self, model: str) -> list[tuple[str, str]]:
        """What can be measured beside this base, as (title, spec): bundled adapters, then runs, the newest first."""
        model = model.strip()
        bundled = shipped_adapters(model)
        runs = [found for found in map(row, self.store.all()[:LISTED]) if found["has_adapter"]]
        mine = [(f"{r['id']} · {r['note']}".rstrip(" ·")[:90], r["id"]) for r in runs if r["model"] == model]
        return [*((name, name) for name in bundled), *mine]

    def asked(self, form: Mapping[str, Any], paths: bool = False) -> EvaluateForm:
        """Check what a form asks for; `paths`: whether this visitor may name files of the machine."""
        model = str(form.get("model") or "mini").strip()
        short_enough("The model's name", model, MOST_NAME)
        most_problems, most_samples = self._most
        n = whole(form.get("n"), "number of samples per problem", 0, most_samples)
        temperature = number(form.get("temperature"), "temperature", 0.0, 2.0)
        if n > 1 and temperature == 0:
            raise RmxError("At temperature 0 all samples are the same. Raise it, or ask for 0 samples: greedy only.")
        set_name, own = self._set(form, paths)
        adapters = _adapters(form.get("adapters"))
        limit = whole(form.get("limit"), "number of problems", 1, most_problems)
        top_p, seed = number(form.get("top_p"), "top-p", 0.01, 1.0), whole(form.get("seed"), "seed", 0, 2**31 - 1)
        most = whole(form.get("max_new_tokens"), "most tokens", 1, int(form.get("most") or 65536))
        style = from_form(*(form.get(name) for name in STYLE_FORM))
        return EvaluateForm(model, adapters, set_name, limit, n, temperature, top_p, seed, most, own, style)

    @property
    def _most(self) -> tuple[int, int]:
        """Problems, and samples of each, that one evaluation may have."""
        return (PUBLIC_PROBLEMS, PUBLIC_SAMPLES) if self.workspace.policy.public else (MOST_PROBLEMS, MOST_SAMPLES)

    def _set(self, form: Mapping[str, Any], paths: bool) -> tuple[str, tuple[Problem, ...] | None]:
        name = str(form.get("set") or "").strip()
        short_enough("The set's name", name, MOST_NAME)
        if name == OWN:
            file = self.files.get(field_of(form.get("file"), "file"))
            return file.name, file.problems
        if not name:
            raise ProblemError("Choose a problem set first.")
        if split_name(name)[0] not in SETS and not paths:
            known = f"Sets are {', '.join(self.workspace.policy.problem_sets())}"
            raise ProblemError(
                f"There is no problem set '{name[:80]}'. {known}; for problems of your own choose '{OWN}'."
            )
        if not paths:
            self.workspace.policy.admit_set(name)
        return name, None

    def plan(self, asked: EvaluateForm) -> Message:
        """What it would take, as far as that is known, and the command."""
        pace = self._pace.get((asked.model, asked.set_name))
        known = SETS.get(split_name(asked.set_name)[0]) if asked.own is None else None
        about = {"title": known.title, "licence": known.licence, "source": known.source} if known else None
        plan: Message = {"kind": "plan", "samples": asked.samples, "seconds": pace and pace * asked.samples}
        return plan | {"command": asked.command(), "set": about, "own": asked.own is not None}

    def take_file(self, data: object) -> Message:
        """Keep a file, {"name", "text"}, that was read in the browser; only that page gets to know its id.

        Of its problems only so many are kept as one evaluation takes.
        """
        given = field_of(data, "name")
        problems = problems_from_text(given, field_of(data, "text"))
        file = OwnFile(shown_name(given), tuple(problems[: self._most[0]]), current_owner.get().owner)
        self.kept.admit(file.nbytes, file.owner, file.name)
        self.files.add(file)
        answers = sum(problem.answer is not None for problem in problems)
        return {"file": file.id, "name": file.name, "problems": len(problems), "answers": answers}

    def start(self, asked: EvaluateForm) -> EvalJob:
        """Begin to measure, in a thread of its own."""
        who = replace(current_owner.get(), kind=Kind.BULK)
        job = EvalJob(asked, who=who, unseen=UNSEEN if self.workspace.policy.public else None)
        EVALUATIONS.begin(job, self.workspace)
        self.jobs.add(job)
        threading.Thread(target=self._work, args=(job,), name="rmx-evaluate", daemon=True).start()
        return job

    def _work(self, job: EvalJob) -> None:
        """Measure from the first problem to the end; whatever goes wrong becomes the job's error."""
        current_owner.set(job.who)  # for this thread
        began, asked, public = time.monotonic(), job.asked, self.workspace.policy.public
        try:
            problems = list(asked.own) if asked.own is not None else load_set(asked.set_name)
            problems = answered(problems[: asked.limit], asked.set_name)
            job.notes = self._notes(asked)
            job.begin(problems)
            self._take_reports(job, problems)
            job.end()
        except RmxError as error:
            job.end(str(error))
        except Exception as error:
            if is_out_of_memory(error):
                job.end(out_of_memory("Take fewer tokens or a smaller model; what was measured is kept."))
            else:
                log.exception("an evaluation has failed")
                what = type(error).__name__
                job.end(f"The evaluation broke off ({what}). This is a fault of rmx; its log says more.")
        if public:  # what strangers have had computed does not fill the disk
            SampleStore().trim(PUBLIC_BYTES)
        give_back()
        page_jobs.log_request("eval", time.monotonic() - began, {"model": asked.model, "outcome": job.state})

    def _take_reports(self, job: EvalJob, problems: list[Problem]) -> None:
        """Give the job its reports, the last one and one now and then before it."""
        report, due = None, 0.0
        for report in self._measure(job, problems):
            if time.monotonic() >= due and not report.done:
                begun = time.monotonic()
                job.take(report.json())
                self.jobs.grow(job)
                due = time.monotonic() + max(INTERVAL, 4 * (time.monotonic() - begun))
        if report is not None:
            job.take(report.json())
            self.jobs.grow(job)
            made = report.at - report.cached
            if made > 0 and report.seconds > 0 and job.asked.own is None:
                self._pace[job.asked.model, job.asked.set_name] = report.seconds / made

    def _evaluation(self, job: EvalJob, problems: list[Problem]) -> Iterator[Any]:
        """Yield the reports of the library's evaluation."""
        asked = job.asked
        config = EvalConfig(asked.n, (), asked.temperature, asked.top_p, asked.seed, asked.max_new_tokens)
        contestants = contestants_of(self.workspace, asked.model, asked.adapters, (), asked.style, asked.set_name)
        store = SampleStore(readable=not self.workspace.policy.public)
        made = Evaluation(contestants, problems, config, asked.set_name, store=store)
        yield from made.run(lambda: job.stopped)

    def _notes(self, asked: EvaluateForm) -> dict[str, str]:
        """The notes of the runs among the contestants."""
        notes = {}
        for spec in asked.adapters:
            with suppress(RmxError):  # no run
                notes[spec] = str(self.store.get(spec.partition("/")[0]).config.get("note") or "")
        return {spec: note for spec, note in notes.items() if note}

    @cached_property
    def recorded(self) -> EvalJob:
        """The evaluation of the bundled miniature and its adapters that pages show at first; it has no rows."""
        document = json.loads((ASSETS / "mini" / "evaluation.json").read_text(encoding="utf-8"))
        names = [model["adapter"] for model in document["models"][1:]]
        given = {name: document[name] for name in ("temperature", "top_p", "seed", "max_new_tokens")}
        asked = EvaluateForm("mini", tuple(names), document["set"], document["problems"], document["samples"], **given)
        job = EvalJob(asked, id=RECORDED)
        job.take(document)
        job.end()
        return job

    def tail(self, data: object) -> Message:
        """What is new of {"id"} after the stamp {"since"}."""
        since, name = field_of(data, "since"), field_of(data, "id")
        job = self.recorded if name == RECORDED else self.jobs.find(name)
        if job is None:
            return {"kind": "gone", "id": str(name)[:80]}
        return job.message(since if type(since) is int else 0)

    def export(self, data: object) -> dict[str, Any]:
        """{"id", "format": "json" | "csv"} -> {"name", "mime", "text"}."""
        job_id = field_of(data, "id")
        document = (self.recorded if job_id == RECORDED else self.jobs.get(job_id)).document
        if not document:
            raise RmxError("There is nothing to export yet.")
        name = "".join(c if c.isalnum() else "-" for c in str(document.get("set", "set"))).strip("-") or "set"
        texts = {"json": lambda: json.dumps(document, ensure_ascii=False, indent=1), "csv": lambda: table(document)}
        return page_jobs.download(f"evaluation-{name}", texts, field_of(data, "format"))

    def opened(self, data: object) -> Opened:
        """The problem and the model that {"id", "problem", "name"} names, loaded."""
        job, wanted = self.jobs.get(field_of(data, "id")), field_of(data, "problem")
        if not isinstance(wanted, str) or wanted not in job.rows:
            raise RmxError("This problem is not part of the evaluation.")
        asked, name = job.asked, field_of(data, "name")
        names = [model.get("name") for model in job.document.get("models", [])]
        if name not in names:
            raise RmxError("This model is not part of the evaluation.")
        adapter = [None, *asked.adapters][names.index(name)]
        model = self.workspace.model(asked.model)
        self.workspace.adapter(model, adapter)
        problem, most = job.rows[wanted][2], asked.max_new_tokens
        answer = problem.get("answer") or ""
        return Opened(model.spec, adapter, problem["problem"], answer, most, asked.style, asked.set_name)


def _adapters(given: object) -> tuple[str, ...]:
    names = given if isinstance(given, list | tuple) else [given] if given else []
    specs = [name.strip()[:300] for name in names if isinstance(name, str) and name.strip() not in ("", "base")]
    found = tuple(dict.fromkeys(specs))
    if len(found) > MOST_ADAPTERS:
        raise RmxError(f"At most {MOST_ADAPTERS} adapters beside the base are compared. Take some out.")
    return found


def table(document: Mapping[str, Any]) -> str:
    """One line per problem and model."""
    about_problem, counts = ("id", "part", "cluster", "problem"), ("right", "samples", "truncated", "unparsed")
    of_greedy, rows = ("answer", "correct", "truncated"), list[list[Any]]()
    for problem in document.get("per_problem", []):
        about = [problem.get(key) for key in (*about_problem, "answer")]
        for name, found in problem["models"].items():
            greedy = found.get("greedy") or {}
            first = [greedy.get(key) for key in of_greedy]
            rows.append([*about, name, *first, *(found.get(key) for key in counts)])
    heads = [*about_problem, "known", "model", *(f"greedy_{key}" for key in of_greedy), *counts]
    return csv_text(heads, rows)
