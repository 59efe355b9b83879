"""A tree of branches as a record, apart from any engine, and as JSON: what is saved, sent, shown and verified.

A document is a trace, as `rmx trace --json` prints it (model, prompt_ids, tokens, answer, …), with more fields:
`format`, `version`, `title`, `known`, `prompt`, `branches`, …. A branch holds its own tokens only, those from `at` on,
where it leaves its parent; `parent` is the place of an earlier branch, 0 being the root, and `forced` says how many of
its tokens were put in. A plain trace is a document without branches, a list of traces is a chain of swaps.

Small documents leave out what follows from the rest: `pos`, `fork`, and texts that stand in the table `texts`; an entry
of `top` is then a pair [id, p].
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rmx.arguments import Sampling
from rmx.config import MOST_NAME, TOP_KEPT, TOP_SHOWN, check_tau, runs_dir
from rmx.errors import RmxError
from rmx.explore.generate import Branch
from rmx.grading.answers import RULES
from rmx.models.load import Model, fingerprint
from rmx.models.names import shipped_adapters
from rmx.models.style_options import MOST_STOP, MOST_STOPS
from rmx.prompt_styles import PromptStyle
from rmx.records import Answer, Candidate, Reuse, Stop, TokenDist, as_json, is_fork
from rmx.storage.safe_files import (
    MOST_ID,
    DocumentError,
    parse,
    said,
    to_dict,
    to_ids,
    to_int,
    to_list,
    to_maybe,
    to_number,
    to_text,
)


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
    ends: tuple[dict[int, Any], ...] = ()  # of each branch: what the alternatives at its own forks led to; in no file

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

    Raises RmxError where none of them is finished.
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
        branches=tuple(_branch_record(run, place) for run in done),
        prompt=root.prompt or None,
        title=root.title or None,
        known=root.job.known,
        licence=origin.licence if origin else None,
        shown=here,
        pos=pos if pos is not None and 0 <= pos < len(done[here].tokens) else None,
        special=frozenset(ids & model.detokenizer.special_ids),
        ends=tuple({pos: [end.message() for end in found] for pos, found in run.ends.items()} for run in done),
        style=trace.style.recorded if trace.style else None,
    )


def _branch_record(run: Branch, place: dict[str, int]) -> TreeBranch:
    assert run.trace is not None
    at, job, trace = run.at or 0, run.job, run.trace
    forced = len(job.forced) if run.parent is not None else 0
    parent = place[run.parent.id] if run.parent is not None else None
    tokens = tuple(run.tokens[at:])
    found = (trace.answer, trace.stop, trace.reuse, trace.seconds)
    return TreeBranch(parent, at, min(forced, len(tokens)), job.read is not None, job.sampling, tokens, *found)


def adapter_spec(model: Model, name: str | None) -> str | None:
    """What names this adapter elsewhere: the engine knows it by a name without dots, and by where it was found."""
    if name is None or name in shipped_adapters(model.spec):
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


# -- Trees as JSON ----------------------------------------------------------------------------------------------------


FORMAT, VERSION = "rmx tree", 1
MOST_BRANCHES = 64
MOST_TOKENS = 50_000  # of all branches together, kept tokens included
MOST_IDS = 65_536  # of a prompt
TEXT, NAME, PIECE = 50_000, MOST_NAME, 4_000  # characters of a prompt or title, of a name, of a token
STOPS = get_args(Stop)
FACTS = ("model", "adapter", "adapter_hash", "revision", "dtype", "title", "known", "prompt", "licence")
MAYBE = {"adapter": NAME, "adapter_hash": NAME, "title": TEXT, "known": PIECE}
Document = dict[str, Any]


# -- writing ----------------------------------------------------------------------------------------------------------


def tree_document(tree: Tree, small: bool = False) -> Document:
    """The JSON of a tree; `small` keeps five alternatives and leaves out what follows from the rest."""
    root = tree.branches[0]
    texts = {c.id: c.text for b in tree.branches for t in b.tokens for c in t.top[:TOP_SHOWN]} if small else None
    return {
        "format": FORMAT,
        "version": VERSION,
        **as_json(tree, *FACTS, "style", "prompt_ids", "tau", "shown", "pos"),
        "special": sorted(tree.special),
        **({"texts": {str(i): text for i, text in sorted(texts.items())}} if texts is not None else {}),
        **_branch_document(tree, root, texts),
        "branches": [
            {"parent": b.parent, "at": b.at, "forced": b.forced, **_branch_document(tree, b, texts)}
            for b in tree.branches[1:]
        ],
    }


def _branch_document(tree: Tree, branch: TreeBranch, texts: Mapping[int, str] | None) -> Document:
    return {
        **as_json(branch.sampling, "seed", "temperature", "top_p", "max_new_tokens"),
        "read": branch.read,
        "digest": digest_of([t.id for t in branch.tokens]),
        "tokens": [t.json(tree.tau) if texts is None else _small(t, tree.tau, texts) for t in branch.tokens],
        **as_json(branch, "answer", "stop", "reuse"),
        "seconds": round(branch.seconds, 3),
    }


def digest_of(ids: Sequence[int]) -> str:
    """A short hash of token ids: a file that was damaged or changed on its way is noticed."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]


