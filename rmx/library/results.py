"""Documents that know how to show themselves: a line in a terminal, a table in a notebook, rows for pandas."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmx.library.notebook import cell, chart, flat, to_frame
from rmx.stats.text import brief
from rmx.storage.rendering import render

if TYPE_CHECKING:
    from pandas import DataFrame

PARTED = ("reranked", "shifted")  # classes of tokens at which two models part
POINTS = (-0.5, 0.5)  # edges of the bar of a difference


class ResultDocument:
    """What a measurement found. `json()` is what the command of the same name prints with `--json`.

    Args:
        document: the command's document.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def json(self) -> dict[str, Any]:
        """Return the document."""
        return self._document

    def __getitem__(self, key: str) -> Any:
        return self._document[key]

    def save(self, path: str) -> None:
        """Write the document as a file of JSON."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self._document, file, ensure_ascii=False)

    def __repr__(self) -> str:
        return f"<{self.sentence()}>"

    def to_frame(self) -> "DataFrame":
        """Return the rows as a pandas data frame.

        Raises:
            RmxError: pandas is not installed.
        """
        return to_frame(self.rows())

    def _repr_html_(self) -> str:
        heads, lines = self.table()
        return render(
            "notebook/table.html", title=self.sentence(), heads=heads, lines=lines, notes=self.notes(), chart=None
        )

    def sentence(self) -> str:
        """Say in one line what was measured and what came out."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """Return what was measured, one flat record a line."""
        raise NotImplementedError

    def table(self) -> tuple[Sequence[str], list[list[Any]]]:
        """Return the heads and lines of the table that a notebook shows: texts, or cells of `notebook.cell`."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Return the sentences below the table."""
        return []


# -- two models -------------------------------------------------------------------------------------------------------


class ShiftMapDocument(ResultDocument):
    """Where base and adapted model part on one solution."""

    def sentence(self) -> str:
        found = self._document
        return (
            f"{found['base']} against {found['adapted']}: {found['positions']} tokens, "
            f"{found['disagreements']} disagreements ({found['near_ties']} near ties)"
        )

    def rows(self) -> list[dict[str, Any]]:
        names = ("pos", "id", "text", "class", "near_tie", "fork", "kl", "rank", "p")
        return [
            {name: token[name] for name in names}
            | {f"{side}_{name}": token[side][name] for side in ("base", "adapted") for name in ("entropy", "logp")}
            for token in self._document["tokens"]
        ]

    def _repr_html_(self) -> str:
        tokens = [
            {
                "text": token["text"],
                "kind": "parted" if token["class"] in PARTED else "",
                "weight": min(1.0, token["kl"]),
                "facts": f"position {token['pos']}: KL {token['kl']:.3f} nats, {token['class']}",
                "lists": [{"name": side, "top": token[side]["top"], "chosen": None} for side in ("base", "adapted")],
            }
            for token in self._document["tokens"]
        ]
        answer = self._document["answer"]
        notes = [self._document["base_check"]["sentence"]]
        return render("notebook/tokens.html", title=self.sentence(), tokens=tokens, answer=answer, notes=notes)


SHARES = {
    "unshifted": "same choice",
    "reranked": "another choice, inside the base's top five",
    "shifted": "another choice, outside it",
    "on_forks": "disagreements on forks",
    "on_forks_by_chance": "expected on forks by chance",
    "untouched": "solutions without a disagreement",
}


class ShiftSetDocument(ResultDocument):
    """Where base and adapted model part over a problem set, beside a random adapter of the same size."""

    def sentence(self) -> str:
        found = self._document
        return (
            f"{found['base']} against {found['adapted']}: {found['problems']} problems of {found['set']}, "
            f"{found['positions']} positions, {found['disagreements']} disagreements"
        )

    def rows(self) -> list[dict[str, Any]]:
        names = (*SHARES, "mean_rank", "entropy_ratio")
        return [
            {"figure": name} | flat("adapted", self._estimate(name)) | flat("placebo", self._estimate(name, "placebo"))
            for name in names
        ]

    def _estimate(self, name: str, of: str | None = None) -> Any:
        found = self._document if of is None else self._document[of]
        if not found:
            return None
        return found[name] if isinstance(found.get(name), dict) else found["intervals"].get(name)

    def table(self) -> tuple[Sequence[str], list[list[Any]]]:
        lines: list[list[Any]] = [
            [label, cell(self._estimate(name)), cell(self._estimate(name, "placebo"))] for name, label in SHARES.items()
        ]
        return ("", "adapted", "random adapter"), lines


class ArmsDocument(ResultDocument):
    """What patching the base with single tokens does to its answers, arm by arm."""

    def _arms(self) -> dict[str, Any]:
        placebo = self._document["placebo"]
        return self._document["arms"] | ({"placebo": placebo} if placebo else {})

    def sentence(self) -> str:
        found = self._document
        figures = ", ".join(f"{arm} {brief(one['pass@1'], '%')}" for arm, one in found["arms"].items())
        return f"{found['base']} and {found['adapted']}: {found['n']} problems of {found['set']}; {figures}"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"arm": arm, "touched": one["touched"]}
            | flat("pass@1", one["pass@1"])
            | flat("vs_base", one.get("vs_base"))
            | {"won": one.get("won"), "lost": one.get("lost")}
            for arm, one in self._arms().items()
        ]

    def table(self) -> tuple[Sequence[str], list[list[Any]]]:
        lines: list[list[Any]] = [
            [
                arm,
                cell(one["pass@1"]),
                f"{100 * one['touched']:.2f} %",
                cell(one.get("vs_base"), "points", POINTS),
            ]
            for arm, one in self._arms().items()
        ]
        return ("arm", "pass@1", "tokens touched", "against the base"), lines

    def notes(self) -> list[str]:
        return list(self._document["reading"])


