"""What the page is made of: its content policy, its files, and the page kept once for each address.

On a Space the page stands in a frame of huggingface.co; a policy that forbade that would leave it blank. Elsewhere
nobody may frame it, because a page around it could lead a visitor's clicks; `RMX_FRAME_ANCESTORS` names who may.

Gradio makes the page anew for every visitor, a tenth of a second of the event loop; and it keeps the description of its
endpoints with the address of whoever asked first. Neither depends on anything else of a request.

By itself gradio fetches its scripts and style sheets in five rounds, one after the other; the style sheets alone are
more than twenty requests. Here the ones that the first screen needs are found in gradio's own scripts and named in the
page, so that all are asked for at once, and the style sheets come as one. Where a later gradio is built in another way
nothing is found, and the page loads as gradio has it.
"""

import asyncio
import hashlib
import html
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import fastapi
import gradio.routes
from fastapi.responses import PlainTextResponse, Response
from jinja2 import ChoiceLoader, DictLoader, FileSystemLoader
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmx.errors import RmxError
from rmx.ui.views import BASE, FILES, VERSION, modules_of, styles_of

VARIABLE = "RMX_FRAME_ANCESTORS"
HSTS = "max-age=31536000"  # for a year browsers ask for this host by https only
HUB = ("https://huggingface.co", "https://*.huggingface.co", "https://*.hf.space")
# gr.HTML compiles its handlers with new Function, hence 'unsafe-eval': the policy limits where data can go.
FIXED = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'"
)
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_ORIGIN = re.compile(rf"https?://(?:\*\.)?{_LABEL}(?:\.{_LABEL})*(?::\d{{1,5}})?")


def content_policy(environment: Mapping[str, str] = os.environ) -> str:
    """The value of `Content-Security-Policy`.

    Raises:
        RmxError: `RMX_FRAME_ANCESTORS` holds something that is no origin.
    """
    return " ".join((f"{FIXED}; frame-ancestors 'self'", *ancestors(environment)))


