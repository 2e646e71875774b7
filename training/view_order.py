"""The order in which training visits the views: at random, each once before any comes again."""

from __future__ import annotations

import torch


class ViewOrder:
    """Indices 0 to count - 1, reshuffled by `generator` when all were visited. `remaining` is its state."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.remaining: list[int] = []
        self._generator = generator

    def next(self) -> int:
        if not self.remaining:
            self.remaining = torch.randperm(self.count, generator=self._generator).tolist()
        return self.remaining.pop()

    def restore(self, remaining: list[int]) -> None:
        """Continue from an earlier `remaining`. Raise ValueError if it names a view that does not exist."""
        if not all(isinstance(view, int) and 0 <= view < self.count for view in remaining):
            raise ValueError(f"expected views 0 to {self.count - 1}, got {remaining}")
        self.remaining = remaining
