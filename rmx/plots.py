"""Records to Plotly figures, readable on light and dark pages alike."""

from collections.abc import Sequence

import plotly.graph_objects as go

from rmx.records import TokenDist

ORANGE, VERMILLION, GREY = "#E69F00", "#D55E00", "#808080"  # Okabe-Ito, and a grey that both themes carry
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
        marker_color=[VERMILLION if t.entropy > tau else ORANGE for t in tokens],
        marker_line_width=0,
        customdata=[_label(t.text) for t in tokens],
        hovertemplate="%{x}: %{customdata}<br>%{y:.2f} nats<extra></extra>",
    )
    if tokens:
        figure.add_hline(y=tau, line={"color": VERMILLION, "width": 1, "dash": "dot"})
    return figure


def _label(text: str) -> str:
    """Token text for a hover label: Plotly reads a little HTML, so its marks are spelt out."""
    shown = text.replace("\n", "↵").replace("\t", "⇥")[:40] or "▪"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
