"""Traces and tokens made small before they cross to another process: alternatives stay only where they are read."""

from collections.abc import Callable
from dataclasses import replace

from rmx.config import TOP_SHOWN
from rmx.records import TokenDist, Trace, is_fork


def without_alternatives(token: TokenDist) -> TokenDist:
    """The token and its figures, without what else could have stood there."""
    return replace(token, top=())


def with_alternatives_at(trace: Trace, wanted: Callable[[TokenDist], bool]) -> Trace:
    """A trace whose alternatives are the shown ones of the wanted tokens, and none of the others."""
    tokens = (replace(t, top=t.top[:TOP_SHOWN]) if wanted(t) else without_alternatives(t) for t in trace.tokens)
    return replace(trace, tokens=tuple(tokens))


def forks_only(trace: Trace) -> Trace:
    """Alternatives of the forks alone."""
    return with_alternatives_at(trace, lambda t: is_fork(t.entropy, trace.tau))
