"""Quality against size, from rows of full_eval.py: python scripts/plot_results.py ROWS.csv PLOT.png

docs/images/quality_against_size.png is made from docs/data/results.csv by exactly this.
"""

from __future__ import annotations

import argparse
import csv
import sys
from itertools import cycle
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.commands import run_command
from utils.files import write_atomically

Row = dict[str, str]  # a line of full_eval.py's CSV

BASELINE = "3dgs"
MEASURES = {"PSNR": "PSNR (dB), higher is better", "SSIM": "SSIM, higher is better",
            "LPIPS": "LPIPS, lower is better"}  # fmt: skip
# Told apart by the color-blind too (Okabe & Ito 2008).
SCENE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
VARIANT_MARKERS = {"3dgs": "o", "tag_gradprune": "s", "tag_gradprune_decomp": "D"}
SHARES = (5, 10, 20, 50, 100)  # percent, labeled on the axis


def values(rows: list[Row], scene: str, variant: str, column: str) -> list[float]:
    """Return a number of every seed of a variant on a scene."""
    return [float(row[column]) for row in rows if (row["scene"], row["row"]) == (scene, variant)]


def draw_scene(axes: Axes, rows: list[Row], scene: str, measure: str, color: str) -> None:
    """Draw a scene's variants relative to the mean of `3dgs`, with bars over the seeds."""
    size = mean(values(rows, scene, BASELINE, "gaussians"))
    level = mean(values(rows, scene, BASELINE, f"test_{measure}"))
    shares, gains = [], []
    for variant, marker in VARIANT_MARKERS.items():
        seeds = [value - level for value in values(rows, scene, variant, f"test_{measure}")]
        shares.append(100 * mean(values(rows, scene, variant, "gaussians")) / size)
        gains.append(mean(seeds))
        bar = [[max(0.0, gains[-1] - min(seeds))], [max(0.0, max(seeds) - gains[-1])]]
        axes.errorbar(shares[-1], gains[-1], bar, fmt=marker, color=color, markersize=6, elinewidth=1)
    axes.plot(shares, gains, color=color, linewidth=1)


def all_scenes(rows: list[Row]) -> list[str]:
    return sorted({row["scene"] for row in rows})


def plot(rows: list[Row]) -> Figure:
    """Return the plot of held-out quality less that of `3dgs` over the share of its Gaussians.

    Scenes without rows of all three variants are left out. Raise ValueError if none is left.
    """
    variants = {scene: {row["row"] for row in rows if row["scene"] == scene} for scene in all_scenes(rows)}
    scenes = [scene for scene, known in variants.items() if set(VARIANT_MARKERS) <= known]
    if not scenes:
        raise ValueError(f"expected a scene with rows of {', '.join(VARIANT_MARKERS)}, got {variants}")
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES):
        for scene, color in zip(scenes, cycle(SCENE_COLORS)):
            draw_scene(axes, rows, scene, measure, color)
        axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)
        axes.set_xscale("log")
        axes.set_xticks(SHARES, [f"{share} %" for share in SHARES])
        axes.minorticks_off()
        axes.set(title=MEASURES[measure], xlabel="Gaussians, of those of 3dgs")
    figure.axes[0].set_ylabel("held-out, less 3dgs")
    lines = [Line2D([], [], color=color, label=scene) for scene, color in zip(scenes, cycle(SCENE_COLORS))]
    marks = {"color": "#555555", "linestyle": ""}
    lines += [Line2D([], [], marker=mark, label=name, **marks) for name, mark in VARIANT_MARKERS.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, help="results.csv of full_eval.py")
    parser.add_argument("plot", type=Path, help="PNG to write")
    options = parser.parse_args()
    if options.plot.suffix != ".png":
        raise ValueError(f"{options.plot}: expected the name of a PNG")
    with options.rows.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure = plot(rows)
    write_atomically(options.plot, lambda file: figure.savefig(file, format="png", dpi=120))


if __name__ == "__main__":
    run_command(main)
