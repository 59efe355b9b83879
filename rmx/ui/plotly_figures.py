"""The Plotly figures of the tabs, readable on light and dark pages alike.

Explore's strip of entropies; Compare's classes, ranks and arms; Evaluate's pass@k curves and problems before and after.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rmx.compare.intervene import LABELS
from rmx.compare.intervene_set import InterveneReport
from rmx.compare.shift_set import TOPS, ShiftReport
from rmx.engine.divergence import KINDS
from rmx.records import TokenDist, is_fork

# Okabe-Ito, and a grey that both themes carry
ORANGE, VERMILLION, BLUE, PURPLE, GREEN, GREY = "#E69F00", "#D55E00", "#0072B2", "#CC79A7", "#009E73", "#808080"
COLOURS = {"unshifted": GREY, "reranked": BLUE, "shifted": PURPLE}
AXIS = {"gridcolor": "rgba(128,128,128,0.18)", "zeroline": False, "title_font_size": 12, "fixedrange": True}
HEIGHT = 360
# The base first; colour, dash and mark together, so that no two differ by colour alone.
STYLES = (
    (GREY, "dot", "circle"),
    (BLUE, "solid", "square"),
    (VERMILLION, "dash", "triangle-up"),
    (GREEN, "dashdot", "diamond"),
    (PURPLE, "longdash", "triangle-down"),
    (ORANGE, "longdashdot", "cross"),
)
APART = 0.055  # of the axis, between two labels at the end of curves
LETTER = 7.6  # px of a letter of those labels
NAMED = 5  # problems that one bubble names


def entropy_strip(tokens: Sequence[TokenDist], tau: float) -> go.Figure:
    """Entropy over positions with the threshold as a line; forks stand out by colour and by height."""
    figure = go.Figure()
    figure.update_layout(
        **_layout(150, (44, 12, 8, 34)) | {"font": {"color": GREY, "family": "ui-monospace, monospace", "size": 11}},
        showlegend=False,
        bargap=0.25,
        hovermode="closest",
        xaxis=AXIS | {"title": "token"},
        yaxis=AXIS | {"title": "nats", "rangemode": "tozero"},
    )
    figure.add_bar(
        x=[t.pos for t in tokens],
        y=[round(t.entropy, 4) for t in tokens],
        marker_color=[VERMILLION if is_fork(t.entropy, tau) else ORANGE for t in tokens],
        marker_line_width=0,
        customdata=[_token(t.text) for t in tokens],
        hovertemplate="%{x}: %{customdata}<br>%{y:.2f} nats<extra></extra>",
    )
    if tokens:
        figure.add_hline(y=tau, line={"color": VERMILLION, "width": 1, "dash": "dot"})
    return figure


def _layout(height: int, margin: tuple[float, ...] = (52, 16, 34, 42)) -> dict[str, Any]:
    """Options of a figure of so many px, with margins at the left, right, top and bottom."""
    return {
        "height": height,
        "margin": dict(zip("lrtb", margin, strict=True)),
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": GREY, "family": "system-ui, sans-serif", "size": 13},
        "dragmode": False,
    }


def shift_figure(report: ShiftReport) -> go.Figure:
    """Entropy by class, each class as shares of itself, and how deep in the base's list the adapted choices lie."""
    figure = make_subplots(
        1,
        2,
        column_widths=[0.6, 0.4],
        subplot_titles=("base entropy, by class", "disagreements inside the base's top k"),
    )
    found = report.figures.histogram()
    edges = found["edges"]
    for kind in KINDS:
        total = sum(found[kind])
        if total:
            figure.add_bar(
                x=[e + 0.05 for e in edges],
                y=[100 * n / total for n in found[kind]],
                name=f"{kind} ({total:,})",
                marker_color=COLOURS[kind],
                opacity=0.75,
                hovertemplate="%{x:.2f} nats: %{y:.1f} %<extra>" + kind + "</extra>",
                row=1,
                col=1,
            )
    for name, figures, colour, dash in (
        ("adapted", report.figures, BLUE, "solid"),
        ("placebo", report.placebo, GREY, "dot"),
    ):
        if figures is not None and figures.places:
            shares = figures.shares()
            inside = [shares[f"within_top_{k}"] for k in TOPS]
            if inside[0]["value"] is not None:
                figure.add_scatter(
                    x=list(TOPS),
                    y=[100 * e["value"] for e in inside],
                    name=name,
                    mode="lines+markers",
                    line={"color": colour, "dash": dash},
                    hovertemplate="top %{x}: %{y:.1f} %<extra>" + name + "</extra>",
                    row=1,
                    col=2,
                )
    figure.update_layout(**_layout(300), barmode="overlay", bargap=0, legend={"orientation": "h", "y": -0.22})
    figure.update_xaxes(AXIS)
    figure.update_yaxes(AXIS | {"ticksuffix": " %"})
    figure.update_xaxes(title_text="nats", row=1, col=1)
    figure.update_xaxes(title_text="k", dtick=1, row=1, col=2)
    return figure


