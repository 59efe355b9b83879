"""The train road for the pages: what they ask about runs, and what a visitor may do with them.

Every answer is read from the files of the runs, so a reload, a second browser or a restart of the app changes nothing.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from rmx.config import ASSETS
from rmx.data.problem_sets import split_name
from rmx.engine.fair_queue import Kind, as_owner, current_owner
from rmx.errors import Busy, RmxError, TrainError
from rmx.models.workspace import Workspace
from rmx.records import Problem
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob, admit_job, problems_of, resolved
from rmx.runs.rates import load_rates, set_rate
from rmx.runs.recipe import NO_DRY, PRESETS, Recipe
from rmx.runs.store import EMPTY, RunStore, costs, owner_of, row, tested
from rmx.train.adapter_folder import push_adapter, zipped
from rmx.train.data_stages import dry_message, stored_selection
from rmx.train.estimate import estimate_ahead
from rmx.train.probe import check_room, probe, this_device
from rmx.train.slices import slicer_of
from rmx.ui.jobs.page_jobs import PATIENCE, field_of, start_of
from rmx.ui.visitor_cookie import Visitor

Reply = dict[str, Any]
POLL_BYTES = 400_000  # of events that one poll reads at most
LISTED = 200  # runs in the table
COMPARED = 8
MOST_KEPT = 200  # runs of visitors on a public site
TEMPERATURE, MICRO_BATCH = 1.0, 8  # of a probe, whatever a recipe asks: one serves all recipes for a model and a set
MOST_PROBED = 32  # models and sets whose speeds are remembered
FREE = "The model is busy. Minutes and memory are known once it is free."
SLICED = "On ZeroGPU a run goes in slices of a minute of GPU, each of your own quota. Resume goes on where it ended."
HIDDEN = frozenset({"micro"})  # kinds that pages do not need


class Training:
    """Answers for the Train and Runs pages."""

    def __init__(self, workspace: Workspace, store: RunStore | None = None) -> None:
        self.workspace = workspace
        self.store = store or RunStore(private=workspace.policy.public, slicer=slicer_of(workspace.remote_of))
        self.store.watch()  # runs may be queued since the app's last time
        self._probed: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._probing = threading.Lock()

    def run_tail(self, data: object) -> Reply:
        """Events of {"id"} from byte {"start"} on; the config comes with the first ones."""
        folder, at = self.store.get(field_of(data, "id")), start_of(data)
        events, after = folder.events(at, POLL_BYTES)
        more = folder.events(after, 1)[1] > after  # one more whole line is there
        shown = [event for event in events if event["kind"] not in HIDDEN]
        found: Reply = {"id": folder.id, "start": at, "next": after, "more": more, "events": shown}
        if at == 0:  # the ids of pinned forks are of no use there
            found["config"] = {key: value for key, value in folder.config.items() if key != "pins"}
        return found | {"status": folder.status}

    def runs_list(self, data: object) -> Reply:
        """The runs that this visitor may see, with their figures on test problems; where there are none, "recorded" are
        those of the bundled adapter."""
        rates = load_rates(self.store.root)
        rows = [tested(row(folder, rates)) for folder in self.store.all()[:LISTED]]
        if any(one["state"] == "queued" for one in rows):
            self.store.watch()
        return {"runs": rows} if rows else {"runs": [], "recorded": recorded_runs()}

    def run_sweep(self, data: object) -> Reply:
        """The curve of the sweep {"id"}: the thresholds that are trained so far."""
        folder = self.store.get(field_of(data, "id"))
        return {"id": folder.id, "sweep": folder.sweep}

    def costs(self, data: object) -> Reply:
        """Rates, what every run cost at them, the sum, and the paper's table."""
        return costs(self.store.all()[:LISTED], this_device(), self.store.root)

    def rate(self, data: object, visitor: Visitor) -> None:
        """Enter {"usd"} per hour for the machine {"name"}; no amount takes the entry back."""
        if not visitor.admin:
            raise RmxError("Only the owner of this machine may change its rates.")
        usd = field_of(data, "usd")
        set_rate(field_of(data, "name"), None if usd in (None, "") else str(usd), self.store.root)

    def run_curves(self, data: object) -> Reply:
        """Updates and checks of the runs {"ids"}."""
        ids = field_of(data, "ids")
        if not isinstance(ids, list) or not 0 < len(ids) <= COMPARED:
            raise RmxError(f"Choose between 1 and {COMPARED} runs.")
        return {"runs": [_curves(self.store.get(one)) for one in ids]}

    def adapter_zip(self, run: str) -> tuple[str, bytes]:
        """File name and bytes of a run's adapter."""
        folder = self.store.get(run)
        return f"{folder.id}.zip", zipped(folder.path / "adapter", folder.id)

    def opened(self, data: object) -> tuple[str, str]:
        """Model and adapter of {"id"}, loaded; a run that is not done yet gives its latest checkpoint."""
        folder = self.store.get(field_of(data, "id"))
        spec, model = adapter_spec(folder), self.workspace.model(folder.config["model"])
        self.workspace.adapter(model, spec)
        return model.spec, spec

    def run_files(self, data: object) -> Reply:
        """The files of the run {"id"}."""
        return {"files": self.store.get(field_of(data, "id")).files()}

    def dry_run(self, data: object) -> Reply:
        """What every threshold would gate of the rollouts that {"id"} has stored."""
        folder = self.store.get(field_of(data, "id"))
        job = TrainJob.from_json(folder.config)
        if owner_of(folder) is not None:
            admit_job(self.workspace.policy, job)
        model = self.workspace.model(job.model)
        rollouts, selection = stored_selection(job, folder.path)
        gate, recipe = folder.summary.get("gate", {}), job.recipe
        tau = model.tau if gate.get("tau") is None else gate["tau"]
        about: dict[str, Any] = {"run": folder.id, "tau": tau, "selection": selection, "estimate": gate.get("estimate")}
        return dry_message(model, rollouts, k=recipe.rollouts.k, max_seq_len=recipe.optim.max_seq_len, **about)

    def start(self, job: TrainJob, visitor: Visitor, dry: bool = False) -> RunFolder:
        """A new run in a process of its own, or in the queue where others go first."""
        admit_job(self.workspace.policy, job)
        if dry and job.taus:
            raise TrainError(NO_DRY)
        if self.workspace.remote_of(job.model) is None:  # no GPU has room beside the models that are loaded
            check_room(job)
        self._make_room(visitor)
        folder = self.store.create(resolved(job), owner=visitor.public)
        try:
            self.store.start(folder.id, *(["--dry-run"] if dry else []))
        except RmxError:
            if not folder.alive and not folder.events()[0]:
                self.store.remove(folder.id)
            raise
        return folder

    def refuse_second(self, job: TrainJob, visitor: Visitor) -> None:
        """Refuse a visitor who has a run under way: any other on a public site, the very same one anywhere.

        Raises:
            Busy: it names the run that goes on.
        """
        asked = resolved(job).json()
        for run in self.store.all(everybodys=True):
            mine = owner_of(run) == visitor.public and run.alive
            if mine and (self.workspace.policy.public or TrainJob.from_json(run.config).json() == asked):
                raise Busy(f"Your run {run.id} goes on. Stop it first, or wait until it is done.")

    def _make_room(self, visitor: Visitor) -> None:
        """On a public site a visitor's own oldest runs go where too many are kept, and where too many are kept of all
        visitors together, the oldest of anybody; never one that is under way or that has no owner."""
        keep = self.workspace.policy.kept_runs
        if not keep:
            return
        over = [run for run in self.store.all(everybodys=True) if owner_of(run) is not None and not run.alive]
        mine = [run for run in over if owner_of(run) == visitor.public]
        for run in {run.id: run for run in (*mine[keep - 1 :], *over[MOST_KEPT - 1 :])}.values():
            with suppress(TrainError):  # somebody else was quicker, or has just resumed it
                self.store.remove(run.id)

    def stop(self, data: object, visitor: Visitor) -> None:
        """End the run {"id"} at its next step."""
        self.store.stop(self._own(data, visitor, "stop").id)

    def resume(self, data: object, visitor: Visitor) -> None:
        """Go on with {"id"}; {"tau"} is another threshold, where nothing was trained yet."""
        folder, tau = self._own(data, visitor, "resume"), field_of(data, "tau")
        if not visitor.admin:  # it may have been begun under other settings
            admit_job(self.workspace.policy, TrainJob.from_json(folder.config))
        changed = ["--tau", f"{tau:g}"] if isinstance(tau, int | float) and not isinstance(tau, bool) else []
        self.store.start(folder.id, *changed)

    def remove(self, data: object, visitor: Visitor) -> None:
        """Delete the run {"id"} with all its files."""
        self.store.remove(self._own(data, visitor, "delete").id)

    def note(self, data: object, visitor: Visitor) -> None:
        """Put the note {"text"} on the run {"id"}."""
        self._own(data, visitor, "annotate").note(str(field_of(data, "text") or ""))

    def push(self, data: object, visitor: Visitor) -> str:
        """Push the adapter of {"id"} with the visitor's own token; returns its address."""
        folder = self._own(data, visitor, "push")
        repo, token = str(field_of(data, "repo") or ""), str(field_of(data, "token") or "")
        return push_adapter(folder.path / "adapter", repo, token, private=field_of(data, "private") is not False)

    def _own(self, data: object, visitor: Visitor, action: str) -> RunFolder:
        folder = self.store.get(field_of(data, "id"))
        if not visitor.may_change(folder.config.get("owner")):
            raise TrainError(f"Only who started a run, or the owner of this machine, may {action} it.")
        return folder

    def plan(self, job: TrainJob) -> Reply:
        """What a run would take, as far as that can be known now, and the command that starts it."""
        admit_job(self.workspace.policy, job)
        departs = job.recipe.departures().items()
        paper = [[name, *("–" if v is None else str(shown_value(v)) for v in both)] for name, both in departs]
        message: Reply = {"kind": "plan", "minutes": None, "memory_mb": None, "usd": None, "departs": paper}
        message |= {"command": job.command_line(), "rate": "Minutes and memory are known once the model is loaded."}
        if self.workspace.process_is_copied:
            message["rate"] = SLICED if self.workspace.remote_of(job.model) else "Minutes are known once it runs."
        elif job.model in self.workspace.loaded:
            try:
                problems = problems_of(job)
                message |= estimate_ahead(job, problems, self._speeds(job, problems.train), None).plan()
            except Busy:
                message["rate"] = FREE
        return message

    def _speeds(self, job: TrainJob, problems: Sequence[Problem]) -> Any:
        """How fast the model is here, and how long its solutions of this set are; measured once."""
        key = (job.model, split_name(job.set_name or "")[0])
        if not self._probing.acquire(timeout=PATIENCE):
            raise Busy("Another plan is being measured. Try again in a moment.")
        try:
            if key not in self._probed:
                model = self.workspace.model(job.model)
                with as_owner(current_owner.get(), Kind.BULK), model.engine.queue.turn(PATIENCE):
                    found = probe(model, problems, temperature=TEMPERATURE, micro_batch=MICRO_BATCH, seconds=1.0)
                self._probed[key] = found
                if len(self._probed) > MOST_PROBED:
                    self._probed.popitem(last=False)
            return self._probed[key]
        finally:
            self._probing.release()


