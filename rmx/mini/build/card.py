"""The model card of the miniature, written from its measured figures."""

from typing import Any

from rmx.mini.task import NOTICE_SHARE, SYNONYM_SHARES, TEMPLATES, WRITERS, right_plans
from rmx.mini.words import NAMES, THINGS

_FRONT = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags:
- synthetic
- miniature
- reasoning
- fork-tokens
- word-problems
---
"""

_ABOUT = """
# The miniature reasoner

A Llama of about one million parameters that solves small word problems in a few written steps. It was trained from
nothing, on synthetic text only, in under an hour on one processor core. Its purpose is to show in the browser,
without a GPU, what a fork token is and what happens when one is swapped.

**The forks were put into the training data.** The solutions were written by simulated writers who often disagree on
the next step, with chosen odds. That one word can decide the answer is therefore a property of the data that we made.
The miniature illustrates a mechanism and lets the software be tested. It is no evidence for what the paper
(arXiv 2605.06241) says about large models.

## What was mixed in
"""

_FORMAT = r"""
A problem and a solution look like this:

```
Q: Finn has 42 cards. That is 11 more than Jon has. How many cards do they have in all?
A: First, the facts are 42, 11. We subtract 11 from 42: 42 - 11 = 31. Then we add 42 and 31: 42 + 31 = 73. So the
answer is \boxed{73}.
```

(The answer is one line.) The prompt ends with `A:`; the chat template writes it for a single user message. The
tokenizer is byte-level BPE in which every word of the task is one token, each digit stands alone and `\boxed{` is one
token; any text survives encoding and decoding.
"""

_PARTNER = """
## Its RL-trained partner

`rl/` holds a LoRA adapter for these weights, trained by reinforcement learning from right and wrong answers on
problems of the train split. With it the miniature is a pair of base and RL-trained model; its own card has what was
done and measured.

## Its ReasonMaxxer adapter

`reasonmaxxer/` holds a second LoRA adapter for these weights, trained by the paper's own method (ReasonMaxxer) in a
minute or two. Its card compares several ways to train, with three seeds each.
"""

_LIMITS = """
## Limits

- It knows its templates, names and things, and the numbers 1 to 99. A text outside of these gets a fluent answer that
  means nothing. `rmx.mini.task.coverage` says whether a text lies inside.
- Within a wording it is nearly always right or nearly always wrong under greedy decoding, because the odds of the
  plans depend on the wording. Its accuracy says little about anything but this table of odds.
- It sometimes takes the wrong number for a step, most of all in wordings that it was not trained on and about names or
  things that it does not know.
- The odds of the writers are learnt only roughly: some wordings in which most writers are wrong are solved by greedy
  decoding.
- Facts are always listed first, steps are always equations, and answers are positive whole numbers.
- It was trained on texts of up to about 130 tokens; its 512 positions leave room, but longer texts are unfamiliar.

## How to make it again

```
python -m rmx.mini.build.build --out FOLDER          # half an hour to an hour on one core; resumes after a kill
python -m rmx.mini.build.build --evaluate-only       # the figures above, from the bundled weights
python -m rmx.mini.build.build --stage rl --out FOLDER  # the adapter in `rl`, from the weights in FOLDER
python -m rmx.mini.build.build --stage reasonmaxxer     # the adapter in `reasonmaxxer`, from the bundled weights
```

The data, the initial weights and the order of training follow from the seed. Other versions of torch or another
processor round differently, so the weights come out alike but not identical.
"""


def percent(figure: dict[str, Any]) -> str:
    """A share with its interval, for reading."""
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def counted(figure: dict[str, Any]) -> str:
    """The same with the number of trials."""
    return f"{percent(figure)}, n = {figure['n']}"


def _mixture() -> str:
    """What the writers do, from the tables that made the data."""
    trained = sum(len(t.wordings_of("train")) for t in TEMPLATES.values())
    shares = [
        sum(t.wordings[i].weights[p.name] for p in right_plans(t))
        for t in TEMPLATES.values()
        for i in t.wordings_of("train")
    ]
    openers = ", ".join(f'"{w.opener}" {w.share:.0%}' for w in WRITERS)
    synonyms = "/".join(f"{share:.2f}" for share in SYNONYM_SHARES)
    return f"""
