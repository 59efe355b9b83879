"""Entry point of a ZeroGPU Space: `spaces` comes before all that could touch CUDA, and all may call."""

import os

import spaces  # noqa: F401

from rmx.cli.main import main

if __name__ == "__main__":
    os.environ.setdefault("RMX_HOST", "0.0.0.0")
    raise SystemExit(main(["serve"]))