@lru_cache(maxsize=1)
def recorded_runs() -> list[Reply]:
    """Rows of the runs behind the bundled adapter `reasonmaxxer`, with their figures on held-out problems."""
    found = json.loads((ASSETS / "mini" / "reasonmaxxer" / "figures.json").read_text(encoding="utf-8"))
    ships = found["shipped"]["variant"], found["shipped"]["seed"]
    rows = [_recorded(run, (run["variant"], run["seed"]) == ships) for run in found["runs"]]
    return sorted(rows, key=lambda one: -one["vs_base"]["value"])


def _recorded(run: dict[str, Any], ships: bool) -> Reply:
    differs = {name: ours for name, (_, ours) in run["departures"].items()}
    preset, test = run["variant"] if run["variant"] in PRESETS else "small", run["held_out_numbers"]
    job = TrainJob("mini", "mini", Recipe().with_(seed=run["seed"], **differs), preset)
    note = "bundled as reasonmaxxer" if ships else ""
    return EMPTY | {
        "id": f"{run['variant'].replace('_', '-')}-{run['seed']}", "model": "mini", "set": "mini", "preset": preset,
        "state": "done", "tau": run["gate"]["tau"], "gated": run["gate"]["share"], "before": test["base"],
        "after": test["adapted"], "vs_base": test["change"], "on": "test", "minutes": run["seconds"] / 60, "note": note,
        "differs": differs, "by_construction": True, "command": job.command_line(), "recorded": True,
    }  # fmt: skip


