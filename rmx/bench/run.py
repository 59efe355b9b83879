"""`rmx bench`: how fast the hot paths are here, as ratios of two things measured alternately in one run.

One pinned thread, process CPU time (wall time on CUDA), medians of paired ratios with a bootstrap interval. Absolute
figures are printed for orientation only: they move with the machine, the ratios hardly do.

`rmx bench ui` is what one update costs the page at 500 and at 4,000 tokens, in a real Chromium. A scripted model
speaks, so that the model's own time does not count; the page, the server and the wire are the real ones. Main-thread
time is Chromium's own TaskDuration, bytes are those that the network layer received.
"""

import os
import socket
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from rmx.bench.base_and_adapter import bench_pair
from rmx.bench.base_and_adapter import peaks as pair_peaks
from rmx.bench.decoding import bench_outcomes, bench_rollouts, branches, decode, streams, swap
from rmx.bench.timing import DEFAULT, environment, open_model, pinned
from rmx.bench.train_step import bench_train
from rmx.errors import RmxError
from rmx.explore.flip_rates import bench_forks
from rmx.models.load import PLAIN, Model, Placing, load
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SIZES = (500, 4000)
WINDOW = 4.0  # seconds of streaming that are measured at each size


def bench_ui(rounds: int) -> dict[str, Any]:
    """Medians over `rounds` pages; `grows` is the cost at 4,000 tokens over that at 500."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise RmxError("rmx bench ui drives a browser: pip install 'rmx-explorer[test]'") from error
    path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path if Path(path).exists() else None, args=FLAGS)
        results = {size: [_measure(browser, size) for _ in range(max(1, rounds // 3))] for size in SIZES}
        version = browser.version
        browser.close()
    out: dict[str, Any] = {"chromium": version}
    for size, rows in results.items():
        out[f"at_{size}"] = {k: statistics.median(r[k] for r in rows) for k in rows[0]}
    first, last = (out[f"at_{s}"] for s in SIZES)
    out["grows"] = {k: last[k] / first[k] for k in ("main_thread_ms_per_update", "bytes_per_update")}
    return out


def _measure(browser: Any, size: int) -> dict[str, float]:
    """Stream past `size` tokens slowly and read the page's counters over a window of the stream."""
    url, stop = _serve(size)
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    session = page.context.new_cdp_session(page)
    received = [0]
    session.on("Network.dataReceived", lambda e: received.__setitem__(0, received[0] + e["encodedDataLength"]))
    session.send("Network.enable")
    # CPU time of the thread, not the wall clock: other processes on the machine then do not count.
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    try:
        page.goto(url)
        page.wait_for_selector(".strip .curves-fill", state="attached", timeout=60_000)  # the first solution is there
        page.get_by_role("button", name="Decoding").click()
        page.locator("#max-new input").fill(str(size + 1000))
        page.wait_for_timeout(1500)
        quiet = _busy(session)
        page.wait_for_timeout(WINDOW * 1000)
        idle = (_busy(session) - quiet) / WINDOW
        page.get_by_role("button", name="Solve").click()
        page.wait_for_selector(f".flow .t[data-i='{size}']", state="attached", timeout=180_000)
        return _window(page, session, received, idle)
    finally:
        page.close()
        stop()


def _window(page: Any, session: Any, received: list[int], idle: float) -> dict[str, float]:
    """`idle` is the share of a second that the page's main thread takes when nothing happens."""
    page.evaluate(_COUNT_UPDATES)
    start, busy, count = time.monotonic(), _busy(session), received[0]
    page.wait_for_timeout(WINDOW * 1000)
    updates = page.evaluate("window.rmxUpdates.length")
    worst = page.evaluate("Math.max(0, ...window.rmxLong)")
    seconds = time.monotonic() - start
    spent = _busy(session) - busy
    if not updates:
        raise RuntimeError("the page received no update while it was measured")
    return {
        "updates_per_second": updates / seconds,
        "main_thread_ms_per_update": 1000 * (spent - idle * seconds) / updates,
        "idle_ms_per_second": 1000 * idle,
        "bytes_per_update": (received[0] - count) / updates,
        "longest_task_ms": worst,
    }


# Tokens arrive in batches: one animation frame in which the number of tokens grew counts as one update.
_COUNT_UPDATES = """() => {
  window.rmxUpdates = []; window.rmxLong = [];
  const flow = document.querySelector('.flow');
  new MutationObserver(() => {
    const now = Math.round(performance.now() / 16);
    if (window.rmxUpdates.at(-1) !== now) window.rmxUpdates.push(now);
  }).observe(flow, {childList: true, subtree: true});
  new PerformanceObserver((list) => list.getEntries().forEach((e) => window.rmxLong.push(e.duration)))
    .observe({type: 'longtask'});
}"""


def _busy(session: Any) -> float:
    """Seconds that the page's main thread has spent in tasks."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))


def _serve(size: int) -> tuple[str, Any]:
    """The real app on a scripted model that is quick up to `size` tokens and then speaks 60 a second."""
    model = scripted_model(1 / 60, slow_from=size, hostile=False)
    app = web_app(Workspace(loader=lambda spec: model), Settings(max_new_tokens=8000))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)

    def stop() -> None:
        server.should_exit = server.force_exit = True  # the stream that was measured need not end first
        thread.join(30)

    return f"http://127.0.0.1:{port}/", stop


# -- `rmx bench` ------------------------------------------------------------------------------------------------------


def run(
    what: str,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    rounds: int = 7,
    placing: Placing = PLAIN,
    **forks: Any,
) -> dict[str, Any]:
    """Run one benchmark; returns a flat document with `environment`. `forks` are arguments of `bench_forks` alone."""
    if rounds < 1:
        raise RmxError(f"--rounds must be 1 or more; got {rounds}.")
    if placing and (what in ("ui", "pair", "train") or (model or DEFAULT).startswith("random:")):
        raise RmxError("This measures whole weights on one device. Leave --quantize and --device-map out.")
    if what == "ui":
        return bench_ui(rounds) | {"environment": environment(None)}
    if what == "forks":
        loaded = load(model or "mini", device, dtype, placing=placing)
        return bench_forks(loaded, **forks) | {"environment": environment(loaded)}
    name = model or DEFAULT
    again = partial(open_model, name, device, dtype)
    measures: dict[str, Callable[[Model, int], dict[str, Any]]] = {
        "decode": decode,
        "swap": swap,
        "branches": branches,
        "streams": streams,
        "outcomes": bench_outcomes,
        "rollouts": bench_rollouts,
        "pair": lambda base, n: bench_pair(base, again, n) | pair_peaks(name, device, dtype),
        "train": lambda base, n: bench_train(base, n, name, device, dtype),
    }
    loaded = open_model(name, device, dtype, placing)
    with pinned(loaded):
        result = measures[what](loaded, rounds)
    here = environment(loaded)
    if "peak_mb" in result:  # which began the GPU's own count anew
        here["peak_gpu_mb"] = None
    return result | {"environment": here}
