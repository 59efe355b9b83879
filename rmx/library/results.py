"""Results that show themselves: a line in a terminal, HTML for a notebook, rows for pandas, a bar for whoever waits.

The HTML has no script and asks for nothing; it takes the colours of the notebook's theme. Templates escape whatever
they are given.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from tqdm.auto import tqdm

from rmx.errors import RmxError
from rmx.stats.intervals import Estimate
from rmx.stats.text import brief
from rmx.storage.rendering import render

if TYPE_CHECKING:
    from pandas import DataFrame

Series = Mapping[str, Sequence[tuple[float, Estimate]]]  # name of a curve -> its (place, share) in order
Curves = tuple[Series, str, str]  # with the labels of the axes
WIDTH, HEIGHT, LEFT, BOTTOM = 480, 200, 46, 24  # of a chart, in pixels
FORK, ELSEWHERE = "#d55e00", "#e69f00"  # of a solution's tokens
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by colour-blind readers too


def to_frame(rows: Sequence[Mapping[str, Any]]) -> "DataFrame":
    """Make a pandas data frame of rows.

    Raises:
        RmxError: pandas is not installed.
    """
    try:
        import pandas  # noqa: PLC0415  only those who ask for a frame need it
    except ImportError as error:
        raise RmxError("A data frame needs pandas, which is not installed. Run: pip install pandas") from error
    return pandas.DataFrame(list(rows))


def flat(name: str, estimate: Estimate | None) -> dict[str, Any]:
    """Spread an estimate over the columns `name`, `name_low` and `name_high`."""
    found = estimate or {}
    return {name: found.get("value"), f"{name}_low": found.get("low"), f"{name}_high": found.get("high")}


def cell(estimate: Estimate | None, unit: str = "%", scale: tuple[float, float] = (0.0, 1.0)) -> dict[str, Any]:
    """Describe an estimate for a table: its text and, where it has an interval, a bar.

    Args:
        estimate: a share, or a difference of shares. unit: "%" or "points".
        scale: the values at the left and the right edge of the bar.
    """
    if estimate is None or estimate["value"] is None:
        return {"text": "–", "bar": None}
    bar, (left, right) = None, scale
    if estimate["low"] is not None:
        ends = (min(max(estimate[key], left), right) for key in ("low", "value", "high"))
        low, value, high = (100 * (end - left) / (right - left) for end in ends)
        bar = {"low": round(low, 2), "width": round(max(high - low, 0.5), 2), "value": round(value, 2)}
    return {"text": brief(estimate, unit), "bar": bar}


def chart(series: Series, x: str, y: str) -> dict[str, Any]:
    """Lay out curves with their 95 % bands as the points of an SVG.

    Args:
        series: shares are from 0 to 1. x, y: labels of the axes.

    Returns:
        What the template chart.html draws; curves without a point are left out.
    """
    drawn = {name: points for name, points in series.items() if points}
    places = sorted({place for points in drawn.values() for place, _ in points}) or [0.0]
    inner = WIDTH - LEFT - 16
    across = {p: LEFT + inner * (i / (len(places) - 1) if len(places) > 1 else 0.5) for i, p in enumerate(places)}

    def point(place: float, share: float) -> str:
        return f"{across[place]:.1f},{12 + (HEIGHT - BOTTOM - 24) * (1 - share):.1f}"

    curves = []
    for number, (name, points) in enumerate(drawn.items()):
        upper = [point(p, e["high"]) for p, e in points if e["high"] is not None]
        lower = [point(p, e["low"]) for p, e in reversed(points) if e["low"] is not None]
        line, band = " ".join(point(p, e["value"]) for p, e in points), " ".join([*upper, *lower])
        dots = [{"at": point(p, e["value"]).split(","), "text": f"{p:g}: {brief(e, '%')}"} for p, e in points]
        about = {"name": name, "colour": COLOURS[number % len(COLOURS)]}
        curves.append(about | {"line": line, "band": band, "dots": dots})
    ticks = [{"at": round(across[p], 1), "text": f"{p:g}"} for p in places]
    rows = [{"at": point(places[0], s).split(",")[1], "text": f"{100 * s:g} %"} for s in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "x": x, "y": y, "curves": curves, "ticks": ticks, "rows": rows,
    }  # fmt: skip


def curves_figure(series: Series, x: str, y: str) -> go.Figure:
    """Draw curves with their 95 % bands as a Plotly figure, in percent; arguments as of `chart`."""
    figure = go.Figure()
    for number, (name, points) in enumerate(series.items()):
        whole = [(place, e) for place, e in points if e["low"] is not None and e["high"] is not None]
        edges = [(p, e["high"]) for p, e in whole] + [(p, e["low"]) for p, e in reversed(whole)]
        colour, about = COLOURS[number % len(COLOURS)], {"legendgroup": name, "name": name}
        band = {"fill": "toself", "opacity": 0.2, "line_width": 0, "showlegend": False, "hoverinfo": "skip"}
        figure.add_scatter(x=[p for p, _ in edges], y=[100 * s for _, s in edges], fillcolor=colour, **band, **about)
        line = {"mode": "lines+markers", "line_color": colour, "text": [brief(e, "%") for _, e in points]}
        hover = f"{x} %{{x}}: %{{text}}"
        places, shares = [p for p, _ in points], [100 * e["value"] for _, e in points]
        figure.add_scatter(x=places, y=shares, hovertemplate=hover, **line, **about)
    return figure.update_layout(xaxis_title=x, yaxis_title=y, yaxis_ticksuffix=" %", template="plotly_white")


class NotebookProgress:
    """The progress of one job, stage by stage: a widget in a notebook, a line elsewhere.

    Args:
        shown: False shows nothing.
    """

    def __init__(self, shown: bool = True) -> None:
        self._shown, self._what = shown, ""
        self._bar: Any = None

    def __enter__(self) -> "NotebookProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, what: str, at: int, of: int) -> None:
        """Say that `at` of `of` are done; another `what` begins another bar."""
        if not self._shown:
            return
        if what != self._what or self._bar is None:
            self.__exit__()
            self._what, self._bar = what, tqdm(total=of, desc=what)
        self._bar.total = of
        self._bar.update(at - self._bar.n)


# -- Documents that know how to show themselves -----------------------------------------------------------------------


PARTED = ("reranked", "shifted")  # classes of tokens at which two models part
POINTS = (-0.5, 0.5)  # edges of the bar of a difference
Table = tuple[Sequence[str], list[list[Any]]]  # heads and lines: texts, or cells of `notebook.cell`


class ResultDocument:
    """What a measurement found. `json()` is what the command of the same name prints with `--json`.

    Args:
        document: the command's document.
    """

    below = ""  # the key of the sentences that stand below the table

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def json(self) -> dict[str, Any]:
        """Return the document."""
        return self._document

    def __getitem__(self, key: str) -> Any:
        return self.json()[key]

    def save(self, path: str) -> None:
        """Write the document as a file of JSON."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.json(), file, ensure_ascii=False)

    def __repr__(self) -> str:
        return f"<{self.sentence()}>"

    def to_frame(self) -> "DataFrame":
        """Return the rows as a pandas data frame."""
        return to_frame(self.rows())

    def _repr_html_(self) -> str:
        heads, lines = self.table()
        below = {"notes": self.notes(), "chart": chart(*curves) if (curves := self.curves()) else None}
        return render("notebook/table.html", title=self.sentence(), heads=heads, lines=lines, **below)

    def sentence(self) -> str:
        """Say in one line what was measured and what came out."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """Return what was measured, one flat record a line."""
        raise NotImplementedError

    def table(self) -> Table:
        """Return the heads and lines of the table that a notebook shows."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Return the sentences below the table."""
        found = self[self.below] if self.below else []
        return [found] if isinstance(found, str) else list(found)

    def curves(self) -> Curves | None:
        """Return the curves below the table; None where the result has none."""
        return None

    def figure(self) -> go.Figure:
        """Draw the curves as a Plotly figure, to be looked at closely or saved.

        Raises:
            RmxError: the result has no curves.
        """
        if (curves := self.curves()) is None:
            raise RmxError("This result has no curves to draw. Evaluations with samples and training runs have some.")
        return curves_figure(*curves)


