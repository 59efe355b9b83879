"""What the evaluate view lets a visitor take home: the report as JSON, its problems as CSV."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from rmx.errors import RmxError
from rmx.ui.jobs.evaluate import Evaluator

COLUMNS = ("id", "part", "cluster", "problem", "known", "model", "greedy_answer", "greedy_correct", "greedy_truncated")
COUNTS = ("right", "samples", "truncated", "unparsed")


def export(evaluator: Evaluator, data: object) -> dict[str, Any]:
    """{"id", "format": "json" | "csv"} -> {"name", "mime", "text"}.

    Raises:
        RmxError: nothing there yet, or another format.
    """
    wanted = data if isinstance(data, dict) else {}
    document = evaluator.get(wanted.get("id")).document
    if not document:
        raise RmxError("There is nothing to export yet.")
    name = "".join(c if c.isalnum() else "-" for c in str(document.get("set", "set"))).strip("-") or "set"
    if wanted.get("format") == "json":
        text = json.dumps(document, ensure_ascii=False, indent=1)
        return {"name": f"evaluation-{name}.json", "mime": "application/json", "text": text}
    if wanted.get("format") == "csv":
        return {"name": f"evaluation-{name}.csv", "mime": "text/csv", "text": table(document)}
    raise RmxError("Exports are JSON or CSV.")


def table(document: Mapping[str, Any]) -> str:
    """One line per problem and model."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow([*COLUMNS, *COUNTS])
    for problem in document.get("per_problem", []):
        about = [problem.get(key) for key in ("id", "part", "cluster", "problem", "answer")]
        for name, found in problem["models"].items():
            greedy = found.get("greedy") or {}
            said = [greedy.get(key) for key in ("answer", "correct", "truncated")]
            rows.writerow([*about, name, *said, *(found.get(key) for key in COUNTS)])
    return out.getvalue()
