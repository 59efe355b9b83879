"""A base and an adapted model as a Python object: where they part, and what patching the one with the other does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rmx.compare.pair_options import MapOptions, PairOptions, intervene_set, map_document, prepare_map, shift_set
from rmx.compare.shift_map import ShiftMap
from rmx.errors import RmxError
from rmx.library.model import LanguageModel
from rmx.library.notebook import NotebookProgress
from rmx.library.results import ArmsDocument, ShiftMapDocument, ShiftSetDocument
from rmx.library.solution import ModelSolution
from rmx.storage.line_store import LineStore

ARMS = ("base", "teacher", "oracle", "random", "matched", "entropy")


@dataclass(frozen=True)
class ModelPair:
    """A model, and the same model with an adapter or another checkpoint of its family."""

    base: LanguageModel
    adapter: str | None = None
    teacher: str | None = None  # a full checkpoint, in place of an adapter
    strength: float = 1.0  # of a plain LoRA

    @property
    def adapted(self) -> LanguageModel:
        """The adapted model alone, at full strength."""
        if self.teacher is not None:
            return replace(self.base, name=self.teacher, adapter=None)
        return replace(self.base, adapter=self.adapter)

    @property
    def name(self) -> str:
        """What tells it apart from other adapted models: its adapter or its checkpoint."""
        return str(self.adapter or self.teacher)

    def shifts(
        self,
        what: ModelSolution | str,
        *,
        limit: int | None = None,
        placebo: bool = True,
        keep: bool = True,
        progress: bool = True,
        **options: Any,
    ) -> ShiftMapDocument | ShiftSetDocument:
        """Read a solution under both models and say where they part, or do so for a problem set: `rmx shifts`.

        Args:
            what: a solution, or the name of a problem set such as "mini:test".
            limit: of a set, its first so many problems.
            placebo: of a set, measure a random adapter of the same size too.
            keep: of a set, use what is kept of earlier runs, and keep what is new.
            progress: show a bar.
            options: tau, tau_share, seed, max_new_tokens; by default those of the command.

        Raises:
            RmxError: whatever cannot be done, in a sentence.
        """
        if isinstance(what, ModelSolution):
            return ShiftMapDocument(self._map(what, options))
        asked = self._options(what, limit, options)
        with NotebookProgress(progress) as tell:
            report = shift_set(
                asked, lambda r: tell("problems", r.at, r.of), placebo, self.base.workspace, store=LineStore(keep=keep)
            )
        return ShiftSetDocument(report.json())

    def intervene(
        self,
        set: str,
        *,
        arms: Sequence[str] = ARMS,
        limit: int | None = None,
        placebo: bool = True,
        keep: bool = True,
        progress: bool = True,
        **options: Any,
    ) -> ArmsDocument:
        """Patch single tokens of the base on a problem set and count right answers: `rmx intervene`.

        Args:
            set: the name of a problem set, such as "mini:test".
            arms: of base, teacher, oracle, random, matched and entropy; the base is always among them.
            limit: the set's first so many problems.
            placebo: measure a random adapter of the same size too.
            keep: use what is kept of earlier runs, and keep what is new.
            progress: show a bar.
            options: tau, tau_share, seed, max_new_tokens; by default those of the command.

        Raises:
            RmxError: whatever cannot be done, in a sentence.
        """
        asked, chosen = self._options(set, limit, options), tuple(dict.fromkeys(("base", *arms)))
        with NotebookProgress(progress) as tell:
            report = intervene_set(
                asked,
                chosen,
                lambda r: tell("problems", len(r.problems), r.of),
                placebo,
                self.base.workspace,
                store=LineStore(keep=keep),
            )
        return ArmsDocument(report.json())

    def _map(self, solution: ModelSolution, options: dict[str, Any]) -> dict[str, Any]:
        """The document of one solution, by its very tokens: its text may be cut into tokens in another way."""
        of = solution._options
        asked = self._options(of.set_name, None, {"tau": solution.trace.tau, **options})
        one = MapOptions(of.prompt, of.problem, of.answer, of.raw)
        if of.prompt_ids is not None:
            one = MapOptions(prompt=solution.prompt, answer=of.answer, raw=True)
        prepared = prepare_map(asked.pair(self.base.workspace, one), asked, one)
        job = replace(prepared.job, source="text", read=tuple(solution.trace.ids), prompt_ids=solution.trace.prompt_ids)
        return map_document(ShiftMap(prepared.pair, job).run())

    def _options(self, set_name: str, limit: int | None, options: dict[str, Any]) -> PairOptions:
        known = ("tau", "tau_share", "seed", "max_new_tokens")
        if unknown := [name for name in options if name not in known]:
            raise RmxError(f"There is no option {unknown[0]} here. Known: {', '.join(known)}.")
        base = self.base
        return PairOptions(
            model=base.name,
            adapter=self.adapter,
            teacher=self.teacher,
            strength=self.strength,
            device=base.device,
            dtype=base.dtype,
            set_name=set_name,
            limit=limit,
            style=base.style,
            placing=base.placing,
            **options,
        )

    def __repr__(self) -> str:
        return f"<{self.base.name} and {self.adapted.name}{f' + {self.adapter}' if self.adapter else ''}: a pair>"
