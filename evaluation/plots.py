"""Plots of a table of results: quality against size, and where variants differ. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from evaluation.error_maps import error_map, full_scale, pair_paths, read_rgb
from evaluation.tables import Row, over_seeds
from utils.files import read_json, write_atomically

# Color-blind readers can tell these apart (Okabe & Ito 2008); the markers also differ in shape.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP<>"
BETTER = {"SSIM": "higher is better", "PSNR": "dB, higher is better", "LPIPS": "lower is better"}
# Candidate label positions, best first: the offset from the point in 1/72 inch, and the alignment there.
LABEL_POSITIONS = [
    (
        (x * reach, y * reach),
        {1: "left", 0: "center", -1: "right"}[x],
        {1: "bottom", 0: "center", -1: "top"}[y],
    )
    for reach in (8, 14, 22, 32, 44)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
]
SPLIT_NAMES = {"test": "held-out", "train": "training"}
SMALLEST_WINDOW = 32  # pixels
DOTS_PER_INCH = 150
VIEWS_SHOWN = 3  # side by side, per scene
# The color scale of error maps ends here or higher, so that a tiny error looks tiny.
LEAST_SCALE = 0.05

# name, size in MB, (value, lowest, highest), color
Point = tuple[str, float, tuple[float, float, float], str]


def draw_all(output: Path, rows: list[Row]) -> list[Path]:
    """Draw the plots of all scenes in `rows` (of `tables.read_rows`); return their paths in output/plots."""
    names = list(dict.fromkeys(row["row"] for row in rows))
    figures: dict[str, Figure | None] = {}
    for scene in dict.fromkeys(row["scene"] for row in rows):
        of_scene = [row for row in rows if row["scene"] == scene]
        figures[f"{scene}_quality"] = quality_against_size(scene, of_scene, names)
        firsts = list({row["row"]: row for row in reversed(of_scene)}.values())[::-1]  # one seed of each
        for split, image_name in most_different_views(output, firsts):
            figures[f"{scene}_{split}_{Path(image_name).stem}"] = side_by_side(
                output, firsts, split, image_name
            )
    return [_save(figure, output / "plots" / f"{name}.png") for name, figure in figures.items() if figure]


def _save(figure: Figure, path: Path) -> Path:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DOTS_PER_INCH))
    return path


# Quality against size


def quality_against_size(scene: str, rows: list[Row], names: list[str]) -> Figure | None:
    """Plot held-out PSNR, SSIM and LPIPS against the PLY's size; None if nothing was measured.

    rows: the rows of one scene, all seeds. names: all row names, so that a row looks the same in every plot.
    """
    measures = [name for name in ("PSNR", "SSIM", "LPIPS") if any(_measured(rows, name))]
    if not measures:
        return None
    figure = Figure(figsize=(4.6 * len(measures), 4.3), layout="constrained")
    several = len({row["seed"] for row in rows}) > 1
    views = "/".join(sorted({str(row["test_views"]) for row in rows}))
    about = f"{scene}: quality on {views} held-out views against size"
    figure.suptitle(
        about + ("; means over seeds, bars from lowest to highest" if several else ""), fontsize=12
    )
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    panels = list(zip(figure.subplots(1, len(measures), squeeze=False)[0], measures))
    points = [_draw_points(axes, measure, _measured(rows, measure), names) for axes, measure in panels]
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # computes the layout, on which the label positions depend
    for (axes, _), labeled in zip(panels, points):
        _label(axes, labeled)
    return figure


def _measured(rows: list[Row], measure: str) -> list[Row]:
    return [row for row in rows if row[f"test_{measure}"] is not None]


def _draw_points(axes: Axes, measure: str, rows: list[Row], names: list[str]) -> list[Point]:
    """Draw one point for each row name, at the mean over its seeds; return the points."""
    points = []
    for mean in over_seeds(rows):
        style = names.index(mean["row"])
        seeds = [row for row in rows if row["row"] == mean["row"]]
        sizes, values = ([row[name] for row in seeds] for name in ("size_bytes", f"test_{measure}"))
        x, y, color = mean["size_bytes"] / 1e6, mean[f"test_{measure}"], COLORS[style % len(COLORS)]
        bars = {"xerr": [[x - min(sizes) / 1e6], [max(sizes) / 1e6 - x]],
                "yerr": [[y - min(values)], [max(values) - y]]}  # fmt: skip
        bars = {side: np.maximum(ends, 0) for side, ends in bars.items()}  # the mean may be rounded
        axes.errorbar(x, y, **bars, fmt=MARKERS[style % len(MARKERS)], color=color, markersize=8,
                      markeredgecolor="white", markeredgewidth=0.7, capsize=3, elinewidth=1.2)  # fmt: skip
        points.append((mean["row"], x, (y, min(values), max(values)), color))
    _style(axes, measure, [x for _, x, _, _ in points])
    return points


def _style(axes: Axes, measure: str, sizes: list[float]) -> None:
    if max(sizes) > 3 * min(sizes):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("size of the PLY (MB)")
    axes.set_title(f"{measure} ({BETTER[measure]})", fontsize=11)
    axes.margins(0.2)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Axes, points: list[Point]) -> None:
    """Write every name beside its point, at the first position where it hides the least."""
    renderer = axes.figure.canvas.get_renderer()
    ends = [axes.transData.transform([(x, low), (x, high)]) for _, x, (_, low, high), _ in points]
    taken = [Bbox([low - 6, high + 6]) for low, high in ends]  # marker and bar
    for name, x, (y, _, _), color in points:
        best = None
        for offset, across, up in LABEL_POSITIONS:
            label = axes.annotate(
                name, (x, y), offset, textcoords="offset points", ha=across, va=up, fontsize=9
            )
            label.set_in_layout(False)
            box = label.get_window_extent(renderer)
            hidden = sum(_common_area(box, other) for other in taken)
            hidden += box.width * box.height - _common_area(box, axes.bbox)
            label.remove()
            if best is None or hidden < best[0]:
                best = hidden, box, (offset, across, up)
        _, box, (offset, across, up) = best
        taken.append(box)
        far = max(map(abs, offset)) > 12
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkB": 4} if far else None
        axes.annotate(name, (x, y), offset, textcoords="offset points", ha=across, va=up, fontsize=9,
                      arrowprops=line).set_in_layout(False)  # fmt: skip


def _common_area(one: Bbox, other: Bbox) -> float:
    common = Bbox.intersection(one, other)
    return common.width * common.height if common else 0.0


# Side by side


def most_different_views(output: Path, rows: list[Row], count: int = VIEWS_SHOWN) -> list[tuple[str, str]]:
    """Return (split, image name) of the `count` views on which the rows differ most.

    Held-out views are preferred to training views, and LPIPS to PSNR. The result is empty unless at least two
    rows measured the same views. rows: the rows of one scene, one seed of each.
    """
    for split in ("test", "train"):
        for measure in ("LPIPS", "PSNR"):
            found = [_per_view(output, row, split, measure) for row in rows]
            found = [values for values in found if values]
            common = set.intersection(*(set(values) for values in found)) if len(found) > 1 else set()
            spread = {name: np.ptp([values[name] for values in found]) for name in common}
            if spread:
                names = sorted(spread, key=lambda name: (-spread[name], name))[:count]
                return [(split, name) for name in names]
    return []


def _per_view(output: Path, row: Row, split: str, measure: str) -> dict[str, float]:
    """Return a row's metric by image name; views without a value are left out."""
    values = read_json(output / row["folder"] / "per_view.json").get(f"ours_{row['iterations']}", {})
    of_split = values if split == "test" else values.get("train", {})
    return {name: value for name, value in of_split.get(measure, {}).items() if value is not None}


