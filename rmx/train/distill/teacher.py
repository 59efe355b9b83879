"""What is kept of a teacher's distributions: read once over its own solutions, one small file for each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rmx.engine.token_draws import prompt_key
from rmx.errors import TrainError
from rmx.models.load import Model
from rmx.recipes.distill_job import Tail
from rmx.records import Rollout


@dataclass(frozen=True, slots=True)
class TeacherRows:
    """What is kept of a teacher's distributions at N positions."""

    ids: Tensor  # (N, K) int64, likeliest first
    logp: Tensor  # (N, K) natural log of their probabilities, over the whole vocabulary
    rest: Tensor  # (N,) natural log of the probability of all other tokens; -inf where there are none

    def __len__(self) -> int:
        return len(self.rest)


def teacher_rows(logits: Tensor, k: int) -> TeacherRows:
    """The k likeliest tokens of each row."""
    logp = logits.float().log_softmax(-1)
    top, ids = logp.topk(min(k, logp.shape[-1]), dim=-1)
    return TeacherRows(ids, top, _outside(logp, ids))


def topk_kl(logits: Tensor, teacher: TeacherRows, tail: Tail) -> Tensor:
    """KL(teacher || student) in nats (N,), from logits (N, V) of the student; `tail` says what the other tokens count.

    Source: arXiv 2605.06241, section 4; what becomes of the tail is ours.
    """
    logp = logits.log_softmax(-1)
    ours = logp.gather(-1, teacher.ids)
    if tail == "renormalise":
        kept = teacher.logp - teacher.logp.logsumexp(-1, keepdim=True)
        return _kl(kept, ours)
    inside = _kl(teacher.logp, ours)
    if teacher.ids.shape[-1] == logits.shape[-1]:
        return inside
    return inside + _kl(teacher.rest[:, None], _outside(logp, teacher.ids)[:, None])


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """(N, K) log-probabilities -> (N,) sum of p (ln p - ln q); an outcome that the teacher excludes adds nothing."""
    p = teacher.exp()
    return torch.where(p > 0, p * (teacher - student), 0.0).sum(-1)


def _outside(logp: Tensor, ids: Tensor) -> Tensor:
    """(N,) log of the probability outside of `ids`, summed over those tokens: 1 - others would lose small digits."""
    return logp.scatter(-1, ids, -torch.inf).logsumexp(-1)


@dataclass(frozen=True, slots=True)
class Teacher:
    """Whom to learn from: the base's own weights under an adapter, or a checkpoint."""

    model: Model
    adapter: str | None  # a key of `Engine.using`
    vocab: int  # tokens that teacher and student both know

    @torch.inference_mode()
    def read(self, rollout: Rollout, k: int) -> TeacherRows:
        """Its k likeliest tokens at each position of a rollout's completion. The caller holds the engine's turn."""
        engine, parts = self.model.engine, list[TeacherRows]()
        ids = rollout.input_ids[:-1]  # the last token decides nothing

        def keep(_: int, logits: Tensor) -> None:
            parts.append(teacher_rows(logits[:, : self.vocab], k))

        with engine.using(self.adapter):
            engine.open(ids, adapter=self.adapter, reuse=False, read_from=rollout.prompt_length - 1, on_read=keep)
        return joined(parts)


def joined(parts: Sequence[TeacherRows]) -> TeacherRows:
    """Rows one after the other."""
    return TeacherRows(
        torch.cat([p.ids for p in parts]), torch.cat([p.logp for p in parts]), torch.cat([p.rest for p in parts])
    )


class TeacherCache:
    """The rows of many rollouts, by their ids, in a folder. A file is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, rollout: Rollout) -> bool:
        return self._path(rollout).is_file()

    def put(self, rollout: Rollout, rows: TeacherRows) -> None:
        """Keep the rows of a rollout."""
        path = self._path(rollout)
        part = path.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tensors = {"ids": rows.ids.int().cpu(), "logp": rows.logp.cpu(), "rest": rows.rest.cpu()}
            save_file({name: t.contiguous() for name, t in tensors.items()}, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            raise TrainError(
                f"The teacher's figures cannot be written ({error.strerror}). Make room and resume the run."
            ) from error

    def get(self, rollouts: Sequence[Rollout], device: torch.device) -> TeacherRows:
        """The rows of some rollouts, one after the other."""
        rows = joined([self._read(rollout) for rollout in rollouts])
        return TeacherRows(rows.ids.to(device), rows.logp.to(device), rows.rest.to(device))

    def _read(self, rollout: Rollout) -> TeacherRows:
        path = self._path(rollout)
        try:
            held = load_file(path)
            rows = TeacherRows(held["ids"].long(), held["logp"], held["rest"])
        except (OSError, KeyError, SafetensorError) as error:
            raise TrainError(f"The teacher's figures in {path.name} cannot be read. Remove the file.") from error
        if len(rows) != rollout.completion_length:
            raise TrainError(f"The teacher's figures in {path.name} belong to other tokens. Remove the file.")
        return rows

    def _path(self, rollout: Rollout) -> Path:
        return self.folder / f"{prompt_key(rollout.input_ids).hex()}.safetensors"
