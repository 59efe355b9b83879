"""The claims as one HTML file: no script, no request, light and dark, narrow and on paper.

Everything that comes from outside (names of models, sets, tokens) is escaped here and nowhere else.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from rmx import __version__
from rmx.claims.figures import told
from rmx.claims.registry import CLAIMS
from rmx.data.problem_sets import SETS, split_name
from rmx.errors import RmxError

Figures = Mapping[str, Any]
THIN = 0.4  # per cent; the least that can be seen


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure."""

    name: str
    numbers: str
    said: str  # the whole of it in words
    low: float
    value: float
    high: float
    zero: float
    band: tuple[float, float] | None

    def json(self) -> dict[str, Any]:
        return asdict(self)


def bars_of(row: Figures) -> list[Bar]:
    """The bars of a row of `rmx claims`; figures without an interval have none."""
    named = row.get("labels", {})
    shown = [(named[n], f) for n, f in row["measured"]["figures"].items() if n in named and f.get("low") is not None]
    units = {label["unit"] for label, _ in shown}
    scales = {unit: scale_of([pair for pair in shown if pair[0]["unit"] == unit]) for unit in units}
    return [_bar(label, figure, scales[label["unit"]]) for label, figure in shown]


def scale_of(bars: Sequence[tuple[Figures, Figures]]) -> tuple[float, float]:
    """From the least to the greatest of intervals and ranges, 0 among them, with a little room at either end."""
    ends = [0.0]
    for label, figure in bars:
        ends += [float(x) for x in (figure["low"], figure["high"], label["low"], label["high"]) if x is not None]
    room = 0.04 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room


def _bar(label: Figures, figure: Figures, scale: tuple[float, float]) -> Bar:
    left, right = scale

    def at(x: float) -> float:
        return round(100 * (x - left) / (right - left), 2)

    numbers, exact = told(dict(figure), label["unit"]), " (exact bound)" if figure.get("exact") else ""
    said, band = f"{label['text']}: {numbers}, 95 % interval{exact}", None
    if label["low"] is not None or label["high"] is not None:
        a, b = (end if x is None else at(x) for x, end in ((label["low"], 0.0), (label["high"], 100.0)))
        band = a, max(b, a + THIN)
        said += f"; {'margin of ours' if label['ours'] else 'paper'}: {_edges(label)}"
    low, value, high = (at(float(figure[key])) for key in ("low", "value", "high"))
    return Bar(label["text"], numbers, said, low, value, max(high, low + THIN), at(0.0), band)


def _edges(label: Figures) -> str:
    """What agrees, in words."""
    ends = [
        None if x is None else told({"value": x, "low": None}, label["unit"]) for x in (label["low"], label["high"])
    ]
    low, high = ends
    return f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}"


# Sign, and the class that colours it: a verdict is never told by colour alone.
SIGNS = {
    "agrees": ("✓", "yes"),
    "differs": ("✗", "no"),
    "not enough data": ("?", "open"),
    "by construction": ("≡", "built"),
    "not measured": ("–", "none"),
    "open in the paper": ("○", "open"),
    "no verdict": ("!", "none"),
}


def command_of(found: Figures, asked: Mapping[str, str | None]) -> str:
    """The command that makes this document again."""
    words = ["rmx", "claims", "--model", str(asked.get("model") or found["model"])]
    for flag in ("adapter", "teacher"):
        if asked.get(flag):
            words += [f"--{flag}", str(asked[flag])]
    words += ["--set", str(found["set"]), "--limit", str(found["n"]), "--tau", f"{found['tau']:g}"]
    words += ["--seed", str(found["seed"]), "--n", str(found["samples"])]
    words += ["--max-new-tokens", str(found["max_new_tokens"]), *shlex.split(asked.get("style") or "")]
    if len(found["rows"]) < len(CLAIMS):
        words += ["--only", ",".join(row["id"] for row in found["rows"])]
    return shlex.join(words)


def html_report(found: Figures, command: str, when: datetime | None = None) -> str:
    """The whole file.

    Args:
        found: the document of `rmx claims`. command: that made it. when: now, in UTC, by default.
    """
    when = when or datetime.now(UTC)
    rows = "\n".join(_row(row) for row in found["rows"])
    caveats = "\n".join(f"<li>{escape(c)}</li>" for c in found["caveats"])
    versions = ", ".join(f"{escape(name)} {escape(str(v))}" for name, v in found["versions"].items())
    stopped = "<p class='stopped'>Stopped by hand: rows cover what was done by then.</p>" if found["stopped"] else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>The paper on {escape(str(found["pair"]))}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>The paper on your model</h1>
