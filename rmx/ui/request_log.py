"""The requests to the app: one line of JSON per request and counters for Prometheus. Never a prompt, an answer or a
name: a line says which verb, on which model, how many tokens, how long, and how it ended.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

log = logging.getLogger("rmx.requests")
Item = TypeVar("Item")
REGISTRY = CollectorRegistry()
REQUESTS = Counter("rmx_requests", "Requests by verb and by how they ended", ["verb", "outcome"], registry=REGISTRY)
TOKENS = Counter("rmx_tokens", "Tokens made or read", ["verb"], registry=REGISTRY)
SECONDS = Histogram(
    "rmx_request_seconds",
    "Seconds from the request to its end, waiting included",
    ["verb"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
    registry=REGISTRY,
)
WAITING = Gauge("rmx_waiting", "Requests that hold or wait for a model", registry=REGISTRY)
KEPT = Gauge("rmx_tokens_kept", "Tokens of solutions in memory", registry=REGISTRY)
BYTES = Gauge("rmx_bytes_kept", "Bytes in memory of what visitors have sent and made", registry=REGISTRY)
Facts = dict[str, Any]  # "outcome", and "model" and "tokens" where they are known


def observed(verb: str, steps: Iterator[Item], about: Callable[[], Facts]) -> Iterator[Item]:
    """Pass `steps` on and log the request when they are over, also where the visitor has left before.

    Args:
        about: the facts at the end; "outcome" is "done" where it has no other.
    """
    began, ended = time.monotonic(), "left"
    try:
        yield from steps
        ended = "done"
    except GeneratorExit:
        raise
    except BaseException:
        ended = "fault"
        raise
    finally:
        facts = about()
        log_request(verb, time.monotonic() - began, facts if ended == "done" else facts | {"outcome": ended})


def log_request(verb: str, seconds: float, facts: Facts) -> None:
    """Count one request and write its line."""
    outcome, tokens = str(facts.get("outcome") or "done"), int(facts.get("tokens") or 0)
    REQUESTS.labels(verb, outcome).inc()
    TOKENS.labels(verb).inc(tokens)
    SECONDS.labels(verb).observe(seconds)
    line = {"t": round(time.time(), 3), "verb": verb, "model": facts.get("model"), "tokens": tokens}
    log.info(json.dumps(line | {"seconds": round(seconds, 3), "outcome": outcome}))


def metrics(waiting: int, tokens: int, nbytes: int) -> bytes:
    """All counters in Prometheus' text format; `tokens` and `nbytes` are those that visitors keep in memory."""
    WAITING.set(waiting)
    KEPT.set(tokens)
    BYTES.set(nbytes)
    return generate_latest(REGISTRY)


def write_lines() -> None:
    """Let the lines appear on stderr, one JSON object each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
