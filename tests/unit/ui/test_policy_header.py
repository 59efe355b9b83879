"""Who may show the page in a frame: the Hub on a Space, who is named, else nobody; nothing else gets in."""

import pytest
from fastapi.testclient import TestClient

from rmx.errors import RmxError
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server.page_files import VARIABLE, content_policy, parents_tag
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings

OURS = "https://own.example"


def framed(environment: dict[str, str]) -> str:
    """The last directive of the policy."""
    *others, last = content_policy(environment).split("; ")
    assert "default-src 'self'" in others
    assert not any(other.startswith("frame-ancestors") for other in others)
    return last


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "'self'"),
        ({"SPACE_ID": ""}, "'self'"),
        ({"SPACE_ID": "me/rmx"}, "'self' https://huggingface.co https://*.huggingface.co https://*.hf.space"),
        ({VARIABLE: OURS}, f"'self' {OURS}"),
        ({VARIABLE: f" {OURS}/, http://localhost:8000 {OURS}"}, f"'self' {OURS} http://localhost:8000"),
        ({VARIABLE: "HTTPS://*.Own.example"}, "'self' https://*.own.example"),
        (
            {VARIABLE: OURS, "SPACE_ID": "me/rmx"},
            f"'self' https://huggingface.co https://*.huggingface.co https://*.hf.space {OURS}",
        ),
    ],
)
def test_who_may_frame_the_page(environment: dict[str, str], expected: str) -> None:
    assert framed(environment) == f"frame-ancestors {expected}"


@pytest.mark.parametrize(
    "given",
    [
        "*",
        "https:",
        "https://*",
        "own.example",
        "https://own.example/path",
        "https://own.example;script-src *",
        "https://own.example; script-src *",
        "'none'",
        "https://own.example:port",
        "javascript:alert(1)",
        'https://own.example"><script>',
    ],
)
def test_what_is_no_origin_is_one_sentence_at_start(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, given)
    space = Workspace(loader=lambda spec: scripted_model())
    with pytest.raises(RmxError, match=f"{VARIABLE} holds .* no origin") as caught:
        web_app(space, Settings())
    assert "\n" not in str(caught.value)


def test_only_named_origins_without_a_star_are_told_of_the_address() -> None:
    assert parents_tag({}) == ""
    assert parents_tag({"SPACE_ID": "me/rmx"}) == ""  # the Hub stands in the script
    tag = parents_tag({VARIABLE: f"{OURS} https://*.own.example", "SPACE_ID": "me/rmx"})
    assert tag == f'<meta name="rmx-parents" content="{OURS}">'


@pytest.mark.slow
def test_the_page_carries_both_and_no_other_frame_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, OURS)
    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    with TestClient(web_app(space, Settings()), base_url="http://localhost") as client:
        page = client.get("/")
        assert page.headers["Content-Security-Policy"].endswith(f"; frame-ancestors 'self' {OURS}")
        assert "X-Frame-Options" not in page.headers
        assert client.get("/config").json()["head"] == f'<meta name="rmx-parents" content="{OURS}">'
