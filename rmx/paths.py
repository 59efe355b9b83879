"""Where the files that ship with rmx lie, in a checkout and in an installed wheel alike."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# A wheel carries the folder as rmx/assets; a checkout has it beside the package.
ASSETS = PACKAGE / "assets" if (PACKAGE / "assets").is_dir() else PACKAGE.parent / "assets"


def cache_dir() -> Path:
    """The folder for derived files (dequantised weights); `RMX_CACHE` overrides."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rmx"
    return Path(os.environ.get("RMX_CACHE", default))


def runs_dir() -> Path:
    """The folder of the training runs; `RMX_RUNS` overrides `./runs`."""
    return Path(os.environ.get("RMX_RUNS", "runs")).expanduser().absolute()
