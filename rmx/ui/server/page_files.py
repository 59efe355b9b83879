"""The page's own modules, templates and style sheets: their route, and tags that fetch the first tab's early."""

from collections.abc import Iterator

import fastapi
import gradio.routes
from fastapi.responses import PlainTextResponse, Response
from jinja2 import ChoiceLoader, DictLoader, FileSystemLoader

from rmx.ui.views.view_common import BASE, FILES, VERSION, modules_of

FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
MEDIA = {"js": "text/javascript", "css": "text/css", "html": "text/plain"}  # a template is no page of its own
FIRST = "explore/token_view"
FIRST_STYLES = ("common/view.css", f"{FIRST}.css", "common/app.css")
PAGE = "frontend/index.html"  # gradio's template


def add_page_files(api: fastapi.FastAPI) -> None:
    """Add `GET /assets/ui/{version}/{path}`: a file of this version, to be kept for ever; 404 at any other address."""

    @api.api_route("/assets/ui/{version}/{path:path}", methods=["GET", "HEAD"])
    def page_file(version: str, path: str) -> Response:
        if version != VERSION or path not in FILES:
            return PlainTextResponse("not here", 404, {"Cache-Control": "no-store"})
        return Response(FILES[path], media_type=MEDIA[path.rpartition(".")[2]], headers=FOREVER)


def link_first_tab() -> None:
    """Put the tags of what the first tab needs into gradio's page; its own `head` comes after all is drawn."""
    templates = FileSystemLoader(vars(gradio.routes)["STATIC_TEMPLATE_LIB"])
    environment = gradio.routes.templates.env
    source = templates.get_source(environment, PAGE)[0]
    page = source.replace("</head>", "".join(first_tags()) + "</head>")
    environment.loader = ChoiceLoader([DictLoader({PAGE: page}), templates])


def first_tags() -> Iterator[str]:
    """The tags, with addresses relative to the page's."""
    for path in FIRST_STYLES:
        yield f'<link rel="stylesheet" href="./{BASE}{path}">'
    yield f'<link rel="preload" as="fetch" crossorigin href="./{BASE}{FIRST}.html">'
    for path in modules_of(FIRST):
        yield f'<link rel="modulepreload" href="./{BASE}{path}">'
