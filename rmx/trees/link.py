"""A tree in an address: what is needed to decode it again, and marks that tell whether the same tokens came.

A link holds ids, never text to be tokenised again: the prompt's ids, and for each branch where it leaves its parent,
what it forces, how it samples, how many tokens it had and marks of them. It holds no permission: no run's id is in it.

Marks are a rolling hash over the prompt and the completion: two bytes after each block of tokens, and eight at the end.
Eight bytes tell whether the tokens are the same, the two-byte marks where they part. Short trees have blocks of one
token, longer ones larger blocks, so that the link stays short.
"""

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rmx.arguments import Sampling
from rmx.errors import ModelError, PromptError, RmxError, SwapError
from rmx.explore.generate import Branch, Job, Origin, swap_job
from rmx.models.load import Model
from rmx.prompt_styles import STYLES, PromptStyle
from rmx.storage.safe_files import DocumentError, parse, to_dict, to_ids, to_int, to_list, to_number, to_text
from rmx.trees.document import NAME, Tree, TreeFacts, adapter_hash, read_facts, read_style

VERSION = "1"  # the first character of a link's value
MOST_LINK = 4_000  # characters; addresses much longer than this are cut off on the way
MOST_PLAIN = 60_000  # bytes that a link may unfold to
MOST_BRANCHES = 24
MOST_TOKENS = 20_000  # of all branches, each with what it keeps
MARK, SEAL = 2, 8  # bytes
KEYS = {
    "model": "m", "revision": "r", "adapter": "a", "adapter_hash": "h", "dtype": "d", "prompt_ids": "p", "tau": "t",
    "known": "k", "title": "q", "shown": "x", "pos": "c",
}  # fmt: skip
CALLED = {  # in sentences
    "adapter_hash": "adapter", "known": "answer", "prompt_ids": "prompt", "tau": "threshold", "shown": "branch",
    "pos": "position",
}  # fmt: skip


class TooLong(RmxError):
    """The tree does not fit into an address."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What is known of a branch's own tokens without having them."""

    length: int  # of its own tokens
    block: int  # tokens to a mark
    marks: bytes
    seal: bytes

    def parts(self, prompt: Sequence[int], ids: Sequence[int], start: int) -> tuple[int, int] | None:
        """First and last completion position between which `ids` part from what was marked; None: they are the same.

        Args:
            ids: the whole completion that was decoded now. start: where the branch's own tokens begin in it.
        """
        own = min(len(ids) - start, self.length)
        now = marks_of(prompt, ids[: start + own], start, self.block)
        for k, i in enumerate(range(0, own, self.block)):
            here = slice(k * MARK, (k + 1) * MARK)
            whole = min(i + self.block, self.length) <= own
            if whole and now.marks[here] != self.marks[here]:
                return start + i, start + min(i + self.block, self.length) - 1
            if not whole:
                return start + i, start + own
        if own < self.length:
            return start + own, start + own
        if now.seal != self.seal:  # two marks were the same by chance
            return start, start + self.length - 1
        return None


def marks_of(prompt: Sequence[int], ids: Sequence[int], start: int, block: int) -> Marks:
    """Marks of a completion's tokens from `start` on."""
    state, found = hashlib.sha256(), bytearray()
    for i in (*prompt, *ids[:start]):
        state.update(i.to_bytes(4, "little"))
    own = ids[start:]
    for i in range(0, len(own), block):
        for token in own[i : i + block]:
            state.update(token.to_bytes(4, "little"))
        found += state.digest()[:MARK]
    return Marks(len(own), block, bytes(found), state.digest()[:SEAL])


@dataclass(frozen=True, slots=True)
class ReplayStep:
    """One branch of a recipe."""

    parent: int | None
    at: int
    forced: tuple[int, ...]
    sampling: Sampling
    marks: Marks
    given: tuple[int, ...] | None = None  # the tokens of a text that was read
    cut: bool = False  # it was stopped by hand


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan(TreeFacts):
    """Everything that decodes a tree again, and tells whether it came out the same."""

    steps: tuple[ReplayStep, ...]


