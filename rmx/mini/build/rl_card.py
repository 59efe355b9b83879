"""The model card of the miniature's RL-trained partner, written from its measured figures."""

from typing import Any

from rmx.mini.build.card import counted, percent
from rmx.mini.build.figures import SAMPLES

FRONT = """---
license: apache-2.0
language: en
library_name: peft
base_model: mini
tags:
- lora
- synthetic
- miniature
- reasoning
- {method}
---
"""

_ABOUT = """
# The miniature's RL-trained partner

A LoRA adapter for the miniature reasoner in the folder above, trained by reinforcement learning from nothing but right
and wrong answers. Base and adapter are a pair on which one can see, without a GPU, at which tokens such training
changes a model's mind.

**By construction, there was something to find.** The forks were put into the base's training data: its simulated
writers part ways with chosen odds, and at nearly every problem some of them are right. Training with a reward has
only to move those odds. The pair illustrates a mechanism and lets the software be tested. It is no evidence for what
the paper (arXiv 2605.06241) says about large models.
"""

_TRAINED = """
## How it was trained

On-policy REINFORCE with advantages normalised within each problem's group of rollouts (GRPO, arXiv 2402.03300, with
one optimizer step per batch): {iterations} iterations of {problems} problems with {rollouts} rollouts each at T = 1,
reward 1 for the right final number and 0 otherwise, advantage (reward - mean) / (standard deviation + 0.0001), every
sampled token of an iteration weighing the same, no KL term. LoRA of rank {rank} (alpha {alpha}) on the query, key,
value and output projections, {parameters} parameters. AdamW at {lr}, {warmup} iterations of warm-up and a linear fall,
gradient norm clipped at {clip}, seed {seed}.

The problems were fresh ones with the numbers of the train split and the trained wordings. Settings were taken over
from trials with an earlier miniature; none was chosen for this one. Greedy accuracy on `mini:validation` was logged
every ten iterations (`build.log`) and decided nothing: the last iteration is what is here. The test set was measured
only after the training.
"""

_LIMITS = """
## Limits

- All limits of the base hold here as well: its templates, names, things and numbers, and nothing else.
- A wording is nearly always solved or nearly never, so the problems of a set are no independent trials, and the
  intervals, which take them for such, are too narrow for a claim about other wordings.
- One run with one seed. Another seed ends elsewhere; how far was not measured.

## How to make it again

```
python -m rmx.mini.build.build --stage rl --out FOLDER     # ten minutes on one core; resumes after a kill
python -m rmx.mini.build.build --stage rl --evaluate-only  # the figures above, from the bundled files
```

FOLDER holds the base. The adapter loads as any PEFT adapter does: `PeftModel.from_pretrained(base, folder)`. Its file
is fp16, computed in fp32. `training.json` has the settings and the fingerprint of the base weights that it belongs to.
"""

_ROWS = {
    "greedy": "greedy",
    "sampled_t0.6": "sampled, T = 0.6",
    "sampled_t1.0": "sampled, T = 1.0",
    f"pass@{SAMPLES}": f"pass@{SAMPLES}, T = 1.0",
    f"mixed_of_{SAMPLES}": f"problems with right and wrong among {SAMPLES}",
    "wrong_equations": "wrong equations, T = 1.0",
    "unanswered": "solutions without an answer, T = 1.0",
}


def table(found: dict[str, Any]) -> str:
    """The figures of base and adapter side by side."""
    rows = ["| 95 % intervals in brackets | base | with the adapter |", "|---|---|---|"]
    rows += [
        f"| {label} | {percent(found['base'][k])} | {percent(found['adapted'][k])} |" for k, label in _ROWS.items()
    ]
    return "\n".join(rows)


def _points(change: dict[str, Any]) -> str:
    """A change with its interval, and a warning where the interval leaves open that there is none."""
    value, low, high = (100 * change[key] for key in ("value", "low", "high"))
    open_ = ", which is compatible with no change at all" if low <= 0 <= high else ""
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f}){open_}"


def changes(found: dict[str, Any]) -> str:
    """What changed, problem by problem, in two sentences."""
    greedy, sampled = found["change_greedy"], found["change_sampled_t1.0"]
    return (
        f"Problem by problem, greedy: {greedy['won']} won, {greedy['lost']} lost, {_points(greedy)}.\n"
        f"Sampled at T = 1: {_points(sampled)}."
    )


def _entropies(found: dict[str, Any]) -> str:
    sides = {who: found[who]["entropy_t1.0"] for who in ("base", "adapted")}
    levels = list(sides["base"]["share_above"])
    rows = [
        "| share of tokens above (nats) | " + " | ".join(levels) + " | mean (nats) |",
        "|---" * (len(levels) + 2) + "|",
    ]
    for who, nats in sides.items():
        shares = " | ".join(f"{share:.1%}" for share in nats["share_above"].values())
        rows.append(f"| {who} | {shares} | {nats['mean']:.3f} |")
    return "\n".join(rows)


def _unsolved(cells: list[dict[str, Any]]) -> str:
    """The wordings that greedy decoding with the adapter still gets wrong more often than not."""
    left = [c for c in cells if c["greedy"]["adapted"] < 0.5]
    worse = [c for c in cells if c["greedy"]["adapted"] < c["greedy"]["base"]]
    counts = {kind: sum(c["held_out"] == kind for c in left) for kind in ("numbers", "wording")}
    totals = {kind: sum(c["held_out"] == kind for c in cells) for kind in ("numbers", "wording")}
    return (
        f"Still wrong more often than not under greedy decoding: {counts['numbers']} of the {totals['numbers']} "
        f"trained wordings and {counts['wording']} of the {totals['wording']} held-out ones.\n"
        f"Solved less often than by the base: {len(worse)} of all {len(cells)}."
    )


def _measured(figures: dict[str, Any]) -> str:
    numbers, wordings = figures["held_out_numbers"], figures["held_out_wording"]
    return f"""
## Measured

On the bundled test set (`mini:test`), from the bundled files, computed in fp32; {SAMPLES} samples per problem at T = 1
and 4 at T = 0.6. Intervals of greedy, pass@{SAMPLES} and of counted equations and solutions are Wilson's; those of the
sampled rows and of the changes are bootstrapped over problems. In short, greedy on held-out numbers: base
{counted(numbers["base"]["greedy"])}; with the adapter {counted(numbers["adapted"]["greedy"])}.

### Held-out numbers, trained wordings ({numbers["base"]["problems"]} problems)

{table(numbers)}

{changes(numbers)}

### Held-out wordings and numbers ({wordings["base"]["problems"]} problems)

{table(wordings)}

{changes(wordings)}

{_unsolved(figures["cells"])}

### Entropy of each one's own samples at T = 1 (held-out numbers)

{_entropies(numbers)}

`figures.json` has the same and more, with one row per template and wording.
"""


def rl_card(figures: dict[str, Any]) -> str:
    """The text of `assets/mini/rl/README.md`."""
    trained = _TRAINED.format(**figures["training"], parameters=figures["parameters"])
    return FRONT.format(method="reinforcement-learning") + _ABOUT + trained + _measured(figures) + _LIMITS
