"""Solutions of the miniature's problems, by writers who often part ways, and the bundled sets `mini` and `arith`.

A solution is one paragraph of short equations. Which equation comes next is the writer's choice, drawn with the weights
of `assets/mini/wordings.toml`: these choices are the consequential forks. Synonyms of the verbs and of the connecting
words are the harmless ones. Careful writers err less and hasty ones more; some who took a wrong first step notice it.

`python -m rmx.mini.problem_sets` writes the sets: always the same files.
"""

import argparse
import json
import random
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rmx.config import ASSETS
from rmx.mini import task
from rmx.mini.task import Equation, MiniProblem, Split, Writer, make_problem, right_plans, worked_plans

_EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
_BOXED = re.compile(r"\\boxed\{(\d+)\}")


def plan_weights(problem: MiniProblem, writer: Writer) -> dict[str, float]:
    """Work out the share of each plan among the solutions that this writer gives to a problem of a trained wording."""
    template = task.TEMPLATES[problem.template]
    weights = template.wordings[problem.wording].weights
    doable = worked_plans(template, dict(problem.numbers))
    plain = {name: weight for name, weight in weights.items() if name in doable}
    right = sum(weight for name, weight in plain.items() if template.plans[name].right)
    flawed = sum(plain.values()) - right
    plain_success = right / (right + flawed)  # of a writer who is neither careful nor hasty
    success = writer.success_factor * (1 - writer.error_factor * (1 - plain_success)) if flawed else 1.0
    return {
        name: weight / right * success if template.plans[name].right else weight / flawed * (1 - success)
        for name, weight in plain.items()
    }


def write_solution(rng: random.Random, problem: MiniProblem) -> str:
    """Write a solution as a random writer does, beginning with a space; right or wrong as the plan it follows."""
    writer = rng.choices(task.WRITERS, [w.share for w in task.WRITERS])[0]
    weights = plan_weights(problem, writer)
    plan = rng.choices(list(weights), list(weights.values()))[0]
    return write_plan(rng, problem, writer, plan)


def write_plan(rng: random.Random, problem: MiniProblem, writer: Writer, plan: str) -> str:
    """Write the paragraph of one writer who follows one plan, or turns back after a wrong first step."""
    template = task.TEMPLATES[problem.template]
    worked, right = worked_plans(template, dict(problem.numbers)), right_plans(template)
    steps = worked[plan]
    said = [_say(rng, steps[0], first=True)]
    # The first step is wrong where no right plan begins like this one.
    is_wrong = steps[0] not in [worked[p.name][0] for p in right if p.name in worked]
    if right[0].name in worked and is_wrong and rng.random() < task.NOTICE_SHARE:
        steps = worked[right[0].name]
        said += [task.NOTICE_TEXT, _say(rng, steps[0], first=True)]
    said += [_say(rng, step, first=False) for step in steps[1:]]
    facts = ", ".join(re.findall(r"\d+", problem.problem))
    opening = f"{writer.opener} the facts are {facts}."
    ending = f"{_synonym(rng, task.FINAL_WORDS)} the answer is \\boxed{{{steps[-1].value}}}."
    return " " + " ".join([opening, *said, ending])


def _synonym(rng: random.Random, words: Sequence[str]) -> str:
    return rng.choices(words, task.SYNONYM_SHARES)[0]


def _say(rng: random.Random, step: Equation, first: bool) -> str:
    """Write one sentence: `We add 3 and 4: 3 + 4 = 7.`"""
    head = "We" if first else f"{_synonym(rng, task.NEXT_WORDS)} we"
    return f"{head} {_synonym(rng, task.VERBS[step.op]).format(x=step.x, y=step.y)}: {step}."


def final_answer(text: str) -> str | None:
    """Find the number in the last box of a solution; None where there is none."""
    found = _BOXED.findall(text)
    return found[-1] if found else None


def equations(text: str) -> list[tuple[Equation, bool]]:
    """Find the equations of a solution, each with whether it is right."""
    found = []
    for left, op, right, result in _EQUATION.findall(text):
        x, y, value = int(left), int(right), int(result)
        holds = {"+": x + y == value, "-": x - y == value, "*": x * y == value, "/": y * value == x}[op]
        found.append((Equation(x, op, y, value), holds))
    return found


