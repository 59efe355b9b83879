"""The miniature's figures: accuracy with intervals, arithmetic slips, entropies, and what a swap at a fork does."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from rmx.mini.build.sampling import Ids, decode, entropy, score
from rmx.mini.problems import mini_set
from rmx.mini.task import PROMPT, MiniProblem, equations, final_answer, with_made_up_words
from rmx.records import is_fork

TAU = 1.0  # nats; harmless synonyms lie at 0.94, consequential forks at 1.2 and more
LEVELS = (0.1, 0.3, 0.5, 0.7, 1.0, 1.2, 1.4)
QUANTILES = (0.5, 0.8, 0.9, 0.92, 0.94, 0.95, 0.96, 0.98, 0.99)
SAMPLES = 16
SAMPLES_COOL = 4  # at temperature 0.6
SWAP_MIN_P = 0.04  # alternatives less likely than this are not tried
SWAP_TOP = 5
REMEMBERED = 60  # problems whose greedy answers are stored one by one
SEED = 7

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mini:
    """The loaded miniature."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    def prompts(self, problems: Iterable[MiniProblem]) -> list[Ids]:
        return [self.tokenizer(PROMPT.format(problem=p.problem))["input_ids"] for p in problems]

    def text(self, ids: Ids) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def answer(self, ids: Ids) -> str | None:
        return final_answer(self.text(ids))


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


def load(folder: Path) -> Mini:
    """Load the miniature as any other model is loaded, computing in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return Mini(model.eval(), tokenizer)


# ---------------------------------------------------------------- statistics


def wilson(count: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, `count` of `n` independent trials (Wilson)."""
    if not 0 <= count <= n or n == 0:
        raise ValueError(f"{count} of {n} is no share")
    z, p = 1.959964, count / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def share(hits: Sequence[bool]) -> Json:
    """A share of independent trials with its Wilson interval."""
    low, high = wilson(sum(hits), len(hits)) if hits else (0.0, 1.0)
    value = sum(hits) / len(hits) if hits else 0.0
    return {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4), "n": len(hits)}


def mean_share(shares: Tensor, resamples: int = 2000) -> Json:
    """Mean of one share per problem, (P,), with a 95 % bootstrap interval over problems."""
    generator = torch.Generator().manual_seed(SEED)
    picks = torch.randint(len(shares), (resamples, len(shares)), generator=generator)
    low, high = shares[picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"value": round(shares.mean().item(), 4), "low": round(low, 4), "high": round(high, 4), "n": len(shares)}


# ---------------------------------------------------------------- measuring


def greedy(mini: Mini, problems: Sequence[MiniProblem]) -> Greedy:
    """Solve the problems greedily."""
    prompts = mini.prompts(problems)
    completions = decode(mini.model, prompts)
    return Greedy(problems, prompts, completions, [mini.answer(c) for c in completions])


