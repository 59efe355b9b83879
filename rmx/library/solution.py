"""A solution as a Python object: its tokens and forks, what another token there does, what its answer hangs on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from rmx.config import TOP_SHOWN
from rmx.errors import RmxError, SwapError, shown
from rmx.explore.generate import Branch, swap_job
from rmx.explore.greedy_answers import sofar
from rmx.explore.outcomes import MOST_FORKS, USUAL, OutcomeConfig, importance, outcomes
from rmx.explore.rescue import Goal, RescueConfig, rescue
from rmx.library import results
from rmx.library.results import ELSEWHERE, FORK, NotebookProgress, to_frame
from rmx.models.load import Model
from rmx.records import Answer, TokenDist, Trace, is_fork
from rmx.service.requests import TraceRequest
from rmx.service.solution import asked, outcomes_json, solution_json
from rmx.storage.rendering import render
from rmx.storage.safe_files import write_text
from rmx.trees.document import Tree, tree_of
from rmx.trees.tree_page import tree_texts

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 5  # alternatives of a fork in a notebook
MOST_ENTROPY = 2.5  # nats at which the line under a fork is thickest


class ModelSolution:
    """One solution of a problem, with the distribution behind every token.

    Args:
        request: what was asked.
        branch: its tokens, written to the end by the time anybody reads them.
        parent: the solution that it leaves by a swap; None for one that was asked for itself.
    """

    def __init__(self, request: TraceRequest, branch: Branch, parent: "ModelSolution | None" = None) -> None:
        self.request, self._branch, self.parent = request, branch, parent
        self._branches: list[Branch] = [] if parent is None else parent._branches
        self._branches.append(branch)

    # -- what was written ---------------------------------------------------------------------------------------------

    @property
    def trace(self) -> Trace:
        """The record of the whole completion."""
        if self._branch.trace is None:
            raise RmxError("The solution is not written yet. Iterate over the stream, or ask it for its solution.")
        return self._branch.trace

    @property
    def text(self) -> str:
        """The completion as text."""
        return self.trace.text

    @property
    def tokens(self) -> tuple[TokenDist, ...]:
        """The tokens in order; `alternatives` of each are what could have stood in its place."""
        return self.trace.tokens

    @property
    def forks(self) -> list[TokenDist]:
        """The tokens at which the model was undecided: those whose entropy exceeds `trace.tau`."""
        return list(self.trace.forks())

    @property
    def answer(self) -> Answer:
        """The final answer, and whether it is right; `correct` is None where no right answer is known."""
        return self.trace.answer

    @property
    def known(self) -> str | None:
        """The right answer, where it is known."""
        return self._branch.job.known

    @property
    def prompt(self) -> str:
        """The exact text that the model was asked with."""
        return self._branch.prompt

    def json(self) -> dict[str, Any]:
        """Return the document that `rmx trace --json` prints of this solution."""
        traces = [one.trace for one in self._line()]
        return self.trace.json() | asked(self.request, self._model, self._branch.job, traces)

    def _line(self) -> "list[ModelSolution]":
        """The solutions from the one that was asked for to this one, each made from the one before by a swap."""
        return [self] if self.parent is None else [*self.parent._line(), self]

    # -- another token ------------------------------------------------------------------------------------------------

    def swap(self, at: int | TokenDist, token: str | int | None = None, *, rank: int | None = None) -> "ModelSolution":
        """Put another token somewhere and let the model go on from there; what stands before it is kept.

        Args:
            at: a position, counted from 0, or a token of this solution.
            token: a token by its text or by its id; a text of several tokens is put in whole.
            rank: in place of `token`, the n-th likeliest token there; 1 is the likeliest.

        Raises:
            SwapError: there is no such position or token, or it does not fit the length.
        """
        pos = at.pos if isinstance(at, TokenDist) else at
        ids = self._ids_of(pos, token, rank)
        job = swap_job(self._branch.job, self.tokens, pos, ids, self._model.engine.vocab_size)
        other = ModelSolution(self.request, self._branch.branch(job), self)
        return SolutionStream(other).solution

    def _ids_of(self, pos: int, token: str | int | None, rank: int | None) -> Sequence[int]:
        """The token ids that a swap puts in."""
        if (token is None) == (rank is None):
            raise SwapError("Say what to put there: a token (by its text or id), or a rank.")
        if isinstance(token, int):
            return [token]
        there = self.tokens[pos].top if 0 <= pos < len(self.tokens) else ()
        if rank is not None:
            if there and not 1 <= rank <= len(there):
                raise SwapError(f"The rank must lie between 1 and {len(there)}; got {shown(rank)}.")
            return [there[rank - 1].id] if there else [0]
        same = next((candidate.id for candidate in there if candidate.text == token), None)
        return self._model.encode(str(token)) if same is None else [same]

    @property
    def _model(self) -> Model:
        return self._branch.model

    # -- what the answer hangs on -------------------------------------------------------------------------------------

    def outcomes(
        self, at: int | TokenDist | None = None, *, forks: int = MOST_FORKS, progress: bool = True, **config: Any
    ) -> results.OutcomesDocument | results.ImportanceDocument:
        """Sample on from each alternative and count which answers are reached: `rmx outcomes`.

        Args:
            at: a position or a token; None measures the forks of the highest entropy, and says which of them decide.
            forks: of how many forks, where no place is given.
            progress: show a bar.
            config: samples (of each alternative, at most), budget (tokens in all), temperature, top_p, seed,
                max_new_tokens; by default those of the command.

        Raises:
            RmxError: no such place, a value that cannot be used, or a solution without an answer to look for.
        """
        settings = replace(USUAL if at is None else OutcomeConfig(), **config)
        if forks < 1:
            raise RmxError(f"The number of forks must be 1 or more; got {forks}.")
        about, known = (self._model, self.trace), self.known
        with NotebookProgress(progress) as tell:
            if at is None:
                curve = importance(*about, settings, known=known, forks=forks)
                found = _last(curve, lambda s: tell("forks", s.at, s.of))
                return results.ImportanceDocument(outcomes_json(self.trace, known, settings, found))
            states = outcomes(*about, at.pos if isinstance(at, TokenDist) else at, settings, known=known)
            found = _last(states, lambda s: tell("tokens", min(s.tokens_spent, s.budget), s.budget))
            return results.OutcomesDocument(outcomes_json(self.trace, known, settings, found))

    def rescue(self, goal: Goal | None = None, *, progress: bool = True, **config: Any) -> results.RescueDocument:
        """Look for the fewest swaps that turn a wrong answer right, or break a right one: `rmx rescue`.

        Args:
            goal: "right" or "wrong"; None: the opposite of what the solution is.
            progress: show a bar.
            config: budget (tokens), most_swaps, seed, max_new_tokens; by default those of the command.

        Raises:
            RmxError: the right answer is not known, or a value that cannot be used.
        """
        settings = RescueConfig(goal=goal, **config)
        with NotebookProgress(progress) as tell:
            states = rescue(self._model, self.trace, settings, known=self.known)
            found = _last(states, lambda s: tell("tokens", min(s.tokens_spent, s.budget), s.budget))
        return results.RescueDocument(solution_json(self.trace, self.known) | {"seed": settings.seed} | found.json())

    def answers_so_far(self) -> results.SoFarDocument:
        """Make the model conclude after each sentence, and return the answers: `rmx sofar`."""
        found = _last(sofar(self._model, self.trace, known=self.known), lambda _: None)
        return results.SoFarDocument(solution_json(self.trace, self.known) | found.json())

    # -- files and notebooks ------------------------------------------------------------------------------------------

    @property
    def tree(self) -> Tree:
        """All solutions that were made from the same first one by swaps; this one is on screen."""
        return tree_of(self._branches, self._branch.id)

    def save(self, path: str | Path) -> None:
        """Write a file that the ending of its name decides on.

        Args:
            path: .html, a page of all branches that opens offline and can be clicked; .json, the tree; .csv, the
                tokens; .svg, the entropies as a figure.

        Raises:
            RmxError: another ending, or a file that cannot be written.
        """
        place, texts = Path(path), tree_texts(self.tree)
        if place.suffix[1:] not in texts:
            kinds = ", ".join(f".{kind}" for kind in texts)
            raise RmxError(f"A solution is written as {kinds}; got {shown(place.name)}.")
        write_text(place, texts[place.suffix[1:]]())

    def to_frame(self) -> "DataFrame":
        """Return the tokens as a pandas data frame: position, text, entropy, probability, rank, and whether a fork."""
        names = ("pos", "id", "text", "entropy", "logp", "rank", "fork", "forced")
        return to_frame([{name: t.json(self.trace.tau)[name] for name in names} for t in self.tokens])

    def figure(self) -> go.Figure:
        """Draw the entropy of each token as a Plotly figure, forks in another colour, the threshold as a line."""
        tokens, tau = self.tokens, self.trace.tau
        figure = go.Figure(layout={"template": "plotly_white", "xaxis_title": "token", "yaxis_title": "nats"})
        bars = {"x": [t.pos for t in tokens], "y": [t.entropy for t in tokens], "text": [repr(t.text) for t in tokens]}
        colours = [FORK if is_fork(t.entropy, tau) else ELSEWHERE for t in tokens]
        hover = "%{x}: %{text}<br>%{y:.2f} nats<extra></extra>"
        figure.add_bar(**bars, textposition="none", marker_color=colours, hovertemplate=hover)
        return figure.add_hline(y=tau, line_dash="dot", line_color=FORK)

    def __repr__(self) -> str:
        if self._branch.trace is None:
            return f"<a solution of {self._model.spec}, being written>"
        verdict = {True: "right", False: "wrong", None: "not graded"}[self.answer.correct]
        size = f"{len(self.tokens)} tokens, {len(self.forks)} forks"
        return f"<{self._model.spec}: answer {self.answer.text} ({verdict}), {size}>"

    def _repr_html_(self) -> str:
        forks = {fork.pos for fork in self.forks}
        tokens = []
        for token in self.tokens:
            kind = "forced" if token.forced else "fork" if token.pos in forks else ""
            facts = f"position {token.pos}: entropy {token.entropy:.2f} nats, probability {token.p:.3f}"
            lists = [{"name": "", "top": [c.json() for c in token.top[:SHOWN]], "chosen": token.id}]
            shown = {"text": token.text, "kind": kind, "weight": min(1.0, token.entropy / MOST_ENTROPY)}
            tokens.append(shown | {"facts": facts, "lists": lists})
        limit = f"their entropy exceeds {self.trace.tau:g} nats"
        about: dict[str, Any] = {"notes": [f"Underlined tokens are forks: {limit}. Point at one, or click it."]}
        about |= {"answer": self.answer.json(), "fan": fan_drawing(self.trace, self._taken())}
        return render("notebook/tokens.html", title=repr(self)[1:-1], tokens=tokens, **about)

    def _taken(self) -> dict[tuple[int, int], Answer]:
        """The answers of the branches that leave this solution by one token, by where they leave it."""
        mine = self._branch
        off = {(b.at or 0, b.job.forced[0]): b for b in self._branches if b.parent is mine and len(b.job.forced) == 1}
        if mine.parent is not None and mine.job.fork is not None:
            off[mine.at or 0, mine.job.fork.id] = mine.parent
        return {place: b.trace.answer for place, b in off.items() if b.trace is not None}


class SolutionStream:
    """The tokens of a solution as they are written: iterate over them, then take `solution`."""

    def __init__(self, solution: ModelSolution) -> None:
        self._solution, self._steps, self._at = solution, solution._branch.steps(), 0

    def __iter__(self) -> Iterator[TokenDist]:
        tokens = self._solution._branch.tokens
        for count in self._steps:
            while self._at < count:
                self._at += 1
                yield tokens[self._at - 1]

    def stop(self) -> None:
        """Ask the model to end at its next token."""
        self._solution._branch.halt()

    @property
    def solution(self) -> ModelSolution:
        """The solution, once the rest of it is written."""
        for _ in self:
            pass
        return self._solution


def _last(states: Iterator[Any], on_state: Callable[[Any], None]) -> Any:
    """Go through the states of a measurement; returns the last one."""
    state = None
    for state in states:
        on_state(state)
    return state


# -- the fork fan as a still drawing: in a notebook no script runs ----------------------------------------------------


WIDTH, LEFT, RIGHT, TRUNK = 860, 10, 110, 64  # px of the drawing; of its margins; of the trunk from above
UP, DOWN, SLOT = 28, 21, 16  # px to the first word above and below the trunk; between two words
SLOTS = 4  # words of a fork
MOST = 20  # forks that fan out, the most undecided
THICK = 18  # px of a word that is certain
Place = tuple[int, int]  # position and token id


def fan_drawing(trace: Trace, ends: Mapping[Place, Answer]) -> dict[str, Any]:
    """Lay out the forks of a solution, with their other words and what these are known to end in.

    Args:
        ends: answers of the branches that were taken, by where they leave; all other ends are unknown.

    Returns:
        What the template "notebook/fan.html" draws.
    """
    chosen = sorted(trace.forks(), key=lambda t: -t.entropy)[:MOST]
    forks = sorted(chosen, key=lambda t: t.pos)
    share = [0.4 * (t.pos + 0.5) / len(trace.tokens) + 0.6 * (k + 0.35) / len(forks) for k, t in enumerate(forks)]
    across = [LEFT + (WIDTH - RIGHT - LEFT) * s for s in share]
    room = [after - x for x, after in zip(across, [*across, WIDTH - RIGHT + 60.0][1:], strict=True)]
    answer = trace.answer
    return {
        "width": WIDTH, "height": TRUNK + DOWN + SLOT * SLOTS, "left": LEFT, "end": WIDTH - RIGHT, "trunk": TRUNK,
        "forks": [_fork(t, x, gap, ends) for t, x, gap in zip(forks, across, room, strict=True)],
        "answer": {"text": answer.text if answer.text is not None else "none", "kind": _kind(answer)},
    }  # fmt: skip


def _fork(token: TokenDist, x: float, gap: float, ends: Mapping[Place, Answer]) -> dict[str, Any]:
    """A fork and its other words, each with the middle of its line and the answer that it ends in."""
    reach, used = min(34.0, 0.7 * gap), {True: 0, False: 0}
    words: list[dict[str, Any]] = []
    for c in [c for c in token.top[:TOP_SHOWN] if c.id != token.id][:SLOTS]:
        end = ends.get((token.pos, c.id))
        up = end is not None and end.correct is True
        y = TRUNK - UP - SLOT * used[up] if up else TRUNK + DOWN + SLOT * used[up]
        used[up] += 1
        said = {"text": c.text.strip() or "␣", "p": c.p, "kind": _kind(end), "end": end and end.text}
        size = {"wide": max(1.0, THICK * c.p), "letters": int((gap - reach - 14) / 7)}
        words.append(said | size | {"y": y, "tip": x + reach})
    return {"x": x, "text": token.text.strip() or "␣", "pos": token.pos, "letters": int(gap / 7) - 2, "words": words}


def _kind(end: Answer | None) -> str:
    """The colour of an end."""
    if end is None or end.correct is None:
        return "unknown" if end is None or end.text is None else "other"
    return "right" if end.correct else "wrong"