def _pick(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names}


# -- two models -------------------------------------------------------------------------------------------------------


class ShiftMapDocument(ResultDocument):
    """Where base and adapted model part on one solution."""

    def sentence(self) -> str:
        return (
            f"{self['base']} against {self['adapted']}: {self['positions']} tokens, "
            f"{self['disagreements']} disagreements ({self['near_ties']} near ties)"
        )

    def rows(self) -> list[dict[str, Any]]:
        names = ("pos", "id", "text", "class", "near_tie", "fork", "kl", "rank", "p")
        sides = [(side, name) for side in ("base", "adapted") for name in ("entropy", "logp")]
        return [
            _pick(token, *names) | {f"{side}_{name}": token[side][name] for side, name in sides}
            for token in self["tokens"]
        ]

    def _repr_html_(self) -> str:
        tokens = []
        for token in self["tokens"]:
            facts = f"position {token['pos']}: KL {token['kl']:.3f} nats, {token['class']}"
            lists = [{"name": side, "top": token[side]["top"], "chosen": None} for side in ("base", "adapted")]
            kind = "parted" if token["class"] in PARTED else ""
            shown = {"text": token["text"], "kind": kind, "weight": min(1.0, token["kl"])}
            tokens.append(shown | {"facts": facts, "lists": lists})
        about = {"answer": self["answer"], "notes": [self["base_check"]["sentence"]]}
        return render("notebook/tokens.html", title=self.sentence(), tokens=tokens, **about)


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
        return (
            f"{self['base']} against {self['adapted']}: {self['problems']} problems of {self['set']}, "
            f"{self['positions']} positions, {self['disagreements']} disagreements"
        )

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"figure": name} | flat("adapted", self._estimate(name)) | flat("placebo", self._estimate(name, "placebo"))
            for name in (*SHARES, "mean_rank", "entropy_ratio")
        ]

    def _estimate(self, name: str, of: str | None = None) -> Any:
        found = self.json() if of is None else self[of]
        if not found:
            return None
        return found[name] if isinstance(found.get(name), dict) else found["intervals"].get(name)

    def table(self) -> Table:
        return ("", "adapted", "random adapter"), [
            [label, cell(self._estimate(name)), cell(self._estimate(name, "placebo"))] for name, label in SHARES.items()
        ]