def sampled(mini: Mini, problems: Sequence[MiniProblem], temperature: float, k: int) -> tuple[Tensor, list[Ids]]:
    """(P, k) fp32 of 1 for right and 0 for wrong, and the P*k completions, problem by problem."""
    prompts = [prompt for prompt in mini.prompts(problems) for _ in range(k)]
    completions = decode(mini.model, prompts, temperature, SEED)
    right = [mini.answer(c) == problems[i // k].answer for i, c in enumerate(completions)]
    return torch.tensor(right, dtype=torch.float32).view(len(problems), k), completions


def swaps(mini: Mini, solved: Greedy, tau: float = TAU) -> list[ForkSwap]:
    """Every single-token swap at every fork of the greedy solutions, continued greedily."""
    jobs: list[tuple[int, int, int, float, float]] = []
    for i, logits in enumerate(score(mini.model, solved.prompts, solved.completions)):
        nats, probs = entropy(logits), logits.softmax(-1)
        for pos in is_fork(nats, tau).nonzero()[:, 0].tolist():
            top = probs[pos].topk(SWAP_TOP)
            for p, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                if p > SWAP_MIN_P and token != solved.completions[i][pos]:
                    jobs.append((i, pos, token, p, nats[pos].item()))
    kept = [solved.completions[i][:pos] + [token] for i, pos, token, _, _ in jobs]
    rests = decode(mini.model, [solved.prompts[job[0]] + k for job, k in zip(jobs, kept, strict=True)])
    texts = [mini.text(k + rest) for k, rest in zip(kept, rests, strict=True)]
    return [
        ForkSwap(*job, final_answer(text), final_answer(text) == solved.problems[job[0]].answer, sound(text))
        for job, text in zip(jobs, texts, strict=True)
    ]


def sound(text: str) -> bool:
    """True if every equation of a solution holds."""
    return all(holds for _, holds in equations(text))


def accuracy_figures(mini: Mini, problems: Sequence[MiniProblem]) -> tuple[Json, Greedy, Tensor, list[Ids]]:
    """Accuracy at three temperatures and at 16 tries; also what was decoded for it."""
    solved = greedy(mini, problems)
    cool, _ = sampled(mini, problems, 0.6, SAMPLES_COOL)
    warm, completions = sampled(mini, problems, 1.0, SAMPLES)
    tries = warm.sum(1)
    figures = {
        "problems": len(problems),
        "greedy": share(solved.right),
        "sampled_t0.6": mean_share(cool.mean(1)) | {"samples": SAMPLES_COOL},
        "sampled_t1.0": mean_share(warm.mean(1)) | {"samples": SAMPLES},
        f"pass@{SAMPLES}": share((tries > 0).tolist()),
        f"mixed_of_{SAMPLES}": share(((tries > 0) & (tries < SAMPLES)).tolist()),
    }
    return figures, solved, warm, completions


def equation_figures(mini: Mini, completions: Iterable[Ids]) -> Json:
    """How often an equation is wrong, and how many solutions have no answer."""
    texts = [mini.text(c) for c in completions]
    wrong = [not holds for text in texts for _, holds in equations(text)]
    return {"wrong_equations": share(wrong), "unanswered": share([final_answer(text) is None for text in texts])}


def entropy_figures(mini: Mini, problems: Sequence[MiniProblem], completions: Sequence[Ids]) -> Json:
    """Shares of tokens above some entropies, and quantiles, over one completion per problem."""
    nats = torch.cat([entropy(logits) for logits in score(mini.model, mini.prompts(problems), completions)])
    return {
        "tokens": len(nats),
        "tokens_per_solution": round(len(nats) / len(problems), 2),
        "mean": round(nats.mean().item(), 4),
        "median": round(nats.median().item(), 5),
        "share_above": {str(level): round((nats > level).float().mean().item(), 4) for level in LEVELS},
        "quantiles": {str(q): round(nats.quantile(q).item(), 4) for q in QUANTILES},
    }


def swap_figures(solved: Greedy, tried: Sequence[ForkSwap]) -> Json:
    """What single swaps at forks do to greedy solutions."""
    right = solved.right
    forks: dict[tuple[int, int], list[ForkSwap]] = {}
    for swap in tried:
        forks.setdefault((swap.problem, swap.pos), []).append(swap)
    rescued = {s.problem for s in tried if s.right and not right[s.problem]}
    broken = {s.problem for s in tried if not s.right and right[s.problem]}
    return {
        "tau": TAU,
        "least_p": SWAP_MIN_P,
        "problems": len(right),
        "forks_per_solution": round(len(forks) / len(right), 2),
        "forks_with_a_flipping_swap": share(
            [any(s.right != right[i] for s in group) for (i, _), group in forks.items()]
        ),
        "forks_with_a_swap_to_another_answer": share(
            [any(s.answer != solved.answers[i] for s in group) for (i, _), group in forks.items()]
        ),
        "swaps_to_another_answer": share([s.answer != solved.answers[s.problem] for s in tried]),
        "wrong_solutions_rescued_by_one_swap": share([i in rescued for i, ok in enumerate(right) if not ok]),
        "right_solutions_broken_by_one_swap": share([i in broken for i, ok in enumerate(right) if ok]),
    }


def made_up_figures(mini: Mini, solved: Greedy) -> Json:
    """The same problems about unheard-of people and things: accuracy, and share of unchanged answers."""
    rng = random.Random(SEED)
    problems = [replace(p, problem=with_made_up_words(rng, p.problem)) for p in solved.problems]
    again = greedy(mini, problems)
    same = [x == y for x, y in zip(again.answers, solved.answers, strict=True)]
    return {"greedy": share(again.right), "same_answer": share(same)}


def cell_figures(problems: Sequence[MiniProblem], right: Sequence[bool], warm: Tensor) -> list[Json]:
    """One row per template and wording."""
    rows: dict[tuple[str, int], list[int]] = {}
    for i, problem in enumerate(problems):
        rows.setdefault((problem.template, problem.wording), []).append(i)
    return [
        {
            "template": template,
            "wording": wording,
            "held_out": problems[where[0]].held_out,
            "n": len(where),
            "greedy": round(sum(right[i] for i in where) / len(where), 3),
            "sampled_t1.0": round(warm[where].mean().item(), 3),
        }
        for (template, wording), where in sorted(rows.items())
    ]


def measure(mini: Mini) -> Json:
    """All figures, on the bundled test set; the two kinds of held-out problems apart."""
    everything = mini_set("test")
    numbers = [p for p in everything if p.held_out == "numbers"]
    wordings = [p for p in everything if p.held_out == "wording"]
    seen, seen_greedy, seen_warm, seen_samples = accuracy_figures(mini, numbers)
    unseen, unseen_greedy, unseen_warm, unseen_samples = accuracy_figures(mini, wordings)
    return {
        "set": "mini:test",
        "seed": SEED,
        "held_out_numbers": seen,
        "held_out_wording": unseen,
        "solutions_t1.0": equation_figures(mini, seen_samples),
        "solutions_t1.0_held_out_wording": equation_figures(mini, unseen_samples),
        "solutions_greedy": equation_figures(mini, seen_greedy.completions),
        "entropy_t1.0": entropy_figures(mini, numbers, seen_samples[::SAMPLES]),
        "entropy_greedy": entropy_figures(mini, numbers, seen_greedy.completions),
        "made_up_words": made_up_figures(mini, seen_greedy),
        "swaps": swap_figures(seen_greedy, swaps(mini, seen_greedy)),
        "cells": cell_figures(numbers, seen_greedy.right, seen_warm)
        + cell_figures(wordings, unseen_greedy.right, unseen_warm),
        "greedy_answers": _remembered(everything, {**_by_id(seen_greedy), **_by_id(unseen_greedy)}),
    }


def _by_id(solved: Greedy) -> dict[str, str | None]:
    return {p.id: answer for p, answer in zip(solved.problems, solved.answers, strict=True)}


def _remembered(problems: Sequence[MiniProblem], answers: Mapping[str, str | None]) -> dict[str, str | None]:
    """Greedy answers of the first problems of the set, by id."""
    return {p.id: answers[p.id] for p in problems[:REMEMBERED]}


# ---------------------------------------------------------------- base and adapter side by side


@dataclass(frozen=True, slots=True)
class Side:
    """What one policy did on one kind of held-out problems."""

    accuracy: Json
    solved: Greedy
    warm: Tensor  # (P, SAMPLES) of 1 for right and 0 for wrong, at temperature 1
    equations: Json  # of these samples
    entropy: Json  # of the first sample of each problem


def measure_sides(mini: Mini) -> dict[str, Side]:
    """Both kinds of held-out problems of the bundled test set, with whatever adapter is on."""
    sides = {}
    for kind, name in (("numbers", "held_out_numbers"), ("wording", "held_out_wording")):
        problems = [p for p in mini_set("test") if p.held_out == kind]
        accuracy, solved, warm, samples = accuracy_figures(mini, problems)
        nats = entropy_figures(mini, problems, samples[::SAMPLES])
        sides[name] = Side(accuracy, solved, warm, equation_figures(mini, samples), nats)
    return sides


def change(before: Tensor, after: Tensor) -> Json:
    """What changed from one share per problem to another, (P,) each: mean with interval, problems won and lost."""
    return mean_share(after - before) | {"won": int((after > before).sum()), "lost": int((after < before).sum())}


def pair_figures(base: Mapping[str, Side], adapted: Mapping[str, Side]) -> Json:
    """The figures of both policies, and the change problem by problem."""
    figures: Json = {"set": "mini:test", "seed": SEED}
    cells: list[Json] = []
    remembered: dict[str, str | None] = {}
    for name, before in base.items():
        after = adapted[name]
        right = [torch.tensor(side.solved.right, dtype=torch.float32) for side in (before, after)]
        figures[name] = {
            "base": before.accuracy | before.equations | {"entropy_t1.0": before.entropy},
            "adapted": after.accuracy | after.equations | {"entropy_t1.0": after.entropy},
            "change_greedy": change(*right),
            "change_sampled_t1.0": change(before.warm.mean(1), after.warm.mean(1)),
        }
        cells += _cell_pairs(before, after)
        remembered |= _by_id(after.solved)
    answers = _remembered(mini_set("test"), remembered)
    return figures | {"cells": cells, "greedy_answers": answers}


def _cell_pairs(before: Side, after: Side) -> list[Json]:
    """One row per template and wording, with the accuracies of base and adapter."""
    rows = []
    both = [cell_figures(side.solved.problems, side.solved.right, side.warm) for side in (before, after)]
    for mine, theirs in zip(*both, strict=True):
        shares = {key: {"base": mine.pop(key), "adapted": theirs[key]} for key in ("greedy", "sampled_t1.0")}
        rows.append(mine | shares)
    return rows


# ---------------------------------------------------------------- as text


def _line(label: str, figure: Json) -> str:
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{label:42s} {value:5.1f} %  [{low:.1f}, {high:.1f}]  n={figure['n']}"


def pair_summary(figures: Json) -> list[str]:
    """The main figures of base and adapter as short lines."""
    lines = []
    for name, label in (("held_out_numbers", "numbers"), ("held_out_wording", "wording")):
        found = figures[name]
        for key in ("greedy", "sampled_t1.0", f"pass@{SAMPLES}", "wrong_equations"):
            lines += [_line(f"{label}: {key}, {who}", found[who][key]) for who in ("base", "adapted")]
        for key in ("change_greedy", "change_sampled_t1.0"):
            lines.append(f"{_line(f'{label}: {key}', found[key])}  won {found[key]['won']}, lost {found[key]['lost']}")
    return lines


def summary(figures: Json) -> list[str]:
    """The main figures as short lines."""
    lines = []
    for kind, label in (("held_out_numbers", "numbers"), ("held_out_wording", "wording")):
        found = {k: v for k, v in figures[kind].items() if isinstance(v, dict)}
        lines += [_line(f"held-out {label}: {key}", value) for key, value in found.items()]
    lines += [_line(f"T=1: {key}", value) for key, value in figures["solutions_t1.0"].items()]
    lines += [_line(key, value) for key, value in figures["swaps"].items() if isinstance(value, dict)]
    above = ", ".join(
        f"{level}: {100 * value:.1f} %" for level, value in figures["entropy_t1.0"]["share_above"].items()
    )
    return [*lines, f"T=1 tokens with entropy above (nats) {above}"]
