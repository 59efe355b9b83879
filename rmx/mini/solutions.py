"""Solutions of the miniature's problems, by a mixture of writers who often part ways.

A solution is one paragraph of short equations. Which equation comes next is the writer's choice, drawn with the weights
of `assets/mini/wordings.toml`: these choices are the consequential forks. Synonyms of the verbs and of the connecting
words are the harmless ones. Careful writers err less and hasty ones more; some who took a wrong first step notice it.
"""

import random
import re
from collections.abc import Sequence

from rmx.mini.task import Equation, MiniProblem, right_plans, worked_plans
from rmx.mini.wordings import (
    FINAL_WORDS,
    NEXT_WORDS,
    NOTICE_SHARE,
    NOTICE_TEXT,
    SYNONYM_SHARES,
    TEMPLATES,
    VERBS,
    WRITERS,
    Writer,
)

_EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
_BOXED = re.compile(r"\\boxed\{(\d+)\}")


def plan_weights(problem: MiniProblem, writer: Writer) -> dict[str, float]:
    """Work out the share of each plan among the solutions that this writer gives to a problem of a trained wording."""
    template = TEMPLATES[problem.template]
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
    writer = rng.choices(WRITERS, [w.share for w in WRITERS])[0]
    weights = plan_weights(problem, writer)
    plan = rng.choices(list(weights), list(weights.values()))[0]
    return write_plan(rng, problem, writer, plan)


def write_plan(rng: random.Random, problem: MiniProblem, writer: Writer, plan: str) -> str:
    """Write the paragraph of one writer who follows one plan, or turns back after a wrong first step."""
    template = TEMPLATES[problem.template]
    worked, right = worked_plans(template, dict(problem.numbers)), right_plans(template)
    steps = worked[plan]
    said = [_say(rng, steps[0], first=True)]
    # The first step is wrong where no right plan begins like this one.
    is_wrong = steps[0] not in [worked[p.name][0] for p in right if p.name in worked]
    if right[0].name in worked and is_wrong and rng.random() < NOTICE_SHARE:
        steps = worked[right[0].name]
        said += [NOTICE_TEXT, _say(rng, steps[0], first=True)]
    said += [_say(rng, step, first=False) for step in steps[1:]]
    facts = ", ".join(re.findall(r"\d+", problem.problem))
    opening = f"{writer.opener} the facts are {facts}."
    ending = f"{_synonym(rng, FINAL_WORDS)} the answer is \\boxed{{{steps[-1].value}}}."
    return " " + " ".join([opening, *said, ending])


def _synonym(rng: random.Random, words: Sequence[str]) -> str:
    return rng.choices(words, SYNONYM_SHARES)[0]


def _say(rng: random.Random, step: Equation, first: bool) -> str:
    """Write one sentence: `We add 3 and 4: 3 + 4 = 7.`"""
    head = "We" if first else f"{_synonym(rng, NEXT_WORDS)} we"
    return f"{head} {_synonym(rng, VERBS[step.op]).format(x=step.x, y=step.y)}: {step}."


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
