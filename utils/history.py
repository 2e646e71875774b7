"""The history of a run for report.py: curves, growth and pruning, distributions; history.json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.files import write_json

VERSION = 1
FILE_NAME = "history.json"
BINS = 40
RANGES = {  # scale and ends of each distribution's bins, the same all through a run
    "opacity": ("linear", 0.0, 1.0),
    "s_k": ("linear", 0.0, 1.0),
    "E_k": ("log", 1e-3, 1e3),
    "removal energy": ("log", 1e-6, 1e2),
}


class History:
    """The record that grows during training, in the shape in which it is written."""

    def __init__(self, record: dict[str, Any] | None = None) -> None:
        """Continue the `record` of an earlier part of the run."""
        self.record = record or {"version": VERSION, "progress": [], "steps": [], "distributions": []}

    def progress(self, iteration: int, loss: float, psnr: float, gaussians: int, seconds: float) -> None:
        self.record["progress"].append([iteration, loss, psnr, gaussians, round(seconds, 2)])

    def step(self, iteration: int, cloned: int, split: int, pruned: int, gaussians: int) -> None:
        counts = {"cloned": cloned, "split": split, "pruned": pruned, "gaussians": gaussians}
        self.record["steps"].append({"iteration": iteration, **counts})

    def distributions(
        self,
        iteration: int,
        last: int,
        values: dict[str, Tensor],
        floaters: dict[str, float],
        correlation: float | None = None,  # of importance with what it leaves of opacity
    ) -> None:
        """Record histograms of `values`, whose names are keys of RANGES or `age`, which may reach `last`."""
        ranges = RANGES | {"age": ("linear", 0.0, float(last))}
        histograms = {name: histogram(value, *ranges[name]) for name, value in values.items()}
        entry = {"iteration": iteration, "values": histograms, "floaters": floaters}
        if correlation is not None:
            entry["importance_correlation"] = correlation
        self.record["distributions"].append(entry)

    def write(self, folder: Path) -> None:
        write_json(folder / FILE_NAME, self.record)


def histogram(values: Tensor, scale: str, low: float, high: float) -> dict[str, Any]:
    """Return edges and counts of BINS bins from low to high; values beyond fall into the outermost bins.

    `scale`: "linear", or "log" with bins of equal ratio. NaN, and 0 on a log scale, are left out.
    """
    values = values.detach().flatten().double().cpu()
    if scale == "log":
        values, low, high = values[values > 0].log10(), math.log10(low), math.log10(high)
    values = values[torch.isfinite(values)].clamp(low, high)
    counts = torch.histc(values, BINS, low, high).long().tolist()
    edges = [low + (high - low) * index / BINS for index in range(BINS + 1)]
    if scale == "log":
        edges = [10**edge for edge in edges]
    return {"edges": edges, "counts": counts, "scale": scale}


def shares_of_weight(
    weights: Tensor,  # (N,) blending weight over some views
    opacities: Tensor,  # (N, 1)
    depths: Tensor,  # (N,) distance to the nearest of the cameras
) -> dict[str, float]:
    """Return the shares of the weight of opacities below 0.1, and nearer than a tenth of its median depth."""
    total = weights.sum().item()
    if total == 0 or not math.isfinite(total):
        return {}
    order = depths.argsort()
    median = (weights[order].double().cumsum(0) < total / 2).sum()  # Gaussians before that of half the weight
    near = depths[order[median.clamp_max(len(depths) - 1)]] / 10
    return {
        "low_opacity": weights[opacities[:, 0] < 0.1].sum().item() / total,
        "near_camera": weights[depths < near].sum().item() / total,
    }