class ContentPolicy:
    """ASGI middleware: the policy on every answer, and nothing that opens an answer to pages of other sites.

    Args:
        proxied: whether a proxy stands before the app, whose word for https is believed.
    """

    def __init__(self, app: ASGIApp, policy: str, proxied: bool = False) -> None:
        self.app, self.proxied = app, proxied
        fixed = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
        self.headers = {"Content-Security-Policy": policy, **fixed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        own = self.headers | ({"Strict-Transport-Security": HSTS} if self._is_https(scope) else {})

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # Gradio lets every origin read what it answers, with the reader's cookie. Nobody here needs that.
                for name in [name for name in headers if name.startswith("access-control-")]:
                    del headers[name]
                headers.update(own)
            await send(message)

        await self.app(scope, receive, with_headers)

    def _is_https(self, scope: Scope) -> bool:
        """Whether the visitor's connection is certainly an encrypted one."""
        told = Headers(scope=scope).get("x-forwarded-proto", "") if self.proxied else ""
        return "https" in (scope.get("scheme"), told.partition(",")[0].strip())


def ancestors(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Origins beside the app's own that may show it in a frame: the Hub's on a Space, and those that are named.

    Raises:
        RmxError: one that is none. What it says goes into a header, so nothing else may get in.
    """
    named = [word.rstrip("/").lower() for word in re.split(r"[\s,]+", environment.get(VARIABLE, "")) if word]
    if wrong := [word for word in named if not _ORIGIN.fullmatch(word)]:
        raise RmxError(f"{VARIABLE} holds '{wrong[0][:80]}', which is no origin. Write https://example.org.")
    return tuple(dict.fromkeys((*(HUB if environment.get("SPACE_ID") else ()), *named)))


def parents_tag(environment: Mapping[str, str] = os.environ) -> str:
    """A tag for the page's head: the named origins that are told of its address when they show it in a frame.

    The Hub is told always and stands in the script. One with a star is none that a message can be sent to.
    """
    told = [origin for origin in ancestors(environment) if "*" not in origin and origin not in HUB]
    return f'<meta name="rmx-parents" content="{html.escape(" ".join(told))}">' if told else ""


# -- Files of gradio's page that the first screen needs ----------------------------------------------------------------


FOLDER = Path(vars(gradio.routes)["BUILD_PATH_LIB"])
_LISTED = re.compile(r'"\./([\w.-]+\.(?:js|css))"')  # in the list at the beginning of a script
_NEEDS = r"import\(`\./({})`\)(?:(?!import\().)*?__vite__mapDeps\(\[([\d,]*)\]"
_ENTRY = re.compile(r"assets/(index-[\w-]+\.js)")
_ADDRESS = re.compile(r"url\((?!['\"]?data:)")


def list_files(types: Iterable[str]) -> list[str]:
    """The names of all scripts and style sheets that a page with components of these types needs, besides the first."""
    page = (FOLDER.parent / "index.html").read_text("utf-8")
    entry = _ENTRY.search(page)
    if entry is None:
        return []
    begin = [*_needed(entry[1], r"Index-[\w-]+\.js"), *_needed(entry[1], r"core-[\w-]+\.js")]
    named = {name.partition("-")[0]: name for name in begin if name.endswith(".js")}
    if not {"Index", "core"} <= named.keys():
        return []
    found = [*begin, *_needed(named["Index"], r"Blocks-[\w-]+\.js")]
    for one in sorted(types):
        found += _needed(
            named["core"], r"[\w-]+\.js", rf"[{{,]{re.escape(one)}:\{{(?:(?!component:).)*component:\(\)=>"
        )
    return [name for name in dict.fromkeys(found) if name not in page]


def _needed(script: str, wanted: str, before: str = "") -> list[str]:
    """What a script fetches together with another that it imports; nothing where it imports none of that name."""
    text, begin = _text(script), before + r"(?:(?!import\().)*?" if before else ""
    match = re.search(begin + _NEEDS.format(wanted), text)
    listed = _LISTED.findall(text.partition("=>i.map")[0])
    return [listed[int(place)] for place in match[2].split(",") if place] if match else []


@cache
def _text(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


class FirstFiles:
    """What the page says of these files.

    Args:
        types: of the components that the page has at first.
    """

    def __init__(self, types: Iterable[str]) -> None:
        names = list_files(types)
        self.scripts = [name for name in names if name.endswith(".js")]
        self.sheets = [name for name in names if name.endswith(".css") and not _ADDRESS.search(_text(name))]
        self.style = "\n".join(map(_text, self.sheets)).encode()
        self.digest = hashlib.sha256(self.style).hexdigest()[:16]

    def tags(self, script: str) -> Iterator[str]:
        """The tags. A style sheet that is switched off is not fetched, and gradio's script takes it for a known one.

        Args:
            script: address of gradio's first script.
        """
        if self.sheets:
            yield f'<link rel="stylesheet" href="./assets/ui/{self.digest}.css">'
        for name in self.sheets:
            yield f'<link rel="stylesheet" disabled crossorigin href="./assets/{name}">'
        for address in filter(None, (script, *(f"./assets/{name}" for name in self.scripts))):
            yield f'<link rel="modulepreload" crossorigin href="{address}">'


# -- The page's own modules, templates and style sheets ---------------------------------------------------------------


FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
MEDIA = {  # a template is no page of its own
    "js": "text/javascript", "css": "text/css", "html": "text/plain", "png": "image/png", "svg": "image/svg+xml",
}  # fmt: skip
FIRST = "explore/token_view"
FIRST_STYLES = ("common/view.css", *styles_of(FIRST), "common/app.css")
PAGE_MODULE = "common/page.js"
PAGE = "frontend/index.html"  # gradio's template
TITLE = "rmx · fork tokens"
ABOUT = "A solution turns on a few words. Click one where the model was undecided, take another, and watch the answer."
# Gradio's script (Svelte) wraps every plain object and array of its configuration, to notice changes, and reads the
# lists of components and of events thousands of times through the wrappers. An array of another class stays as it is.
PLAIN = (
    "for (const name of ['components', 'dependencies']) "
    "Object.setPrototypeOf(window.gradio_config[name], class extends Array {}.prototype)"
)
# An address that names a solution, a link or a tab shows that; any other begins with the first example, asked for here.
EARLY = "explore/early"
OPENING = """{
  const named = new URL(location).searchParams, theme = named.get("__theme");
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  addEventListener("DOMContentLoaded", () => document.body.classList.toggle("dark", dark));
  const refused = (reply) => (reply.ok ? reply : Promise.reject(new Error(`${reply.status} ${reply.url}`)));
  if (!["run", "s", "tab"].some((name) => named.has(name))) window.rmxOpening = fetch("opening").then(refused);
}"""
_CARD = re.compile(r'<meta\s+(?:property="og:|name="twitter:)[^>]*>')  # gradio's, twice
_START = re.compile(r'<script type="module" crossorigin src="([^"]+)"></script>')  # gradio's script
CONFIG = "<script>window.gradio_config"  # the beginning of what the page is made of
THEME = """<link rel="stylesheet" href="./theme.css?v={{ config.get('theme_hash') | e }}">"""


def add_page_files(api: fastapi.FastAPI, first: FirstFiles | None = None) -> None:
    """Add `GET /assets/ui/{version}/{path}`: a file of this version, to be kept for ever; 404 at any other address."""
    if first is not None:

        @api.api_route("/assets/ui/{digest}.css", methods=["GET", "HEAD"])
        def first_style(digest: str) -> Response:
            if first is None or digest != first.digest:
                return PlainTextResponse("not here", 404, {"Cache-Control": "no-store"})
            return Response(first.style, media_type=MEDIA["css"], headers=FOREVER)

    @api.api_route("/assets/ui/{version}/{path:path}", methods=["GET", "HEAD"])
    def page_file(version: str, path: str) -> Response:
        if version != VERSION or path not in FILES:
            return PlainTextResponse("not here", 404, {"Cache-Control": "no-store"})
        return Response(FILES[path], media_type=MEDIA[path.rpartition(".")[2]], headers=FOREVER)


def link_first_tab(own: Mapping[int, FirstFiles]) -> None:
    """Put the tags of what the first tab needs into gradio's page, whose own `head` comes after all is drawn; and
    what other sites show of a link to the page, in place of gradio's advertisement.

    Args:
        own: the page is every gradio app's of this process; those whose `app_id` stands here show the first solution
            early, and these files of gradio's after it, all at once.
    """
    templates = FileSystemLoader(vars(gradio.routes)["STATIC_TEMPLATE_LIB"])
    environment = gradio.routes.templates.env
    page = _CARD.sub("", templates.get_source(environment, PAGE)[0])
    start = _START.search(page)
    script = start[1] if start else ""

    def if_early(early: str, otherwise: str = "") -> str:
        return f"{{% if is_early(config) %}}{early}{{% else %}}{otherwise}{{% endif %}}"

    page = _START.sub(lambda found: if_early("", found[0]), page)
    # By these the first solution is asked for and shown, before all others: gradio's script waits for it.
    early = f'<script>{OPENING}</script><script type="module" src="./{BASE}{EARLY}.js"></script>'
    page = page.replace(CONFIG, if_early(early) + CONFIG)
    rest = f'<template id="rest" data-script="{script}">{{{{ rest_tags(config) | safe }}}}</template>'
    page = page.replace("</head>", "".join((*card_tags(), *first_tags())) + if_early(THEME + rest) + "</head>")
    page = page.replace("<gradio-app", if_early(FILES[f"{EARLY}_page.html"].decode()) + "<gradio-app")
    environment.globals |= {
        "is_early": lambda config: config.get("app_id") in own,
        "rest_tags": lambda config: "".join(own[config["app_id"]].tags(script)),
    }
    environment.loader = ChoiceLoader([DictLoader({PAGE: page}), templates])


def card_tags() -> Iterator[str]:
    """The tags by which the page is named, here and elsewhere; gradio fills the root in, for whole addresses."""
    root = "{{ config.get('root', '').rstrip('/') }}/"
    yield f'<title>{TITLE}</title><link rel="canonical" href="{root}">'
    yield f'<link rel="icon" type="image/svg+xml" href="./{BASE}common/icon.svg">'
    shown = {"title": TITLE, "description": ABOUT, "image": f"{root}{BASE}common/card.png"}
    for name, value in {"type": "website", "url": root, "site_name": "rmx", **shown}.items():
        yield f'<meta property="og:{name}" content="{value}">'
    for name, value in {"card": "summary_large_image", **shown}.items():
        yield f'<meta name="twitter:{name}" content="{value}">'
    yield f'<meta name="description" content="{ABOUT}">'


def first_tags() -> Iterator[str]:
    """The tags of what the first tab needs, with addresses relative to the page's."""
    yield f"<script>{PLAIN}</script>"
    for path in FIRST_STYLES:
        yield f'<link rel="stylesheet" href="./{BASE}{path}">'
    yield f'<link rel="preload" as="fetch" crossorigin href="./{BASE}{FIRST}.html">'
    for path in modules_of(FIRST):
        yield f'<link rel="modulepreload" href="./{BASE}{path}">'
    yield f'<script type="module" src="./{BASE}{PAGE_MODULE}"></script>'


# -- The page and its description, made once for each address that the app is reached under ---------------------------


PATHS = ("/", "/config", "/gradio_api/info")
FROM = ("host", "x-forwarded-host", "x-forwarded-proto")  # what an address is made of
MOST = 24  # answers that are kept
PACKED = ("br", "gzip")


class CachedAnswer(NamedTuple):
    """An answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class PageCache:
    """ASGI middleware right around gradio; `forget` makes gradio forget the description that it keeps."""

    def __init__(self, app: ASGIApp, forget: Callable[[], None]) -> None:
        self.app, self.forget = app, forget
        self._kept: OrderedDict[tuple[str, ...], CachedAnswer] = OrderedDict()
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").rstrip("/") or "/"
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or path not in PATHS:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        accepted = headers.get("accept-encoding", "")
        packing = next((name for name in PACKED if name in accepted), "identity")
        key = (path, packing, scope["scheme"], *(headers.get(name, "")[:300] for name in FROM))
        kept = self._kept.get(key) or await self._make(key, path, packing, scope)
        await send({"type": "http.response.start", "status": kept.status, "headers": list(kept.headers)})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else kept.body})

    async def _make(self, key: tuple[str, ...], path: str, packing: str, scope: Scope) -> CachedAnswer:
        async with self._making:
            if key in self._kept:
                return self._kept[key]
            wanted = {name.encode(): value.encode() for name, value in zip(FROM, key[3:], strict=True) if value}
            asked: dict[str, Any] = {
                "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
                "headers": [*wanted.items(), (b"accept-encoding", packing.encode())],
            }  # fmt: skip
            self.forget()
            kept = await _answer(self.app, {**scope, **asked})
            self.forget()
            if kept.status == 200:
                self._kept[key] = kept
                while len(self._kept) > MOST:
                    self._kept.popitem(last=False)
            return kept


async def _answer(app: ASGIApp, scope: Scope) -> CachedAnswer:
    """The whole answer of an application to a request without a body."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    start = next(message for message in messages if message["type"] == "http.response.start")
    body = b"".join(message.get("body", b"") for message in messages)
    return CachedAnswer(start["status"], list(start["headers"]), body)
