"""The train road for the pages: what they ask about runs, and what a visitor may do with them. No gradio here.

A page knows nothing but the files of the runs: every answer is read from them, so a reload, a second browser or a
restart of the app changes nothing.
"""

from collections.abc import Mapping
from typing import Any

from rmx.errors import RmxError, TrainError
from rmx.train.job import TrainJob, resolved
from rmx.train.run_folder import RunFolder
from rmx.train.run_store import RunStore, row
from rmx.ui.owners import Visitor, may
from rmx.workspace import Workspace

Reply = dict[str, Any]
POLL_BYTES = 400_000  # of events that one poll reads at most
LISTED = 200  # runs in the table
COMPARED = 8
HIDDEN = frozenset({"micro"})  # kinds that pages do not need


class Training:
    """Answers for the Train and Runs pages."""

    def __init__(self, workspace: Workspace, store: RunStore | None = None) -> None:
        self.workspace = workspace
        self.store = store or RunStore()

    # -- what everybody may see ---------------------------------------------------------------------------------------

    def run_tail(self, data: object) -> Reply:
        """Events of {"id"} from byte {"start"} on; the config comes with the first ones."""
        folder, start = self.store.get(_get(data, "id")), _get(data, "start")
        at = start if type(start) is int and start > 0 else 0
        events, after = folder.events(at, POLL_BYTES)
        found: Reply = {
            "id": folder.id,
            "start": at,
            "next": after,
            "events": [e for e in events if e["kind"] not in HIDDEN],
            "status": folder.status,
        }
        return found | ({"config": _public(folder.config)} if at == 0 else {})

    def runs_list(self, data: object) -> Reply:
        return {"runs": [row(folder) for folder in self.store.all()[:LISTED]]}

    def run_curves(self, data: object) -> Reply:
        """Updates and checks of the runs {"ids"}."""
        ids = _get(data, "ids")
        if not isinstance(ids, list) or not 0 < len(ids) <= COMPARED:
            raise RmxError(f"Choose between 1 and {COMPARED} runs.")
        return {"runs": [_curves(self.store.get(one)) for one in ids]}

    def run_files(self, data: object) -> Reply:
        root = self.store.get(_get(data, "id")).path
        files = sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
        return {"files": [{"path": str(p.relative_to(root)), "bytes": p.stat().st_size} for p in files[:500]]}

    def dry_run(self, data: object) -> Reply:
        """What every threshold would gate of the rollouts that {"id"} has stored."""
        from rmx.train.dry import dry_message
        from rmx.train.first_stages import stored_selection

        folder = self.store.get(_get(data, "id"))
        job = TrainJob.from_json(folder.config)
        model = self.workspace.model(job.model)
        rollouts, selection = stored_selection(job, folder.path)
        gate = folder.summary.get("gate", {})
        tau = gate.get("tau")
        return dry_message(
            model,
            rollouts,
            run=folder.id,
            tau=model.tau if tau is None else tau,
            k=job.recipe.rollouts.k,
            max_seq_len=job.recipe.optim.max_seq_len,
            selection=selection,
            estimate=gate.get("estimate"),
        )

    # -- what a visitor may do with own runs --------------------------------------------------------------------------

    def start(self, job: TrainJob, visitor: Visitor, dry: bool = False) -> RunFolder:
        """A new run in a process of its own.

        Raises:
            RmxError: the job cannot be done, or too many runs wait.
        """
        self.check_memory(job)
        folder = self.store.create(resolved(job), owner=visitor.public)
        try:
            self.store.start(folder.id, *(["--dry-run"] if dry else []))
        except RmxError:
            if not folder.alive and not folder.events()[0]:
                self.store.remove(folder.id)
            raise
        return folder

    def stop(self, data: object, visitor: Visitor) -> None:
        self.store.stop(self._own(data, visitor, "stop").id)

    def resume(self, data: object, visitor: Visitor) -> None:
        """Go on with {"id"}; {"tau"} is another threshold, where nothing was trained yet."""
        folder, tau = self._own(data, visitor, "resume"), _get(data, "tau")
        changed = ["--tau", f"{tau:g}"] if isinstance(tau, int | float) and not isinstance(tau, bool) else []
        self.store.start(folder.id, *changed)

    def remove(self, data: object, visitor: Visitor) -> None:
        self.store.remove(self._own(data, visitor, "delete").id)

    def note(self, data: object, visitor: Visitor) -> None:
        self._own(data, visitor, "annotate").note(str(_get(data, "text") or ""))

    def push(self, data: object, visitor: Visitor) -> str:
        """Push the adapter of {"id"} with the visitor's own token; returns its address."""
        from rmx.train.export import push_adapter

        folder = self._own(data, visitor, "push")
        repo, token = str(_get(data, "repo") or ""), str(_get(data, "token") or "")
        return push_adapter(folder.path / "adapter", repo, token, private=_get(data, "private") is not False)

    def _own(self, data: object, visitor: Visitor, action: str) -> RunFolder:
        folder = self.store.get(_get(data, "id"))
        if not may(visitor, folder.config.get("owner"), action):
            raise TrainError(f"Only who started a run, or the owner of this machine, may {action} it.")
        return folder

    # -- plans --------------------------------------------------------------------------------------------------------

    def check_memory(self, job: TrainJob) -> None:
        """Refuse a run that this machine's GPU has no room for beside the models that are loaded."""
        from rmx.train.room import check_room

        check_room(job)


def _curves(folder: RunFolder) -> Reply:
    config, events = folder.config, folder.events()[0]
    kept: dict[str, dict[int, Any]] = {"update": {}, "check": {}}
    for event in events:  # a resumed run tells the updates after its checkpoint again: the last word counts
        if event["kind"] in kept:
            kept[event["kind"]][event["optimizer_step"]] = event
    ordered = {kind: [found[at] for at in sorted(found)] for kind, found in kept.items()}
    label = config.get("note") or f"{config['model']} · {config.get('preset')}"
    return {"id": folder.id, "label": label, "updates": ordered["update"], "checks": ordered["check"]}


def _public(config: Mapping[str, Any]) -> Reply:
    """A config as pages get it: without the ids of pinned forks, which are of no use there."""
    return {key: value for key, value in config.items() if key != "pins"}


def _get(data: object, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None
