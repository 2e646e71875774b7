"""What happened during a run, for report.py: curves, growth and pruning, distributions; history.json."""

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


class History:
    """Lists that grow while training runs, in the shape in which they are written."""

    def __init__(self, record: dict[str, Any] | None = None) -> None:
        """`record`: where an earlier part of the run left off."""
        self.record = record or {"version": VERSION, "progress": [], "steps": [], "distributions": []}

    def progress(self, iteration: int, loss: float, psnr: float, gaussians: int, seconds: float) -> None:
        self.record["progress"].append([iteration, loss, psnr, gaussians, round(seconds, 2)])

    def step(self, iteration: int, cloned: int, split: int, pruned: int, gaussians: int) -> None:
        counts = {"cloned": cloned, "split": split, "pruned": pruned, "gaussians": gaussians}
        self.record["steps"].append({"iteration": iteration, **counts})

    def distributions(
        self, iteration: int, values: dict[str, Tensor], floaters: dict[str, float], log: tuple[str, ...]
    ) -> None:
        """Histograms of `values`, those named in `log` with bins of equal ratio."""
        histograms = {
            name: found for name, value in values.items() if (found := histogram(value, name in log))
        }
        self.record["distributions"].append(
            {"iteration": iteration, "values": histograms, "floaters": floaters}
        )

    def write(self, folder: Path) -> None:
        write_json(folder / FILE_NAME, self.record)


def histogram(values: Tensor, log: bool) -> dict[str, Any] | None:
    """Edges and counts over the finite values (above 0 if `log`); None if there are none."""
    values = values.detach().flatten().double().cpu()
    values = values[torch.isfinite(values) & ((values > 0) | (not log))]
    if len(values) == 0:
        return None
    if log:
        values = values.log10()
    low, high = values.min().item(), values.max().item()
    high = high if high > low else low + 1
    counts = torch.histc(values, BINS, low, high).long().tolist()
    edges = [low + (high - low) * index / BINS for index in range(BINS + 1)]
    edges = [float(f"{10**edge if log else edge:.6g}") for edge in edges]
    return {"edges": edges, "counts": counts, "scale": "log" if log else "linear"}


def shares_of_weight(
    weights: Tensor,  # (N,) blending weight over some views
    opacities: Tensor,  # (N, 1)
    depths: Tensor,  # (N,) distance to the nearest of the cameras
) -> dict[str, float]:
    """Share of the weight in Gaussians of opacity below 0.1, and in the nearest tenth of the depth range."""
    total = weights.sum().item()
    drawn = depths[weights > 0]
    if total == 0 or not math.isfinite(total) or len(drawn) == 0:
        return {}
    near = drawn.min() + (drawn.max() - drawn.min()) / 10
    return {
        "low_opacity": weights[opacities[:, 0] < 0.1].sum().item() / total,
        "near_camera": weights[depths < near].sum().item() / total,
    }
