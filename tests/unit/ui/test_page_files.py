"""The page is light, and its modules, templates and style sheets stand under an address that changes with them."""

import json
import posixpath
import re

import pytest
from fastapi.testclient import TestClient

from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings
from rmx.ui.views import BASE, FILES, find_late, modules_of, mounted, walk

MODULE = f"/{BASE}explore/token_view.js"
ENTRIES = [
    path.removesuffix(".html")
    for path in FILES
    if path.removesuffix(".html") + ".js" in FILES and path.endswith(".html")
]


def client_of(**settings):
    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    return TestClient(web_app(space, Settings(**settings)), base_url="http://localhost")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Of a machine without runs: adapters of runs are choices of several forms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMX_RUNS", str(tmp_path_factory.mktemp("no-runs")))
        with client_of() as client:
            yield client


def test_the_page_is_light_and_carries_no_module_of_a_view(client):
    page = client.get("/")
    assert len(page.content) < 240_000
    config = json.loads(page.text.partition("window.gradio_config = ")[2].partition(";</script>")[0])
    assert "api" not in {one["type"] for one in config["components"]}  # arguments of endpoints
    known = {one["id"] for one in config["components"]} | {config["layout"]["id"]}
    assert known == {one["id"] for one in walk(config["layout"])}
    later = set().union(*(tab.gone for tab in find_late(client.get("/config").json())))
    used = {place for event in config["dependencies"] for place in event["inputs"] + event["outputs"]}
    assert known | later >= used
    assert known.isdisjoint(later)
    assert "querySelectorAll('.fork')" not in page.text
    assert "export function" not in page.text
    assert "data-ui" not in page.text  # no template either


def test_a_late_tab_comes_whole_when_it_is_opened(client):
    """Nothing of it is lost: what the page has at first and what the late tabs bring is the whole configuration."""
    whole = client.get("/config").json()
    first = json.loads(client.get("/").text.partition("window.gradio_config = ")[2].partition(";</script>")[0])
    tabs = list(find_late(whole))
    assert len(tabs) == 6
    ids, events = ({one["id"] for one in first[name]} for name in ("components", "dependencies"))
    for tab in tabs:
        (opening,) = [one for one in first["dependencies"] if [tab.note, "open"] in one["targets"]]
        body = {"data": [], "event_data": {}, "fn_index": opening["id"], "session_hash": "s", "trigger_id": tab.note}
        sent = client.post("/gradio_api/run/predict", json=body).json()["render_config"]
        assert {one["id"] for one in sent["components"]} == {one["id"] for one in walk(sent["layout"])}
        assert tab.note not in {one["id"] for one in sent["components"]}
        opened = [one for one in sent["dependencies"] if [sent["layout"]["id"], "load"] in one["targets"]]
        assert all([sent["layout"]["id"], "select"] in one["targets"] for one in opened)
        ids |= {one["id"] for one in sent["components"]}
        events |= {one["id"] for one in sent["dependencies"]}
        fields = [one["props"] for one in sent["components"] if one["type"] in ("dropdown", "textbox", "number")]
        assert fields or {one["type"] for one in sent["components"]} == {"html", "tabitem"}  # Runs is a view alone
        assert sent["components"][0]["props"].get("open", True)  # a panel stays unfolded
        assert all(one["interactive"] for one in fields)  # what is sent with an event can be typed into
    endpoints = {one["id"] for one in whole["components"] if one["type"] == "api"}
    assert ids == {one["id"] for one in whole["components"]} - endpoints
    assert events == {one["id"] for one in whole["dependencies"] if endpoints.isdisjoint(one["outputs"])}


def test_the_first_solution_can_be_read_before_the_page_is_there(client):
    reply = client.get("/opening")
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    assert reply.headers["Cache-Control"] == "no-store"
    first, *_, last = [json.loads(event.removeprefix("data: ")) for event in reply.text.strip().split("\n\n")] * 2
    assert (first["start"], last["done"]) == (0, True)
    assert first["run"] == last["run"]
    assert client.get("/opening").text.count("data: ") == 1  # who comes later gets a copy
    assert last["run"] not in client.get("/opening").text


def test_the_head_names_what_gradio_fetches_for_the_first_screen(client):
    head = client.get("/").text.partition("</head>")[0]
    scripts = re.findall(r'rel="modulepreload" crossorigin href="\./assets/([\w.-]+)"', head)
    sheets = re.findall(r'disabled crossorigin href="\./assets/([\w.-]+)"', head)
    assert {name.partition("-")[0] for name in scripts} >= {"Blocks", "HTML", "core"}
    (style,) = re.findall(r'rel="stylesheet" href="\./(assets/ui/\w+\.css)"', head)
    assert len(sheets) > 20
    for name in scripts:
        assert client.get(f"/assets/{name}").status_code == 200
    assert client.get(f"/{style}").text == "\n".join(client.get(f"/assets/{name}").text for name in sheets)