def arm_figure(report: InterveneReport) -> go.Figure:
    """pass@1 per arm with its interval, and the share of tokens that the arm changed, as in the paper's figure 2."""
    figure = go.Figure()
    arms = [arm for arm in report.arms if report.problems]
    found = [report.arm(arm) for arm in arms]
    names = [LABELS[arm] for arm in arms]
    if (noise := report.placebo_json()) is not None:
        found, names = [*found, noise], [*names, "placebo"]
    estimates = [f["pass@1"] for f in found]
    colours = {"base": GREY, "adapted": GREEN, "oracle": BLUE, "entropy gate": VERMILLION, "placebo": PURPLE}
    figure.add_bar(
        x=[f"{name}<br>{100 * f['touched']:.1f} % touched" for name, f in zip(names, found, strict=True)],
        y=[100 * e["value"] for e in estimates],
        marker_color=[colours.get(name, ORANGE) for name in names],
        width=0.62,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [100 * (e["high"] - e["value"]) for e in estimates],
            "arrayminus": [100 * (e["value"] - e["low"]) for e in estimates],
            "color": GREY,
            "thickness": 1.5,
        },
        text=[f"{100 * e['value']:.1f} %" for e in estimates],
        textposition="inside",
        insidetextanchor="start",
        textangle=0,
        textfont={"color": "white", "size": 14},
        hovertemplate="%{x}: %{y:.1f} %<extra></extra>",
    )
    n = len(report.problems)
    figure.update_layout(
        **_layout(320),
        showlegend=False,
        title={"text": f"pass@1, {n} problems of {report.set_name}", "font_size": 13},
    )
    figure.update_xaxes(AXIS)
    figure.update_yaxes(AXIS | {"ticksuffix": " %", "range": [0, 100]})
    return figure


def curve_figure(report: Mapping[str, Any], part: str | None = None) -> go.Figure | None:
    """pass@k of every model over k, on a log axis, each with its 95 % band and its name at its end.

    None where nothing was sampled yet.
    """
    models = [model for model in _scope(report, part)["models"] if model.get("pass@k")]
    if not models:
        return None
    figure = go.Figure()
    ends: list[tuple[str, float]] = []
    for i, model in enumerate(models):
        colour, dash, symbol = STYLES[i % len(STYLES)]
        name = short(str(model["name"]))
        points = sorted((int(k), e) for k, e in model["pass@k"].items() if e.get("value") is not None)
        if not points:
            continue
        ks = [k for k, _ in points]
        low, value, high = ([100 * e.get(part_, e["value"]) for _, e in _whole(points)] for part_ in _ENDS)
        figure.add_scatter(
            x=[*ks, *reversed(ks)],
            y=[*high, *reversed(low)],
            fill="toself",
            fillcolor=_faint(colour),
            line_width=0,
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            name=f"{name} band",
        )
        figure.add_scatter(
            x=ks,
            y=value,
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 8, "color": colour},
            customdata=list(zip(low, high, strict=True)),
            hovertemplate="%{y:.1f} %, %{customdata[0]:.1f} – %{customdata[1]:.1f} %<extra>" + _text(name) + "</extra>",
        )
        ends.append((name, value[-1]))
    ks = sorted({int(k) for model in models for k in model["pass@k"]})
    bottom, top = _range(figure)
    _name_ends(figure, ends, math.log10(ks[-1]), bottom, top)
    room = 24 + LETTER * max(len(name) for name, _ in ends)
    figure.update_layout(**_layout(HEIGHT, (52, room, 12, 44)))
    figure.update_layout(showlegend=False, hovermode="x unified")
    spread = max(math.log10(ks[-1]), 0.3)
    figure.update_xaxes(
        **AXIS,
        type="log",
        tickmode="array",
        tickvals=ks,
        ticktext=[str(k) for k in ks],
        range=[-0.06 * spread, math.log10(ks[-1]) + 0.03 * spread],
        title_text="samples k, log scale",
    )
    figure.update_yaxes(**AXIS, ticksuffix=" %", range=[bottom, top])
    return figure