def recipe_of(tree: Tree, block: int = 1) -> ReplayPlan:
    """How to decode a tree again."""
    steps = []
    for place, branch in enumerate(tree.branches):
        ids = tree.ids(place)
        steps.append(
            ReplayStep(
                parent=branch.parent,
                at=branch.at,
                forced=branch.forced_ids if branch.parent is not None else (),
                sampling=branch.sampling,
                marks=marks_of(tree.prompt_ids, ids, branch.at, block),
                given=tuple(ids) if branch.read and branch.parent is None else None,
                cut=branch.stop == "cancelled",
            )
        )
    facts = {field.name: getattr(tree, field.name) for field in fields(TreeFacts)}
    style = replace(tree.style, why="") if tree.style else None
    return ReplayPlan(**facts | {"style": style}, steps=tuple(steps))


# -- link -------------------------------------------------------------------------------------------------------------


def link_of(tree: Tree, most: int = MOST_LINK) -> str:
    """The value of `?s=` for a tree: marks as fine as fit, and the title where it fits; TooLong where nothing does."""
    if len(tree.branches) > MOST_BRANCHES:
        raise TooLong(f"A link holds up to {MOST_BRANCHES} branches. Download the file instead.")
    for titled in (True, False):
        for block in (1, 2, 4, 8, 16, 32, 64):
            recipe = recipe_of(tree, block)
            value = pack(recipe if titled else replace(recipe, title=None))
            if len(value) <= most:
                return value
    raise TooLong("This tree is too long for a link. Download the file instead; it opens here as well.")


def pack(recipe: ReplayPlan) -> str:
    """A recipe as characters that an address can hold."""
    row = {key: getattr(recipe, fact) for fact, key in KEYS.items()} | {
        "z": recipe.steps[0].marks.block,
        "s": _style_row(recipe.style) if recipe.style else None,
        "b": list(_rows(recipe)),
    }
    plain = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    return VERSION + base64.urlsafe_b64encode(zlib.compress(plain, 9)).rstrip(b"=").decode()


def _style_row(style: PromptStyle) -> dict[str, Any]:
    """A style by its name and what differs from the one that has this name."""
    known = _style_named(style.name).json()
    return {"name": style.name} | {key: value for key, value in style.json().items() if known[key] != value}


def _style_named(name: str) -> PromptStyle:
    return STYLES.get(name) or PromptStyle(name, "{problem}")


def _read_style(row: Any) -> PromptStyle:
    row = to_dict(row, "The link's prompt style")
    name = to_text(row.get("name"), "the link's prompt style", NAME)
    return read_style(_style_named(name).json() | row)


def _rows(recipe: ReplayPlan) -> Iterator[list[Any]]:
    for step in recipe.steps:
        before = recipe.steps[step.parent].sampling if step.parent is not None else None
        s = step.sampling
        how = 0 if s == before else [s.temperature, s.top_p, s.seed, s.max_new_tokens]
        marks = base64.b64encode(step.marks.seal + step.marks.marks).decode()
        yield [step.parent, step.at, step.forced, how, step.marks.length, marks, int(step.cut), step.given]


def unpack(value: str) -> ReplayPlan:
    """The recipe of a link; DocumentError where it is none of ours, was cut off or changed, or asks for too much."""
    row = parse(_unfold(value), MOST_PLAIN)
    if not isinstance(row, dict):
        raise DocumentError(BROKEN)
    block = to_int(row.get("z"), "the link's block", 1, 1024)
    rows = to_list(row.get("b"), "the link's branches", MOST_BRANCHES)
    steps: list[ReplayStep] = []
    for entry in rows:
        steps.append(_step(entry, steps, block))
    if not steps:
        raise DocumentError(BROKEN)
    lengths = [s.at + s.marks.length for s in steps]
    if sum(lengths) > MOST_TOKENS:
        raise DocumentError(f"The link asks for {sum(lengths):,} tokens; at most {MOST_TOKENS:,} are decoded.")
    facts = {fact: row.get(key, 0 if fact == "shown" else None) for fact, key in KEYS.items()}
    return ReplayPlan(
        steps=tuple(steps),
        style=None if row.get("s") is None else _read_style(row["s"]),
        **read_facts(facts, lengths, MOST_TOKENS, lambda fact: f"the link's {CALLED.get(fact, fact)}"),
    )