def adapter_spec(folder: RunFolder) -> str:
    """How the adapter of a run is named: the run's id, ID/step_N while only checkpoints are there, ID/tau_X of a sweep
    that goes on.
    """
    if (folder.path / "adapter" / "adapter_config.json").is_file():
        return folder.id
    if done := [one["tau"] for one in (folder.sweep or {"taus": []})["taus"] if one.get("adapter")]:
        return f"{folder.id}/tau_{done[-1]:g}"
    steps = sorted(int(p.name[5:]) for p in (folder.path / "checkpoints").glob("step_*") if p.name[5:].isdigit())
    if not steps:
        raise TrainError(f"The run {folder.id} has no adapter yet. Wait for its first checkpoint.")
    return f"{folder.id}/step_{steps[-1]}"


def shown_value(value: Any) -> Any:
    """A value of a recipe as forms show it."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, tuple):
        return ", ".join(value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _curves(folder: RunFolder) -> Reply:
    """Updates and checks; of a sweep those of the chosen threshold, or of the one that is under way."""
    config, events = folder.config, folder.events()[0]
    tau = (folder.sweep or {}).get("chosen")
    if tau is None:
        tau = next((e["tau"] for e in reversed(events) if e["kind"] == "update" and "tau" in e), None)

    def last_ones(kind: str) -> list[Any]:
        """By the update; a resumed run writes those after its checkpoint again."""
        of_tau = [event for event in events if event["kind"] == kind and event.get("tau") == tau]
        found = {e["optimizer_step"]: e for e in of_tau if type(e.get("optimizer_step")) is int}
        return [found[at] for at in sorted(found)]

    label = config.get("note") or f"{config['model']} · {config.get('preset')}"
    return {"id": folder.id, "label": label, "updates": last_ones("update"), "checks": last_ones("check")}