def scatter_figure(report: Mapping[str, Any], name: str, part: str | None = None) -> go.Figure | None:
    """Each problem as a point: the share of its samples that the base got right, against the same after training.

    Problems with equal shares are one bubble, its area their number; its `customdata` begins with their ids.
    None where nothing was sampled yet, or no such model was measured.
    """
    base = str(report["models"][0]["name"]) if report.get("models") else ""
    groups: dict[tuple[float, float], list[str]] = defaultdict(list)
    for row in report.get("per_problem", []):
        before, after = row["models"].get(base), row["models"].get(name)
        if (part is None or row.get("part") == part) and name != base and _sampled(before) and _sampled(after):
            groups[before["right"] / before["samples"], after["right"] / after["samples"]].append(str(row["id"]))
    if not groups:
        return None
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100], y=[0, 100], mode="lines", line={"color": GREY, "width": 1, "dash": "dot"}, hoverinfo="skip"
    )
    most = max(map(len, groups.values()))
    for word, colour, symbol, chosen in (
        ("as before", GREY, "circle", lambda x, y: x == y),
        ("worse", VERMILLION, "triangle-down", lambda x, y: y < x),
        ("better", GREEN, "triangle-up", lambda x, y: y > x),
    ):
        found = [(x, y, ids) for (x, y), ids in sorted(groups.items()) if chosen(x, y)]
        total = sum(len(ids) for *_, ids in found)
        figure.add_scatter(
            x=[100 * x for x, _, _ in found],
            y=[100 * y for _, y, _ in found],
            mode="markers",
            name=f"{word} ({total:,})",
            marker={
                "color": colour,
                "symbol": symbol,
                "opacity": 0.75,
                "size": [_size(len(ids), most) for *_, ids in found],
                "line": {"width": 0},
            },
            customdata=[[*ids[:200]] for *_, ids in found],
            text=[_named(ids) for *_, ids in found],
            hovertemplate="%{text}<br>%{x:.0f} % before, %{y:.0f} % after<extra></extra>",
        )
    figure.update_layout(**_layout(HEIGHT, (56, 12, 12, 44)))
    figure.update_layout(hovermode="closest", showlegend=True)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": -0.2, "itemclick": False, "itemdoubleclick": False})
    figure.data[0].showlegend = False
    axis = AXIS | {"range": [-4, 104], "ticksuffix": " %", "dtick": 25}
    figure.update_xaxes(**axis, title_text=f"right by {_text(short(base))}")
    figure.update_yaxes(**axis, title_text=f"right by {_text(short(name))}")
    return figure


_ENDS = ("low", "value", "high")


def short(name: str) -> str:
    """A model's name at the end of a curve: of a run's id the part that differs from others, else its last part."""
    if found := re.fullmatch(r"\d{8}-\d{4}-(.+)", name):
        name = found[1]
    else:
        name = name.rstrip("/").rpartition("/")[2] or name
    return name if len(name) <= 14 else f"{name[:6]}…{name[-7:]}"


def _scope(report: Mapping[str, Any], part: str | None) -> Mapping[str, Any]:
    return next((one for one in report.get("parts") or [] if one["name"] == part), report)


def _whole(points: Iterable[tuple[int, Mapping[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """Where an interval is not known, the value itself stands for both ends."""
    return [(k, {end: e["value"] if e.get(end) is None else e[end] for end in _ENDS}) for k, e in points]


def _range(figure: go.Figure) -> tuple[float, float]:
    """A range of y with some air around all bands, inside 0 to 100 as far as the marks allow."""
    ys = [y for trace in figure.data for y in trace.y]
    air = max(0.08 * (max(ys) - min(ys)), 2.0)
    return max(min(ys) - air, -2.0), min(max(ys) + air, 102.0)


def _name_ends(figure: go.Figure, ends: Sequence[tuple[str, float]], x: float, bottom: float, top: float) -> None:
    """Names beside the ends of their curves, pushed apart where the curves meet."""
    step = APART * (top - bottom)
    room: list[tuple[str, float, float]] = []
    for name, y in sorted(ends, key=lambda end: end[1]):
        room.append((name, y, max(y, room[-1][2] + step) if room else y))
    over = max(0.0, room[-1][2] - top) if room else 0.0
    for name, y, at in room:
        figure.add_annotation(
            x=x,
            y=at - over,
            text=_text(name),
            showarrow=False,
            xanchor="left",
            xshift=10,
            name=f"end {y:.3f}",
            font_size=12,
        )


def _sampled(found: Mapping[str, Any] | None) -> bool:
    return bool(found and found.get("samples"))


def _size(count: int, most: int) -> float:
    """Diameter in px: the area follows the count, and one problem alone can still be hit by a mouse."""
    return round(9 + 21 * math.sqrt((count - 1) / max(most - 1, 1)), 1)


def _named(ids: Sequence[str]) -> str:
    shown = ", ".join(_text(one[:40]) for one in ids[:NAMED])
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return f"<b>{len(ids)} problem{'s' * (len(ids) > 1)}</b>: {shown}{more}"


def _token(text: str) -> str:
    """A token's text for a hover label."""
    return _text(text.replace("\n", "↵").replace("\t", "⇥")[:40] or "▪")


def _text(name: str) -> str:
    """Names inside Plotly's little HTML, and inside its templates, are text."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")


def _faint(colour: str) -> str:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},0.14)"