def _small(token: TokenDist, tau: float, texts: Mapping[int, str]) -> Document:
    entropy = round(token.entropy, 4)
    if is_fork(entropy, tau) != is_fork(token.entropy, tau):
        entropy = token.entropy  # rounding must not make or unmake a fork
    document: Document = {"id": token.id}
    if texts.get(token.id) != token.text:
        document["text"] = token.text
    document |= {"entropy": entropy, "logp": round(token.logp, 4)}
    if token.rank != 1:
        document["rank"] = token.rank
    if token.forced:
        document["forced"] = True
    document["top"] = [[c.id, round(c.p, 5)] for c in token.top[:TOP_SHOWN]]
    return document


# -- reading ----------------------------------------------------------------------------------------------------------


def read_tree(text: str) -> Tree:
    """A tree from a tree document, from one trace, or from the list that `rmx trace --swap --json` prints.

    Raises DocumentError, which says what is wrong with it.
    """
    found = parse(text)
    if isinstance(found, list):
        return _chain(found)
    return _tree(to_dict(found, "The document"))


def _tree(document: Document) -> Tree:
    if document.get("format", FORMAT) != FORMAT:
        raise DocumentError("This JSON is not a trace or a tree of rmx.")
    version = document.get("version", VERSION)
    if version != VERSION:
        raise DocumentError(f"The file is of version {said(version)}; this rmx reads version {VERSION}. Update rmx.")
    texts = _texts(document.get("texts"))
    to_number(document.get("tau"), "tau", 0, 1000)  # first of all: other JSON has none, and is refused for that
    below = to_list(document.get("branches", []), "branches", MOST_BRANCHES - 1)
    branches: list[TreeBranch] = []
    lengths: list[int] = []  # of whole completions
    for i, row in enumerate([document, *below]):
        branch = _branch(to_dict(row, f"Branch {i + 1}"), i, lengths, texts)
        branches.append(branch)
        lengths.append(branch.at + len(branch.tokens))
        if sum(lengths) > MOST_TOKENS:
            raise DocumentError(f"The tree has more than {MOST_TOKENS:,} tokens in all; that is the most.")
    special = to_list(document.get("special", []), "special", MOST_IDS)
    return Tree(
        branches=tuple(branches),
        prompt=to_maybe(document.get("prompt"), "prompt", TEXT),
        licence=to_maybe(document.get("licence"), "licence", NAME),
        special=frozenset(to_int(i, "special", 0, MOST_ID) for i in special),
        style=None if document.get("style") is None else read_style(document["style"]),
        **read_facts(document, lengths, MOST_IDS),
    )


def read_facts(
    row: Mapping[str, Any], lengths: Sequence[int], most_ids: int, called: Callable[[str], str] = str
) -> dict[str, Any]:
    """What a row from outside says of a tree beside its branches and its style, or DocumentError.

    Args:
        lengths: of the whole completions of the branches. most_ids: of the prompt.
        called: how a fact is called in a sentence.
    """
    shown, pos = to_int(row.get("shown", 0), called("shown"), 0, len(lengths) - 1), row.get("pos")
    return {
        "model": to_text(row.get("model"), called("model"), NAME) or "unknown",
        "revision": to_text(row.get("revision", "unknown"), called("revision"), NAME),
        "dtype": to_text(row.get("dtype", "float32"), called("dtype"), NAME),
        "prompt_ids": to_ids(row.get("prompt_ids"), called("prompt_ids"), most_ids),
        "tau": check_tau(to_number(row.get("tau"), called("tau"), 0, 1000)),
        "shown": shown,
        "pos": None if pos is None else to_int(pos, called("pos"), 0, lengths[shown] - 1),
        **{fact: to_maybe(row.get(fact), called(fact), most) for fact, most in MAYBE.items()},
    }


