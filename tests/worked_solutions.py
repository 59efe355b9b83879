"""Write worked solutions of `words` as a rollouts file, for a supervised warm-up of SmolLM2.

    python -m tests.worked_solutions worked.jsonl
    rmx train --model smollm2-135m-instruct-q4_1 --set words --from-rollouts worked.jsonl --objective correct_sft …

They are of the first 256 training problems, in the words of the three solved examples that SmolLM2 is asked behind.
`rmx train` learns from problems with right and wrong solutions only, so each stands beside a wrong one, of another
operation; the objective `correct_sft` learns nothing of that.
"""

import sys
from pathlib import Path
from typing import Any

from rmx.data.words import HIGHEST, LEVELS, SEED, draw_texts
from rmx.models.load import Model, load
from rmx.models.style_options import StyleOptions
from rmx.records import Rollout
from rmx.train.rollouts import RolloutLog

MODEL = "smollm2-135m-instruct-q4_1"
PROBLEMS = 256


def write_worked_solutions(out: Path, problems: int = PROBLEMS) -> None:
    """Write the file and the record of its settings beside it."""
    model = load(MODEL).ask_in(StyleOptions(), "words")
    rows: dict[str, list[Rollout]] = {}
    draws = draw_texts("train", SEED, LEVELS, HIGHEST)
    while len(rows) < problems:
        kind, numbers, answer, text = next(draws)
        if text not in rows:
            rows[text] = worked(model, f"words-train-{len(rows):04d}", text, kind.steps[0], numbers, answer)
    sampled = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 40, "seed": 1}
    settings = {"model": model.revision, "dtype": "float32", "server": None} | sampled | model.style.settings()
    log = RolloutLog(out, settings)
    for both in rows.values():
        for rollout in both:
            log.append(rollout)


def worked(model: Model, name: str, text: str, step: str, numbers: dict[str, int], answer: int) -> list[Rollout]:
    """The right solution of a problem, and a wrong one."""
    first, right_op, second = step.split()
    x, y = numbers[first], numbers[second]
    wrong_op = "-" if right_op == "+" else "+"
    wrong = x - y if wrong_op == "-" else x + y
    prompt, end = model.prompt_ids(text), model.encode("\n")
    found = []
    for op, result in ((right_op, answer), (wrong_op, wrong)):
        ids = (*model.encode(f" {x} {op} {y} = {result}. The answer is {result}."), *end)
        right = op == right_op
        said: dict[str, Any] = {"answer": str(result), "stop": "stop_sequence", "entropies": (0.0,) * len(ids)}
        found.append(Rollout(name, len(found), prompt + ids, len(prompt), right, **said))
    return found


if __name__ == "__main__":
    write_worked_solutions(Path(sys.argv[1]))
