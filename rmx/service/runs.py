"""The verb about training runs: how they stand."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from rmx.errors import cut_paths
from rmx.runs.row import row
from rmx.service.verb import Cancelled, Document, Site, Verb, without

LISTED = 200  # runs


@dataclass(frozen=True, kw_only=True)
class TrainStatusRequest(Verb):
    """How the training runs stand: all of them, or one with what was asked and its files."""

    run: Annotated[str | None, "a run's id, or as much of its beginning as only one has; by default all runs"] = None
    brief: Annotated[bool, "of one run only how it stands"] = False

    def steps(self, site: Site, cancelled: Cancelled) -> Iterator[Document]:
        if self.run is None:
            yield without_folders({"runs": [row(folder) for folder in site.store.all()[:LISTED]]})
            return
        folder = site.store.get(self.run)
        found: dict[str, Any] = {"run": row(folder), "status": folder.status}
        if not self.brief:
            found["files"] = folder.files()
            found |= {"sweep": folder.sweep} if folder.sweep else {}
            readable = found["run"]["state"] != "unreadable"
            found["config"] = without(folder.config, "pins") if readable else None
        yield without_folders(found)


def without_folders(value: Any) -> Any:
    """The same with every absolute path of this machine cut down to its last part."""
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(one) for one in value]
    return cut_paths(value) if isinstance(value, str) else value
