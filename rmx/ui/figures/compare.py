"""Records to Plotly figures, readable on light and dark pages alike."""

from collections.abc import Sequence
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
AXIS = {"gridcolor": "rgba(128,128,128,0.18)", "zeroline": False, "title_font_size": 12}


def entropy_strip(tokens: Sequence[TokenDist], tau: float, selected: int | None = None) -> go.Figure:
    """Entropy over positions with the threshold as a line; forks stand out by colour and by height."""
    figure = go.Figure()
    figure.update_layout(
        height=150,
        margin={"l": 44, "r": 12, "t": 8, "b": 34},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "family": "ui-monospace, monospace", "size": 11},
        showlegend=False,
        bargap=0.25,
        hovermode="closest",
        dragmode=False,
        xaxis=AXIS | {"title": "token", "fixedrange": True},
        yaxis=AXIS | {"title": "nats", "rangemode": "tozero", "fixedrange": True},
    )
    figure.add_bar(
        x=[t.pos for t in tokens],
        y=[round(t.entropy, 4) for t in tokens],
        marker_color=[VERMILLION if is_fork(t.entropy, tau) else ORANGE for t in tokens],
        marker_line_width=0,
        customdata=[_label(t.text) for t in tokens],
        hovertemplate="%{x}: %{customdata}<br>%{y:.2f} nats<extra></extra>",
    )
    if tokens:
        figure.add_hline(y=tau, line={"color": VERMILLION, "width": 1, "dash": "dot"})
    return figure


def _plain_layout(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 52, "r": 16, "t": 34, "b": 42},
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
    figure.update_layout(**_plain_layout(300), barmode="overlay", bargap=0, legend={"orientation": "h", "y": -0.22})
    figure.update_xaxes(AXIS | {"fixedrange": True})
    figure.update_yaxes(AXIS | {"fixedrange": True, "ticksuffix": " %"})
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
        **_plain_layout(320),
        showlegend=False,
        title={"text": f"pass@1, {n} problems of {report.set_name}", "font_size": 13},
    )
    figure.update_xaxes(AXIS | {"fixedrange": True})
    figure.update_yaxes(AXIS | {"fixedrange": True, "ticksuffix": " %", "range": [0, 100]})
    return figure


def _label(text: str) -> str:
    """Token text for a hover label: Plotly reads a little HTML, so its marks are spelt out."""
    shown = text.replace("\n", "↵").replace("\t", "⇥")[:40] or "▪"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