class ArmsDocument(ResultDocument):
    """What patching the base with single tokens does to its answers, arm by arm."""

    below = "reading"

    def _arms(self) -> dict[str, Any]:
        return self["arms"] | ({"placebo": self["placebo"]} if self["placebo"] else {})

    def sentence(self) -> str:
        figures = ", ".join(f"{arm} {brief(one['pass@1'], '%')}" for arm, one in self["arms"].items())
        return f"{self['base']} and {self['adapted']}: {self['n']} problems of {self['set']}; {figures}"

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for arm, one in self._arms().items():
            figures = flat("pass@1", one["pass@1"]) | flat("vs_base", one.get("vs_base"))
            both = {"won": one.get("won"), "lost": one.get("lost")}
            rows.append({"arm": arm, "touched": one["touched"]} | figures | both)
        return rows

    def table(self) -> Table:
        return ("arm", "pass@1", "tokens touched", "against the base"), [
            [arm, cell(one["pass@1"]), f"{100 * one['touched']:.2f} %", cell(one.get("vs_base"), "points", POINTS)]
            for arm, one in self._arms().items()
        ]


# -- one solution -----------------------------------------------------------------------------------------------------


class OutcomesDocument(ResultDocument):
    """What each alternative at one place is worth."""

    below = "rule"

    def sentence(self) -> str:
        what = "right answer" if self["target"]["known"] else "answer of this solution"
        return f"position {self['pos']}, {what} {self['target']['text']}: {self['verdict']}"

    def rows(self) -> list[dict[str, Any]]:
        names = ("id", "text", "p", "chosen", "samples")
        return [_pick(a, *names) | flat("correct", a["correct"]) for a in self["alternatives"]]

    def table(self) -> Table:
        return ("token", "probability", "reaches the answer", "samples"), [
            [a["text"], f"{a['p']:.3f}", cell(a["correct"]), a["samples"]] for a in self["alternatives"]
        ]