# -- The bundled problem sets `mini` and `arith`, written by `python -m rmx.mini.problem_sets` ------------------------


SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# split -> (problems, of these with a held-out wording, seed)
MINI_SIZES: Mapping[Split, tuple[int, int, int]] = {
    "train": (600, 0, 101),
    "validation": (200, 50, 102),
    "test": (400, 100, 103),
}
ARITH_BUCKETS: Sequence[Split] = ("train", "train", "train", "validation", "test")

Line = Mapping[str, str | int]


def make_set(n: int, seed: int, split: Split, held_out_wordings: int = 0) -> list[MiniProblem]:
    """Make `n` different problems of a split, spread evenly over templates and wordings, in mixed order.

    `held_out_wordings` of them have wordings that were never trained on. No two share wording and numbers.
    """
    rng, text_rng = random.Random(f"numbers/{seed}"), random.Random(f"text/{seed}")
    made: dict[str, MiniProblem] = {}
    for count, unseen in ((n - held_out_wordings, False), (held_out_wordings, True)):
        wanted: Split = split if unseen else "train"
        order = [(t.name, i) for t in task.TEMPLATES.values() for i in t.wordings_of(wanted)]
        order = rng.sample(order, len(order)) if count else []
        for i in range(count):
            while (problem := make_problem(rng, split, *order[i % len(order)], unseen, text_rng)).id in made:
                pass
            made[problem.id] = problem
    problems = list(made.values())
    rng.shuffle(problems)
    return [replace(problem, id=f"mini-{split}-{i:04d}") for i, problem in enumerate(problems)]


def with_made_up_words(rng: random.Random, text: str) -> str:
    """Put made-up words for all known names and things, as a visitor may; the answer stays the same."""
    known, invented, words = {*task.NAMES, *task.THINGS}, dict[str, str](), text.split(" ")
    for i, word in enumerate(words):
        stem = word.rstrip(".,?")
        if stem in known:
            made = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7)))
            words[i] = invented.setdefault(stem, made.title() if stem[0].isupper() else made + "s") + word[len(stem) :]
    return " ".join(words)


def mini_set(split: Split) -> list[MiniProblem]:
    """Make the bundled word problems of a split."""
    size, held_out_wordings, seed = MINI_SIZES[split]
    return make_set(size, seed, split, held_out_wordings)


def _arith_split(op: str, x: int, y: int) -> Split:
    """Choose a split by hash; x op y and y op x share one where they mean the same."""
    pair = (x, y) if op == "-" else (min(x, y), max(x, y))
    return ARITH_BUCKETS[zlib.crc32(f"{op}{pair}".encode()) % len(ARITH_BUCKETS)]


def arith_set(split: Split) -> list[Line]:
    """Make one-digit sums, differences from 0 up and products as short questions, in mixed order."""
    digits = [(x, y) for x in range(10) for y in range(10)]
    facts = [(op, x, y, {"+": x + y, "-": x - y, "*": x * y}[op]) for x, y in digits for op in "+-*"]
    chosen = [fact for fact in facts if fact[3] >= 0 and _arith_split(*fact[:3]) == split]
    chosen.sort(key=lambda fact: zlib.crc32(f"order {fact}".encode()))
    return [
        {"id": f"arith-{split}-{i:03d}", "problem": f"What is {x} {op} {y}?", "answer": str(value)}
        for i, (op, x, y, value) in enumerate(chosen)
    ]


def write_sets(folder: Path) -> list[Path]:
    """Write all six files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for split in SPLITS:
        lines: dict[str, Sequence[Line]] = {"mini": [p.json() for p in mini_set(split)], "arith": arith_set(split)}
        for name, content in lines.items():
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
            written.append(folder / f"{name}.{split}.jsonl")
            written[-1].write_text(text, encoding="utf-8")
    return written


def main() -> None:
    """Write the problem sets and say how large they are."""
    parser = argparse.ArgumentParser(prog="python -m rmx.mini.problem_sets", description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS / "problems", help="folder for the JSONL files")
    for path in write_sets(parser.parse_args().out):
        print(f"{path}: {len(path.read_text(encoding='utf-8').splitlines())} problems")


if __name__ == "__main__":
    main()
