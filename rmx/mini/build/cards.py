"""The model cards of the miniature and of its two adapters, written from their measured figures."""

from typing import Any

from rmx.mini import wordings
from rmx.mini.build.mini_figures import KINDS, counted, percent, points
from rmx.mini.build.reasonmaxxer import DEFAULT, VARIANTS
from rmx.mini.task import right_plans
from rmx.storage.rendering import render

Json = dict[str, Any]
SPEAK = {"percent": percent, "counted": counted, "points": points}


def base_card(figures: Json) -> str:
    """Write `assets/mini/README.md`."""
    shares = [  # of the right plans, one for each trained wording
        sum(template.wordings[i].weights[plan.name] for plan in right_plans(template))
        for template in wordings.TEMPLATES.values()
        for i in template.wordings_of("train")
    ]
    return render("mini_card.md.jinja", figures=figures, mix=wordings, right_shares=shares, **SPEAK)


def rl_card(figures: Json) -> str:
    """Write `assets/mini/rl/README.md`, which counts wordings: still wrong more often than not, worse than the base."""
    cells = figures["cells"]
    kinds = {name: [c["greedy"] for c in cells if c["held_out"] == name] for name in ("numbers", "wording")}
    counts = {
        "wordings": {name: len(found) for name, found in kinds.items()},
        "unsolved": {name: sum(g["adapted"] < 0.5 for g in found) for name, found in kinds.items()},
        "worse": sum(c["greedy"]["adapted"] < c["greedy"]["base"] for c in cells),
    }
    return render("mini_rl_card.md.jinja", figures=figures, **counts, **SPEAK)


def reasonmaxxer_card(figures: Json) -> str:
    """Write `assets/mini/reasonmaxxer/README.md`."""
    shipped = figures["shipped"]
    return render(
        "mini_reasonmaxxer_card.md.jinja",
        figures=figures,
        run=next(r for r in figures["runs"] if (r["variant"], r["seed"]) == (shipped["variant"], shipped["seed"])),
        seeds=sum(r["variant"] == DEFAULT for r in figures["runs"]),
        titles={variant.name: variant.title for variant in VARIANTS},
        kinds=list(KINDS),
        **SPEAK,
    )
