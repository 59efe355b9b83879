"""A document of `rmx claims` made by hand: every verdict, every kind of figure, hostile names."""

from rmx.claims.board import CAVEATS, CLAIMS
from rmx.claims.claim import label_of

HOSTILE = '<img src=x onerror="window.pwned=1">${7*7}{{this}}</script><script>window.pwned=1</script>'
VERDICTS = ("agrees", "differs", "not enough data", "by construction", "not measured", "open in the paper")


def estimate(value, low, high, **more):
    return {"value": value, "low": low, "high": high, "n": 200, **more}


FIGURES = {
    "reranked": {"reranked": estimate(0.021, 0.017, 0.026)},
    "shifted": {"shifted": estimate(0.0, 0.0, 0.0004, exact=True)},
    "mean-rank": {"mean_rank": estimate(2.3, 2.1, 2.5), "placebo_rank": estimate(2.6, 2.3, 2.9)},
    "random": {"random": estimate(-0.03, -0.08, 0.01), "anywhere": estimate(-0.04, -0.09, 0.0)},
    "pass-at-k": {"pass@1": estimate(0.1, 0.05, 0.15), "pass@8": estimate(-0.02, -0.07, 0.03)},
    "cost": {"usd": {"value": 4.1, "low": None, "high": None, "n": 1}},
}


def rows():
    """All claims, the verdicts in turn."""
    found = []
    for i, claim in enumerate(CLAIMS):
        verdict, figures = VERDICTS[i % len(VERDICTS)], FIGURES.get(claim.id, {})
        found.append(
            {
                "id": claim.id,
                "section": claim.section,
                "claim": claim.title,
                "paper": claim.paper,
                "how": claim.how,
                "caveats": list(claim.caveats),
                "measured": {"text": f"Measured on {HOSTILE}" if i == 0 else "2.1 % [1.7, 2.6]", "figures": figures},
                "labels": {name: label_of(name).json() for name in figures},
                "n": None if verdict == "not measured" else 200,
                "verdict": verdict,
                "why": f"Because of {HOSTILE}" if i == 1 else "The whole interval lies inside the paper's range.",
                "minutes": None if verdict == "not measured" else 1.5,
                "button": claim.button,
                "state": "waiting" if verdict == "not measured" else "done",
            }
        )
    return found


def document(name=HOSTILE, **more):
    return {
        "model": name,
        "adapter": name,
        "teacher": None,
        "pair": f"{name} + {name}",
        "revision": "sha256:0123456789abcdef",
        "dtype": "float32",
        "device": "cpu",
        "set": "mini",
        "n": 200,
        "tau": 1.0,
        "seed": 0,
        "samples": 8,
        "max_new_tokens": 512,
        "by_construction": False,
        "stopped": False,
        "rows": rows(),
        "caveats": list(CAVEATS),
        "seconds": 125.0,
        "versions": {"python": "3.12", "torch": "2.13"},
    } | more
