"""Prepared examples for the first screen: one swap that rescues, breaks or leaves alone a greedy solution."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rmx.data.prepared_swaps import Example, Kind
from rmx.mini.build.mini_figures import ForkSwap, Greedy, greedy, sound, swaps
from rmx.mini.build.miniature import Mini
from rmx.mini.problem_sets import mini_set

PER_KIND = 4
LONGEST_PROBLEM = 150  # characters
LEAST_P = 0.12  # of the swapped token where the swap matters


def _title(base: str, token: str, base_answer: str, swapped_answer: str) -> str:
    verdict = f"still {base_answer}" if base_answer == swapped_answer else f"{base_answer} becomes {swapped_answer}"
    return f"\u201c{token.strip()}\u201d instead of \u201c{base.strip()}\u201d: {verdict}"


def _example(mini: Mini, solved: Greedy, swap: ForkSwap, kind: Kind) -> Example:
    problem, base = solved.problems[swap.problem], solved.completions[swap.problem][swap.pos]
    token, base_answer = mini.text([swap.token_id]), solved.answers[swap.problem]
    if base_answer is None or swap.answer is None:
        raise ValueError(f"{problem.id}: an example needs both answers")
    return Example(
        title=_title(mini.text([base]), token, base_answer, swap.answer),
        kind=kind,
        problem_id=problem.id,
        problem=problem.problem,
        answer=problem.answer,
        pos=swap.pos,
        token_id=swap.token_id,
        token_text=token,
        base_answer=base_answer,
        swapped_answer=swap.answer,
        entropy=round(swap.entropy, 4),
        p=round(swap.p, 4),
    )


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
