"""The server around the page: health, closed doors, policy, settings, what happens at start."""

from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from rmx.errors import ModelError, RmxError
from rmx.models.load import PLAIN, Placing
from rmx.models.site_rules import SiteRules
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server import serve
from rmx.ui.server.serve import load_when_idle, prepare
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings
from rmx.ui.tabs.explore_form import REAL


@pytest.fixture(scope="module")
def client():
    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    with TestClient(web_app(space, Settings()), base_url="http://localhost") as client:
        yield client


@pytest.mark.slow
def test_health(client):
    assert client.get("/health").json() == {"status": "ok", "version": "0.1.1", "models": ["mini"]}


def test_the_page_sends_a_policy_and_names_no_other_host(client):
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "connect-src 'self'" in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert "fonts.googleapis" not in page.text
    assert "cdn" not in page.text.lower().replace("cdnjs", "")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "/gradio_api/upload"),
        ("get", "/gradio_api/proxy=http://127.0.0.1/"),
        ("get", "/gradio_api/file=http://127.0.0.1/"),
        ("get", "/monitoring"),
        ("get", "/docs"),
        ("get", "/openapi.json"),
    ],
)
def test_closed_doors(client, method, path):
    assert getattr(client, method)(path).status_code in (403, 404)


def test_nothing_is_counted_for_the_closed_monitor(client, monkeypatch):
    """Gradio would, after every event, and its tables only grow."""
    (page,) = (route.app.blocks for route in client.app.routes if hasattr(getattr(route, "app", None), "blocks"))
    queue = page._queue
    monkeypatch.setattr(queue, "_get_df", lambda records: pytest.fail("a table was made"))
    monkeypatch.setattr(queue, "events_recorded", 10**6)
    queue.compute_analytics_summary([{"function": "solve", "status": "success", "process_time": 1.0}])
    assert queue.ANALYTICS_MAX_EVENTS <= 1000


def test_no_file_of_the_machine_is_served(client):
    for path in ("/etc/passwd", "pyproject.toml", "../pyproject.toml", "assets/mini/model.safetensors"):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_the_queue_cannot_be_skipped(client):
    events = client.get("/config").json()["dependencies"]
    queued = {e["api_name"] for e in events if e.get("api_name") and e["queue"] is not False}
    assert {"solve", "pick", "read"} <= queued
    for name in queued:
        assert client.post(f"/gradio_api/run/{name}", json={"data": []}).status_code == 404, name


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RMX_PORT", "many", "RMX_PORT"),
        ("RMX_PORT", "99999", "99999"),
        ("RMX_MAX_NEW_TOKENS", "0", "RMX_MAX_NEW_TOKENS"),
    ],
)
def test_wrong_settings_are_one_sentence(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(RmxError, match=said) as caught:
        Settings.from_environment()
    assert "\n" not in str(caught.value)


def test_the_environment_and_what_wins_over_it(monkeypatch):
    monkeypatch.setenv("PORT", "8001")
    assert Settings.from_environment().port == 8001
    monkeypatch.setenv("RMX_PORT", "8002")
    assert Settings.from_environment().port == 8002
    assert Settings.from_environment(port=8003, host=None).port == 8003


def test_a_model_that_cannot_be_had_leaves_mini_and_a_notice():
    def loader(spec):
        if spec != "mini":
            raise RmxError("x/y could not be fetched: the Hub cannot be reached.")
        return scripted_model()

    space = Workspace(loader=loader)
    notice = prepare(Settings(model="x/y"), space)
    assert "could not be fetched" in notice
    assert "mini" in notice
    assert space.loaded == ["mini"]
    assert prepare(Settings(), space) is None


def test_models_are_loaded_as_the_settings_say(monkeypatch):
    """On one device in one dtype; the little one is neither quantised nor spread."""
    asked = []
    monkeypatch.setattr(serve, "load", lambda *spec, placing: asked.append((*spec, placing)))
    monkeypatch.setattr(Placing, "options", lambda *_: {})
    given = {"RMX_DEVICE": "cpu", "RMX_DTYPE": "float16", "RMX_QUANTIZE": "4bit", "RMX_DEVICE_MAP": "auto"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for spec in ("mini", "x/y"):
        serve.loader_of(Settings.from_environment(quantize="8bit"))(spec)
    assert asked == [("mini", "cpu", "float16", PLAIN), ("x/y", "cpu", "float16", Placing("8bit", "auto"))]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quantize": "4bit", "device": "cpu"}, "needs a CUDA GPU"),
        ({"quantize": "2bit"}, "Unknown quantization"),
        ({"device_map": "even"}, "Unknown device map"),
        ({"device": "gpu"}, "not available"),
        ({"dtype": "int8"}, "Unknown dtype"),
    ],
)
def test_what_cannot_be_loaded_so_is_said_at_start(given, said):
    with pytest.raises(ModelError, match=said):
        serve.loader_of(Settings(**given))


@pytest.mark.parametrize(("free", "loaded"), [(5e9, ["mini", REAL.name]), (3e9, ["mini"])])
def test_the_real_model_is_loaded_once_nobody_is_served(monkeypatch, free, loaded):
    monkeypatch.setattr(serve.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    monkeypatch.setattr("rmx.ui.tabs.explore_form.find_spec", lambda package: package)
    space = Workspace(loader=lambda spec: scripted_model())
    queue = space.model("mini").engine.queue
    holder = queue.enter()
    thread = load_when_idle(space, 0.2)
    thread.join(0.6)
    assert space.loaded == ["mini"]  # somebody is served
    queue.leave(holder)
    thread.join(10)
    assert space.loaded == loaded


def test_a_site_without_the_real_model_loads_none(monkeypatch):
    monkeypatch.setattr("rmx.ui.tabs.explore_form.find_spec", lambda package: package)
    assert load_when_idle(Workspace(policy=SiteRules(public=True))) is None
    monkeypatch.setattr("rmx.ui.tabs.explore_form.find_spec", lambda package: None)
    assert load_when_idle(Workspace()) is None


def test_the_model_of_the_settings_opens_the_page_where_it_could_be_had():
    from rmx.ui.jobs.explorer import Explorer
    from rmx.ui.tabs.explore_tab import ExploreTab

    space = Workspace(loader=lambda spec: scripted_model())
    settings = Settings(model="own/model")
    assert prepare(settings, space) is None
    assert ExploreTab(Explorer(space), settings).spec == "own/model"
    bare = Workspace(loader=lambda spec: scripted_model())
    bare.model("mini")
    assert ExploreTab(Explorer(bare), settings).spec == "mini"


def test_a_taken_port_is_one_sentence_and_exit_code_two(capsys, monkeypatch):
    import socket

    from rmx.cli.main import main

    monkeypatch.setattr("rmx.ui.server.serve.Workspace", lambda **_: Workspace(loader=lambda spec: scripted_model()))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--port", port]) == 2
    err = capsys.readouterr().err
    assert port in err
    assert len(err.strip().splitlines()) == 1


def test_a_wrong_port_in_the_environment_is_exit_code_two(capsys, monkeypatch):
    from rmx.cli.main import main

    monkeypatch.setenv("PORT", "many")
    assert main(["serve"]) == 2
    assert "RMX_PORT" in capsys.readouterr().err
