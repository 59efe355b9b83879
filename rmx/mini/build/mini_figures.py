"""The miniature's figures (accuracy, slips, entropies, what a swap at a fork does), and the prepared examples."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmx.data.problem_sets import Example, Kind
from rmx.engine.entropy import capture
from rmx.errors import ModelError
from rmx.mini.build.miniature import TRAINING, Ids, Mini
from rmx.mini.problem_sets import equations, final_answer, mini_set, with_made_up_words
from rmx.mini.task import MiniProblem
from rmx.models import load as models
from rmx.models.adapters import add_adapter
from rmx.records import is_fork
from rmx.stats import intervals
from rmx.stats import text as as_text
from rmx.storage.safe_files import read_json

TAU = 1.0  # nats; harmless synonyms lie at 0.94, consequential forks at 1.2 and more
LEVELS = (0.1, 0.3, 0.5, 0.7, 1.0, 1.2, 1.4)
QUANTILES = (0.5, 0.8, 0.9, 0.92, 0.94, 0.95, 0.96, 0.98, 0.99)
SAMPLES = 16
SAMPLES_COOL = 4  # at temperature 0.6
SWAP_MIN_P = 0.04  # alternatives less likely than this are not tried
SWAP_TOP = 5
REMEMBERED = 60  # problems whose greedy answers are stored one by one
SEED = 7
RESAMPLES = 2000
KINDS = {"held_out_numbers": "numbers", "held_out_wording": "wording"}  # in the figures -> in a problem

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ForkSwap:
    """One other token at a fork of a greedy solution, and the answer that greedy decoding then reaches."""

    problem: int  # index into the problems given
    pos: int  # completion token, from 0
    token_id: int
    p: float
    entropy: float  # nats, at the fork
    answer: str | None
    right: bool
    sound: bool  # every equation of the solution that follows holds


@dataclass(frozen=True, slots=True)
class Greedy:
    """The greedy solutions of some problems."""

    problems: Sequence[MiniProblem]
    prompts: list[Ids]
    completions: list[Ids]
    answers: list[str | None]

    @property
    def right(self) -> list[bool]:
        return [a == p.answer for a, p in zip(self.answers, self.problems, strict=True)]


@dataclass(frozen=True, slots=True)
class Side:
    """What base or adapter did on one kind of held-out problems."""

    accuracy: Json
    solved: Greedy
    warm: Tensor  # (P, SAMPLES) of 1 for right and 0 for wrong, at temperature 1
    equations: Json  # of these samples
    entropy: Json  # of the first sample of each problem


def share(hits: Sequence[bool]) -> Json:
    """Estimate a share of independent trials, with its Wilson interval."""
    return {key: round(value or 0.0, 4) for key, value in intervals.share(sum(hits), len(hits)).items()}


def mean_share(shares: Tensor) -> Json:
    """Estimate the mean of one share per problem, (P,), with a 95 % bootstrap interval over problems.

    The bundled figures and cards rest on these very resamples; `rmx.stats` draws others.
    """
    generator = torch.Generator().manual_seed(SEED)
    picks = torch.randint(len(shares), (RESAMPLES, len(shares)), generator=generator)
    low, high = shares[picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"value": round(shares.mean().item(), 4), "low": round(low, 4), "high": round(high, 4), "n": len(shares)}


def change(before: Tensor, after: Tensor) -> Json:
    """Estimate what changed from one share per problem to another, (P,) each, and count problems won and lost."""
    return mean_share(after - before) | {"won": int((after > before).sum()), "lost": int((after < before).sum())}


def greedy(mini: Mini, problems: Sequence[MiniProblem]) -> Greedy:
    """Solve the problems greedily."""
    prompts = mini.prompts(problems)
    completions = mini.decode(prompts)
    return Greedy(problems, prompts, completions, [mini.answer(c) for c in completions])


def sampled(
    mini: Mini, problems: Sequence[MiniProblem], temperature: float, k: int, seed: int = SEED
) -> tuple[Tensor, list[Ids], list[Ids]]:
    """Sample k solutions of each problem: (P, k) fp32 of 1 for right and 0 for wrong, P*k prompts, P*k completions."""
    prompts = [prompt for prompt in mini.prompts(problems) for _ in range(k)]
    completions = mini.decode(prompts, temperature, seed)
    right = [mini.answer(c) == problems[i // k].answer for i, c in enumerate(completions)]
    return torch.tensor(right, dtype=torch.float32).view(len(problems), k), prompts, completions


def swaps(mini: Mini, solved: Greedy) -> list[ForkSwap]:
    """Try every single-token swap at every fork of the greedy solutions, continued greedily."""
    jobs: list[tuple[int, int, int, float, float]] = []
    for i, logits in enumerate(mini.score(solved.prompts, solved.completions)):
        nats, probs = capture(logits, 1).entropy, logits.softmax(-1)
        for pos in is_fork(nats, TAU).nonzero()[:, 0].tolist():
            top = probs[pos].topk(SWAP_TOP)
            for p, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                if p > SWAP_MIN_P and token != solved.completions[i][pos]:
                    jobs.append((i, pos, token, p, nats[pos].item()))
    kept = [solved.completions[i][:pos] + [token] for i, pos, token, _, _ in jobs]
    rests = mini.decode([solved.prompts[job[0]] + k for job, k in zip(jobs, kept, strict=True)])
    texts = [mini.text(k + rest) for k, rest in zip(kept, rests, strict=True)]
    return [
        ForkSwap(*job, final_answer(text), final_answer(text) == solved.problems[job[0]].answer, sound(text))
        for job, text in zip(jobs, texts, strict=True)
    ]


def sound(text: str) -> bool:
    """Say whether every equation of a solution holds."""
    return all(holds for _, holds in equations(text))


def equation_figures(mini: Mini, completions: Iterable[Ids]) -> Json:
    """Measure how often an equation is wrong, and how many solutions have no answer."""
    texts = [mini.text(c) for c in completions]
    wrong = [not holds for text in texts for _, holds in equations(text)]
    return {"wrong_equations": share(wrong), "unanswered": share([final_answer(text) is None for text in texts])}


def entropy_figures(mini: Mini, problems: Sequence[MiniProblem], completions: Sequence[Ids]) -> Json:
    """Measure shares of tokens above some entropies, and quantiles, over one completion per problem."""
    scored = mini.score(mini.prompts(problems), completions)
    nats = torch.cat([capture(logits, 1).entropy for logits in scored])
    return {
        "tokens": len(nats), "tokens_per_solution": round(len(nats) / len(problems), 2),
        "mean": round(nats.mean().item(), 4), "median": round(nats.median().item(), 5),
        "share_above": {str(level): round((nats > level).float().mean().item(), 4) for level in LEVELS},
        "quantiles": {str(q): round(nats.quantile(q).item(), 4) for q in QUANTILES},
    }  # fmt: skip


def swap_figures(solved: Greedy, tried: Sequence[ForkSwap]) -> Json:
    """Count what single swaps at forks do to greedy solutions."""
    right = solved.right
    forks: dict[tuple[int, int], list[ForkSwap]] = {}
    for swap in tried:
        forks.setdefault((swap.problem, swap.pos), []).append(swap)
    rescued = {s.problem for s in tried if s.right and not right[s.problem]}
    broken = {s.problem for s in tried if not s.right and right[s.problem]}
    flipping = [any(s.right != right[i] for s in group) for (i, _), group in forks.items()]
    changing = [any(s.answer != solved.answers[i] for s in group) for (i, _), group in forks.items()]
    return {
        "tau": TAU, "least_p": SWAP_MIN_P, "problems": len(right),
        "forks_per_solution": round(len(forks) / len(right), 2), "forks_with_a_flipping_swap": share(flipping),
        "forks_with_a_swap_to_another_answer": share(changing),
        "swaps_to_another_answer": share([s.answer != solved.answers[s.problem] for s in tried]),
        "wrong_solutions_rescued_by_one_swap": share([i in rescued for i, ok in enumerate(right) if not ok]),
        "right_solutions_broken_by_one_swap": share([i in broken for i, ok in enumerate(right) if ok]),
    }  # fmt: skip


def made_up_figures(mini: Mini, solved: Greedy) -> Json:
    """Solve the same problems about unheard-of people and things: accuracy, and share of unchanged answers."""
    rng = random.Random(SEED)
    again = greedy(mini, [replace(p, problem=with_made_up_words(rng, p.problem)) for p in solved.problems])
    same = [x == y for x, y in zip(again.answers, solved.answers, strict=True)]
    return {"greedy": share(again.right), "same_answer": share(same)}


def cell_figures(side: Side) -> list[Json]:
    """Make one row per template and wording."""
    problems, right = side.solved.problems, side.solved.right
    rows: dict[tuple[str, int], list[int]] = {}
    for i, problem in enumerate(problems):
        rows.setdefault((problem.template, problem.wording), []).append(i)
    return [
        {
            "template": template, "wording": wording, "held_out": problems[where[0]].held_out, "n": len(where),
            "greedy": round(sum(right[i] for i in where) / len(where), 3),
            "sampled_t1.0": round(side.warm[where].mean().item(), 3),
        }
        for (template, wording), where in sorted(rows.items())
    ]  # fmt: skip


def measure_sides(mini: Mini) -> dict[str, Side]:
    """Measure accuracy at three temperatures and at 16 tries on the bundled test set, by what was held out."""
    sides = {}
    for name, kind in KINDS.items():
        problems = [p for p in mini_set("test") if p.held_out == kind]
        solved = greedy(mini, problems)
        cool = sampled(mini, problems, 0.6, SAMPLES_COOL)[0]
        warm, _, samples = sampled(mini, problems, 1.0, SAMPLES)
        tries = warm.sum(1)
        accuracy = {
            "problems": len(problems), "greedy": share(solved.right),
            "sampled_t0.6": mean_share(cool.mean(1)) | {"samples": SAMPLES_COOL},
            "sampled_t1.0": mean_share(warm.mean(1)) | {"samples": SAMPLES},
            f"pass@{SAMPLES}": share((tries > 0).tolist()),
            f"mixed_of_{SAMPLES}": share(((tries > 0) & (tries < SAMPLES)).tolist()),
        }  # fmt: skip
        nats = entropy_figures(mini, problems, samples[::SAMPLES])
        sides[name] = Side(accuracy, solved, warm, equation_figures(mini, samples), nats)
    return sides


def _remembered(sides: Iterable[Side]) -> dict[str, str | None]:
    """List the greedy answers of the first problems of the set, by id."""
    answers = {p.id: a for s in sides for p, a in zip(s.solved.problems, s.solved.answers, strict=True)}
    return {p.id: answers[p.id] for p in mini_set("test")[:REMEMBERED]}


def measure(mini: Mini) -> Json:
    """Measure all figures of the base on the bundled test set; the two kinds of held-out problems apart."""
    sides = measure_sides(mini)
    seen, unseen = (sides[name] for name in KINDS)
    return {
        "set": "mini:test", "seed": SEED, **{name: side.accuracy for name, side in sides.items()},
        "solutions_t1.0": seen.equations, "solutions_t1.0_held_out_wording": unseen.equations,
        "solutions_greedy": equation_figures(mini, seen.solved.completions), "entropy_t1.0": seen.entropy,
        "entropy_greedy": entropy_figures(mini, seen.solved.problems, seen.solved.completions),
        "made_up_words": made_up_figures(mini, seen.solved),
        "swaps": swap_figures(seen.solved, swaps(mini, seen.solved)),
        "cells": cell_figures(seen) + cell_figures(unseen), "greedy_answers": _remembered(sides.values()),
    }  # fmt: skip


def measure_pair(base: str, folder: Path) -> Json:
    """Measure base and adapter, loaded as the app loads them, and the change problem by problem.

    `folder` holds the adapter with its `training.json`; ModelError where it was trained on other weights.
    """
    model = models.load(base, device="cpu", dtype="float32")
    trained = read_json(folder / TRAINING)
    of = trained["base"] if isinstance(trained["base"], str) else trained["base"]["revision"]
    if of != model.revision:
        raise ModelError(f"{folder} belongs to {of}, but {base} holds {model.revision}; train it again.")
    name = add_adapter(model, str(folder))
    sides = [measure_sides(Mini(model, adapter)) for adapter in (None, name)]
    parameters = sum(p.numel() for n, p in model.engine.model.named_parameters() if "lora_" in n)
    about = {"base": model.revision, "adapter": models.fingerprint(folder), "parameters": parameters}
    recipe = {"training": trained["config"]} if "config" in trained else {}
    return about | recipe | pair_figures(*sides)


def pair_figures(base: Mapping[str, Side], adapted: Mapping[str, Side]) -> Json:
    """Put the figures of both together, with the change problem by problem."""
    figures: Json = {"set": "mini:test", "seed": SEED}
    cells: list[Json] = []
    for name, before in base.items():
        after = adapted[name]
        right = [torch.tensor(side.solved.right, dtype=torch.float32) for side in (before, after)]
        figures[name] = {
            "base": before.accuracy | before.equations | {"entropy_t1.0": before.entropy},
            "adapted": after.accuracy | after.equations | {"entropy_t1.0": after.entropy},
            "change_greedy": change(*right),
            "change_sampled_t1.0": change(before.warm.mean(1), after.warm.mean(1)),
        }
        for mine, theirs in zip(cell_figures(before), cell_figures(after), strict=True):
            shares = {key: {"base": mine.pop(key), "adapted": theirs[key]} for key in ("greedy", "sampled_t1.0")}
            cells.append(mine | shares)
    return figures | {"cells": cells, "greedy_answers": _remembered(adapted.values())}


percent = partial(as_text.percent, bounds=" ({:.1f} to {:.1f})")
points = partial(as_text.points, bounds=" ({:+.1f} to {:+.1f})")


def counted(figure: Json) -> str:
    """Write a share with its interval and the number of trials."""
    return f"{percent(figure)}, n = {figure['n']}"


def summary(figures: Json, place: str = "") -> Iterator[str]:
    """Write every figure that has an interval as a short line, after its place among the figures."""
    for key, found in figures.items():
        label = f"{place}, {key}" if place else key
        if isinstance(found, dict) and "low" in found:
            yield f"{label:55s} {as_text.percent(found, '{:5.1f} %', '  [{:.1f}, {:.1f}]')}  n={found['n']}"
        elif isinstance(found, dict):
            yield from summary(found, label)


# -- Prepared examples for the first screen ---------------------------------------------------------------------------


PER_KIND = 4
LONGEST_PROBLEM = 150  # characters
LEAST_P = 0.12  # of the swapped token where the swap matters


def _example(mini: Mini, solved: Greedy, swap: ForkSwap, kind: Kind) -> Example:
    problem, base = solved.problems[swap.problem], mini.text([solved.completions[swap.problem][swap.pos]])
    token, before, after = mini.text([swap.token_id]), solved.answers[swap.problem], swap.answer
    if before is None or after is None:
        raise ValueError(f"{problem.id}: an example needs both answers")
    verdict = f"still {before}" if before == after else f"{before} becomes {after}"
    return Example(
        title=f"\u201c{token.strip()}\u201d instead of \u201c{base.strip()}\u201d: {verdict}", kind=kind,
        problem_id=problem.id, problem=problem.problem, answer=problem.answer, pos=swap.pos, token_id=swap.token_id,
        token_text=token, base_answer=before, swapped_answer=after, entropy=round(swap.entropy, 4), p=round(swap.p, 4),
    )  # fmt: skip


def _presentable(mini: Mini, solved: Greedy, swap: ForkSwap) -> bool:
    """True for words on short problems whose solution has an answer and no slip."""
    words = mini.text([solved.completions[swap.problem][swap.pos]]), mini.text([swap.token_id])
    return (
        all(word.strip().isalpha() for word in words)
        and len(solved.problems[swap.problem].problem) <= LONGEST_PROBLEM
        and solved.answers[swap.problem] is not None
        and sound(mini.text(solved.completions[swap.problem]))
    )


def _candidates(mini: Mini, solved: Greedy, tried: Sequence[ForkSwap]) -> Iterator[tuple[Kind, ForkSwap]]:
    """Every swap that could be shown, with its kind; for a harmless fork its likeliest alternative."""
    for (i, _), group in groupby(tried, key=lambda swap: (swap.problem, swap.pos)):
        alternatives = list(group)
        if not all(_presentable(mini, solved, swap) for swap in alternatives):
            continue
        if len(alternatives) > 1 and all(s.answer == solved.answers[i] for s in alternatives):
            yield "harmless", max(alternatives, key=lambda s: s.p)
        for swap in alternatives:
            if swap.answer is not None and swap.sound and swap.right != solved.right[i] and swap.p >= LEAST_P:
                yield ("rescue" if swap.right else "break"), swap


def _varied(examples: Iterable[Example], templates: Sequence[str], count: int) -> list[Example]:
    """The first `count` that share neither template nor the pair of words with one already taken."""
    taken: list[Example] = []
    used: set[str] = set()
    for example, template in zip(examples, templates, strict=True):
        words = example.title.split(":")[0]
        if len(taken) < count and not {words, template} & used:
            taken.append(example)
            used |= {words, template}
    return taken


def find_examples(mini: Mini) -> list[Example]:
    """Search the test problems with held-out numbers; the same model always gives the same examples."""
    solved = greedy(mini, [p for p in mini_set("test") if p.held_out == "numbers"])

    def appeal(swap: ForkSwap) -> float:
        """Higher for a likely swap on a short problem; the opening word tells least and comes last."""
        return swap.p - 0.002 * len(solved.problems[swap.problem].problem) - (1.0 if swap.pos == 0 else 0.0)

    found = sorted(_candidates(mini, solved, swaps(mini, solved)), key=lambda pair: -appeal(pair[1]))
    chosen: list[Example] = []
    kinds: tuple[Kind, ...] = ("rescue", "break", "harmless")
    for kind in kinds:
        fitting = [swap for k, swap in found if k == kind]
        made = [_example(mini, solved, swap, kind) for swap in fitting]
        chosen += _varied(made, [solved.problems[s.problem].template for s in fitting], PER_KIND)
    return chosen
