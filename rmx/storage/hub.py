"""The Hugging Face Hub: fetching a model's files, and what goes wrong there in one sentence that says what to do.

Every upload and every download of this program has its refusals from here. A model's files come in a process of their
own, since the Hub's client cannot be stopped: its threads go on to the end. Files that have come whole stay in the
cache.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from rmx.errors import ModelError, first_line

# What the Hub's client raises: HTTP answers and, below them, whichever library carries them; values that it refuses.
FAILURES: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)
_UNREACHED = "{what} could not be fetched: the Hub cannot be reached and no copy is cached here."
TOKENS = "huggingface.co/settings/tokens"


@dataclass(frozen=True, slots=True)
class Upload:
    """What is brought to the Hub, as sentences name it."""

    what: str  # "the adapter"
    place: str  # the repository, NAME or OWNER/NAME
    sign_in: str = f"Copy it again, or make a new one: {TOKENS}."  # where the token is not known
    again: str = "Try again"
    offline: str = "Check the network."  # where the Hub cannot be reached
    price: str = ""  # what is paid for


def upload_sentence(error: Exception, upload: Upload) -> str:
    """What stood against an upload, and what to do.

    The Hub's own words are in it, which may repeat a request: whoever shows the sentence takes tokens out of it.
    """
    if isinstance(error, LocalTokenNotFoundError):
        return f"The Hub needs to know you. {upload.sign_in}"
    if isinstance(error, HFValidationError):
        return (
            f"'{upload.place}' is no name for a repository. Use letters, digits, '-', '_' and '.', as NAME or "
            "OWNER/NAME."
        )
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, upload)
    if isinstance(error, ValueError):
        return f"The Hub's client refused {upload.what}: {first_line(error)}"
    if isinstance(error, RuntimeError):
        return f"The upload broke off: {first_line(error)} {upload.again}."
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        file = f": {error.filename}" if error.filename else ""
        return f"A file of {upload.what} cannot be read or written ({os.strerror(error.errno)}{file})."
    return f"The Hub cannot be reached ({first_line(error) or type(error).__name__}). {upload.offline}"


def _refusal(error: HfHubHTTPError, upload: Upload) -> str:
    status = _status(error)
    said = first_line(error.server_message or "")
    what, place = upload.what, upload.place
    if status is not None and status >= 500:
        return f"The Hub has a fault of its own right now ({status}). {upload.again} later."
    known = {
        401: f"The Hub does not know this token. {upload.sign_in}",
        402: f"The Hub wants payment for {what}{f' ({said})' if said else ''}. {upload.price}".rstrip(),
        403: f"This token may not write to {place} ({said or 'forbidden'}). Make one with the right to write.",
        404: f"The Hub has no place called {place}, or this token may not see it. Check the owner's name.",
        409: f"{place} exists already. Choose another name, or update what is there.",
        429: f"The Hub takes no more requests from here for now. {upload.again} in a few minutes.",
    }
    return known.get(status or 0) or f"The Hub refused {what} ({status}{': ' + said if said else ''})."


# Words of libraries that wrap the client's errors.
_MISSING = ("not a valid model identifier", "404", "is not a local folder")
_UNREACHABLE = ("connect", "offline", "resolve")


def download_sentence(error: Exception, what: str, instead: str = "take another one") -> str | None:
    """Why something cannot be had from the Hub, and what to do `instead`; None where the error is not the Hub's.

    It is the client's, or of a library that wraps the client's, in its cause or in its words alone.
    """
    one: BaseException | None = error
    while one is not None and (found := _download(one, what, instead)) is None:
        one = one.__cause__
    return None if one is None else found


def check_reach(repo: str, seconds: float = 5) -> None:
    """Refuse a model of the Hub at once where there is no way to the Hub: its client tries for half a minute.

    Args:
        repo: the model's id; anything else, what is cached, and a way through a proxy are left to the client.
        seconds: how long a connection may take.

    Raises:
        ModelError: the Hub does not answer.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or Path(repo).exists() or getproxies():
        return
    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(repo, "config.json"), str):
        return
    hub = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((hub.hostname, hub.port or 443), timeout=seconds).close()
    except OSError as error:
        raise ModelError(_UNREACHED.format(what=repo)) from error


def _download(error: BaseException, what: str, instead: str) -> str | None:
    text, status = str(error), _status(error)
    words = text.lower()
    unreachable = _UNREACHED.format(what=what)
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return unreachable
    # Of what it does not have the Hub says 401 to those that it does not know.
    missing = isinstance(error, EntryNotFoundError | RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
    if not missing and ("gated" in words or "401" in text or "403" in text):
        return f"{what} is gated or private. Accept its licence on the Hub and set HF_TOKEN, or {instead}."
    if missing or any(said in text for said in _MISSING):
        return f"{what} was found neither here nor on the Hub. Check the spelling, or that it is public."
    if status == 429 or "too many requests" in words:
        return f"{what} could not be fetched: the Hub takes no more requests from here for now. Try again later."
    if status is not None and status >= 500:
        return f"{what} could not be fetched: the Hub has a fault of its own right now ({status}). Try again later."
    if isinstance(error, ConnectionError | TimeoutError) or any(w in words for w in _UNREACHABLE):
        return unreachable
    return None


def _status(error: BaseException) -> int | None:
    """The status of an answer of the Hub."""
    found: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return found


# -- A model on its way -----------------------------------------------------------------------------------------------


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
        words = [sys.executable, "-m", "rmx.storage.hub", self.repo, self.revision or ""]
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
    from huggingface_hub import snapshot_download

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