# -- one solution -----------------------------------------------------------------------------------------------------


class OutcomesDocument(ResultDocument):
    """What each alternative at one place is worth."""

    def sentence(self) -> str:
        found = self._document
        what = "right answer" if found["target"]["known"] else "answer of this solution"
        return f"position {found['pos']}, {what} {found['target']['text']}: {found['verdict']}"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {name: a[name] for name in ("id", "text", "p", "chosen", "samples")} | flat("correct", a["correct"])
            for a in self._document["alternatives"]
        ]

    def table(self) -> tuple[Sequence[str], list[list[Any]]]:
        lines: list[list[Any]] = [
            [a["text"], f"{a['p']:.3f}", cell(a["correct"]), a["samples"]] for a in self._document["alternatives"]
        ]
        return ("token", "probability", "reaches the answer", "samples"), lines

    def notes(self) -> list[str]:
        return [str(self._document["rule"])]


class ImportanceDocument(ResultDocument):
    """Which forks of a solution decide its answer."""

    def sentence(self) -> str:
        points = self._document["points"]
        decide = sum(bool(point["decides"]) for point in points)
        return f"{len(points)} forks measured, {decide} decide the answer {self._document['target']['text']}"

    def rows(self) -> list[dict[str, Any]]:
        names = ("pos", "text", "decides")
        return [
            {name: point[name] for name in names} | flat("importance", point["importance"])
            for point in self._document["points"]
        ]

    def table(self) -> tuple[Sequence[str], list[list[Any]]]:
        lines: list[list[Any]] = [
            [point["pos"], point["text"], cell(point["importance"]), "decides" if point["decides"] else ""]
            for point in self._document["points"]
        ]
        return ("position", "token", "importance", ""), lines

    def notes(self) -> list[str]:
        return [str(self._document["rule"])]


class RescueDocument(ResultDocument):
    """The fewest swaps that turn an answer."""

    def sentence(self) -> str:
        return str(self._document["sentence"])

    def rows(self) -> list[dict[str, Any]]:
        return [dict(swap) for swap in self._document["swaps"]]

    def table(self) -> tuple[Sequence[str], list[list[Any]]]:
        rows = self.rows()
        heads = list(rows[0]) if rows else []
        return heads, [[row[head] for head in heads] for row in rows]

    def notes(self) -> list[str]:
        return [str(self._document["note"])]


class SoFarDocument(ResultDocument):
    """The answer that the model gives after each sentence of a solution."""

    def sentence(self) -> str:
        mode = self._document["mode"]
        share = "" if mode["share"] is None else f" after {100 * mode['share']:.0f} % of the sentences"
        return f"the most frequent answer is {mode['answer'] or 'none'}{share}"

    def rows(self) -> list[dict[str, Any]]:
        return [{name: p[name] for name in ("pos", "answer", "correct")} for p in self._document["points"]]

    def table(self) -> tuple[Sequence[str], list[list[Any]]]:
        verdict = {True: "right", False: "wrong", None: ""}
        lines: list[list[Any]] = [[r["pos"], r["answer"] or "–", verdict[r["correct"]]] for r in self.rows()]
        return ("position", "answer so far", ""), lines


# -- models on a set --------------------------------------------------------------------------------------------------


class EvaluationDocument(ResultDocument):
    """Accuracy of several models on the same problems and draws, with the differences from the first one."""

    def sentence(self) -> str:
        found = self._document
        figures = "; ".join(f"{m['name']} {brief(m['greedy'], '%')}" for m in found["models"])
        return f"{found['set']}: {found['problems']} problems, {found['samples']} samples each; greedy {figures}"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"model": model["name"], "figure": name} | flat("value", value) | flat("vs_base", differences.get(name))
            for model, differences in self._models()
            for name, value in _figures(model)
        ]

    def _models(self) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
        paired = {pair["name"]: dict(_figures(pair)) for pair in self._document["paired"]}
        return [(model, paired.get(model["name"], {})) for model in self._document["models"]]

    def table(self) -> tuple[Sequence[str], list[list[Any]]]:
        lines: list[list[Any]] = [
            [model["name"], name, cell(value), cell(differences.get(name), "points", POINTS)]
            for model, differences in self._models()
            for name, value in _figures(model)
        ]
        return ("model", "figure", "value", "against the first"), lines

    def notes(self) -> list[str]:
        rule = self._document["verdict_rule"]
        return [*(crossing["sentence"] for crossing in self._document["crossings"]), *([rule] if rule else [])]

    def _repr_html_(self) -> str:
        heads, lines = self.table()
        curves = {
            model["name"]: [(float(k), value) for k, value in model["pass@k"].items() if value["value"] is not None]
            for model in self._document["models"]
        }
        drawn = chart(curves, "k", "pass@k") if self._document["samples"] else None
        return render(
            "notebook/table.html", title=self.sentence(), heads=heads, lines=lines, notes=self.notes(), chart=drawn
        )


def _figures(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The figures of a model, or of its difference from the first, by name."""
    figures = [("greedy", found["greedy"])] if found["greedy"]["value"] is not None else []
    figures += [(f"pass@{k}", value) for k, value in found["pass@k"].items()]
    return figures + [(f"majority of {k}", value) for k, value in list(found["majority"].items())[-1:]]