class ImportanceDocument(ResultDocument):
    """Which forks of a solution decide its answer."""

    below = "rule"

    def sentence(self) -> str:
        decide = sum(bool(point["decides"]) for point in self["points"])
        return f"{len(self['points'])} forks measured, {decide} decide the answer {self['target']['text']}"

    def rows(self) -> list[dict[str, Any]]:
        return [_pick(p, "pos", "text", "decides") | flat("importance", p["importance"]) for p in self["points"]]

    def table(self) -> Table:
        return ("position", "token", "importance", ""), [
            [p["pos"], p["text"], cell(p["importance"]), "decides" if p["decides"] else ""] for p in self["points"]
        ]


class RescueDocument(ResultDocument):
    """The fewest swaps that turn an answer."""

    below = "note"

    def sentence(self) -> str:
        return str(self["sentence"])

    def rows(self) -> list[dict[str, Any]]:
        return [dict(swap) for swap in self["swaps"]]

    def table(self) -> Table:
        rows = self.rows()
        return list(rows[0]) if rows else [], [list(row.values()) for row in rows]


class SoFarDocument(ResultDocument):
    """The answer that the model gives after each sentence of a solution."""

    def sentence(self) -> str:
        mode = self["mode"]
        share = "" if mode["share"] is None else f" after {100 * mode['share']:.0f} % of the sentences"
        return f"the most frequent answer is {mode['answer'] or 'none'}{share}"

    def rows(self) -> list[dict[str, Any]]:
        return [_pick(point, "pos", "answer", "correct") for point in self["points"]]

    def table(self) -> Table:
        verdict = {True: "right", False: "wrong", None: ""}
        lines = [[r["pos"], r["answer"] or "–", verdict[r["correct"]]] for r in self.rows()]
        return ("position", "answer so far", ""), lines


# -- models on a set --------------------------------------------------------------------------------------------------


class EvaluationDocument(ResultDocument):
    """Accuracy of several models on the same problems and draws, with the differences from the first one."""

    def sentence(self) -> str:
        figures = "; ".join(f"{m['name']} {brief(m['greedy'], '%')}" for m in self["models"])
        return f"{self['set']}: {self['problems']} problems, {self['samples']} samples each; greedy {figures}"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"model": model, "figure": name} | flat("value", value) | flat("vs_base", difference)
            for model, name, value, difference in self._figures()
        ]

    def _figures(self) -> list[tuple[str, str, Any, Any]]:
        """Model, name of a figure, its value, and its difference from the first model's."""
        paired = {pair["name"]: dict(_figures(pair)) for pair in self["paired"]}
        return [
            (model["name"], name, value, paired.get(model["name"], {}).get(name))
            for model in self["models"]
            for name, value in _figures(model)
        ]

    def table(self) -> Table:
        return ("model", "figure", "value", "against the first"), [
            [model, name, cell(value), cell(difference, "points", POINTS)]
            for model, name, value, difference in self._figures()
        ]

    def notes(self) -> list[str]:
        rule = self["verdict_rule"]
        return [*(crossing["sentence"] for crossing in self["crossings"]), *([rule] if rule else [])]

    def curves(self) -> Curves | None:
        series = {
            model["name"]: [(float(k), value) for k, value in model["pass@k"].items() if value["value"] is not None]
            for model in self["models"]
        }
        return (series, "k", "pass@k") if self["samples"] else None


def _figures(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The figures of a model, or of its difference from the first, by name."""
    figures = [("greedy", found["greedy"])] if found["greedy"]["value"] is not None else []
    figures += [(f"pass@{k}", value) for k, value in found["pass@k"].items()]
    return figures + [(f"majority of {k}", value) for k, value in list(found["majority"].items())[-1:]]
