"""Trees that lie elsewhere: saved to the Hub, recorded without the model, and the gallery of recorded ones.

`python -m rmx.trees.gallery` records the gallery again into assets/gallery (a few minutes on two cores); with `--search
N` it says what each of the first N problems would show. Nothing in a tree is made up: each branch is what the model
said, greedily, after one token was swapped at one of its forks.
"""

import argparse
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NoReturn, cast

from huggingface_hub import HfApi

from rmx.arguments import Sampling
from rmx.config import ASSETS, TOP_SHOWN
from rmx.data.words import draw_words
from rmx.errors import ProblemError, RmxError, SwapError
from rmx.explore.flip_rates import answers_after
from rmx.explore.generate import Branch, Job, Origin, swap_job
from rmx.models.load import Model
from rmx.models.names import SMOLLM2, adapter_name, preset_of
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import Problem, Trace, is_fork, shown_adapter
from rmx.storage.hub import Upload, upload_sentence
from rmx.trees.document import Tree, read_tree, tree_document, tree_of

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,200}")
HUB_FOLDER = "trees"


def save_tree(text: str, name: str, repo: str, token: str, api: Any = None) -> str:
    """Upload a tree document as trees/NAME of a dataset, made private where it is not there yet; returns its address.

    Raises RmxError where the name, the token or the Hub does not allow it. The token is a visitor's own: used once,
    kept nowhere, in no log and in no message.

    Args:
        api: stands in for huggingface_hub's HfApi in tests.
    """
    if not _REPO.fullmatch(repo):
        raise RmxError("Name the dataset as OWNER/NAME, for example ann/forks.")
    if not _TOKEN.fullmatch(token):
        raise RmxError("That is no access token of the Hub: they begin with hf_. Make one with the right to write.")
    place = f"{HUB_FOLDER}/{name}"
    where: dict[str, Any] = {"path_in_repo": place, "repo_id": repo, "repo_type": "dataset"}
    try:
        api = api or HfApi(token=token)
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_file(path_or_fileobj=text.encode(), commit_message=f"Add {name} from rmx", **where)
    except Exception as error:  # noqa: BLE001 - whatever it is may quote the request, and with it the token
        said = upload_sentence(error, Upload("the tree", repo, offline="Download the JSON instead."))
        raise RmxError(said.replace(token, "(token)")) from None
    return f"https://huggingface.co/datasets/{repo}/blob/main/{place}"


# -- A tree that was recorded elsewhere, as branches to look at -------------------------------------------------------


class Texts:
    """What a recorded tree knows of its tokens' texts; stands in for a Detokenizer."""

    def __init__(self, tree: Tree) -> None:
        self.special_ids = tree.special
        self._texts = {c.id: c.text for b in tree.branches for t in b.tokens for c in t.top}
        for branch in tree.branches:
            for token in branch.tokens:
                self._texts.setdefault(token.id, token.text)

    def token_text(self, token_id: int) -> str:
        return self._texts.get(token_id, f"⟪{token_id}⟫")

    def text(self, ids: Sequence[int]) -> str:
        return "".join(map(self.token_text, ids))


class Absent:
    """Stands in for a model that is not loaded: it can be looked at, and says what is missing when it is asked."""

    def __init__(self, tree: Tree) -> None:
        self.spec, self.revision, self.dtype, self.tau = tree.model, tree.revision, tree.dtype, tree.tau
        self.style = tree.style
        self.detokenizer = Texts(tree)
        in_tree = {c for b in tree.branches for t in b.tokens for c in (t.id, *(a.id for a in t.top))}
        self.highest = max({*tree.prompt_ids, *in_tree})
        self.adapters: list[str] = []

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise SwapError(
            f"This tree was recorded with {self.spec}, which is not loaded here. "
            "Load it under Model, or press Verify, to go on from it."
        )


