"""A ZeroGPU Space on a machine without a GPU, for one test: the package `spaces` as it is there, in its own process.

Real are its hooks of torch and of gradio's launch, its worker processes, queues and errors. Played are the machine that
lends GPUs (a small server here) and the way to the GPU: the other process finds the weights on its CPU.

Called with a model's folder and a file; writes one JSON document of what was seen into that file.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROBLEM = "Ann has 12 apples and gives 5 to Ben. Then Ann buys 9 more. How many apples does Ann have?"
asked: list[dict[str, str]] = []
released: list[dict[str, str]] = []
reported = threading.Event()
quota: dict[str, Any] = {}


class Lender(BaseHTTPRequestHandler):
    """Who lends GPUs: every request is granted, but for one while `quota` says so."""

    def do_POST(self) -> None:
        where = urlsplit(self.path)
        given = {key: values[0] for key, values in parse_qs(where.query).items()}
        body: dict[str, Any] = {}
        status = 200
        if where.path == "/startup-report":
            reported.set()
        elif where.path == "/schedule":
            asked.append(given)
            body = {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": f"token-{len(asked)}"}
            if quota:
                status, body = 429, quota
        elif where.path == "/release":
            released.append(given)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def no_bad_fork() -> bool:
    """CUDA was not touched before."""
    return False


def prepare() -> None:
    """The environment of such a Space; before `spaces` is imported."""
    lender = ThreadingHTTPServer(("127.0.0.1", 0), Lender)
    threading.Thread(target=lender.serve_forever, daemon=True).start()
    groups = Path(tempfile.mkdtemp()) / "cgroup"
    groups.write_text("0::/space\n")
    os.environ |= {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{lender.server_address[1]}",
        "ZEROGPU_PROC_SELF_CGROUP_PATH": str(groups),
    }
    import torch

    torch.set_num_threads(1)
    if torch.version.cuda is None:  # a build without CUDA lacks what `spaces` replaces
        torch.version.cuda = "12.8"
        torch.cuda._is_in_bad_fork = no_bad_fork
        if not hasattr(torch._C, "_cuda_init"):
            torch._C._cuda_init = no_bad_fork
    import spaces.zero.torch as zero
    from spaces.zero.torch import patching

    def arrive(callback: Any = None) -> None:
        for fake, original in list(patching.cuda_aliases.items()):
            fake.data = original

    zero.init = lambda uuid: None
    zero.move = arrive
    zero.pack = lambda: 0  # the weights stay in memory, from where the other process has its copy
    zero.size = lambda: 0


def stopped(spec: str) -> dict[str, Any]:
    """A solution that is given up after three tokens, and one after it."""
    from rmx.arguments import Sampling
    from rmx.explore.generate import Generation, Job
    from rmx.models import zerogpu as carry

    assert carry._home is not None
    model = carry._home.model(spec)
    job = Job(model.prompt_ids(PROBLEM), Sampling(temperature=1.0, seed=3, max_new_tokens=400), 0.5)
    first = Generation(model, job)
    steps = iter(first)
    for _ in range(3):
        next(steps)
    steps.close()
    workers = len(multiprocessing.active_children())
    second = Generation(model, job).run()
    same = second.ids[:3] == [token.id for token in first.tokens]
    return {"kept": len(first.tokens), "same": same, "workers": [workers, len(multiprocessing.active_children())]}


def main(model: str) -> dict[str, Any]:
    prepare()
    import base64

    import httpx
    from gradio_client import Client

    from rmx.ui.server.serve import launch
    from rmx.ui.settings import Settings

    page = launch(Settings(model=model, host="127.0.0.1", port=0, public=True, max_new_tokens=512))
    url = str(page.local_url)
    seen: dict[str, Any] = {"reported": reported.is_set()}
    answer = httpx.get(f"{url}health")
    seen |= {"health": answer.json()["status"], "policy": "Content-Security-Policy" in answer.headers}
    seen["closed"] = httpx.get(f"{url}openapi.json").status_code
    payload = base64.urlsafe_b64encode(b"{}").decode().rstrip("=")
    client = Client(url, headers={"X-IP-Token": f"head.{payload}.sign"}, verbose=False)
    asks = {"prompt": PROBLEM, "max_new_tokens": 64}
    seen["far"] = client.predict(api_name="/trace", model=model, **asks)
    seen["again"] = client.predict(api_name="/trace", model=model, **asks)["reuse"]
    seen["near"] = client.predict(api_name="/trace", model="mini", **asks)["dtype"]
    seen["asked"] = [{"seconds": int(one["durationSeconds"]), "token": one.get("token")} for one in asked]
    seen["stopped"] = stopped(model)
    for name, given in (("mistake", {"prompt": "how " * 600}), ("quota", asks)):
        quota.update({"left": 3, "wait": 3600} if name == "quota" else {})
        try:
            client.predict(api_name="/trace", model=model, **given)
            seen[name] = None
        except Exception as error:  # noqa: BLE001 - what the client says is what is looked at
            seen[name] = str(error)
    seen["released"] = [one["fail"] for one in released]
    return seen


if __name__ == "__main__":
    told = json.dumps(main(sys.argv[1]))
    Path(sys.argv[2]).write_text(told)
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(0)
