"""rmx: see, swap and test the fork tokens of a language model's reasoning.

    import rmx

    model = rmx.load("mini")                          # or a Hub id, a folder, a .gguf file
    solution = model.solve("Ann has 5 apples. Ben has 3 more. How many do they have together?", answer=13)
    solution.forks[0].alternatives                    # what the model could have said there
    solution.swap(solution.forks[0], rank=2)          # another token, and what becomes of the answer

    pair = model.with_adapter("rl")
    pair.shifts(solution)                             # where the two models part
    pair.intervene("mini:test", arms=["oracle", "random"], limit=50)

    run = rmx.train("mini", preset="small")
    rmx.evaluate([model, pair, run.adapter], "mini:test", n=16)

In a notebook every result shows itself. In a script `json()` is the document that the command of the same name prints,
`to_frame()` are its rows for pandas, and what cannot be done is an `RmxError` that says what to do.

`import rmx` loads nothing heavy: what is behind these names, torch included, is imported when they are first used.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

# OpenMP threads that spin while they wait take the core from everybody else: on a shared two-core machine a decode
# step then costs twenty times as much. Read once by libgomp, so it stands here, before torch can be imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# Hugging Face's libraries tell their makers who loads what with which versions, and datasets counts what is loaded at
# an address of its own. They read this once, when they are imported. (transformers asks huggingface_hub.)
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")

if TYPE_CHECKING:
    from rmx.errors import RmxError as RmxError
    from rmx.library.model import LanguageModel as LanguageModel
    from rmx.library.model import ModelPair as ModelPair
    from rmx.library.model import load as load
    from rmx.library.solution import ModelSolution as ModelSolution
    from rmx.library.training import TrainedRun as TrainedRun
    from rmx.library.training import evaluate as evaluate
    from rmx.library.training import runs as runs
    from rmx.library.training import train as train

__version__ = "0.1.1"

# Name -> the module that has it. Three of them are called like a package; both can be had under the name.
_HOMES = {
    "library.model": "LanguageModel ModelPair load",
    "library.solution": "ModelSolution",
    "library.training": "TrainedRun evaluate runs train",
    "errors": "RmxError",
}
FACE = {name: f"rmx.{module}" for module, names in _HOMES.items() for name in names.split()}
CALLED = ("evaluate", "runs", "train")


class _CallablePackage(ModuleType):
    """A package that is also the function of its name: `rmx.train(...)` beside `rmx.train.drive`."""

    def __call__(self, *args: Any, **given: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(FACE[name]), name)(*args, **given)


class _Face(ModuleType):
    """This package; the import system sets each package in it as an attribute."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in CALLED and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    """Import what is asked for, now that it is."""
    if name not in FACE:
        raise AttributeError(f"module 'rmx' has no attribute {name!r}")
    if name in CALLED:
        return importlib.import_module(f"rmx.{name}")
    return getattr(importlib.import_module(FACE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *FACE})


sys.modules[__name__].__class__ = _Face