def recorded_runs(tree: Tree, owner: str | None) -> list[Branch]:
    """The tree's branches as finished runs, labelled as recorded; none of them is added anywhere yet."""
    absent, origin = Absent(tree), Origin("recorded", tree.licence, tree.adapter_hash)
    model = cast(Model, absent)
    adapter = adapter_name(tree.adapter) if tree.adapter else None
    runs: list[Branch] = []
    for place, branch in enumerate(tree.branches):
        tokens = tree.tokens(place)
        parent = runs[branch.parent] if branch.parent is not None else None
        job = Job(tree.prompt_ids, branch.sampling, tree.tau, adapter, tree.known)
        if parent is not None:
            job = replace(job, kept=tokens[: branch.at], forced=branch.forced_ids, fork=parent.tokens[branch.at])
        elif branch.read:
            job = replace(job, read=tuple(t.id for t in tokens))
        title = tree.title or (None if tree.prompt else f"A solution of {tree.model}")
        facts: dict[str, Any] = {"owner": owner, "origin": origin, "tokens": list(tokens)}
        run = Branch(model, job, tree.prompt or "", runs[0].tree if runs else "", parent, title, **facts)
        run.tree = run.tree or run.id
        run.show = tree.pos if place == tree.shown else None
        sampling = branch.sampling
        run.trace = Trace(
            tree.model, tree.adapter, tree.revision, tree.dtype, tree.prompt_ids, sampling.seed, sampling.temperature,
            sampling.top_p, tree.tau, tokens, branch.answer, branch.stop, branch.reuse, branch.seconds, tree.style,
        )  # fmt: skip
        runs.append(run)
    runs[0].stand_in = vars(absent.detokenizer)
    return runs


def revive(run: Branch, loaded: Any) -> None:
    """Give a recorded run its model where that is `loaded` meanwhile (spec -> Model or None), to go on from it.

    Raises SwapError where what is loaded under that name has other weights, or not these tokens.
    """
    absent: Any = run.model
    if not isinstance(absent, Absent):
        return
    model = loaded(absent.spec)
    if model is None:
        return
    if model.revision != absent.revision:
        raise SwapError(
            f"This tree was recorded with revision {absent.revision[:20]} of {absent.spec}; "
            f"{model.revision[:20]} is loaded here. Verify shows what differs."
        )
    adapter = run.job.adapter
    if adapter is not None and adapter not in model.engine.adapters:
        raise SwapError(f"This tree was recorded with the adapter {shown_adapter(adapter)}. Press Verify to load it.")
    if absent.highest >= model.engine.vocab_size or len(run.job.prompt_ids) + len(run.tokens) >= model.engine.context:
        raise SwapError(f"This tree does not fit {absent.spec}: it holds tokens that the model lacks.")
    run.model = model.with_style(absent.style or model.style.unrecorded)


# -- The gallery ------------------------------------------------------------------------------------------------------


log = logging.getLogger(__name__)
FOLDER = ASSETS / "gallery"
MODEL, SET = SMOLLM2, "words"  # whose prompt it is asked by; the problems are drawn for the gallery
DRAWN, STEPS = 400, (2, 3)
MAX_NEW, LONGEST, FORKS, BRANCHES = 96, 80, 8, 5
Kind = Literal["wrong → right", "right → wrong", "stays right", "stays wrong"]
# What is in the gallery, in the order it is shown: file, problem, what it shows.
PICKED: tuple[tuple[str, str, Kind], ...] = (
    ("smollm2-tickets", "words-test-0000", "wrong → right"),
    ("smollm2-stones", "words-test-0008", "wrong → right"),
    ("smollm2-buttons", "words-test-0010", "wrong → right"),
    ("smollm2-marbles", "words-test-0019", "wrong → right"),
    ("smollm2-cookies", "words-test-0022", "wrong → right"),
    ("smollm2-crumbs", "words-test-0056", "right → wrong"),
    ("smollm2-beads", "words-test-0133", "right → wrong"),
    ("smollm2-boxes", "words-test-0007", "stays wrong"),
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
    """A tree of the gallery by its name, or ProblemError."""
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
    parser = argparse.ArgumentParser(prog="python -m rmx.trees.gallery", description="Record the trees of the gallery.")
    parser.add_argument("--search", type=int, metavar="N", help="see what N problems show, write nothing")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = Workspace("cpu").model(MODEL).ask_in(StyleOptions(), SET)
    drawn = {problem.id: problem for problem in draw_words("test", DRAWN, levels=STEPS)}
    if args.search:
        for problem in list(drawn.values())[: args.search]:
            found = record(model, problem)
            log.info("%s %s: %s", problem.id, problem.problem, _said(*found) if found else "no")
        return
    FOLDER.mkdir(exist_ok=True)
    for name, problem_id, wanted in PICKED:
        found = record(model, drawn[problem_id], wanted)
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