BROKEN = "This link cannot be read: it was cut off or changed. Ask for it again, or for the file."


def _unfold(value: str) -> str:
    if len(value) > MOST_LINK + 200 or not value.startswith(VERSION):
        raise DocumentError(BROKEN)
    try:
        packed = base64.b64decode(value[1:] + "=" * (-len(value[1:]) % 4), altchars=b"-_", validate=True)
        opened = zlib.decompressobj()
        plain = opened.decompress(packed, MOST_PLAIN)
        if not opened.eof:  # cut off, or it would unfold to more than any link of ours
            raise DocumentError(BROKEN)
        return plain.decode("utf-8")
    except (binascii.Error, ValueError, zlib.error) as error:
        raise DocumentError(BROKEN) from error


def _step(entry: Any, before: Sequence[ReplayStep], block: int) -> ReplayStep:
    i = len(before)
    row = to_list(entry, f"branch {i + 1} of the link", 8)
    if len(row) != 8 or (row[0] is None) != (i == 0):
        raise DocumentError(BROKEN)
    parent = None if i == 0 else to_int(row[0], "a branch's parent", 0, i - 1)
    above = before[parent] if parent is not None else None
    at = 0 if above is None else to_int(row[1], "a branch's place", 0, above.at + above.marks.length - 1)
    forced = () if above is None else to_ids(row[2], "a branch's forced tokens", 2_000)
    length = to_int(row[4], "a branch's length", 1, MOST_TOKENS)
    try:
        seal = base64.b64decode(to_text(row[5], "a branch's marks", MOST_PLAIN), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(BROKEN) from error
    marks = Marks(length, block, seal[SEAL:], seal[:SEAL])
    if len(seal) != SEAL + MARK * -(-length // block):
        raise DocumentError(BROKEN)
    given = None if row[7] is None or above is not None else to_ids(row[7], "the text's tokens", MOST_TOKENS)
    if given is not None and len(given) != length:
        raise DocumentError(BROKEN)
    return ReplayStep(parent, at, forced, _sampling(row[3], above), marks, given, bool(row[6]))


def _sampling(row: Any, above: ReplayStep | None) -> Sampling:
    if row == 0 and above is not None:
        return above.sampling
    row = to_list(row, "a branch's sampling", 4)
    if len(row) != 4:
        raise DocumentError(BROKEN)
    temperature, top_p = (to_number(x, "a branch's sampling", 0, 10) for x in row[:2])
    seed = to_int(row[2], "a branch's seed", 0, 2**63 - 1)
    return Sampling(temperature, top_p, seed, to_int(row[3], "a branch's limit", 1, 10**6))


# -- Decode a tree again from its recipe, and say whether the same tokens came, or where they part --------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of decoding a tree again."""

    same: bool
    said: str


class TreeReplay:
    """A recipe on a model. `runs()` hands out each branch, not generated yet; `verdict()` compares what came of them.

    Branches are decoded as their recipe says, one after another: that is what tells whether the same tokens come. A
    text that was read has its tokens in the recipe and takes one pass.
    """

    def __init__(self, model: Model, adapter: str | None, recipe: ReplayPlan, origin: Origin | None = None) -> None:
        style = replace(recipe.style, why="as it was recorded") if recipe.style else model.style.unrecorded
        self.model, self.adapter, self.recipe, self.origin = model.with_style(style), adapter, recipe, origin
        self.made: list[Branch | None] = []  # None: a branch that could not be made
        _check_fit(model, recipe)

    def runs(self, owner: str | None = None) -> Iterator[Branch]:
        """Each branch in turn; the caller generates it before asking for the next."""
        for place, step in enumerate(self.recipe.steps):
            run = self._run(place, step, owner)
            self.made.append(run)
            if run is not None:
                yield run

    def _run(self, place: int, step: ReplayStep, owner: str | None) -> Branch | None:
        recipe = self.recipe
        show = recipe.pos if place == recipe.shown else None
        facts: dict[str, Any] = {"title": recipe.title, "show": show, "owner": owner, "origin": self.origin}
        if step.parent is None:
            job = Job(recipe.prompt_ids, _bounded(step), recipe.tau, self.adapter, recipe.known, read=step.given)
            run = Branch(self.model, job, self.model.detokenizer.text(recipe.prompt_ids), tree="", **facts)
            run.tree = run.id
            return run
        parent = self.made[step.parent]
        if parent is None or parent.error:
            return None
        above = replace(parent.job, sampling=_bounded(step))
        try:
            job = swap_job(above, parent.tokens, step.at, step.forced, self.model.engine.vocab_size)
        except SwapError:  # the parent came out shorter
            return None
        return Branch(self.model, job, parent.prompt, parent.tree, parent, **facts)

    @property
    def shown(self) -> Branch | None:
        """The branch that was on screen; the root where that one could not be made."""
        wanted = self.made[self.recipe.shown] if self.recipe.shown < len(self.made) else None
        return wanted or (self.made[0] if self.made else None)

    def verdict(self) -> Verdict:
        """Whether all branches have the same tokens; else the first place where they part, and what differs here."""
        for place, step in enumerate(self.recipe.steps):
            run = self.made[place] if place < len(self.made) else None
            name = "the solution" if place == 0 else f"branch {place + 1}"
            if run is None:
                said = f"{name} cannot be decoded here: what it leaves came out shorter"
                return Verdict(False, said + self._differs())
            ids = [t.id for t in run.tokens]
            found = step.marks.parts(self.recipe.prompt_ids, ids, step.at)
            length = step.at + step.marks.length
            if found is None and len(ids) > length and not step.cut:
                found = (length, length)
            if found is not None:
                first, last = found
                where = f"at token {first}" if first == last else f"between tokens {first} and {last}"
                return Verdict(False, f"parts {where} of {name}{self._differs()}")
        count = len(self.recipe.steps)
        branches = f" in all {count} branches" if count > 1 else ""
        return Verdict(True, f"verified: same tokens{branches}{self._differs()}")

    def _differs(self) -> str:
        """What is not as it was where the tree was made."""
        recipe, here = self.recipe, self.model
        found = []
        if here.revision != recipe.revision:
            found.append(f"the model here is revision {here.revision[:20]}, not {recipe.revision[:20]}")
        mine = adapter_hash(here, self.adapter)
        if recipe.adapter_hash is not None and mine is not None and mine != recipe.adapter_hash:
            found.append(f"the adapter {recipe.adapter} has other weights here")
        if here.dtype != recipe.dtype:
            found.append(f"computed in {here.dtype} here, in {recipe.dtype} there")
        return "".join(f"; {what}" for what in found)


def _bounded(step: ReplayStep) -> Sampling:
    """Its own sampling; a branch that was stopped by hand is decoded no further than it came."""
    length = step.at + step.marks.length
    return replace(step.sampling, max_new_tokens=length) if step.cut else step.sampling


def _check_fit(model: Model, recipe: ReplayPlan) -> None:
    ids = (*recipe.prompt_ids, *(i for s in recipe.steps for i in (*s.forced, *(s.given or ()))))
    if max(ids) >= model.engine.vocab_size:
        raise ModelError(f"This tree is not of {model.spec}: it holds the token id {max(ids)}, which that model lacks.")
    length = len(recipe.prompt_ids) + len(recipe.steps[0].given or ())
    if length >= model.engine.context:
        raise PromptError(f"The prompt has {length} tokens and {model.spec} holds {model.engine.context}.")
