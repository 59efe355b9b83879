"""A bare page around the curve component: no gradio, no server. `python tests/browser/curves_page.py FILE.html`."""

import sys
from pathlib import Path

from rmx.trees.tree_page import inlined
from rmx.ui.views import FILES

PAGE = """<!doctype html><html lang="en" class="{mode}"><meta charset="utf-8"><title>Curves</title>
<meta name="viewport" content="width=device-width">
<style>
{css}
body {{ margin: 16px; font-family: system-ui, sans-serif; background: #fff; --background-fill-primary: #fff; }}
.dark body {{ background: #18181b; --background-fill-primary: #18181b; }}
.rmx {{ max-width: 640px; }}
.box {{ margin-bottom: 28px; }}
</style>
<body><div class="rmx"><div class="box" id="a"></div><div class="box" id="b"></div><div class="box" id="c"></div></div>
<script>{js}</script></body></html>"""


def page(dark: bool = False) -> str:
    """The page's source; scripts in it reach the components as `curves(element, options)` and `bubbles(element)`."""
    js = inlined(*(f"common/{name}.js" for name in ("text", "svg", "charts", "bubbles")))
    js = js.replace("})();\n", "Object.assign(window, { curves, bubbles });\n})();\n")
    return PAGE.format(mode="dark" if dark else "", css=FILES["common/view.css"].decode(), js=js)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
