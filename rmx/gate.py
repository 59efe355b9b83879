"""Entropy to mask: which places are forks. The forks on screen are the tokens that train."""

from torch import Tensor


def gate_mask(entropy: Tensor, completion_mask: Tensor, tau: float) -> Tensor:
    """Mark decision tokens: positions of the completion whose entropy exceeds `tau`.

    Args:
        entropy: (B, T) nats; position t is the distribution that picks token t + 1.
        completion_mask: (B, T) bool, True where the completion holds token t + 1.
        tau: threshold in nats; equality stays outside the gate.

    Returns:
        (B, T) bool.

    Raises:
        ValueError: shapes differ, or `tau` is negative.

    Source: arXiv 2605.06241, section 3; strict ">" as in the official scripts.
    """
    if entropy.shape != completion_mask.shape:
        raise ValueError(f"{entropy.shape=} differs from {completion_mask.shape=}")
    if not tau >= 0:
        raise ValueError(f"{tau=} must be 0 or more")
    return (entropy > tau) & completion_mask.bool()


def is_fork(entropy: float, tau: float) -> bool:
    """The same rule for one token."""
    return entropy > tau
