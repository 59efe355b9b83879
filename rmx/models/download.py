"""A model's files on their way from the Hub: how far they are, and a way to stop them.

They come in a process of their own, since the Hub's client cannot be stopped: its threads go on to the end. Files that
have come whole stay in the cache.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from rmx.errors import ModelError, first_line
from rmx.storage.hub_errors import FAILURES, check_reach, download_sentence

WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
IGNORED = ["*/*", "consolidated*"]  # other formats, and the same weights once more
INDEX = "model.safetensors.index.json"
PAUSE = 0.3  # seconds between two looks


class DownloadStopped(ModelError):
    """A person stopped the download."""


class Download:
    """The files of one model.

    Args:
        repo: its id on the Hub. revision: branch, tag or commit; None: the newest.
    """

    def __init__(self, repo: str, revision: str | None = None) -> None:
        self.repo, self.revision = repo, revision
        self.stopped = threading.Event()
        self._said: dict[str, Any] = {}

    def is_cached(self) -> bool:
        """Whether all of its weights are here."""

        def path(name: str) -> str | None:
            found = try_to_load_from_cache(self.repo, name, revision=self.revision)
            return found if isinstance(found, str) else None

        if index := path(INDEX):
            shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
            return all(path(shard) for shard in shards)
        return bool(path("config.json") and path("model.safetensors"))

    def steps(self) -> Iterator[tuple[int, int, float]]:
        """Fetch them; yields the bytes that have come, those that were missing (0: not known yet), and for how many
        seconds nothing has come.

        Raises:
            ModelError: why they cannot be had. DownloadStopped: a person did.
        """
        check_reach(self.repo)
        before = come = self._held()
        words = [sys.executable, "-m", "rmx.models.download", self.repo, self.revision or ""]
        about: dict[str, Any] = {"env": {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}, "text": True}
        with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, **about) as child:
            reader = threading.Thread(target=self._listen, args=[child], daemon=True)
            reader.start()
            moved = time.monotonic()
            try:
                while child.poll() is None and not self.stopped.wait(PAUSE):
                    now = self._held()
                    come, moved = (now, time.monotonic()) if now != come else (come, moved)
                    yield come - before, int(self._said.get("missing", 0)), time.monotonic() - moved
            finally:  # the client's lock lets nobody else fetch the same file, so what is half there is the child's
                half = [file for file in self._files() if file.suffix == ".incomplete" and child.poll() is None]
                child.kill()
                child.wait()
                for file in half:
                    file.unlink(missing_ok=True)
            reader.join()
        if self.stopped.is_set():
            raise DownloadStopped(f"{self.repo}: stopped. Files that had come whole are kept for the next try.")
        if child.returncode:
            raise ModelError(self._said.get("error") or f"{self.repo} could not be fetched: the download broke off.")

    def _listen(self, child: "subprocess.Popen[str]") -> None:
        for line in child.stdout or ():
            self._said.update(json.loads(line))

    def _files(self) -> list[Path]:
        name = repo_folder_name(repo_id=self.repo, repo_type="model")
        return list((Path(constants.HF_HUB_CACHE) / name / "blobs").glob("*"))

    def _held(self) -> int:
        """Bytes of this model in the cache, of files that are not complete too."""
        size = 0
        for file in self._files():
            try:
                size += file.stat().st_size
            except OSError:  # it was renamed just now
                continue
        return size


def _fetch(repo: str, revision: str | None) -> None:
    """Fetch the files; prints how many bytes are missing and, where they cannot be had, why."""
    files: dict[str, Any] = {"allow_patterns": WANTED, "ignore_patterns": IGNORED}
    what: dict[str, Any] = {"revision": revision, "etag_timeout": 5, **files}
    try:
        plan = snapshot_download(repo, dry_run=True, **what)
        missing = sum(file.file_size for file in plan if file.will_download)
        print(json.dumps({"missing": missing}), flush=True)  # noqa: T201
        snapshot_download(repo, **what)
    except FAILURES as error:
        why = download_sentence(error, repo, "take another model") or f"{repo} cannot be fetched: {first_line(error)}"
        print(json.dumps({"error": why}), flush=True)  # noqa: T201
        raise SystemExit(1) from error


if __name__ == "__main__":
    _fetch(sys.argv[1], sys.argv[2] or None)
