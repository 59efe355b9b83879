"""The forks of a solution, for jobs that need at least one."""

from rmx.errors import RmxError
from rmx.records import TokenDist, Trace


def forks_of(trace: Trace) -> list[TokenDist]:
    """The tokens whose entropy exceeds the solution's threshold, in order.

    Raises:
        RmxError: there is none.
    """
    forks = list(trace.forks())
    if not forks:
        highest = max((t.entropy for t in trace.tokens), default=0.0)
        raise RmxError(f"No token exceeds {trace.tau:.2f} nats; the highest is {highest:.2f}. Lower the threshold.")
    return forks
