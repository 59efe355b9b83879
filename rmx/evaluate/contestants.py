"""Who is evaluated: a base and adapters on its weights, or other checkpoints; each with the hash of what decides."""

from collections.abc import Sequence
from dataclasses import dataclass

from rmx.models.load import Model
from rmx.models.model_key import key_of
from rmx.models.pair import ask_alike
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace

BASE = "base"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One model of an evaluation."""

    name: str  # "base", or the spec of its adapter or checkpoint
    label: str
    model: Model
    adapter: str | None  # its name on the engine
    spec: str | None
    key: str  # of the weights, their precision and the adapter's weights: the same key, the same completions


def contestants_of(
    workspace: Workspace,
    model: str,
    adapters: Sequence[str] = (),
    teachers: Sequence[str] = (),
    style: StyleOptions = StyleOptions(),  # noqa: B008  a frozen record
    set_name: str | None = None,
) -> list[Contestant]:
    """The base first, then its adapters, then other checkpoints; a spec that is named twice counts once.

    Everybody is asked the same ids, in the base's way: else a difference could be the prompt's.

    Args:
        adapters: bundled names, runs (`ID` or `ID/step_N`), folders, Hub ids.
        teachers: model specs of full checkpoints.
        style: what is asked of the prompt. set_name: of the problems.

    Raises:
        ModelError: one of them cannot be had, or has other tokens than the base. PromptError: no style for the base.
    """
    base = workspace.model(model).ask_in(style, set_name)
    found = [Contestant(BASE, base.spec, base, None, None, key_of(base, None))]
    for spec in dict.fromkeys(adapters):
        name = workspace.adapter(base, spec)
        found.append(Contestant(spec, f"{base.spec} + {spec}", base, name, spec, key_of(base, name)))
    for spec in dict.fromkeys(teachers):
        other = ask_alike(workspace.model(spec), base)
        found.append(Contestant(spec, other.spec, other, None, spec, key_of(other, None)))
    return found
