"""What an OpenAI-compatible server answers: the completion's token ids, and how sure they are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rmx.errors import TrainError
from rmx.models.load import Model
from rmx.models.stopping import Ending
from rmx.recipes.recipe import RolloutConfig
from rmx.records import Stop


@dataclass(frozen=True, slots=True)
class Read:
    """One completion as it came."""

    ids: tuple[int, ...]
    stop: Stop
    told: bool  # the server told the ids
    doubtful: bool  # they cannot be shown to be the server's


class Misread(TrainError):
    """The server saw another prompt than it was meant to."""


def room(model: Model, config: RolloutConfig, prompt_ids: Sequence[int]) -> int:
    """How many tokens a completion of this prompt may have."""
    return min(config.max_new_tokens, model.engine.context - len(prompt_ids))


class Reader:
    """Reads answers. `base` is how messages name the server."""

    def __init__(self, base: str, model: Model, config: RolloutConfig) -> None:
        self._base, self._model, self._config = base, model, config

    def read(self, answer: Any, prompt_ids: Sequence[int]) -> Read:
        """The completion in an answer.

        Raises:
            Misread: the server saw another prompt. TrainError: the answer is not what the protocol says.
        """
        try:
            choice, many = answer["choices"][0], len(answer["choices"])
            usage = answer.get("usage") or {}
            text = choice["text"] if "text" in choice else choice["message"].get("content") or ""
            reasoning = (choice.get("message") or {}).get("reasoning_content")
            seen = choice.get("prompt_token_ids") or answer.get("prompt_token_ids") or usage.get("prompt_tokens")
            told, end, counted = choice.get("token_ids"), choice.get("finish_reason"), usage.get("completion_tokens")
            reason = choice.get("stop_reason")  # vLLM: the stop text, or the id of the token that ended it
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise self._malformed(f"no completion in it: {json.dumps(answer)[:120]}") from error
        if many > 1:  # it took a list of ids for a list of prompts
            raise Misread(f"The server {self._base} answered one prompt with {many} completions. Check its log.")
        if not isinstance(text, str) or end not in ("stop", "length"):
            raise self._malformed(f"a completion that ended by {json.dumps(end)}")
        if reasoning:
            raise TrainError(
                f"The server {self._base} splits the reasoning off, so the tokens are lost. Start it without a "
                "reasoning parser."
            )
        self._check_prompt(seen, prompt_ids)
        stopped = end == "stop"
        if isinstance(told, list):
            ids, doubtful = self._told_ids(told), False
        else:
            ids = self._model.encode(text)
            doubtful = not self._same(ids, text, counted, stopped)
        by_text = stopped and isinstance(reason, str)
        if stopped and not by_text and not (ids and ids[-1] in self._model.stop_ids):
            ids = [*ids, reason if reason in self._model.stop_ids else self._end]
        if not ids:
            raise self._malformed("an empty completion")
        limit: Stop = (
            "length" if room(self._model, self._config, prompt_ids) == self._config.max_new_tokens else "context"
        )
        stop: Stop = "stop_sequence" if by_text else "eos" if stopped else limit
        length, ended = self._own_ending(ids, prompt_ids)
        return Read(tuple(ids[:length]), ended or stop, isinstance(told, list), doubtful)

    def _own_ending(self, ids: Sequence[int], prompt_ids: Sequence[int]) -> tuple[int, Stop | None]:
        """How many tokens there are up to what ends a completion here, and what it is; a server may go on behind it."""
        ending = Ending(self._model, prompt_ids, (), 1, answers=False)
        for length, token in enumerate(ids, 1):
            if ended := ending.ended_by(0, token):
                return length, ended
        return len(ids), None

    def _malformed(self, what: str) -> TrainError:
        return TrainError(
            f"The server {self._base} sent {what}. Check that it is an OpenAI-compatible server of a language "
            "model, then resume."
        )

    def _check_prompt(self, seen: Any, prompt_ids: Sequence[int]) -> None:
        """Compare what the server says of the prompt with the prompt: its ids, or how many they are."""
        same = list(prompt_ids) == seen if isinstance(seen, list) else seen in (None, len(prompt_ids))
        if not same:
            found = len(seen) if isinstance(seen, list) else seen
            raise Misread(
                f"The server {self._base} reads the prompt as {found} tokens that are not "
                f"the {len(prompt_ids)} of {self._model.spec}. It serves another model, or adds tokens of its own."
            )

    def _told_ids(self, told: Sequence[Any]) -> list[int]:
        last = self._model.engine.vocab_size - 1
        if not all(isinstance(i, int) and 0 <= i <= last for i in told):
            raise self._malformed(f"token ids outside 0 to {last}, which {self._model.spec} does not have")
        return list(told)

    def _same(self, ids: Sequence[int], text: str, counted: Any, stopped: bool) -> bool:
        """Whether these ids seem to be the server's: the text comes back, and the server counted as many."""
        if self._model.detokenizer.text(list(ids)) != text:
            return False
        ended = bool(ids) and ids[-1] in self._model.stop_ids
        lengths = {len(ids), len(ids) + 1} if stopped and not ended else {len(ids)}  # some count the end token
        return counted in lengths

    @property
    def _end(self) -> int:
        """The end token that a text does not show."""
        own = self._model.tokenizer.eos_token_id
        if own is None and not self._model.stop_ids:
            raise self._malformed(f"a completion that ended by itself, though {self._model.spec} has no end token")
        return int(own) if own is not None else min(self._model.stop_ids)
