"""The folded panel of Explore that opens a file or a tree of the gallery, and what the Share menu asks for."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from rmx.storage.strict_json import MOST_CHARACTERS
from rmx.ui.jobs.sharing import Sharing
from rmx.ui.server.doors import LARGE
from rmx.ui.tabs.wiring import Reply, Who, answering
from rmx.ui.views.view_common import asset, script, served


def sharing_functions(sharing: Sharing, who: Who) -> dict[str, Callable[..., Reply]]:
    """The server functions behind the Share menu of the token view."""
    return {
        "share_link": answering(sharing.link, who),
        "share_file": answering(sharing.file, who),
        "share_save": answering(sharing.save, who),
    }


def build_share_panel(sharing: Sharing, who: Who) -> gr.HTML:
    """A file control and the gallery; what is opened appears in the token view (`window.rmx.open`)."""
    with gr.Accordion("Recorded trees", open=False, elem_id="recorded"):
        return gr.HTML(
            html_template=asset("explore/share_panel.html"),
            js_on_load=script("explore/share_panel"),
            apply_default_css=False,
            server_functions=served(open_piece=answering(sharing.open_piece, who)),
            elem_id="share-panel",
            **_props(sharing),
        )


def _props(sharing: Sharing) -> dict[str, Any]:
    return {"most": MOST_CHARACTERS, "most_bytes": LARGE, "pieces": sharing.gallery()}
