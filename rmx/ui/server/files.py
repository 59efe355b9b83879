"""The two routes that take a file: a problem set for Evaluate, a saved tree for Explore. The body is its text."""

from collections.abc import Callable
from typing import Any

import anyio
import fastapi
from fastapi.responses import JSONResponse

from rmx.ui.tabs.wiring import Who, answering

AT_ONCE = 2  # files that are read at the same time: each holds a thread and a few times its size
Question = Callable[[object], dict[str, Any]]


def add_file_routes(api: fastapi.FastAPI, problems: Question, tree: Question, who: Who) -> None:
    """Add `POST /files/problems?name=…` and `POST /files/tree`.

    Args:
        problems: `{"name", "text"}` -> what the page is told of a problem set.
        tree: `{"text"}` -> what the page is told of a saved tree.
        who: names the visitor behind a request.
    """
    free = anyio.CapacityLimiter(AT_ONCE)
    ask_problems, ask_tree = answering(problems, who), answering(tree, who)

    async def answer(question: Callable[..., Any], about: dict[str, Any], request: fastapi.Request) -> JSONResponse:
        try:
            text = (await request.body()).decode("utf-8")
        except UnicodeDecodeError:
            return JSONResponse({"error": "The file is not UTF-8 text. Save it as UTF-8."}, 422)
        reply = await anyio.to_thread.run_sync(question, about | {"text": text}, request, limiter=free)
        return JSONResponse(reply)

    @api.post("/files/problems")
    async def take_problems(request: fastapi.Request, name: str = "") -> JSONResponse:
        return await answer(ask_problems, {"name": name[:200]}, request)

    @api.post("/files/tree")
    async def take_tree(request: fastapi.Request) -> JSONResponse:
        return await answer(ask_tree, {}, request)
