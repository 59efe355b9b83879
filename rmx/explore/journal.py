"""What a study over a problem set has found, kept piece by piece: one that was killed goes on where it stood."""

import hashlib
from collections.abc import Sequence
from typing import Any

from rmx.engine.token_draws import prompt_key
from rmx.models.base_state import key_of
from rmx.models.load import Model
from rmx.storage.line_store import KeptLines, LineStore

FORMAT = 1  # of the lines, and of what is computed for them


class Journal:
    """The pieces of one study with one setting, by name. Without a store nothing is known and nothing is kept."""

    def __init__(self, lines: KeptLines | None = None) -> None:
        self._lines = lines or KeptLines(None)
        self._rows: dict[str, dict[str, Any]] = {
            row["piece"]: row
            for row in self._lines.read()
            if isinstance(row, dict) and isinstance(row.get("piece"), str)
        }

    def get(self, piece: str) -> dict[str, Any] | None:
        """What is known of a piece of the work; None where it is still to be done."""
        return self._rows.get(piece)

    def put(self, piece: str, row: dict[str, Any]) -> None:
        """Keep a piece that is done."""
        self._rows[piece] = row
        self._lines.append({"piece": piece, **row})

    def close(self) -> None:
        """No more pieces come."""
        self._lines.close()


def journal_of(
    store: LineStore | None, study: str, models: Sequence[tuple[Model, str | None]], **settings: Any
) -> Journal:
    """The journal of a study.

    Args:
        store: where it is kept; None: nowhere.
        models: those that are looked at, each with the key of its adapter on the engine; the first one is asked.
        settings: whatever else decides what is found, fit for JSON.
    """
    if store is None or store.folder is None:
        return Journal()
    style = {name: value for name, value in models[0][0].style.json().items() if name != "why"}
    keys = [key_of(model, adapter) for model, adapter in models]
    return Journal(store.lines(study=study, format=FORMAT, models=keys, style=style, **settings))


def chained(prompts: Sequence[Sequence[int]]) -> list[str]:
    """A name for each prompt and all before it: the same name, the same prompts in the same order."""
    digest, names = hashlib.blake2b(digest_size=12), []
    for prompt in prompts:
        digest.update(prompt_key(prompt))
        names.append(digest.hexdigest())
    return names
