"""Renders beside ground-truth images and error maps, for report.py's page."""

from __future__ import annotations

import base64
import math
import re
from html import escape
from typing import NamedTuple

import cv2
import numpy as np

from evaluation.error_maps import error_map, full_scale, pair_paths, read_rgb
from evaluation.report.charts import round_step, short
from evaluation.report.html import METRIC_FORMATS, SPLIT_TITLES, command, note, section, format_metric
from evaluation.report.run import RunRecord, mapping, number
from utils.colormaps import INFERNO, colorize
from utils.images import resize_image
from utils.run_folder import images_path
from utils.selection import evenly_spaced_with_ends

VIEWS_SHOWN = 6  # of the first split; half as many of the other
IMAGE_SIDE, IMAGE_HEIGHT, JPEG_QUALITY = 500, 314, 85  # pixels
NO_VIEWS = (
    "There are no images of these views: none were held out (<code>--eval</code>), or they were not rendered."
)


class ReportView(NamedTuple):
    """The render, ground-truth image and error map of a view."""

    split: str
    index: int
    render: np.ndarray  # (H, W, 3) uint8
    gt_image: np.ndarray  # (H, W, 3) uint8
    error: np.ndarray  # (H, W) in [0, 1]


def image_sections(run: RunRecord) -> str:
    """Return a section for each split as HTML, held-out views first."""
    most, views = VIEWS_SHOWN, {}
    for split in SPLIT_TITLES:
        indices = choose_views(indices_of_views(run, split), psnr_of_views(run, split), most)
        views[split] = [load_view(run, split, index) for index in indices]
        most = VIEWS_SHOWN // 2 if indices else most
    if not any(views.values()):
        text = f"There are no images of iteration {run.iteration:,}: "
        return section("Images", note(f"{text}run {command('render.py', run.folder)} first."))
    largest = full_scale(view.error for shown in views.values() for view in shown)
    full = min(1.0, round_step(max(largest, 1e-3), 1))
    parts = []
    for split, title in SPLIT_TITLES.items():
        blocks = "".join(view_block(run, view, full) for view in views[split])
        content = f'{error_legend(full)}<div class="views">{blocks}</div>' if blocks else note(NO_VIEWS)
        parts.append(section(f"{title}: render, photo, error", content))
    return "\n".join(parts)


# Choice of views


def indices_of_views(run: RunRecord, split: str) -> list[int]:
    """Return the indices of the views that have both a render and a ground-truth image."""
    folders = [images_path(run.folder, split, run.iteration, kind) for kind in ("renders", "gt")]
    renders, gt_images = ({path.stem for path in folder.glob("*.png")} for folder in folders)
    return sorted(int(stem) for stem in renders & gt_images if re.fullmatch(r"\d{5,9}", stem))


def psnr_of_views(run: RunRecord, split: str) -> dict[int, float]:
    """Return the PSNR that metrics.py measured, by view index.

    It is infinite for a view without error, for which metrics.py writes null.
    """
    values = mapping(run.per_view_of(split), "PSNR")
    shown = {name[:-4]: math.inf if value is None else value for name, value in values.items()}
    return {
        int(stem): value
        for stem, value in shown.items()
        if stem.isdecimal() and isinstance(value, (int, float))
    }


def choose_views(views: list[int], by_view: dict[int, float], most: int) -> list[int]:
    """Return the worst view, the best, and evenly spaced ones between them, worst first.

    by_view: PSNR by view index. If one is missing, the views are chosen in the order of their indices.
    """
    if all(view in by_view for view in views):
        views = sorted(views, key=lambda view: by_view[view])
    return [views[index] for index in evenly_spaced_with_ends(len(views), most)]


def load_view(run: RunRecord, split: str, index: int) -> ReportView:
    paths = pair_paths(run.folder, split, run.iteration, f"{index:05d}.png")
    render, gt_image = map(read_rgb, paths)
    if render.shape != gt_image.shape:
        raise ValueError(f"{paths[0]} and {paths[1]} differ in size; run render.py again")
    return ReportView(split, index, render, gt_image, error_map(render, gt_image))


# HTML of a view


def view_block(run: RunRecord, view: ReportView, full: float) -> str:
    """Return three images and a caption as HTML. full: the error that is shown brightest."""
    height, width = view.error.shape
    factor = min(1.0, IMAGE_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    shown = {
        "render": resize_image(view.render, *size),
        "photo": resize_image(view.gt_image, *size),
        "error": colorize(cv2.resize(view.error, size, interpolation=cv2.INTER_AREA) / full, INFERNO),
    }
    name = view_title(run, view)
    images = "".join(
        f'<img alt="{escape(f"{kind} of {name}")}" width="{size[0]}" height="{size[1]}" '
        f'src="{data_uri(image)}">'
        for kind, image in shown.items()
    )
    wide = round(IMAGE_HEIGHT * min(width / height, 1.4))
    numbers = " · ".join([*view_numbers(run, view), f"error {view.error.mean():.4f}"])
    caption = f"<figcaption><b>{escape(name)}</b> {numbers}</figcaption>"
    return f'<figure class="view" style="--wide:{wide}px"><div>{images}</div>{caption}</figure>'


def view_title(run: RunRecord, view: ReportView) -> str:
    """Return the view's index, and its photo's name if cameras.json fits the run."""
    counts = {split: int(number(run.config, "views", split) or 0) for split in SPLIT_TITLES}
    index = view.index + (counts["test"] if view.split == "train" else 0)
    known = run.names and sum(counts.values()) == len(run.names) and index < len(run.names)
    return f"{view.index:05d}" + (f" ({run.names[index]})" if known else "")


def view_numbers(run: RunRecord, view: ReportView) -> list[str]:
    name = f"{view.index:05d}.png"
    found = {metric: number(run.per_view_of(view.split), metric, name) for metric in METRIC_FORMATS}
    return [
        f"{metric} {format_metric(metric, value)}" for metric, value in found.items() if value is not None
    ]


def data_uri(image: np.ndarray) -> str:
    """Encode an image, (H, W, 3) uint8 RGB, as the data URI of a JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def error_legend(full: float) -> str:
    colors = [f"rgb({red},{green},{blue})" for red, green, blue in colorize(np.linspace(0, 1, 9), INFERNO)]
    text = "Error: difference to the photo, mean of the channels (1: black against white); captions: its mean"
    return (
        '<p class="scale">0 '
        f'<i class="bar" style="background:linear-gradient(90deg,{",".join(colors)})"></i> '
        f"{short(full)}{' or more' if full < 1 else ''}. {text}</p>"
    )