def test_the_description_of_the_endpoints_stays_whole_at_its_own_address(client):
    assert "/trace" in client.get("/gradio_api/info").json()["named_endpoints"]
    components = client.get("/config").json()["components"]
    assert all("api_info" in one for one in components if one["type"] == "textbox")
    assert "api" in {one["type"] for one in components}


def test_what_the_first_tab_needs_is_named_in_the_head_and_is_there(client):
    head = client.get("/").text.partition("</head>")[0]
    paths = re.findall(rf'href="\./({BASE}[\w./]+)"', head)
    assert {path.removeprefix(BASE) for path in paths} >= {
        "common/view.css",
        "common/app.css",
        *modules_of("explore/token_view"),
    }
    assert not [path for path in paths if "/compare/" in path or "/train/" in path]
    for path in paths:
        assert client.get(f"/{path}").status_code == 200, path


def test_a_file_is_kept_for_ever_and_comes_packed_with_its_type_and_no_cookie(client):
    for method in (client.get, client.head):
        reply = method(MODULE, headers={"Accept-Encoding": "gzip"})
        assert reply.status_code == 200
        assert reply.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert reply.headers["Content-Type"].startswith("text/javascript")
        assert "set-cookie" not in reply.headers
    assert client.get(MODULE).headers["Content-Encoding"] == "gzip"
    assert client.get(f"/{BASE}common/view.css").headers["Content-Type"].startswith("text/css")
    assert client.get(f"/{BASE}explore/token_view.html").headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    "path",
    [
        "/assets/ui/0123456789abcdef/explore/token_view.js",  # of another version
        f"/{BASE}explore/nothing.js",
        f"/{BASE}",
        f"/{BASE}explore",
        f"/{BASE}../mini/config.json",
        f"/{BASE}%2e%2e/mini/config.json",
        f"/{BASE}..%2f..%2fmini/config.json",
        f"/{BASE}%252e%252e/mini/config.json",
        f"/{BASE}explore/../../../../etc/passwd",
        f"/{BASE}/etc/passwd",
    ],
)
def test_any_other_address_is_closed_and_kept_by_nobody(client, path):
    reply = client.get(path)
    assert reply.status_code == 404
    assert "immutable" not in reply.headers.get("Cache-Control", "")


def test_nothing_is_written_there(client):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.request(method, MODULE).status_code == 404


def test_a_proxy_may_serve_the_page_below_a_path():
    with client_of(root_path="/rmx") as client:
        head = client.get("/rmx/").text
        assert f'href="./{BASE}explore/token_view.js"' in head
        assert client.get(f"/rmx{MODULE}").status_code == 200


@pytest.mark.parametrize("name", ENTRIES)
def test_every_import_of_a_view_is_a_file_that_is_served(name):
    found = modules_of(name)
    assert set(found) <= set(FILES)
    imports = [
        line for path in found for line in FILES[path].decode().splitlines() if " from " in line and ".js" in line
    ]
    assert len(found) > 1
    assert all(line.startswith(("import ", "} from ")) for line in imports)


def test_a_mounted_view_names_its_address_its_events_and_its_own_style_sheet():
    boot = mounted("compare/compare_view", "patch halt")["js_on_load"]
    assert f'const base = "{BASE}";' in boot
    assert '["patch", "halt"]' in boot
    assert '["compare/compare_view.css"]' in boot
    assert "compare/compare_map.js" in boot
    assert len(boot) < 4000


IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.[^"]+)";$', re.MULTILINE)


def exported(path):
    """Names that a module gives to others."""
    names = set()
    for line in re.findall(r"^export .*", FILES[path].decode(), re.MULTILINE):
        head = line.partition("(")[0] if " function" in line else line
        names |= set(re.findall(r"\b(\w+)\b", head))
    return names


@pytest.mark.parametrize("path", [path for path in FILES if path.endswith(".js")])
def test_every_name_that_a_module_imports_is_exported_where_it_says(path):
    for names, target in IMPORT.findall(FILES[path].decode()):
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        wanted = {name.split(" as ")[0].strip() for name in names.split(",") if name.strip()}
        assert wanted <= exported(there), (path, there)
