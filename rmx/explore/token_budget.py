"""What long sampling jobs have in common: a hard limit of tokens, reports while a batch grows, an end in between."""

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

INTERVAL = 0.25  # seconds between two reports within a batch


@dataclass
class Meter:
    """Tokens that a job has decoded, and how many it may."""

    budget: int
    spent: int = 0

    @property
    def left(self) -> int:
        """Tokens that may still be decoded."""
        return self.budget - self.spent

    def decode(
        self, steps: Iterable[list[list[int]]], cancelled: Callable[[], bool]
    ) -> Generator[None, None, tuple[list[list[int]], bool]]:
        """Decode a batch while the budget lasts; yields when it is time to report.

        The caller sees to it that the first token of each row is affordable.

        Args:
            steps: `decode_steps` of rmx/engine/batch.py.

        Returns:
            The rows, and whether they were decoded to their ends.
        """
        before, due = self.spent, time.monotonic() + INTERVAL
        rows: list[list[int]] = []
        for so_far in steps:
            rows = so_far
            self.spent = before + sum(map(len, rows))
            if self.left < len(rows) or cancelled():
                return rows, False
            if time.monotonic() >= due:
                due = time.monotonic() + INTERVAL
                yield
        return rows, True
