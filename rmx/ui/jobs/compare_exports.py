"""What the compare view lets a visitor take home: the job's document as JSON, its table as CSV."""

import csv
import io
import json
from typing import Any

from rmx.compare.intervene_set import arms_csv
from rmx.errors import RmxError
from rmx.ui.jobs.compare import Comparer


def export(comparer: Comparer, data: object) -> dict[str, Any]:
    """{"id", "format": "json" | "csv"} -> {"name", "mime", "text"}.

    Raises:
        RmxError: nothing there, or another format.
    """
    wanted = data if isinstance(data, dict) else {}
    document = comparer.document(wanted.get("id"))
    name = "interventions" if "arms" in document else "shifts"
    if wanted.get("format") == "json":
        return {"name": f"{name}.json", "mime": "application/json", "text": json.dumps(document, ensure_ascii=False)}
    if wanted.get("format") == "csv":
        return {"name": f"{name}.csv", "mime": "text/csv", "text": table(document)}
    raise RmxError("Exports are JSON or CSV.")


def table(document: dict[str, Any]) -> str:
    """The document as a table: arms per problem, tokens of one map, or figures of a set."""
    if "arms" in document:
        return arms_csv(document)
    out = io.StringIO()
    rows = csv.writer(out)
    if "tokens" in document:
        columns = ["pos", "id", "text", "class", "near_tie", "fork", "kl", "rank", "p", "back_rank", "back_p"]
        rows.writerow([*columns, "base_entropy", "adapted_entropy"])
        for token in document["tokens"]:
            rows.writerow([*(token[c] for c in columns), token["base"]["entropy"], token["adapted"]["entropy"]])
        return out.getvalue()
    rows.writerow(["figure", "value", "low", "high", "n", "placebo"])
    figures = document["intervals"] | {name: document[name] for name in ("mean_rank", "entropy_ratio")}
    noise = document["placebo"] or {}
    theirs = noise.get("intervals", {}) | {k: noise.get(k) for k in ("mean_rank", "entropy_ratio")}
    for name, estimate in figures.items():
        placebo = (theirs.get(name) or {}).get("value")
        rows.writerow([name, *(estimate[k] for k in ("value", "low", "high", "n")), placebo])
    return out.getvalue()
