"""The order in which training visits the views: at random, each once before any comes again."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from utils.ranks import Ranks


class ViewOrder:
    """Indices 0 to count - 1, reshuffled by `generator` when all were visited. `remaining` is its state.

    A step draws at `places`. Each place draws from its part of the views, every so many of them, so that a
    rank always renders the same ones. Parts differ by one view at most: a place whose part is used up before
    the round ends draws one that another part has left.
    """

    def __init__(self, count: int, generator: torch.Generator, places: int = 1) -> None:
        self.count, self.places = count, places
        self.remaining: list[int] = []  # of the round, the next one last
        self._generator, self._place = generator, 0

    def next(self) -> int:
        if not self.remaining:
            self.remaining = self._shuffled()
        self._place = (self._place + 1) % self.places
        return self.remaining.pop()

    def coming(self, ranks: Ranks) -> Iterator[int]:
        """Yield the views left of the round that this rank will render."""
        for ahead, view in enumerate(reversed(self.remaining)):
            if ranks.renders(self._place + ahead, self.places):
                yield view

    def restore(self, remaining: list[int]) -> None:
        """Continue from an earlier `remaining`, with the first place of a step.

        Raise ValueError if it names a view that does not exist.
        """
        if not all(isinstance(view, int) and 0 <= view < self.count for view in remaining):
            raise ValueError(f"expected views 0 to {self.count - 1}, got {remaining}")
        self.remaining, self._place = remaining, 0

    def _shuffled(self) -> list[int]:
        """Return the views of a round, the first one last."""
        drawn = torch.randperm(self.count, generator=self._generator).tolist()
        parts = [[view for view in drawn if view % self.places == part] for part in range(self.places)]
        order = []
        for ahead in range(self.count):
            part = parts[(self._place + ahead) % self.places] or max(parts, key=len)
            order.append(part.pop())
        return order[::-1]
