"""How events of the page are wired: quietly, outside the public API, streams beside each other."""

from typing import Any

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LIGHT: dict[str, Any] = {**QUIET, "queue": False}
# The engine has a fair queue of its own; this only bounds how many threads wait in it.
STREAM: dict[str, Any] = {**QUIET, "concurrency_id": "engine", "concurrency_limit": 24, "trigger_mode": "multiple"}
