"""Whether an app could be made to hand out a file of the machine: asked at start, by asking the app itself."""

import asyncio
import atexit
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from rmx.errors import RmxError

VARIABLE = "GRADIO_TEMP_DIR"


@cache
def use_own_folder() -> str:
    """Have gradio keep its files in a new folder that only this user may open; to be called before a page is built.

    By itself it takes a folder in the system's temporary one, which all apps of the machine share.
    """
    folder = tempfile.mkdtemp(prefix="rmx-gradio-")
    os.environ[VARIABLE] = folder
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a forked copy
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


ROADS = ("run/predict", "api/predict", "queue/join", "component_server")
EVENTS = 3  # of the page that are tried; all share their way in
WAYS = ("file=", "file/", "proxy=file://", "stream/")


def check_no_file_is_served(app: Any) -> None:
    """Ask an ASGI application for a file that only this process knows, in every way that ever worked.

    Raises:
        RmxError: it gave the file away, or it failed.
    """
    word = secrets.token_hex(16)
    folders = {tempfile.gettempdir(), os.environ.get(VARIABLE, tempfile.gettempdir())}
    canaries = []
    try:
        for folder in folders:
            handle, name = tempfile.mkstemp(prefix="rmx-canary-", suffix=".txt", dir=folder)
            canaries.append(Path(name))
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(word)
        with ThreadPoolExecutor(1) as thread:  # this one may have a loop that runs already
            given_away = thread.submit(asyncio.run, _ask(app, canaries, word)).result()
    finally:
        for canary in canaries:
            canary.unlink(missing_ok=True)
    if given_away:
        said = f"This app would hand out files of the machine ({given_away}), so it does not start. Update rmx."
        raise RmxError(said)


async def _ask(app: Any, canaries: list[Path], word: str) -> str | None:
    """The request that brought a canary to light; None where none did."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/gradio_api") as client:
        for canary in canaries:
            for way in WAYS:
                if word in (await client.get(f"/{way}{canary}")).text:
                    return way
            for road, body in _bodies(canary):
                text = (await client.post(f"/{road}", json=body)).text
                for copy in re.findall(r"/[^\s\"'\\]*rmx-canary-[^\s\"'\\]*", text):
                    if word in (await client.get(f"/file={copy}")).text:
                        return road
                if word in text:
                    return road
    return None


def _bodies(canary: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests that name a file as gradio's clients do."""
    file = {"path": str(canary), "meta": {"_type": "gradio.FileData"}}
    for road in ROADS:
        for index in range(EVENTS):
            yield road, {"data": [file], "fn_index": index, "session_hash": "canary", "component_id": 1, "fn_name": "x"}
