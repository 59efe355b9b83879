"""How events of the page are wired: quietly, outside the public API, streams beside each other."""

from typing import Any

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LIGHT: dict[str, Any] = {**QUIET, "queue": False}
# The engine has a fair queue of its own; these only bound how many threads wait in it. All events of one id must name
# the same limit: gradio takes the lowest.
STREAM: dict[str, Any] = {**QUIET, "concurrency_id": "engine", "concurrency_limit": 24, "trigger_mode": "multiple"}
MEASURE: dict[str, Any] = {**STREAM, "concurrency_id": "measured", "concurrency_limit": 16}
PLAN: dict[str, Any] = {**QUIET, "concurrency_id": "plan", "concurrency_limit": 2}
