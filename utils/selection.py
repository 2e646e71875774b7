"""Evenly spaced choices of items by their indices."""

from __future__ import annotations

import numpy as np


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return `count` evenly spaced indices below `total`, beginning with 0; all if there are fewer."""
    count = min(count, total)
    return [number * total // count for number in range(count)]


def evenly_spaced_with_ends(total: int, count: int) -> list[int]:
    """Return the same with the last index among them too, unless only one is asked for."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
