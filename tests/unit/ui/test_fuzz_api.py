"""Whatever is sent to the app, it answers with a refusal or a sentence: never a fault, a traceback, a file or a path of
the machine; and it works as before afterwards. What a request provokes is followed: a path in an answer is asked for,
the temporary folders are looked through, names that were looked up are noted, memory and the time of an answer are
measured. `RMX_FUZZ=3000` sends so many requests instead of a hundred."""

import json
import os
import re
import socket
import statistics
import tempfile
import time
import traceback
from pathlib import Path
from urllib.parse import unquote

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import rmx
from rmx.models.load import load
from rmx.models.site_rules import SiteRules
from rmx.models.workspace import Workspace
from rmx.service import VERBS, Limits, Site
from rmx.ui.endpoints import FAULT
from tests.helpers.fuzzing import TOKEN, Request, Target, exchange, requests
from tests.helpers.live import running

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("RMX_FUZZ", "100"))
SMALL = Limits(max_new_tokens=12, problems=2, samples=8, budget=300)
PATHS = re.compile(r"(?<![\w.:/])/(?:tmp|proc|etc|root|home|usr|var)/[^\s\"'\\<>]{1,300}")
HOME = Path(rmx.__file__).parents[1]


@pytest.fixture(scope="module")
def faults():
    """Exceptions that went through our own code to gradio, which has them logged and goes on."""
    found: list[str] = []

    def note(error: BaseException | None) -> None:
        frames = traceback.extract_tb(error.__traceback__) if error else []
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if str(HOME / "rmx") in f.filename]
        if error is not None and ours:
            found.append(f"{type(error).__name__}: {error} at {ours[-1]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmx.ui.server.rate_limit.log_fault", note)
        yield found


@pytest.fixture(scope="module")
def provoked():
    """What requests may have set off beside their answers: names that were looked up, and how long an answer took."""
    real, found = socket.getaddrinfo, Provoked()

    def look_up(host, *rest, **more):
        name = host.decode("latin-1") if isinstance(host, bytes) else host
        if name not in ("127.0.0.1", "localhost", "::1", None):
            found.names.append(name)
        return real(host, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield found


class Provoked:
    def __init__(self):
        self.names, self.seconds, self.memory = [], [], []
        self.files = None

    def look(self, target):
        """Look at what the machine has become after a request."""
        began = time.monotonic()
        assert httpx.get(f"http://127.0.0.1:{target.port}/health").status_code == 200
        self.seconds.append(time.monotonic() - began)
        self.memory.append(psutil.Process().memory_info().rss / 1e6)
        folders = [Path(os.environ["GRADIO_TEMP_DIR"]), Path(tempfile.gettempdir()) / "gradio"]
        files = {path for folder in folders if folder.is_dir() for path in folder.rglob("*")}
        assert self.files in (None, files), files - self.files
        self.files = files
        assert self.names == []


@pytest.fixture(scope="module")
def target(tmp_path_factory, faults):
    """A public app with runs in a folder of its own, files with a token around it, and no limit to how often."""
    home = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as other:
        patch.setenv("RMX_RUNS", str(home / "runs"))
        (home / "runs").mkdir()
        places = [home / "canary.txt", home / "runs" / "canary.jsonl", Path(other) / "canary.txt"]
        for place in places:
            place.write_text(json.dumps({"problem": TOKEN, "answer": "1"}) + "\n", encoding="utf-8")
        patch.setattr("rmx.ui.server.rate_limit.AccessGate._too_often", lambda *_: 0.0)
        for place in ("page", "server.web_app"):
            patch.setattr(f"rmx.ui.{place}.site_of", lambda space, _, store: Site(space, store, SMALL))
        own = load("mini", device="cpu")  # on which requests put adapters
        space = Workspace("cpu", loader=lambda spec: own, policy=SiteRules(public=True, training="off"))
        space.model("mini")
        with running(space, public=True, training="off", max_new_tokens=12) as url:
            yield what_it_offers(url, places)


def what_it_offers(url, places):
    config = httpx.get(f"{url}/config").json()
    info = httpx.get(f"{url}/gradio_api/info").json()["named_endpoints"]
    verbs = {name[1:]: [p["parameter_name"] for p in found["parameters"]] for name, found in info.items()}
    usual = {c["id"]: c["props"].get("value") for c in config["components"]}
    events = [
        {
            "id": d["id"],
            "name": d["api_name"] or None,
            "inputs": len(d["inputs"]),
            "usual": [usual.get(i) for i in d["inputs"]],
            "queue": d["queue"] is not False,
            "trigger": d["targets"][0][0] or "null" if d["targets"] else "null",
        }
        for d in config["dependencies"]
        if d["backend_fn"]
    ]
    functions = [(c["id"], name) for c in config["components"] for name in c["props"].get("server_fns") or []]
    assert len(verbs) == len(VERBS)
    assert len(events) > 60
    assert len(functions) > 15
    return Target(int(url.rpartition(":")[2]), verbs, events, functions, places)


def check(target, request, faults):
    """One request and what came of it."""
    forbidden = [TOKEN, "Traceback (most", 'File "', "site-packages", str(HOME), "root:x:0:0", FAULT]
    sent = unquote(unquote(request.path)) + request.body.decode("utf-8", "replace")
    forbidden += [str(place.parent) for place in target.canaries if str(place.parent) not in sent]
    for reply in exchange(target.port, request):
        assert reply.status < 500, (request, reply.status, reply.text[:500])
        for text in forbidden:
            assert text not in reply.text, (request, text, reply.text[:2000])
        for path in {*PATHS.findall(reply.text)[:3]}:
            for way in ("file=", "file/"):
                got = httpx.get(f"http://127.0.0.1:{target.port}/gradio_api/{way}{path}")
                assert got.status_code == 404, (request, path)
    assert not faults, (request, faults)


@given(data=st.data())
@settings(
    max_examples=COUNT,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_no_request_breaks_in_or_breaks_the_app(target, faults, provoked, data):
    request = data.draw(requests(target))
    faults.clear()
    check(target, request, faults)
    provoked.look(target)


def test_memory_and_the_time_of_an_answer_stay_within_bounds(provoked):
    """Of what the requests before have provoked; where the machine has other work the first answers are slow too."""
    first = len(provoked.memory) // 4
    warm, usual = provoked.memory[first:], statistics.median(provoked.seconds[:first])
    assert len(warm) > 50
    assert max(warm) - warm[0] < 300  # MB
    late = sorted(provoked.seconds[first:])
    assert late[len(late) // 2] < max(0.25, 2 * usual)
    assert late[int(0.99 * len(late))] < max(3, 20 * usual)


def test_the_app_works_as_before(target):
    address = f"http://127.0.0.1:{target.port}"
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    body = b'{"problem": "241", "brief": true}'
    _, events = exchange(
        target.port, Request("POST", "/gradio_api/call/v2/trace", body, follow="/gradio_api/call/trace")
    )
    assert "event: complete" in events.text
    assert "First, the facts are" in events.text
