"""rmx: see, swap and test the fork tokens of a language model's reasoning."""

import os

# OpenMP threads that spin while they wait take the core from everybody else: on a shared two-core machine a decode
# step then costs twenty times as much. Read once by libgomp, so it stands here, before torch can be imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# Hugging Face's libraries tell their makers who loads what with which versions, and datasets counts what is loaded at
# an address of its own. They read this once, when they are imported. (transformers asks huggingface_hub.)
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")

__version__ = "0.1.1"