def read_style(value: Any) -> PromptStyle:
    """A prompt style from outside, or DocumentError."""
    row = to_dict(value, "The prompt style")
    chat, thinking, answers = row.get("chat", False), row.get("thinking"), row.get("answers", "flexible")
    if type(chat) is not bool or not (thinking is None or type(thinking) is bool) or answers not in RULES:
        raise DocumentError("The prompt style of the file is none that rmx knows.")
    stops = to_list(row.get("stops", []), "the stop texts", MOST_STOPS)
    return PromptStyle.from_json(
        {
            "name": to_text(row.get("name"), "the prompt style", NAME),
            "template": to_text(row.get("template"), "the template", TEXT),
            "chat": chat,
            "system": to_maybe(row.get("system"), "the system line", TEXT),
            "thinking": thinking,
            "stops": [stop for stop in (to_text(s, "a stop text", MOST_STOP) for s in stops) if stop],
            "answers": answers,
            "why": to_text(row.get("why", ""), "the reason of the prompt style", TEXT),
        }
    )


def _branch(row: Document, i: int, lengths: Sequence[int], texts: Mapping[int, str]) -> TreeBranch:
    """Read branch `i`, the root being 0; `lengths` are those of the completions before it."""
    name = f"branch {i + 1}"
    rows = to_list(row.get("tokens"), f"the tokens of {name}", MOST_TOKENS)
    if not rows:
        raise DocumentError(f"{name.capitalize()} has no tokens.")
    parent, at, forced = None, 0, 0
    if i:
        parent = to_int(row.get("parent"), f"the parent of {name} (an earlier branch)", 0, i - 1)
        at = to_int(row.get("at"), f"the place where {name} leaves its parent", 0, lengths[parent] - 1)
        forced = to_int(row.get("forced", 1), f"the forced tokens of {name}", 1, len(rows))
    tokens = tuple(_token(t, at + k, texts) for k, t in enumerate(rows))
    if row.get("digest") not in (None, digest_of([t.id for t in tokens])):
        raise DocumentError(f"The tokens of {name} do not match the file's own digest: it was changed or damaged.")
    reuse = to_dict(row.get("reuse") or {"reused": 0, "computed": 0}, "reuse")
    stop = row.get("stop", "eos")
    if stop not in STOPS:
        raise DocumentError(f"{name.capitalize()} stopped at {said(stop)}; known are {', '.join(STOPS)}.")
    return TreeBranch(
        parent=parent,
        at=at,
        forced=forced,
        read=_to_flag(row.get("read", stop == "read"), "'read'"),
        sampling=_sampling(row, at + len(tokens)),
        tokens=tokens,
        answer=_answer(row.get("answer")),
        stop=stop,
        reuse=Reuse(*(to_int(reuse.get(key, 0), key, 0, 10**9) for key in ("reused", "computed"))),
        seconds=to_number(row.get("seconds", 0), "seconds", 0, 1e9),
    )


def _to_flag(value: Any, what: str) -> bool:
    if type(value) is not bool:
        raise DocumentError(f"{what} must be true or false.")
    return value


def _sampling(row: Document, length: int) -> Sampling:
    """How it was decoded; a trace that does not say its limit had at least its own length."""
    most = row.get("max_new_tokens", length if row.get("stop") == "length" else max(length, 512))
    return Sampling(
        to_number(row.get("temperature", 0.0), "temperature", 0, 10),
        to_number(row.get("top_p", 1.0), "top_p", 1e-9, 1),
        to_int(row.get("seed", 0), "seed", 0, 2**63 - 1),
        to_int(most, "max_new_tokens", 1, 10**6),
    )


