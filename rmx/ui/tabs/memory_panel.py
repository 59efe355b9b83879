"""The models in memory, in the Model section: how much each takes, and a button that gives one back."""

from typing import Any

import gradio as gr

from rmx.errors import ModelError, Refused
from rmx.models.workspace import Workspace
from rmx.ui.tabs.wiring import LIGHT, QUIET, literal, shows_errors
from rmx.ui.visitor_cookie import Owners


class MemoryPanel:
    """Callbacks of the panel.

    Args:
        public: visitors are strangers, so only the machine's owner sees the panel. In a private app everybody does: who
            may load any model there may unload one.
    """

    def __init__(self, workspace: Workspace, owners: Owners, public: bool) -> None:
        self.workspace, self.owners, self.public = workspace, owners, public

    def may(self, request: gr.Request) -> bool:
        """Whether this visitor may see and unload what is loaded."""
        return not self.public or self.owners.visitor_of(request).admin

    def look(self, request: gr.Request) -> tuple[Any, Any]:
        """The panel as this visitor may see it, with what is loaded now."""
        if not self.may(request):
            return gr.Group(visible=False), gr.skip()
        return self._panel()

    @shows_errors
    def unload(self, spec: str | None, request: gr.Request) -> tuple[Any, Any, str]:
        """Give a model back; returns the panel with what is loaded then, and what was freed in a sentence.

        Raises:
            RmxError: it cannot be unloaded now, or not by this visitor.
        """
        if not self.may(request):
            raise Refused("Only the machine's owner unloads models here.")
        if not spec:
            raise ModelError("Choose the model that is to be unloaded.")
        freed = self.workspace.unload(str(spec))
        return *self._panel(), f"{literal(spec)} was unloaded: {gigabytes(freed)} of memory are free again."

    def _panel(self) -> tuple[Any, Any]:
        """What can be unloaded; nothing is shown where that is nothing. The bundled model always stays."""
        sizes = {spec: nbytes for spec, nbytes in self.workspace.sizes().items() if spec != "mini"}
        choices = [(f"{spec} · {gigabytes(nbytes)}", spec) for spec, nbytes in sizes.items()]
        return gr.Group(visible=bool(sizes)), gr.Radio(choices, value=None)


def gigabytes(nbytes: int) -> str:
    """A size to two digits after the point; small ones to one digit that is not 0."""
    gb = nbytes / 1e9
    return f"{gb:.2f} GB" if gb >= 0.1 else f"{gb:.1g} GB"


def build_memory_panel(
    workspace: Workspace, owners: Owners, public: bool, section: gr.Accordion, note: gr.Markdown
) -> None:
    """Lay the panel out inside the Model section, and wire it.

    Args:
        note: where sentences about models are shown; it changes when one was loaded.
    """
    panel = MemoryPanel(workspace, owners, public)
    with section, gr.Group(visible=False, elem_id="memory") as group:
        loaded = gr.Radio([], label="In memory", elem_id="loaded")
        button = gr.Button("Unload", size="sm", elem_id="unload")
    section.expand(panel.look, None, [group, loaded], **LIGHT)
    note.change(panel.look, None, [group, loaded], **LIGHT)
    button.click(panel.unload, loaded, [group, loaded, note], **QUIET, concurrency_id="load")
