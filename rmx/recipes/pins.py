"""A token that somebody pinned in Explore, whole in itself, for a training run to follow from check to check."""

from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rmx.errors import TrainError

MOST = 8  # pins of one page
SHOWN = 160  # characters of prompt and completion before the place


@dataclass(frozen=True, slots=True)
class Pin:
    """A place in a completion and the token that stood there."""

    model: str  # as it is loaded: a preset's name, a Hub id or a folder
    adapter: str | None  # that wrote the solution; None: the base
    prompt_ids: tuple[int, ...]
    before: tuple[int, ...]  # completion ids before the place; nothing is ever re-tokenised
    said: int  # id of the token at the place
    known: str | None  # the problem's known answer
    text: str  # the end of what stands before the place
    word: str  # the token as text

    def json(self) -> dict[str, Any]:
        return asdict(self) | {"prompt_ids": list(self.prompt_ids), "before": list(self.before)}

    def small(self) -> dict[str, Any]:
        """The same as `json`, with ids of four bytes."""
        return self.json() | {"prompt_ids": array("i", self.prompt_ids), "before": array("i", self.before)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Pin":
        """The pin of a stored run, or of a page's state."""
        try:
            kept = {name: stored[name] for name in cls.__slots__}
            pin = cls(**kept | {name: _ids(kept[name]) for name in ("prompt_ids", "before")})
        except (KeyError, TypeError) as error:
            raise TrainError(f"A pinned token cannot be read ({error}). Pin it again in Explore.") from error
        texts = (pin.model, pin.text, pin.word, pin.adapter or "", pin.known or "")
        if type(pin.said) is not int or pin.said < 0 or not all(isinstance(text, str) for text in texts):
            raise TrainError("A pinned token is not what Explore makes. Pin it again there.")
        return pin


def _ids(stored: Any) -> tuple[int, ...]:
    if not isinstance(stored, list | tuple | array) or not all(type(i) is int and i >= 0 for i in stored):
        raise TypeError("token ids are whole numbers")
    return tuple(stored)
