"""The load test: its visitors speak as the page does, or all of its figures are of errors."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rmx.bench.public import bench_public

pytestmark = pytest.mark.slow


def test_visitors_solve_swap_and_ask_without_an_error(monkeypatch) -> None:
    monkeypatch.setattr("rmx.bench.public.PROBLEMS", 4)
    with ThreadPoolExecutor(1) as thread:  # the browser's loop may run in this one
        found = thread.submit(bench_public, clients=3, minutes=0.15).result()
    assert (found["errors"], found["wrong"], found["refused"]) == (0, 0, 0)
    assert found["done"]["trace"] >= 1
    assert found["to_first_token_seconds"]["n"] >= found["done"]["trace"]
    assert found["done"]["checked"] == found["done"]["trace"] + found["done"].get("swap", 0)
    assert found["memory_mb"]["most"] >= found["memory_mb"]["first"] > 0
