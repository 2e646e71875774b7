"""What decisions about all Gaussians look at, where several ranks share them."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussian_model import GaussianModel
from utils.ranks import Ranks


class _Gathered(dict):
    """Values (N,) of all ranks by name, each gathered when it is first asked for."""

    def __init__(self, own: dict[str, Tensor], ranks: Ranks) -> None:
        super().__init__()
        self._own, self._ranks = own, ranks

    def __missing__(self, name: str) -> Tensor:
        self[name] = self._ranks.together(self._own[name])
        return self[name]


class WholeModel:
    """The Gaussians of all ranks, as far as decisions need to know them: a few numbers of each.

    Numbers are gathered when they are asked for, which every rank must do in the same order.
    """

    def __init__(self, own: GaussianModel, ranks: Ranks) -> None:
        self._own, self._ranks = own, ranks
        self._count = sum(ranks.counts(len(own), own.device))
        self.statistics: dict[str, Tensor] = _Gathered(own.statistics, ranks)

    def __len__(self) -> int:
        return self._count

    @property
    def device(self) -> torch.device:
        return self._own.device

    @property
    def tags(self) -> dict[str, Tensor]:
        return {name: self._ranks.together(values) for name, values in self._own.tags.items()}

    @property
    def means(self) -> Tensor:  # (N, 3) world
        return self._ranks.together(self._own.means)

    @property
    def opacities(self) -> Tensor:  # (N, 1) in (0, 1)
        return self._ranks.together(self._own.opacities)

    @property
    def scales(self) -> Tensor:  # (N, 3) world units
        return self._ranks.together(self._own.scales)

    def compute_importance(self) -> Tensor | None:
        """Return s (N, 1), None without a network."""
        own = self._own.compute_importance()
        return None if own is None else self._ranks.together(own)
