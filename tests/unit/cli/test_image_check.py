"""The check of the image has eyes: it sees CUDA, a trace in one piece, an app that has ended, and where pip looks."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / ".ci"))
import ask  # noqa: E402
import image  # noqa: E402

PARAMETERS = [
    {"parameter_name": "prompt", "parameter_default": None},
    {"parameter_name": "top", "parameter_default": 5},
]
WHOLE = {"tokens": [1, 2], "stop": "eos", "answer": {"text": "9"}}


@pytest.fixture
def root(tmp_path) -> Path:
    packages = tmp_path / "opt/rmx/lib/python3.11/site-packages"
    for name in ("torch-2.13.0+cpu.dist-info", "numpy-2.4.6.dist-info", "torch/lib"):
        (packages / name).mkdir(parents=True)
    return tmp_path


def test_an_image_without_cuda_passes(root, capsys):
    image.without_cuda(root)
    assert "none in 2 packages; torch-2.13.0+cpu.dist-info" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nvidia_cublas-13.0.dist-info", "triton-3.5.dist-info", "cuda_bindings-13.dist-info"])
def test_a_package_of_cuda_is_seen(root, name):
    next(root.glob("opt/rmx/lib/*/site-packages")).joinpath(name).mkdir()
    with pytest.raises(image.Failed, match=f"CUDA is in the image: {name}"):
        image.without_cuda(root)


def test_a_library_of_cuda_is_seen(root):
    next(root.glob("opt/rmx/lib/*/site-packages/torch/lib")).joinpath("libcudart.so.13").touch()
    with pytest.raises(image.Failed, match="libcudart.so.13"):
        image.without_cuda(root)


def test_pip_of_the_build_looks_where_pip_here_looks(tmp_path, monkeypatch):
    (tmp_path / "index" / "simple").mkdir(parents=True)
    (tmp_path / "cert.pem").touch()
    listed = (
        f":env:.cert='{tmp_path}/cert.pem'\nglobal.extra-index-url='file://{tmp_path}/index/simple'\n"
        f"global.index-url='https://mirror/simple'\nglobal.find-links='{tmp_path}/none'\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=listed))
    mounts = image.pip_of_this_machine(tmp_path / "pip.conf")
    written = (tmp_path / "pip.conf").read_text()
    assert f"cert = {tmp_path}/cert.pem\n" in written
    assert "index-url = https://mirror/simple\n" in written
    assert mounts[1::2] == [
        f"{tmp_path}/pip.conf:/etc/pip.conf:ro",
        f"{tmp_path}/cert.pem:{tmp_path}/cert.pem:ro",
        f"{tmp_path}/index:{tmp_path}/index:ro",
    ]


# -- asking -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> Iterator[SimpleNamespace]:
    """An app that knows /trace and answers with the events that a test gives it."""
    state = SimpleNamespace(events=[], asked=None)

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            if self.path == "/gradio_api/info":
                self.answer(json.dumps({"named_endpoints": {"/trace": {"parameters": PARAMETERS}}}))
            else:
                assert self.path == "/gradio_api/call/trace/e1"
                self.answer("".join(f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in state.events))

        def do_POST(self) -> None:  # noqa: N802
            state.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer('{"event_id": "e1"}')

        def answer(self, text: str) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()


def test_a_streamed_trace_is_asked_for_with_the_defaults(app):
    app.events = [
        ("generating", [{"start": 0}]),
        ("heartbeat", None),
        ("generating", [{"start": 1}]),
        ("complete", [WHOLE]),
    ]
    assert ask.streamed_trace(app.address) == ("/trace", 3, "2 tokens, stop eos, answer {'text': '9'}")
    assert app.asked == {"data": [ask.PROBLEM, 5]}


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([("complete", [WHOLE])], "did not stream: 1 parts"),
        ([("generating", [{}]), ("error", {"error": "no"})], "answered with an error: {'error': 'no'}"),
    ],
)
def test_a_trace_in_one_piece_or_an_error_is_no_streamed_trace(app, events, said):
    app.events = events
    with pytest.raises(ValueError) as told:
        ask.streamed_trace(app.address)
    assert said in str(told.value)


def test_nobody_waits_for_an_app_that_has_ended():
    with pytest.raises(TimeoutError, match="/health does not answer"):
        ask.health("http://127.0.0.1:9", patience=60, alive=lambda: False)