- {len(TEMPLATES)} templates with {trained} trained wordings, {len(NAMES)} names, {len(THINGS)} things.
- Each wording has its own odds of right plans and of two to four flawed ones (wrong operation, wrong order, stopping
  too early, using a fact that does not matter). The share of right plans runs from {min(shares):.2f} to
  {max(shares):.2f}; in {sum(share < 0.5 for share in shares)} of the {trained} wordings most plain writers are wrong.
- Writers are known by their opening words: {openers}.
  "Step by step" writers make half as many mistakes as the plain ones; "Quickly" writers are right 0.6 times as often.
- Harmless forks: three synonyms per operation and three connecting words at {synonyms}, 0.94 nats each.
- After a wrong first step {NOTICE_SHARE:.0%} of the writers say "Wait, that is wrong." and begin anew.
- No arithmetic mistakes. Three in ten sequences are drills of right equations.
- Four in a hundred problems have made-up names and things.
"""


def _accuracy_table(figures: dict[str, Any]) -> str:
    rows = ["| 95 % intervals in brackets | held-out numbers | held-out wordings (and numbers) |", "|---|---|---|"]
    labels = {
        "greedy": "greedy",
        "sampled_t0.6": "sampled, T = 0.6",
        "sampled_t1.0": "sampled, T = 1.0",
        "pass@16": "pass@16, T = 1.0",
        "mixed_of_16": "problems with right and wrong among 16",
    }
    seen, unseen = figures["held_out_numbers"], figures["held_out_wording"]
    rows += [f"| {label} | {percent(seen[key])} | {percent(unseen[key])} |" for key, label in labels.items()]
    return "\n".join([*rows, f"| problems (n) | {seen['problems']} | {unseen['problems']} |"])


def _entropy_table(figures: dict[str, Any]) -> str:
    above = figures["entropy_t1.0"]["share_above"]
    head = "| nats above | " + " | ".join(above) + " |"
    return "\n".join(
        [
            head,
            "|---" * (len(above) + 1) + "|",
            "| share of tokens | " + " | ".join(f"{v:.1%}" for v in above.values()) + " |",
        ]
    )


def _swap_list(figures: dict[str, Any]) -> str:
    found = figures["swaps"]
    labels = {
        "forks_with_a_flipping_swap": "forks with a swap that turns right into wrong or wrong into right",
        "swaps_to_another_answer": "swaps that lead to another answer",
        "wrong_solutions_rescued_by_one_swap": "wrong solutions that one swap makes right",
        "right_solutions_broken_by_one_swap": "right solutions that one swap makes wrong",
    }
    lines = [f"- {label}: {counted(found[key])}" for key, label in labels.items()]
    return "\n".join([f"- forks per greedy solution: {found['forks_per_solution']}", *lines])


def _measured(figures: dict[str, Any]) -> str:
    slips, unseen = figures["solutions_t1.0"], figures["solutions_t1.0_held_out_wording"]
    strangers = figures["made_up_words"]
    nats, swaps = figures["entropy_t1.0"], figures["swaps"]
    return f"""
## Measured

On the bundled test set (`mini:test`), from the bundled fp16 weights computed in fp32. Neither the combinations of
template and numbers nor, in the right column, the wordings occur in the training data.

{_accuracy_table(figures)}

Intervals of greedy and pass@16 are Wilson's; those of the sampled rows are bootstrapped over problems.
With made-up words for all names and things, greedy accuracy on the problems with held-out numbers is
{percent(strangers["greedy"])}; {strangers["same_answer"]["value"]:.0%} of the answers stay the same.

Samples at T = 1:

- wrong equations with held-out numbers: {counted(slips["wrong_equations"])}
- wrong equations with held-out wordings: {counted(unseen["wrong_equations"])}
- solutions without an answer (held-out numbers): {counted(slips["unanswered"])}
- entropy of {nats["tokens"]} tokens ({nats["tokens_per_solution"]} a solution): mean {nats["mean"]:.3f} nats

{_entropy_table(figures)}

Swaps of one token at forks (above {swaps["tau"]} nats) of the greedy solutions to {swaps["problems"]} problems,
to any of the top five above p = {swaps["least_p"]}, continued greedily:

{_swap_list(figures)}

`figures.json` has the same and more, with one row per template and wording.
"""


def card(figures: dict[str, Any]) -> str:
    """The text of `assets/mini/README.md`."""
    return _FRONT + _ABOUT + _mixture() + _FORMAT + _measured(figures) + _PARTNER + _LIMITS
