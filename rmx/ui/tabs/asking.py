"""Questions of the page: who asks is known to the model's line and its cache, and a user's mistake comes back as a
sentence, never as a bare 500."""

import logging
from collections.abc import Callable
from typing import Any

import gradio as gr
import torch

from rmx.engine.fair_queue import as_owner
from rmx.errors import RmxError

log = logging.getLogger(__name__)
Reply = dict[str, Any]
Who = Callable[[Any], str | None]


def nobody(request: Any) -> None:
    """Where visitors are not told apart."""


def answering(question: Callable[[object], Reply], who: Who = nobody) -> Callable[..., Reply]:
    """A question as a server function of a view.

    Args:
        who: names the visitor behind a request.
    """

    def server_function(data: Any, request: gr.Request | None = None) -> Reply:
        try:
            with as_owner(who(request) if request is not None else None):
                return question(data)
        except RmxError as error:
            return {"error": str(error)}
        except torch.OutOfMemoryError:
            return {"error": "The GPU ran out of memory. Shorten the text or take a smaller model."}
        except Exception:
            log.exception("the question %s has failed", getattr(question, "__name__", "of a page"))
            return {"error": "This did not work, and it is a fault of rmx. Its log says more."}

    server_function.__name__ = getattr(question, "__name__", "question")
    return server_function