<p class="lead">What <cite>Rethinking RL for LLM Reasoning</cite> (arXiv 2605.06241) claims, measured on
<strong>{escape(str(found["pair"]))}</strong>.</p>
{_tally(found["rows"])}{stopped}
</header>
<section aria-label="What was measured">
<dl>{_facts(found, when)}</dl>
<p class="made">Made by <code>{escape(command)}</code></p>
</section>
<section aria-label="Claims">
<h2>Claims</h2>
{rows}
</section>
<section class="caveats" aria-label="Caveats">
<h2>What this cannot say</h2>
<ul>{caveats}</ul>
<h2>How verdicts are given</h2>
<p>The band behind a bar is what agrees: the paper's range, or a margin of ours. Every rule looks at the whole 95 %
interval; only whether one model answers more problems than another, asked greedily, is judged by McNemar's exact test
(p below 0.05), whose p stands in the reason. Each row names its rule. <b>✓ agrees</b>: it lies inside the range, or
excludes the opposite of the claim. <b>✗ differs</b>: it lies outside the range, or excludes the claim. <b>? not
enough data</b>: anything else, or fewer than 30 problems. <b>≡ by construction</b>: measured on a model that was
built to show it. <b>○ open in the paper</b>: it makes no claim. <b>! no verdict</b>: the gate takes more than a fifth
of the tokens, so its places are no forks. <b>– not measured</b>: nothing to go by.</p>
</section>
<footer>rmx {escape(__version__)} · {versions}</footer>
</main>
</body>
</html>
"""


def _tally(rows: list[Figures]) -> str:
    counts = Counter(str(row["verdict"]) for row in rows)
    marks = "".join(f"<li>{_badge(verdict)} {counts[verdict]}</li>" for verdict in SIGNS if counts[verdict])
    return f'<ul class="tally">{marks}</ul>\n'


def _badge(verdict: str) -> str:
    sign, kind = SIGNS[verdict]
    return f'<span class="badge {kind}"><span aria-hidden="true">{sign}</span> {escape(verdict)}</span>'


def _facts(found: Figures, when: datetime) -> str:
    licence, source = set_facts(str(found["set"]))
    against = found.get("teacher") or found.get("adapter") or found["pair"]
    facts = (
        ("Base", found["model"]),
        ("Compared with", against),
        ("Problems", f"the first {found['n']} of {found['set']}"),
        ("Licence of the set", licence),
        ("Source of the set", source),
        ("Fork threshold", f"{found['tau']:g} nats"),
        *([("Found from", calibrated["sentence"])] if (calibrated := found.get("calibration")) else []),
        ("Seed", found["seed"]),
        ("Device", f"{found['device']}, {found['dtype']}"),
        ("Weights", found["revision"]),
        ("Measured", f"{when:%Y-%m-%d %H:%M} UTC, {found['seconds'] / 60:.1f} minutes"),
    )
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts)


def set_facts(name: str) -> tuple[str, str]:
    """Licence and source of a named set; of a file its owner knows them."""
    try:
        info = SETS.get(split_name(name)[0])
    except RmxError:
        info = None
    return (info.licence, info.source) if info else ("of the file's owner", "a file of the user")


def _row(row: Figures) -> str:
    section = f"section {row['section']}" if row["section"] else "a control"
    minutes = f" · {row['minutes']:.1f} min" if row.get("minutes") else ""
    n = f" · n = {row['n']:,}" if row["n"] is not None else ""
    n += f" · judged by: {escape(row['rule'])}" if row.get("rule") else ""
    notes = "".join(f"<li>{escape(c)}</li>" for c in row.get("caveats", ()))
    return f"""<article id="{escape(str(row["id"]))}">
