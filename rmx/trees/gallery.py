"""The gallery: trees of real models, recorded once and looked at without the model.

`python -m rmx.trees.gallery` records them again into assets/gallery (a few minutes on two cores); with `--search ID …`
it says what other problems of the set would show. Nothing in a tree is made up: each branch is what the model said,
greedily, after one token was swapped at one of its forks.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, cast

from rmx.config import TOP_SHOWN, Sampling
from rmx.data.problem_sets import find_problem
from rmx.errors import ProblemError
from rmx.explore.branches import Branch
from rmx.explore.flip_rates import answers_after
from rmx.explore.generate import Job
from rmx.explore.swap import swap_job
from rmx.models.load import Model
from rmx.models.presets import preset_of
from rmx.models.workspace import Workspace
from rmx.paths import ASSETS
from rmx.records import Problem, is_fork
from rmx.trees.document import read_tree, tree_document
from rmx.trees.tree import Tree, tree_of

log = logging.getLogger(__name__)
FOLDER = ASSETS / "gallery"
MODEL, SET = "smollm2-135m-instruct-q4_1", "arith"
MAX_NEW, LONGEST, FORKS, BRANCHES = 64, 56, 6, 4
Kind = Literal["wrong → right", "right → wrong", "stays right", "stays wrong"]
# What is in the gallery, in the order it is shown: file, problem, what it shows.
PICKED: tuple[tuple[str, str, Kind], ...] = (
    ("smollm2-2-plus-1", "arith-test-044", "wrong → right"),
    ("smollm2-9-plus-8", "arith-test-000", "right → wrong"),
    ("smollm2-5-minus-2", "arith-test-019", "wrong → right"),
    ("smollm2-2-plus-7", "arith-test-027", "stays wrong"),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One tree of the gallery, as its list shows it."""

    name: str
    kind: str
    title: str
    model: str
    licence: str
    branches: int


@lru_cache(maxsize=1)
def list_trees() -> tuple[Piece, ...]:
    """What is in the gallery."""
    there = [(name, kind) for name, _, kind in PICKED if (FOLDER / f"{name}.json").is_file()]  # not while recorded
    trees = [(name, kind, load_tree(name)) for name, kind in there]
    return tuple(Piece(n, kind, t.title or "", t.model, t.licence or "", len(t.branches)) for n, kind, t in trees)


def load_tree(name: object) -> Tree:
    """A tree of the gallery by its name.

    Raises:
        ProblemError: no such tree.
    """
    if name not in [known for known, _, _ in PICKED]:
        raise ProblemError("The gallery has no tree of this name.")
    return read_tree((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


# -- recording --------------------------------------------------------------------------------------------------------


def record(model: Model, problem: Problem, wanted: Kind | None = None) -> tuple[Tree, Kind] | None:
    """A greedy solution and a few swaps at its forks; None where it is too long or does not show what is wanted."""
    ids = model.prompt_ids(problem.problem)
    job = Job(ids, Sampling(max_new_tokens=MAX_NEW), model.tau, known=problem.answer)
    root = Branch(model, job, model.detokenizer.text(ids), "tree", title=problem.problem)
    _finish(root)
    assert root.trace is not None
    if len(root.tokens) > LONGEST or root.trace.answer.text is None:
        return None
    runs = [root, *_branches(root, problem, root.trace.answer.correct is True)]
    turned = [run for run in runs[1:] if run.trace and run.trace.answer.correct != root.trace.answer.correct]
    was, other = ("right", "wrong") if root.trace.answer.correct else ("wrong", "right")
    kind = cast(Kind, f"{was} → {other}" if turned else f"stays {was}")
    if len(runs) == 1 or wanted not in (None, kind):
        return None
    preset = preset_of(model.spec)
    tree = tree_of(runs, (root if turned else runs[1]).id, (turned or runs[1:])[0].at)
    return replace(tree, licence=preset.licence if preset else None), kind


def _branches(root: Branch, problem: Problem, right: bool) -> list[Branch]:
    """Swaps at the forks, those first that turn the answer; of each fork and answer only the likeliest."""
    model, found = root.model, []
    forks = [t for t in root.tokens if is_fork(t.entropy, model.tau) and t.id not in model.stop_ids][:FORKS]
    ids = [t.id for t in root.tokens]
    for token in forks:
        others = [c for c in token.top[:TOP_SHOWN] if c.id != token.id]
        answers = answers_after(model, root.job, ids, token, [c.id for c in others], MAX_NEW)
        seen: set[bool] = set()
        for candidate, (text, answer) in zip(others, answers, strict=True):
            turned = bool(answer.correct) != right
            if turned not in seen and len(text) < 400:
                seen.add(turned)
                found.append((not turned, -candidate.p, token.pos, candidate.id))
    runs = []
    for _, _, pos, token_id in sorted(sorted(found)[:BRANCHES], key=lambda row: row[2]):
        job = swap_job(root.job, root.tokens, pos, [token_id], model.engine.vocab_size)
        runs.append(_finish(Branch(model, job, root.prompt, "tree", root, root.title)))
    return runs


def _finish(run: Branch) -> Branch:
    for _ in run.steps():
        pass
    return run


def main(argv: Sequence[str] | None = None) -> None:
    """Record what is picked, or search for more."""
    parser = argparse.ArgumentParser(prog="python -m rmx.trees.gallery", description=__doc__.splitlines()[0])
    parser.add_argument("--search", nargs="+", metavar="ID", help="see what these problems show, write nothing")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = Workspace("cpu").model(MODEL)
    if args.search:
        for problem in (find_problem(SET, problem_id) for problem_id in args.search):
            found = record(model, problem)
            log.info("%s %s: %s", problem.id, problem.problem, _said(*found) if found else "no")
        return
    FOLDER.mkdir(exist_ok=True)
    for name, problem_id, wanted in PICKED:
        found = record(model, find_problem(SET, problem_id), wanted)
        if found is None:
            raise SystemExit(f"{problem_id} does not show '{wanted}' here.")
        text = json.dumps(tree_document(found[0], small=True), ensure_ascii=False, indent=None, separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        log.info("%s: %s, %.0f kB", name, _said(*found), len(text.encode()) / 1000)


def _said(tree: Tree, kind: str) -> str:
    answers = [f"{b.answer.text}" + {True: "✓", False: "✗", None: ""}[b.answer.correct] for b in tree.branches]
    swapped = [(tree.tokens(b.parent)[b.at], b.tokens[0]) for b in tree.branches if b.parent is not None]
    steps = [f"{old.text!r}→{new.text!r}" for old, new in swapped]
    return f"{kind}; {', '.join(answers)}; {' | '.join(steps)}; {tree.size} tokens"


if __name__ == "__main__":
    main()
