"""What visitors of a public site may ask for: models, adapters, problem sets and training runs, checked at one place.

A private app allows everything. On a public one only named models and adapters are loaded (or, where a size is set, Hub
ids whose safetensors stay below it), no problem set is fetched that is not named, nothing is read from the folders of
the machine, and training is off or capped.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rmx.data.problem_sets import REPOSITORIES, SETS, is_cached, split_name
from rmx.errors import Refused
from rmx.models.names import preset_of, run_adapter, shipped_adapters
from rmx.storage.hub import download_sentence

if TYPE_CHECKING:
    from rmx.models.load import Model

TrainingMode = Literal["on", "mini", "off"]
DUPLICATE = "Duplicate this Space, or run rmx on your own machine, to use others."
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w.-]{1,100})?")


@dataclass(frozen=True, slots=True)
class SiteRules:
    """What may be asked for. Every `admit_…` returns or raises `Refused` with a sentence."""

    public: bool = False
    models: tuple[str, ...] = ("mini",)
    adapters: tuple[str, ...] = ()  # beside the bundled ones and those of runs
    hub_gb: float = 0.0  # other models of the Hub up to this size; 0: none
    training: TrainingMode = "on"
    kept_runs: int = 0  # runs that are kept of one visitor, the newest; 0: all
    sets: tuple[str, ...] = ()  # problem sets of the Hub that are fetched for visitors
    cached: Callable[[str], bool] = is_cached  # whether a set of the Hub was fetched before
    size_of: Callable[[str, str | None], int] | None = None  # bytes of a repository and revision; None asks no Hub

    def admit_model(self, spec: str) -> None:
        """Whether this model may be loaded."""
        if self.public and not self._listed(spec):
            self._admit_from_hub(spec, f"This public site has the models {', '.join(self.models)}.")

    def _admit_from_hub(self, spec: str, listed: str) -> None:
        """Whether what is not listed is on the Hub and small enough; `listed` is what is said where it may not be."""
        repo, _, revision = spec.partition("@")
        if not self.hub_gb or self.size_of is None or not _HUB_ID.fullmatch(spec) or Path(repo).exists():
            raise Refused(f"{listed} {DUPLICATE}")
        try:
            size = self.size_of(repo, revision or None)
        except (OSError, ValueError) as error:  # huggingface_hub's errors are kinds of these
            why = f"{spec} could not be looked up on the Hub. Check the spelling, or that it is public."
            raise Refused(download_sentence(error, spec) or why) from error
        if not size:
            raise Refused(f"{spec} has no safetensors weights, and no others are loaded here.")
        if size > self.hub_gb * 1e9:
            raise Refused(
                f"{spec} has {size / 1e9:.1f} GB of weights; this public site loads up to {self.hub_gb:g} GB."
            )

    def offers(self, *specs: str | None) -> bool:
        """Whether all of these models belong on a list for visitors; None stands for no model."""
        return not self.public or all(spec is None or self._listed(spec) for spec in specs)

    def _listed(self, spec: str) -> bool:
        preset = preset_of(spec)
        return spec in self.models or (preset is not None and "@" not in spec and preset.name in self.models)

    def admit_adapter(self, model: "Model", spec: str) -> None:
        """Whether this adapter may be put on a model: bundled, listed, or made by a run."""
        bundled = shipped_adapters(model.spec)
        if not self.public or spec in self.adapters or spec in bundled or run_adapter(spec) is not None:
            return
        known = ", ".join([*bundled, *self.adapters]) or "none"
        self._admit_from_hub(spec, f"This public site has the adapters {known} for {model.spec}, and those of runs.")

    def admit_set(self, name: str) -> None:
        """Whether this problem set may be read."""
        if self.public and split_name(name)[0] not in (here := self.problem_sets()):
            raise Refused(f"This public site has the problem sets {', '.join(here)}. {DUPLICATE}")

    def problem_sets(self) -> list[str]:
        """Names of the sets that may be read: on a public site the bundled, the listed and those fetched before."""
        return [
            name
            for name in SETS
            if not self.public or name not in REPOSITORIES or name in self.sets or self.cached(name)
        ]


PRIVATE = SiteRules()
