"""What an evaluation asks of every model: how many samples, drawn how, and up to which k."""

from dataclasses import dataclass
from typing import Any

from rmx.config import Sampling
from rmx.errors import RmxError
from rmx.stats.pass_at_k import powers

MOST_SAMPLES = 256  # per problem


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Settings shared by all models of an evaluation. The defaults of the draws are the paper's."""

    n: int = 16  # samples per problem; 0: greedy only
    k: tuple[int, ...] = ()  # tries of pass@k; () means 1, 2, 4 ... n
    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 0
    max_new_tokens: int = 2048
    greedy: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or not 0 <= self.n <= MOST_SAMPLES:
            raise RmxError(f"Samples per problem must be a whole number from 0 to {MOST_SAMPLES}; got {self.n}.")
        if not self.n and not self.greedy:
            raise RmxError("Nothing to evaluate: no samples and no greedy solution.")
        Sampling(self.temperature, self.top_p, self.seed, self.max_new_tokens)
        if self.n and self.temperature == 0:
            raise RmxError("Samples at temperature 0 are all the same. Raise it, or ask for no samples (n = 0).")
        object.__setattr__(self, "k", tuple(sorted(set(self.k))) or powers(self.n))
        for k in self.k:
            if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= max(self.n, 1):
                raise RmxError(f"pass@k needs k from 1 to the number of samples, {self.n}; got {k}.")

    @property
    def drawn(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.seed, self.max_new_tokens)

    @property
    def argmax(self) -> Sampling:
        return Sampling(0.0, 1.0, 0, self.max_new_tokens)

    @property
    def per_problem(self) -> int:
        """Completions of one problem by one model."""
        return self.n + self.greedy

    def json(self) -> dict[str, Any]:
        return {
            "samples": self.n,
            "k": list(self.k),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
        }