<div class="head"><h3>{escape(row["claim"])}</h3>{_badge(row["verdict"])}</div>
<p class="where">{escape(section)}{n}{minutes}</p>
<div class="pair">
<div><h4>The paper</h4><p>{escape(row["paper"])}</p></div>
<div><h4>Here</h4><p>{escape(row["measured"]["text"])}</p></div>
</div>
{_bars(row)}
<p class="why">{escape(row["why"])}</p>
<details><summary>How it is measured</summary><p>{escape(row.get("how", ""))}</p><ul>{notes}</ul></details>
</article>"""


def _bars(row: Figures) -> str:
    """Intervals as bars, those of one unit on one scale, with what agrees with the claim as a band behind them."""
    bars = "".join(map(_bar_html, bars_of(row)))
    return f'<div class="bars">{bars}</div>' if bars else ""


def _bar_html(bar: Bar) -> str:
    band = ""
    if bar.band:
        band = f'<rect class="band" x="{bar.band[0]:.2f}" y="0" width="{bar.band[1] - bar.band[0]:.2f}" height="10"/>'
    return (
        f'<div class="bar" role="img" aria-label="{escape(bar.said)}"><span>{escape(bar.name)}</span>'
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{band}'
        f'<line class="zero" x1="{bar.zero:.2f}" x2="{bar.zero:.2f}" y1="0" y2="10"/>'
        f'<line class="span" x1="{bar.low:.2f}" x2="{bar.high:.2f}" y1="5" y2="5"/>'
        f'<line class="dot" x1="{bar.value:.2f}" x2="{bar.value:.2f}" y1="1.5" y2="8.5"/></svg>'
        f'<span class="num">{escape(bar.numbers)}</span></div>'
    )


STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1a; --soft: #5c5b57; --paper: #fffefb; --card: #fff; --line: #deddd6;
  --yes: #00664a; --no: #a13d00; --open: #5c4a00; --built: #38557a; --none: #5c5b57; --bar: #0072b2;
  --band: #e6efe9; }
@media (prefers-color-scheme: dark) { :root { --ink: #eceae4; --soft: #aaa89f; --paper: #171716; --card: #201f1e;
  --line: #3a3936; --yes: #4fd0a5; --no: #ff9a57; --open: #e8c14d; --built: #9dbce6; --none: #aaa89f; 
  --bar: #56b4e9; --band: #24362f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1.05rem; margin: 0; line-height: 1.35; }
h4 { font-size: .8rem; font-weight: 600; color: var(--soft); margin: 0; }
p { margin: .25rem 0; }
.lead { font-size: 1.05rem; max-width: 44rem; }
.tally { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem 1rem; padding: 0; margin: .8rem 0 0; }
.badge { display: inline-block; border: 1.5px solid currentColor; border-radius: 999px; padding: .05rem .65rem;
  font-size: .85rem; font-weight: 600; white-space: nowrap; }
.yes { color: var(--yes); } .no { color: var(--no); } .open { color: var(--open); }
.built { color: var(--built); border-style: dotted; } .none { color: var(--none); border-style: dashed; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .6rem 1.2rem; margin: 1.2rem 0; }
dt { font-size: .8rem; color: var(--soft); } dd { margin: 0; }
code { font: .86em/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.made { color: var(--soft); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem;
  margin: 0 0 .8rem; }
.head { display: flex; flex-wrap: wrap; gap: .4rem 1rem; justify-content: space-between; align-items: baseline; }
.where { color: var(--soft); font-size: .85rem; margin-top: 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem 1.4rem; margin: .6rem 0; }
.bars { margin: .6rem 0; display: grid; gap: .3rem; }
.bar { display: grid; grid-template-columns: 11rem 1fr max-content; gap: .8rem; align-items: center;
  font-size: .85rem; }
.bar svg { width: 100%; height: 14px; display: block; }
.bar .num {
  font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; min-width: 14rem; }
.bar line { vector-effect: non-scaling-stroke; }
.band { fill: var(--band); }
.zero { stroke: var(--soft); stroke-width: 1; } .span { stroke: var(--bar); stroke-width: 3; }
.dot { stroke: var(--ink); stroke-width: 3; }
.why { border-left: 3px solid var(--line); padding-left: .7rem; }
details { font-size: .92rem; color: var(--soft); margin-top: .5rem; } summary { cursor: pointer; padding: .2rem 0; }
details ul { margin: .2rem 0; padding-left: 1.1rem; }
footer { color: var(--soft); font-size: .85rem; margin-top: 2rem; border-top: 1px solid var(--line);
  padding-top: .8rem; }
@media (max-width: 640px) { .pair { grid-template-columns: 1fr; } .bar { grid-template-columns: 1fr auto; }
  .bar .num { min-width: 0; }
  .bar svg { grid-column: 1 / -1; grid-row: 2; } dl { grid-template-columns: 1fr 1fr; } }
@media print { body { background: #fff; color: #000; font-size: 10.5pt; } main { max-width: none; padding: 0; }
  article { break-inside: avoid; border-color: #999; background: #fff; }
  details::details-content { content-visibility: visible; height: auto; } }
"""