def _token(row: Any, pos: int, texts: Mapping[int, str]) -> TokenDist:
    row = to_dict(row, f"Token {pos}")
    token_id = to_int(row.get("id"), f"the id of token {pos}", 0, MOST_ID)
    if row.get("pos", pos) != pos or type(row.get("pos", pos)) is not int:
        raise DocumentError(f"The token at place {pos} says that it is token {said(row.get('pos'))}.")
    text = row["text"] if "text" in row else texts.get(token_id)
    top = to_list(row.get("top", []), f"the alternatives of token {pos}", 1000)[:TOP_KEPT]
    return TokenDist(
        pos=pos,
        id=token_id,
        text=to_text(text, f"the text of token {pos}", PIECE),
        entropy=max(0.0, to_number(row.get("entropy"), f"the entropy of token {pos}", -0.01, 50)),
        logp=min(0.0, to_number(row.get("logp"), f"the log-probability of token {pos}", -1e6, 0.01)),
        rank=to_int(row.get("rank", 1), f"the rank of token {pos}", 1, MOST_ID),
        forced=_to_flag(row.get("forced", False), f"'forced' of token {pos}"),
        top=tuple(_candidate(c, pos, texts) for c in top),
    )


def _candidate(row: Any, pos: int, texts: Mapping[int, str]) -> Candidate:
    what = f"an alternative of token {pos}"
    if isinstance(row, list):
        if len(row) != 2:
            raise DocumentError(f"{what.capitalize()} must be a pair of id and probability.")
        row = {"id": row[0], "p": row[1]}
    row = to_dict(row, what.capitalize())
    token_id = to_int(row.get("id"), f"the id of {what}", 0, MOST_ID)
    text = row["text"] if "text" in row else texts.get(token_id, f"⟪{token_id}⟫")
    p = to_number(row.get("p"), f"the probability of {what}", 0, 1.001)
    return Candidate(token_id, to_text(text, what, PIECE), min(1.0, p))


def _chain(rows: list[Any]) -> Tree:
    """A list of traces: each forces one token in the one before it."""
    traces = to_list(rows, "the list of traces", MOST_BRANCHES)
    documents = [to_dict(row, f"Trace {i}") for i, row in enumerate(traces, 1)]
    if not documents:
        raise DocumentError("The list holds no trace.")
    whole = [_tree(d | {"branches": []}) for d in documents]
    root = documents[0] | {"branches": [], "shown": len(whole) - 1}
    for i in range(1, len(whole)):
        before, now = whole[i - 1].branches[0].tokens, whole[i].branches[0].tokens
        if (whole[i].model, whole[i].prompt_ids) != (whole[0].model, whole[0].prompt_ids):
            raise DocumentError(f"Trace {i + 1} is of another model or prompt than the first one.")
        at, forced = _swapped(before, now, i)
        row = documents[i] | {"parent": i - 1, "at": at, "forced": forced, "tokens": documents[i]["tokens"][at:]}
        row.pop("digest", None)
        root["branches"].append(row)
    return _tree(root)


def _swapped(before: Sequence[TokenDist], now: Sequence[TokenDist], i: int) -> tuple[int, int]:
    """Where a trace leaves the one before it, and how many tokens are forced there."""
    for at, (old, new) in enumerate(zip(before, now, strict=False)):
        if old.id != new.id or (new.forced and not old.forced):
            if not new.forced:
                break
            return at, next((k for k, t in enumerate(now[at:]) if not t.forced), len(now) - at)
    raise DocumentError(f"Trace {i + 1} is no swap of the one before it: no token is forced where they part.")


def _answer(value: Any) -> Answer:
    row = to_dict(value if value is not None else {}, "The answer")
    correct = row.get("correct")
    if correct is not None and type(correct) is not bool:
        raise DocumentError("'correct' of an answer must be true, false or null.")
    return Answer(to_maybe(row.get("text"), "the answer", PIECE), correct)


def _texts(value: Any) -> dict[int, str]:
    table = to_dict(value if value is not None else {}, "The table of texts")
    if len(table) > 300_000:
        raise DocumentError("The table of texts has more entries than any vocabulary.")
    found = {}
    for key, text in table.items():
        if not key.isascii() or not key.isdigit() or len(key) > 10:
            raise DocumentError(f"The table of texts has the key {said(key)}, which is no token id.")
        found[int(key)] = to_text(text, f"token {key}", PIECE)
    return found
