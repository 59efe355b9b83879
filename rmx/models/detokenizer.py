"""Token ids to text, one piece per token, without ever re-tokenising or guessing at spaces.

A token stands for bytes. Its piece is what those bytes add to the text: a character split over several tokens goes
to the token that completes it, the earlier ones add "". Bytes that never become a character are shown as ⟪e2⟫.
"""

import codecs
import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _show_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(f"⟪{b:02x}⟫" for b in bad), error.end


codecs.register_error("rmx-show-bytes", _show_bytes)
_decoder = codecs.getincrementaldecoder("utf-8")


@lru_cache(maxsize=1)
def _byte_level_alphabet() -> dict[str, int]:
    """The inverse of GPT-2's table of printable characters that stand for bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    spare = (b for b in range(256) if b not in set(printable))
    return table | {chr(0x100 + i): b for i, b in enumerate(spare)}


class Detokenizer:
    """Bytes and texts of the tokens of one tokenizer.

    `token_bytes` gives the bytes that an id stands for, `token_text` the token by itself, incomplete bytes shown in
    hexadecimal.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._to_bytes = _bytes_rule(tokenizer)
        self._added = {i: t.content for i, t in getattr(tokenizer, "added_tokens_decoder", {}).items()}
        self.special_ids = frozenset(i for i, t in getattr(tokenizer, "added_tokens_decoder", {}).items() if t.special)
        self.token_bytes = lru_cache(maxsize=300_000)(self._compute_bytes)
        # Kept as well: a solution in memory names twenty candidates for each of its tokens.
        self.token_text = lru_cache(maxsize=300_000)(lambda i: self.token_bytes(i).decode("utf-8", "rmx-show-bytes"))

    def _compute_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode("utf-8", "surrogatepass")
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        # Some models have more output rows than the tokenizer has tokens.
        return f"⟪{token_id}⟫".encode() if token is None else self._to_bytes(token)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a whole list of ids."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "rmx-show-bytes")

    def stream(self, kept: Sequence[int] = ()) -> "TextStream":
        """A decoder that has already seen `kept`."""
        stream = TextStream(self)
        # A character has at most four bytes, so the last few tokens hold all that can be pending.
        for token_id in kept[-8:]:
            stream.feed(token_id)
        return stream


class TextStream:
    """Incremental decoding; `feed` returns what a token adds, `flush` what the end leaves unfinished."""

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._state = _decoder("rmx-show-bytes")

    def feed(self, token_id: int) -> str:
        """Add a token and return the text that is complete with it."""
        return self._state.decode(self._detokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """Return the text of what is left at the end, incomplete characters as replacement characters."""
        return self._state.decode(b"", final=True)


def _bytes_rule(tokenizer: Any) -> Callable[[str], bytes]:
    """How a vocabulary string of this tokenizer becomes bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.dumps(json.loads(backend.to_str()).get("decoder")) if backend is not None else ""
    if '"ByteLevel"' in decoder:
        return _byte_level
    if '"ByteFallback"' in decoder or "▁" in decoder or '"Metaspace"' in decoder:
        return _sentencepiece
    if '"WordPiece"' in decoder:
        return lambda token: token[2:].encode() if token.startswith("##") else b" " + token.encode()
    return lambda token: token.encode("utf-8", "surrogatepass")


def _byte_level(token: str) -> bytes:
    table = _byte_level_alphabet()
    if all(c in table for c in token):
        return bytes(table[c] for c in token)
    return token.encode("utf-8", "surrogatepass")


def _sentencepiece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode("utf-8", "surrogatepass")
