"""The fork fan as a still drawing, for notebooks: no script runs there, so what the page draws is drawn here once."""

from collections.abc import Mapping
from typing import Any

from rmx.config import TOP_SHOWN
from rmx.records import Answer, TokenDist, Trace

WIDTH, LEFT, RIGHT, TRUNK = 860, 10, 110, 64  # px of the drawing; of its margins; of the trunk from above
UP, DOWN, SLOT, SLOTS = (
    28,
    21,
    16,
    4,
)  # px to the first word above and below the trunk, between two words; words of a fork
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
    others = [c for c in token.top[:TOP_SHOWN] if c.id != token.id][:SLOTS]
    reach, used = min(34.0, 0.7 * gap), {True: 0, False: 0}
    words: list[dict[str, Any]] = []
    for c in others:
        end = ends.get((token.pos, c.id))
        up = end is not None and end.correct is True
        y = TRUNK - UP - SLOT * used[up] if up else TRUNK + DOWN + SLOT * used[up]
        used[up] += 1
        said: dict[str, Any] = {
            "text": c.text.strip() or "␣",
            "p": c.p,
            "kind": _kind(end),
            "end": end.text if end is not None else None,
        }
        words.append(
            said | {"y": y, "wide": max(1.0, THICK * c.p), "tip": x + reach, "letters": int((gap - reach - 14) / 7)}
        )
    return {"x": x, "text": token.text.strip() or "␣", "pos": token.pos, "letters": int(gap / 7) - 2, "words": words}


def _kind(end: Answer | None) -> str:
    """The colour of an end."""
    if end is None or end.correct is None:
        return "unknown" if end is None or end.text is None else "other"
    return "right" if end.correct else "wrong"
