"""A tree of branches as a record, apart from any engine: what is saved, sent, shown elsewhere and verified."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmx.config import Sampling
from rmx.errors import RmxError
from rmx.explore.branches import Branch
from rmx.models.adapter_names import bundled_adapters
from rmx.models.load import Model, fingerprint
from rmx.paths import runs_dir
from rmx.prompt_styles import PromptStyle
from rmx.records import Answer, Reuse, Stop, TokenDist


@dataclass(frozen=True, slots=True)
class TreeBranch:
    """One completion; the tokens before `at` are those of its parent."""

    parent: int | None  # place of an earlier branch in the tree; None: the root
    at: int  # completion position of the swap; 0 for the root
    forced: int  # how many of its own tokens were put in by the swap
    read: bool  # the tokens were given, not generated
    sampling: Sampling
    tokens: tuple[TokenDist, ...]  # its own, from position `at` on
    answer: Answer
    stop: Stop
    reuse: Reuse
    seconds: float

    @property
    def forced_ids(self) -> tuple[int, ...]:
        return tuple(t.id for t in self.tokens[: self.forced])


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeFacts:
    """What a tree and a plan to decode it again both say."""

    model: str
    revision: str
    adapter: str | None
    adapter_hash: str | None  # of the adapter's weights, where they lie on this machine
    dtype: str
    prompt_ids: tuple[int, ...]
    tau: float
    known: str | None = None  # the known answer
    title: str | None = None
    shown: int = 0  # the branch that was on screen
    pos: int | None = None  # the token that was looked at in it
    style: PromptStyle | None = None  # how it was asked; None where the file or the link does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree(TreeFacts):
    """All branches of one prompt, the root first, each after its parent."""

    branches: tuple[TreeBranch, ...]
    prompt: str | None = None  # the exact text; None where the file does not say
    licence: str | None = None  # of what was recorded, where it says
    special: frozenset[int] = frozenset()  # ids of special tokens

    def tokens(self, place: int) -> tuple[TokenDist, ...]:
        """The whole completion of a branch, from position 0."""
        branch = self.branches[place]
        if branch.parent is None:
            return branch.tokens
        return self.tokens(branch.parent)[: branch.at] + branch.tokens

    def ids(self, place: int) -> list[int]:
        return [t.id for t in self.tokens(place)]

    @property
    def size(self) -> int:
        """Tokens that are stored: each branch's own."""
        return sum(len(b.tokens) for b in self.branches)


def tree_of(runs: Sequence[Branch], shown: str | None = None, pos: int | None = None) -> Tree:
    """The finished branches among `runs` of one tree, in the order they were made.

    Args:
        shown: id of the run on screen. pos: the token that is looked at in it.

    Raises:
        RmxError: none of them is finished.
    """
    done: list[Branch] = []
    place: dict[str, int] = {}
    for run in runs:
        if run.trace is not None and run.tokens and (run.parent is None or run.parent.id in place):
            place[run.id] = len(done)
            done.append(run)
    if not done or done[0].parent is not None:
        raise RmxError("There is nothing to share yet. Wait until the solution is finished.")
    root, model = done[0], done[0].model
    ids = {c for run in done for t in run.tokens for c in (t.id, *(a.id for a in t.top))}
    assert root.trace is not None
    origin, trace = root.origin, root.trace
    recorded = origin is not None and origin.kind == "recorded"  # then its facts are those of the file
    spec = trace.adapter if recorded else adapter_spec(model, root.job.adapter)
    seal = origin.adapter_hash if origin is not None and recorded else adapter_hash(model, root.job.adapter)
    here = place.get(shown or "", 0)
    return Tree(
        model=model.spec,
        adapter=spec,
        adapter_hash=seal,
        revision=trace.revision,
        dtype=trace.dtype,
        prompt_ids=root.job.prompt_ids,
        tau=root.job.tau,
        branches=tuple(_branch(run, place) for run in done),
        prompt=root.prompt or None,
        title=root.title or None,
        known=root.job.known,
        licence=origin.licence if origin else None,
        shown=here,
        pos=pos if pos is not None and 0 <= pos < len(done[here].tokens) else None,
        special=frozenset(ids & model.detokenizer.special_ids),
        style=trace.style.recorded if trace.style else None,
    )


def _branch(run: Branch, place: dict[str, int]) -> TreeBranch:
    assert run.trace is not None
    at, job, trace = run.at or 0, run.job, run.trace
    forced = len(job.forced) if run.parent is not None else 0
    parent = place[run.parent.id] if run.parent is not None else None
    tokens = tuple(run.tokens[at:])
    found = (trace.answer, trace.stop, trace.reuse, trace.seconds)
    return TreeBranch(parent, at, min(forced, len(tokens)), job.read is not None, job.sampling, tokens, *found)


def adapter_spec(model: Model, name: str | None) -> str | None:
    """What names this adapter elsewhere: the engine knows it by a name without dots, and by where it was found."""
    if name is None or name in bundled_adapters(model):
        return name
    place = model.engine.adapters.get(name, name)
    folder = Path(place)
    if not folder.is_dir():
        return place
    try:
        run, *parts = folder.relative_to(runs_dir()).parts
    except ValueError:
        return place
    part = [p for p in parts if p not in ("adapter", "checkpoints")]
    return "/".join([run, *part])


def adapter_hash(model: Model, name: str | None) -> str | None:
    """A content hash of the adapter's weights; None where they are not in a folder here."""
    folder = Path(model.engine.adapters.get(name, "")) if name is not None else None
    return fingerprint(folder) if folder is not None and folder.is_dir() and any(folder.glob("*.safetensors")) else None
