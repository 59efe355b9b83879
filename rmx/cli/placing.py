"""`--quantize` and `--device-map` of the verbs that load a model."""

import argparse
from typing import Any

from rmx.errors import TrainError


def add_placing(parser: argparse.ArgumentParser) -> None:
    """Add the options to a verb; `placing_of` reads them, `refuse_placing` refuses them."""
    parser.add_argument("--quantize", metavar="BITS", help="8bit or 4bit: weights through bitsandbytes (CUDA only)")
    parser.add_argument("--device-map", metavar="auto", help="auto: spread the model over all GPUs")


def placing_of(args: argparse.Namespace) -> Any:
    """The `Placing` that the arguments give.

    Raises:
        ModelError: a value that is not known.
    """
    from rmx.models.placing import Placing

    return Placing(args.quantize, args.device_map)


def refuse_placing(args: argparse.Namespace) -> None:
    """Refuse the options for training, and for the rollouts that it learns from.

    Raises:
        TrainError: one of them was given.
    """
    if args.quantize or args.device_map:
        flag = "--quantize" if args.quantize else "--device-map"
        raise TrainError(f"Training and its rollouts need the whole weights on one device. Leave {flag} out.")
