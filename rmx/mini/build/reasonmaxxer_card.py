"""The model card of the miniature's ReasonMaxxer adapter, written from the measured figures of all its runs."""

from collections.abc import Sequence
from typing import Any

from rmx.mini.build.card import counted, percent
from rmx.mini.build.figures import SAMPLES
from rmx.mini.build.reasonmaxxer import DEFAULT, KINDS, VARIANTS, points
from rmx.mini.build.rl_card import FRONT, changes, table

_ABOUT = """
# The miniature's ReasonMaxxer adapter

A LoRA adapter for the miniature reasoner in the folder above, trained by ReasonMaxxer (arXiv 2605.06241, section 5):
solutions sampled once from the frozen base and graded right or wrong, a contrastive loss at the few tokens where the
base is uncertain, and a KL anchor to the base everywhere else.

**By construction, there was something to find.** The forks were put into the base's training data: its simulated
writers part ways with chosen odds, and at nearly every problem some of them are right. Training has only to move those
odds. The figures below show that the software works. They are no evidence for what the paper says about large models.
"""

_LIMITS = """
## Limits

- All limits of the base hold here as well: its templates, names, things and numbers, and nothing else.
- A wording is nearly always solved or nearly never, so the problems of a set are no independent trials, and the
  intervals, which take them for such, are too narrow for a claim about other wordings.
- Three seeds show that a gain comes again. They say little about how large it is on average.
- Variants differ in more than their names: runs on right rollouts only make as many updates with fewer decision tokens
  in them, and the settings of the default and of the extension were tuned on the validation split while those of the
  paper and of the ablations were not.

## How to make it again

```
python -m rmx.mini.build.build --stage reasonmaxxer                  # all runs; goes on where it was cut off
python -m rmx.mini.build.build --stage reasonmaxxer --evaluate-only  # the figures above, from runs that are there
rmx train --model mini --preset small --seed {seed}            # the run that ships, alone
```

The adapter loads as any PEFT adapter does: `PeftModel.from_pretrained(base, folder)`. Its file is fp16, computed in
fp32. `training.json` has every setting and the fingerprint of the base weights that it belongs to.
"""


def reasonmaxxer_card(figures: dict[str, Any]) -> str:
    """The text of `assets/mini/reasonmaxxer/README.md`."""
    shipped = figures["shipped"]
    parts = [
        FRONT.format(method="reasonmaxxer") + _ABOUT,
        _trained(figures),
        _runs(figures["runs"]),
        _measured(figures),
    ]
    return "".join(parts) + _LIMITS.format(seed=shipped["seed"])


def _trained(figures: dict[str, Any]) -> str:
    shipped = figures["shipped"]
    run = next(r for r in figures["runs"] if (r["variant"], r["seed"]) == (shipped["variant"], shipped["seed"]))
    found, other = run["rollouts"], [r for r in figures["runs"] if r["variant"] == DEFAULT]
    return f"""
## How it was trained

By `rmx train --preset small --seed {run["seed"]}`: {found["sampled"]} rollouts of the base on problems of the train split;
{found["kept"]} problems with {found["rollouts"]} rollouts kept, {found["right"]} of them right. {run["gate"]["share"]:.1%} of their tokens lie above {run["gate"]["tau"]:g} nat and
train. {run["updates"]} updates in {run["seconds"]:.0f} seconds on one core that was shared with other work; {figures["parameters"]} parameters.
The checkpoint ({run["checkpoint"]}) was chosen on the validation split, and so was this run among those of {len(other)} seeds.
Where the recipe departs from the paper's:

{_departures(run["departures"])}
"""  # noqa: E501 - the lines of the card, not of this file


def _departures(found: dict[str, list[Any]]) -> str:
    rows = ["| setting | paper | here |", "|---|---|---|"]
    rows += [f"| {name} | {paper} | {ours} |" for name, (paper, ours) in sorted(found.items())]
    return "\n".join(rows)


def _runs(runs: Sequence[dict[str, Any]]) -> str:
    """All variants and seeds on the test problems."""
    titles = {variant.name: variant.title for variant in VARIANTS}
    head = (
        "| run | seed | updates | seconds | validation | numbers: after | change | wordings: after | change |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    rows = [head]
    for run in runs:
        cells = [titles[run["variant"]], str(run["seed"]), str(run["updates"]), f"{run['seconds']:.0f}"]
        cells.append(points(run["validation"]["change"]))
        for name in KINDS:
            cells += [f"{100 * run[name]['adapted']['value']:.1f} %", points(run[name]["change"])]
        rows.append("| " + " | ".join(cells) + " |")
    ended = [f"{titles[r['variant']]}, seed {r['seed']}: {r['ended']}" for r in runs if r["ended"]]
    numbers, wordings = (runs[0][name]["base"] for name in KINDS)
    return f"""
## What the variants do

Greedy pass@1 on the bundled test set, opened once after all of these runs were over: {numbers["n"]} problems with
held-out numbers (base {percent(numbers)}) and {wordings["n"]} with held-out wordings (base {percent(wordings)}).
Changes are paired, problem by problem, with their 95 % intervals (Newcombe). The settings of `small` and `floor` were
tuned on the validation split, with other seeds.

{chr(10).join(rows)}

Each run kept the checkpoint that was best on its validation problems, so "validation" is what it was chosen by (200
problems; with the paper's preset 60). Seconds were taken on one core shared with other work, and leave out the
sampling where a run took over the rollouts of the same seed, about 25 seconds.

How to read it: at these settings the gate matters (the same number of tokens drawn at random gains less with every
seed). Wrong rollouts do not help the default: without them it gains as much or more. Their term has no bound, and at
higher rates, or with more updates, it spoils the model; `floor` bounds it, takes the higher rate and gains most on the
trained wordings, though not on held-out ones.
""" + "".join(f"\n- {line}" for line in ended) + ("\n" if ended else "")  # fmt: skip


def _measured(figures: dict[str, Any]) -> str:
    numbers, wordings = figures["held_out_numbers"], figures["held_out_wording"]
    return f"""
## The adapter that ships

From the bundled files, computed in fp32; {SAMPLES} samples per problem at T = 1 and 4 at T = 0.6. In short, greedy on
held-out numbers: base {counted(numbers["base"]["greedy"])}; with the adapter {counted(numbers["adapted"]["greedy"])}.

### Held-out numbers, trained wordings ({numbers["base"]["problems"]} problems)

{table(numbers)}

{changes(numbers)}

### Held-out wordings and numbers ({wordings["base"]["problems"]} problems)

{table(wordings)}

{changes(wordings)}

`figures.json` has the same and more, with one row per template and wording and one per run.
"""