def side_by_side(output: Path, rows: list[Row], split: str, image_name: str) -> Figure | None:
    """Show the window of a view where the rows differ most: ground-truth image, renders and error maps.

    Rows without a render of that view, or with one of another size, are left out. Without any, return None.
    """
    paths = [pair_paths(output / row["folder"], split, row["iterations"], image_name) for row in rows]
    found = [(row, *pair) for row, pair in zip(rows, paths) if all(path.is_file() for path in pair)]
    if not found:
        return None
    gt_image = read_rgb(found[0][2])
    shown = [(row, read_rgb(render)) for row, render, _ in found]
    shown = [(row, render) for row, render in shown if render.shape == gt_image.shape]
    window = most_different_window(np.stack([render for _, render in shown]))
    errors = [error_map(render[window], gt_image[window]) for _, render in shown]
    most = max(LEAST_SCALE, full_scale(errors))

    figure = Figure(figsize=(2.3 * (len(shown) + 1) + 0.6, 5.4), layout="constrained")
    about = f"{rows[0]['scene']}, {SPLIT_NAMES[split]} view {image_name}: where the variants differ most"
    figure.suptitle(f"{about}\n(figures: of the whole view)", fontsize=11)
    panels = figure.subplots(2, len(shown) + 1)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    _show_gt_image(panels[:, 0], gt_image, window)
    for (row, render), error, above, below in zip(shown, errors, panels[0, 1:], panels[1, 1:]):
        _show(above, render[window], row["row"])
        map_ = below.imshow(error, cmap="magma", vmin=0, vmax=most, interpolation="nearest")
        below.set_xlabel(_figures(output, row, split, image_name), fontsize=9)
    bar = figure.colorbar(map_, ax=panels[1, 1:].tolist(), shrink=0.9, pad=0.02)
    bar.set_label("absolute error, mean of channels", fontsize=9)
    return figure


def _show_gt_image(column: np.ndarray, gt_image: np.ndarray, window: tuple[slice, slice]) -> None:
    """Show the window of the ground-truth image above, and the whole image below."""
    _show(column[0], gt_image[window], "photo")
    _show(column[1], gt_image, "")
    column[1].set_xlabel("the whole view", fontsize=9)
    y, x = window
    frame = Rectangle((x.start, y.start), x.stop - x.start, y.stop - y.start, fill=False)
    frame.set(edgecolor=COLORS[1], linewidth=2)
    column[1].add_patch(frame)


def most_different_window(images: np.ndarray) -> tuple[slice, slice]:  # images: (R, H, W, 3)
    """Return rows and columns of the square in which the images differ most.

    Its side is two fifths of the shorter side of the images, but at least SMALLEST_WINDOW.
    """
    spread = np.ptp(images, axis=0).mean(2)
    height, width = spread.shape
    side = min(height, width, max(SMALLEST_WINDOW, min(height, width) * 2 // 5))
    sums = cv2.integral(spread.astype(np.float64))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = (int(index) for index in np.unravel_index(inside.argmax(), inside.shape))
    return slice(y, y + side), slice(x, x + side)


def _show(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=10)


def _figures(output: Path, row: Row, split: str, image_name: str) -> str:
    digits = {"PSNR": 2, "LPIPS": 3}
    values = {name: _per_view(output, row, split, name).get(image_name) for name in digits}
    return "   ".join(
        f"{name} {value:.{digits[name]}f}" for name, value in values.items() if value is not None
    )
